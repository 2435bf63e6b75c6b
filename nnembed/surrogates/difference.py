"""How far two networks of the same inputs and outputs can be apart on a box.

Two ways, both proofs, of which the tighter counts per output:

* *Side by side*: one network that holds both and subtracts; linear backward bounds with optimised lines, in which the
  inputs are common.
* *By differences*, for networks of the same layers: with ``p`` the tensors of the first and ``p + d`` those of the
  second, an affine node gives ``d = M' e + (M' - M) h + (b' - b)`` where ``e`` is the difference behind an activation,
  and ``e = s d`` with a slope s between the least and the largest slope of the activation on what both reach. So ``e``
  lies in a cone over ``d``, between two chords. Functions of ``d`` are carried backwards; what falls on the tensors
  ``h`` of the first network is bounded by its own backward bounds.

Rounding is treated as in `bounds.backward`: one more column of errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.alpha import AlphaCrown
from nnembed.bounds.backward import Backward, Crown
from nnembed.bounds.box import Bounds, Provenance
from nnembed.bounds.interval import UNIT, affine_interval, gamma, narrow, node_interval
from nnembed.ir.compose import add
from nnembed.ir.linear import Dense, LinearOperator
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Activation, Affine, Clip, Kink, Max, Node
from nnembed.options import Budget, Clock

_CHUNK = 200_000  # coefficients held at a time
_PREFIX = "twin of "

Range = tuple[Array, Array]


def error_bound(network: Network, twin: Network, bounds: Bounds, budget: Budget) -> Array | None:
    """Return what ``|twin - network|`` cannot exceed on the boxes, per output entry; None where a box is not finite."""
    for spec in network.inputs:
        if spec.name not in bounds.low or not np.isfinite([bounds.low[spec.name], bounds.high[spec.name]]).all():
            return None
    low, high = difference_bounds(network, twin, bounds, budget)
    return np.maximum(np.abs(low), np.abs(high)).max(axis=0)


def difference_bounds(
    network: Network, twin: Network, bounds: Bounds, budget: Budget, weights: Array | None = None
) -> Range:
    """Return bounds of ``weights @ (network(x) - twin(x))`` over the boxes.

    Parameters
    ----------
    network, twin : Network
        Of the same inputs and outputs.
    bounds : Bounds
        Of `network`; its inputs are enough.
    budget : Budget
        Optimised lines are tried while seconds are left.
    weights : array (k, outputs) or None
        On all outputs joined; None means each output entry.

    Returns
    -------
    low, high : arrays (boxes, k)
    """
    clock = budget.start()
    rows = np.eye(network.output_size) if weights is None else np.asarray(weights, float)
    own = _bounded(network, replace(bounds, network=network, region=None), budget)
    boxes = {s.name: (own.low[s.name], own.high[s.name]) for s in network.inputs}
    start = replace(
        own, network=twin, low={n: b[0] for n, b in boxes.items()}, high={n: b[1] for n, b in boxes.items()}
    )
    theirs = _bounded(twin, replace(start, history=()), budget)
    low, high = _side_by_side(own, theirs, rows, budget, clock)
    into = {"d": low}, {"d": high}
    for first, second, sign in ((own, theirs, 1.0), (theirs, own, -1.0)):
        pairs = aligned(first.network, second.network)
        if pairs is None or clock.expired:
            break
        narrow("d", *_Differences(first, second, pairs).outputs(sign * rows), into)
    return into[0]["d"], into[1]["d"]


def _bounded(network: Network, bounds: Bounds, budget: Budget) -> Bounds:
    return bounds if bounds.complete else Crown().tighten(network, bounds, budget)


# ---- side by side ---------------------------------------------------------------------------------


def _side_by_side(own: Bounds, theirs: Bounds, rows: Array, budget: Budget, clock: Clock) -> Range:
    network = joined(own.network, theirs.network, rows)
    inputs = {s.name for s in network.inputs}
    low, high = (
        dict(a) | {_renamed(t, inputs): v for t, v in b.items()}
        for a, b in ((own.low, theirs.low), (own.high, theirs.high))
    )
    last = network.nodes[-1]
    lo, hi = node_interval(last, [(low[t], high[t]) for t in last.inputs])
    narrow(last.output, lo, hi, (low, high))
    lo, hi = Backward(network, low, high).bound(len(network.nodes) - 1, np.arange(len(rows)))
    narrow(last.output, lo, hi, (low, high))
    if clock.expired or not network.activations:
        return low[last.output], high[last.output]
    start = Bounds(network, low, high, own.lead, (Provenance(Crown.name, 0.0, -1),))
    left = None if budget.seconds is None else clock.remaining
    found = AlphaCrown(intermediate=False).tighten(network, start, replace(budget, seconds=left))
    return found.low[last.output], found.high[last.output]


def joined(network: Network, twin: Network, rows: Array) -> Network:
    """Return one network that computes ``rows @ (network(x) - twin(x))``."""
    inputs = {s.name for s in network.inputs}
    nodes: list[Node] = list(network.nodes)
    for node in twin.nodes:
        sources = tuple(_renamed(t, inputs) for t in node.inputs)
        nodes.append(replace(node, name=_PREFIX + node.name, inputs=sources, output=_PREFIX + node.output))
    tensors = dict(network.tensors) | {
        _PREFIX + n: replace(s, name=_PREFIX + n) for n, s in twin.tensors.items() if n not in inputs
    }
    cuts = np.cumsum([s.size for s in network.outputs])[:-1]
    parts = np.split(rows, cuts, axis=1)
    names = [s.name for s in network.outputs]
    name = _PREFIX + "difference"
    operators = (*(Dense(p) for p in parts), *(Dense(-p) for p in parts))
    sources = (*names, *(_renamed(n, inputs) for n in names))
    nodes.append(Affine(name, sources, name, operators, np.zeros(len(rows))))
    tensors[name] = TensorSpec(name, (len(rows),))
    return Network(network.inputs, (tensors[name],), tuple(nodes), tensors, name=network.name)


def _renamed(tensor: str, inputs: set[str]) -> str:
    return tensor if tensor in inputs else _PREFIX + tensor


# ---- by differences -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pair:
    """Two nodes in the same place; for affine ones the differences of their operators (None where equal)."""

    first: Node
    second: Node
    changes: tuple[LinearOperator | None, ...] = ()


def aligned(network: Network, twin: Network) -> list[Pair] | None:
    """Return the nodes in pairs, None where the networks are not built alike."""
    if len(network.nodes) != len(twin.nodes):
        return None
    pairs = []
    for first, second in zip(network.nodes, twin.nodes, strict=True):
        pair = _pair(first, second) if (first.inputs, first.output) == (second.inputs, second.output) else None
        if pair is None:
            return None
        pairs.append(pair)
    return pairs


def _pair(first: Node, second: Node) -> Pair | None:
    if type(first) is not type(second):
        return None
    if isinstance(first, Affine) and isinstance(second, Affine):
        if [m.shape for m in first.operators] != [m.shape for m in second.operators]:
            return None
        changes: list[LinearOperator | None] = []
        for old, new in zip(first.operators, second.operators, strict=True):
            change = None if old is new else add(new, old.map(np.negative))
            if change is None and old is not new:
                return None
            changes.append(change)
        return Pair(first, second, tuple(changes))
    names = {Kink: ("left", "right"), Clip: ("lower", "upper"), Max: ("groups",)}
    for kind, fields in names.items():
        if isinstance(first, kind):
            same = all(np.array_equal(getattr(first, f), getattr(second, f)) for f in fields)
            return Pair(first, second) if same else None
    return None


@dataclass(frozen=True, eq=False)
class _Cone:
    """Lines below and above the difference behind an activation, over the difference in front of it; (batch, n)."""

    lower: tuple[Array, Array]
    upper: tuple[Array, Array]


@dataclass(eq=False)
class _Differences:
    """Ranges of the differences ``second - first`` of all tensors, found forwards with backward sweeps."""

    own: Bounds
    theirs: Bounds
    pairs: list[Pair]
    low: dict[str, Array] = field(default_factory=dict)
    high: dict[str, Array] = field(default_factory=dict)
    cones: dict[str, _Cone] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bound the differences of all layers."""
        network = self.own.network
        self._inputs = {s.name for s in network.inputs}
        self._backward = Backward(network, dict(self.own.low), dict(self.own.high))
        for name in self._inputs:
            self.low[name] = self.high[name] = np.zeros(self.own.low[name].shape)
        fronts = {node.inputs[0] for node in network.activations}
        for position, pair in enumerate(self.pairs):
            name = pair.first.output
            narrow(name, *self._forward(pair), (self.low, self.high))
            narrow(name, *_apart(self.own, self.theirs, name), (self.low, self.high))
            if isinstance(pair.first, Affine) and name in fronts and set(pair.first.inputs) - self._inputs:
                narrow(name, *self.functions({name: None}, position + 1), (self.low, self.high))
            if isinstance(pair.first, Activation):
                self.cones[name] = self._cone(pair.first)

    def outputs(self, rows: Array) -> Range:
        """Return bounds (batch, k) of ``rows @ (first - second)`` over all outputs joined."""
        network = self.own.network
        cuts = np.cumsum([s.size for s in network.outputs])[:-1]
        parts: dict[str, Array | None] = {
            s.name: -p for s, p in zip(network.outputs, np.split(rows, cuts, axis=1), strict=True)
        }
        return self.functions(parts, len(self.pairs))

    def functions(self, rows: Mapping[str, Array | None], position: int) -> Range:
        """Return bounds (batch, k) of linear functions of differences written by nodes before `position`.

        Parameters
        ----------
        rows : mapping tensor -> array (k, n), or None for every entry by itself
        """
        widest = max(s.size for s in self.own.network.tensors.values())
        count = max(self.low[name].shape[1] if a is None else len(a) for name, a in rows.items())
        step = max(1, _CHUNK // (2 * self.own.batch * widest))
        found = [self._both(rows, slice(i, i + step), position) for i in range(0, count, step)]
        return np.concatenate([f[0] for f in found], axis=1), np.concatenate([f[1] for f in found], axis=1)

    def _both(self, rows: Mapping[str, Array | None], part: slice, position: int) -> Range:
        live = {}
        for name, chosen in rows.items():
            a = unit_rows(self.low[name].shape[1], part) if chosen is None else chosen[part]
            live[name] = np.concatenate([a, -a])[None]
        low, minus_high = np.split(self._sweep(live, position), 2, axis=1)
        return low, -minus_high

    def _sweep(self, live: dict[str, Array], position: int) -> Array:
        """Return lower bounds (batch, r) of functions with coefficients (1, r, n) on differences; consumes `live`."""
        constant = error = np.zeros((self.own.batch, next(iter(live.values())).shape[1]))
        under: dict[str, Array] = {}  # coefficients on the first network's tensors
        for pair in reversed(self.pairs[:position]):
            a = live.pop(pair.first.output, None)
            if a is None:
                continue
            down, drift = self._down(pair, a, live, under)
            constant = constant + down
            error = error + (np.abs(a) @ drift[..., None])[..., 0] + 8 * UNIT * np.abs(constant)
        return self._backward.lower_bound(under, constant, 2 * error, position)

    def _down(self, pair: Pair, a: Array, live: dict[str, Array], under: dict[str, Array]) -> Range:
        """Carry coefficients through one node; return the constant (batch, r) and the error per unit (batch, n)."""
        first, second = pair.first, pair.second
        n, positive, negative = a.shape[-1], np.maximum(a, 0.0), np.minimum(a, 0.0)
        if isinstance(first, Activation):
            cone, source = self.cones[first.output], first.inputs[0]
            slopes = [line[0][:, None] for line in (cone.lower, cone.upper)]
            _add(live, source, positive * slopes[0] + negative * slopes[1])
            steep = np.maximum(np.abs(cone.lower[0]), np.abs(cone.upper[0])) * self._size(source)
            below, above = cone.lower[1], cone.upper[1]
            drift = gamma(8) * steep
        elif isinstance(first, Affine) and isinstance(second, Affine):
            below = above = (second.bias - first.bias)[None]
            drift = gamma(_terms(second)) * self._affine_size(pair)
            for source, operator, change in zip(first.inputs, second.operators, pair.changes, strict=True):
                if source not in self._inputs:
                    _add(live, source, operator.pull(a))
                if change is not None:
                    _add(under, source, change.pull(a))
        else:
            below, above = self.low[first.output], self.high[first.output]
            drift = np.zeros(below.shape)
        total = (positive @ below[..., None] + negative @ above[..., None])[..., 0]
        return total, drift + gamma(n + 8) * np.maximum(np.abs(below), np.abs(above))

    def _size(self, name: str) -> Array:
        return np.maximum(np.abs(self.low[name]), np.abs(self.high[name]))

    def _affine_size(self, pair: Pair) -> Array:
        """Return the sum of the magnitudes of all terms of an affine node's differences, (batch, n)."""
        assert isinstance(pair.second, Affine)
        total: Array = np.zeros((1, 1))
        for source, operator, change in zip(pair.first.inputs, pair.second.operators, pair.changes, strict=True):
            total = total + operator.absolute.apply(self._size(source))
            if change is not None:
                reach = np.maximum(np.abs(self.own.low[source]), np.abs(self.own.high[source]))
                total = total + change.absolute.apply(reach)
        return total

    def _forward(self, pair: Pair) -> Range:
        """Return the ranges that intervals give."""
        first, second = pair.first, pair.second
        sources = [(self.low[t], self.high[t]) for t in first.inputs]
        if isinstance(first, Affine) and isinstance(second, Affine):
            changed = [(t, c) for t, c in zip(first.inputs, pair.changes, strict=True) if c is not None]
            names = (*first.inputs, *(t for t, _ in changed))
            operators = (*second.operators, *(c for _, c in changed))
            node = Affine(first.name, names, first.output, operators, second.bias - first.bias)
            return affine_interval(node, [*sources, *((self.own.low[t], self.own.high[t]) for t, _ in changed)])
        low, high = sources[0]
        if isinstance(first, Max):
            return low[:, first.groups].min(axis=-1), high[:, first.groups].max(axis=-1)
        least, most = self._slopes(first)
        ends = np.stack([least * low, most * low, least * high, most * high])
        low, high = ends.min(axis=0), ends.max(axis=0)
        return low - 2 * UNIT * np.abs(low), high + 2 * UNIT * np.abs(high)

    def _slopes(self, node: Node) -> Range:
        """Return the least and the largest slope of an activation on what both networks reach, (batch, n)."""
        name = node.inputs[0]
        low = np.minimum(self.own.low[name], self.theirs.low[name])
        high = np.maximum(self.own.high[name], self.theirs.high[name])
        if isinstance(node, Kink):
            least, most = np.minimum(node.left, node.right), np.maximum(node.left, node.right)
            sides = [np.where(low >= 0, node.right, np.where(high <= 0, node.left, mixed)) for mixed in (least, most)]
            return sides[0], sides[1]
        assert isinstance(node, Clip)
        inside = (low >= node.lower) & (high <= node.upper)
        outside = (high <= node.lower) | (low >= node.upper)
        return inside.astype(float), (~outside).astype(float)

    def _cone(self, node: Node) -> _Cone:
        """Return the chords of the cone; any slope is admissible, the offset is taken at the corners."""
        low, high = self.low[node.inputs[0]], self.high[node.inputs[0]]
        least, most = self._slopes(node)
        corners = np.stack([low, np.clip(0.0, low, high), high])
        lines = []
        for sign in (-1.0, 1.0):
            edge = sign * np.maximum(sign * least * corners, sign * most * corners)
            width = high - low
            slope = np.divide(edge[2] - edge[0], width, out=np.zeros_like(width), where=width > 0)
            slope = np.where(least == most, least, np.clip(slope, least, most))
            gap = sign * (edge - slope * corners) + 4 * UNIT * (np.abs(edge) + np.abs(slope * corners))
            lines.append((slope, np.where(least == most, 0.0, sign * gap.max(axis=0))))
        return _Cone(lines[0], lines[1])


def _apart(own: Bounds, theirs: Bounds, name: str) -> Range:
    """Return the ranges of a difference that the ranges of both tensors give."""
    size = np.maximum(np.abs(own.low[name]), np.abs(own.high[name]))
    size = 4 * UNIT * (size + np.maximum(np.abs(theirs.low[name]), np.abs(theirs.high[name])))
    return theirs.low[name] - own.high[name] - size, theirs.high[name] - own.low[name] + size


def unit_rows(n: int, part: slice) -> Array:
    """Return some rows of the identity."""
    index = np.arange(n)[part]
    rows = np.zeros((len(index), n))
    rows[np.arange(len(index)), index] = 1.0
    return rows


def _terms(node: Affine) -> int:
    return 2 * (sum(op.terms for op in node.operators) + len(node.operators))


def _add(into: dict[str, Array], name: str, part: Array) -> None:
    into[name] = into[name] + part if name in into else part
