"""CROWN: linear backward bounds, vectorised over neurons and boxes, rounded outward.

For a set of linear functions of one tensor (rows of coefficients), replace tensors by what they are computed from,
backwards through the graph: affine nodes exactly, activations by a line below where the coefficient is positive and
by a line above where it is negative. What is left is linear in the inputs and bounded over the box. Wherever all
coefficients sit on a single tensor its own bounds give another valid value; the best is kept.

Rounding: if the computed rows bound the function up to an error e on the whole box, then so do the rows one step
further
down up to ``e + gamma (|A| (|M| m + |b|))`` with m the magnitude of the tensor below; the vector in the inner brackets
is computed once per node, so rigour costs one more column in a product that is made anyway.

Sources: Zhang et al., NeurIPS 2018 (CROWN); Singh et al., POPL 2019 (DeepPoly); Higham, section 3.1 (gamma_n).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.box import Bounds, Provenance, contenders
from nnembed.bounds.interval import UNIT, gamma, narrow, node_interval, one_hot
from nnembed.bounds.lines import lines
from nnembed.ir.network import Network
from nnembed.ir.nodes import Activation, Affine, Kink, Max, Node, Winner
from nnembed.options import Budget, Clock

_MOST_PAIRS = 200_000_000  # coefficients of the differences of members; more are bounded by the members' ranges
_CHUNK = 200_000  # coefficients held at a time: small enough for the processor's cache


class Crown:
    """Linear backward bounds for every layer and output."""

    name = "crown"
    summary = "linear backward bounds (CROWN), milliseconds"
    sound = True
    cost = 10

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`.

        When the budget ends the remaining layers get interval bounds.
        """
        started, clock = time.perf_counter(), budget.start()
        widest = max((spec.size for spec in network.tensors.values()), default=1)
        step = max(1, _CHUNK // (16 * widest))
        if bounds.batch <= step:
            low, high = _propagate(bounds, clock)
            return bounds.intersect(low, high, Provenance(self.name, time.perf_counter() - started, -1))
        parts = [
            _propagate(bounds.repeat(np.arange(i, min(i + step, bounds.batch)), (min(step, bounds.batch - i),)), clock)
            for i in range(0, bounds.batch, step)
        ]
        low, high = ({t: np.concatenate([p[i][t] for p in parts]) for t in parts[0][i]} for i in (0, 1))
        return bounds.intersect(low, high, Provenance(self.name, time.perf_counter() - started, -1))


def _propagate(bounds: Bounds, clock: Clock) -> tuple[dict[str, Array], dict[str, Array]]:
    network = bounds.network
    low, high = dict(bounds.low), dict(bounds.high)
    sweep = Backward(network, low, high)
    targets = {node.inputs[0] for node in network.activations} | {spec.name for spec in network.outputs}
    for position, node in enumerate(network.nodes):
        lo, hi = node_interval(node, [(low[t], high[t]) for t in node.inputs])
        if isinstance(node, Winner) and not clock.expired:
            lo, hi = one_hot(rivals(sweep, node, position)[0])
        narrow(node.output, lo, hi, (low, high))
        if node.output in targets and isinstance(node, Affine) and not clock.expired:
            if all(source not in network.producers for source in node.inputs):
                continue  # over the inputs themselves intervals are exact
            rows = _wanted(network, node, low, high)
            if len(rows):
                lo, hi = low[node.output].copy(), high[node.output].copy()
                lo[:, rows], hi[:, rows] = sweep.bound(position, rows)
                narrow(node.output, lo, hi, (low, high))
    return low, high


def _wanted(network: Network, node: Affine, low: Mapping[str, Array], high: Mapping[str, Array]) -> Index:
    """Return the entries whose bounds matter: all but neurons that intervals prove inactive in every box."""
    readers = [n for n in network.nodes if node.output in n.inputs]
    output = any(spec.name == node.output for spec in network.outputs)
    if output or not all(isinstance(n, Kink) and not n.left.any() for n in readers):
        return np.arange(len(node.bias))
    return np.flatnonzero((high[node.output] > 0).any(axis=0))


@dataclass(eq=False)
class Backward:
    """One network with the bounds known so far; caches what all sweeps share per node."""

    network: Network
    low: dict[str, Array]
    high: dict[str, Array]
    _steps: dict[str, _Step] = field(default_factory=dict)

    def bound(self, position: int, rows: Index) -> tuple[Array, Array]:
        """Return lower and upper bounds (batch, rows) of entries of the affine node at `position`."""
        node = self.network.nodes[position]
        widest = max(spec.size for spec in self.network.tensors.values())
        batch = len(self.low[node.output])
        step = max(1, _CHUNK // (2 * batch * widest))
        parts = [self.sweep(position, rows[i : i + step]) for i in range(0, len(rows), step)]
        return np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts], axis=1)

    def sweep(self, position: int, rows: Index) -> tuple[Array, Array]:
        """Carry the functions ``+row`` and ``-row`` of the affine node at `position` down to the inputs."""
        node = self.network.nodes[position]
        assert isinstance(node, Affine)
        k = len(rows)
        bias, batch = node.bias[rows], len(self.low[node.output])
        live: dict[str, Array] = {}
        for source, operator in zip(node.inputs, node.operators, strict=True):
            part = operator.rows(rows)
            part = np.concatenate([part, -part])[None]
            live[source] = live[source] + part if source in live else part
        constant = np.broadcast_to(np.concatenate([bias, -bias]), (batch, 2 * k))
        error = 4 * UNIT * np.abs(constant)
        best = self.lower_bound(live, constant, error, position)
        return best[:, :k], -best[:, k:]

    def lower_bound(self, live: dict[str, Array], constant: Array, error: Array, position: int) -> Array:
        """Return lower bounds (batch, r) of linear functions of tensors over the boxes.

        Parameters
        ----------
        live : mapping tensor -> array (1 or batch, r, n)
            Coefficients; the tensors are written by nodes before `position` or are inputs. Consumed.
        constant, error : array (batch, r)
            Constant part, and how far all of it may be off.
        position : int
        """
        best: Array | None = None
        for node in reversed(self.network.nodes[:position]):
            a = live.pop(node.output, None)
            if a is None:
                continue
            step = self._step(node)
            size = np.abs(a)
            signed, sized = a @ step.signed, size @ step.sized  # (batch, r, 2) and (batch, r, 3)
            if not live:
                here = signed[..., 0] - sized[..., 0] + constant - error
                best = here if best is None else np.maximum(best, here)
            constant = constant + signed[..., 1] + sized[..., 1]
            error = error + sized[..., 2]
            for source, part in step.down(a, size):
                live[source] = live[source] + part if source in live else part
        last = self._at_inputs(live) + constant - error
        return last if best is None else np.maximum(best, last)

    def lines(self, live: dict[str, Array], constant: Array) -> tuple[dict[str, Array], Array]:
        """Return linear functions of the inputs, coefficients and constant, that are below functions of tensors.

        `live` as in `lower_bound`, of any tensors; consumed. The constant has the rounding taken off.
        """
        error = 4 * UNIT * np.abs(constant)
        for node in reversed(self.network.nodes):
            a = live.pop(node.output, None)
            if a is None:
                continue
            step = self._step(node)
            size = np.abs(a)
            signed, sized = a @ step.signed, size @ step.sized
            constant = constant + signed[..., 1] + sized[..., 1]
            error = error + sized[..., 2]
            for source, part in step.down(a, size):
                live[source] = live[source] + part if source in live else part
        return live, constant - error

    def _at_inputs(self, live: Mapping[str, Array]) -> Array:
        total: Array | float = 0.0
        for tensor, a in live.items():
            centre, radius = centred(self.low[tensor], self.high[tensor])
            total = total + (a @ centre[..., None] - np.abs(a) @ radius[..., None])[..., 0]
        return total  # type: ignore[return-value]

    def _step(self, node: Node) -> _Step:
        if node.output not in self._steps:
            self._steps[node.output] = _make_step(node, self.low, self.high)
        return self._steps[node.output]


def rivals(sweep: Backward, node: Winner, position: int) -> tuple[Mask, Array]:
    """Compare the members of every group with each other.

    Parameters
    ----------
    sweep : Backward
    node : Winner
    position : int
        Where it is in the network.

    Returns
    -------
    alive : mask (batch, groups, k)
        Members that may win.
    least : array (batch, groups, k, k)
        Lower bounds of member i less member j, bounded backwards as one function where both may win.
    """
    low, high = sweep.low[node.input], sweep.high[node.input]
    alive = contenders(node, low, high)
    lo, hi = low[:, node.groups], high[:, node.groups]
    least = np.nextafter(lo[..., :, None] - hi[..., None, :], -np.inf)
    open_ = alive & (alive.sum(axis=-1, keepdims=True) > 1)
    pair = (open_[..., :, None] & open_[..., None, :]).any(axis=0) & ~np.eye(lo.shape[-1], dtype=bool)
    group, i, j = np.nonzero(pair)
    widest = max(spec.size for spec in sweep.network.tensors.values())
    if not len(group) or len(group) * len(low) * widest > _MOST_PAIRS:
        return alive, least
    step = max(1, _CHUNK // (len(low) * widest))
    for part in (slice(k, k + step) for k in range(0, len(group), step)):
        some = group[part], i[part], j[part]
        row, count = np.arange(len(some[0])), len(some[0])
        rows = np.zeros((1, count, low.shape[1]))
        rows[0, row, node.groups[some[0], some[1]]] = 1.0
        rows[0, row, node.groups[some[0], some[2]]] -= 1.0
        none = np.zeros((len(low), count))
        found = sweep.lower_bound({node.input: rows}, none, none, position)
        least[:, some[0], some[1], some[2]] = np.maximum(least[:, some[0], some[1], some[2]], found)
    beaten = least > 0  # i beats j, and of equal ones the first wins
    beaten |= (least >= 0) & np.triu(np.ones(pair.shape[1:], dtype=bool), 1)
    beaten &= alive[..., :, None] & alive[..., None, :]
    still = alive & ~beaten.any(axis=-2)
    # By rounding alone all could seem beaten; then nothing is taken away.
    return np.where(still.any(axis=-1, keepdims=True), still, alive), least


@dataclass(frozen=True, eq=False)
class _Step:
    """One node going backwards, for coefficients a of its output.

    A function that is ``below`` where a is positive and ``above`` where it is negative is written as
    ``a (below + above) / 2 + |a| (below - above) / 2``: one absolute value instead of two parts.

    Attributes
    ----------
    signed : array (batch, n, 2)
        Multiplies a: centre of the tensor's own range; constant of the node.
    sized : array (batch, n, 3)
        Multiplies |a|: radius of that range; half the gap of the constants (negative); growth of the error.
    """

    node: Node
    signed: Array
    sized: Array
    slopes: tuple[Array, Array] | None = None  # activations: mean, half the gap
    routes: tuple[sp.csr_array, sp.csr_array] | None = None  # maxima: transposed choices below, above

    def down(self, a: Array, size: Array) -> list[tuple[str, Array]]:
        """Return the coefficients on the node's inputs; `size` is ``|a|`` and may be overwritten."""
        if isinstance(self.node, Affine):
            pairs = zip(self.node.inputs, self.node.operators, strict=True)
            return [(source, operator.pull(a)) for source, operator in pairs]
        if self.slopes is not None:
            mean, half = (s[:, None] for s in self.slopes)
            part = a * mean
            part += size * half
            return [(self.node.inputs[0], part)]
        if self.routes is None:
            return []
        below, above = self.routes
        positive, negative = np.maximum(a, 0.0), np.minimum(a, 0.0)
        return [(self.node.inputs[0], _route(below, positive) + _route(above, negative))]


def _route(matrix: sp.csr_array, a: Array) -> Array:
    """Return ``a`` carried through a block-diagonal choice: (batch, r, n_out) -> (batch, r, n_in)."""
    batch = matrix.shape[1] // a.shape[-1]
    wide = np.broadcast_to(a, (batch, *a.shape[1:]))
    flat = wide.transpose(0, 2, 1).reshape(-1, a.shape[1])
    return np.ascontiguousarray((matrix @ flat).reshape(batch, -1, a.shape[1]).transpose(0, 2, 1))


def _make_step(node: Node, low: Mapping[str, Array], high: Mapping[str, Array]) -> _Step:
    own = centred(low[node.output], high[node.output])
    sizes = [np.maximum(np.abs(low[t]), np.abs(high[t])) for t in node.inputs]
    if isinstance(node, Affine):
        drift = node.operators[0].absolute.apply(sizes[0])
        for operator, m in zip(node.operators[1:], sizes[1:], strict=True):
            drift = drift + operator.absolute.apply(m)
        relative = gamma(max(op.terms for op in node.operators) + len(node.operators))
        return _Step(node, *_columns(own, node.bias, node.bias, relative * drift))
    if isinstance(node, Activation):
        line = lines(node, low[node.inputs[0]], high[node.inputs[0]])
        drift = gamma(4) * np.maximum(np.abs(line.lower_slope), np.abs(line.upper_slope)) * sizes[0]
        slopes = 0.5 * (line.lower_slope + line.upper_slope), 0.5 * (line.lower_slope - line.upper_slope)
        return _Step(node, *_columns(own, line.lower_offset, line.upper_offset, drift), slopes=slopes)
    if isinstance(node, Winner):  # what is known of it does not depend on its input
        return _Step(node, *_columns(own, low[node.output], high[node.output], np.zeros_like(own[0])))
    assert isinstance(node, Max)
    below, above, offset = _max_routes(node, low[node.inputs[0]], high[node.inputs[0]])
    drift = gamma(node.groups.size) * sizes[0].max(axis=-1, keepdims=True)
    return _Step(node, *_columns(own, np.zeros_like(offset), offset, drift), routes=(below, above))


def centred(low: Array, high: Array) -> tuple[Array, Array]:
    """Return centre and radius of ranges; the radius also covers the rounding of sums over all entries."""
    centre = 0.5 * (low + high)
    radius = np.maximum(high - centre, centre - low)
    return centre, radius + gamma(low.shape[-1] + 4) * (np.abs(centre) + radius)


def _columns(own: tuple[Array, Array], below: Array, above: Array, drift: Array) -> tuple[Array, Array]:
    """Join the columns; a constant c that is summed over n entries and rounds adds ``gamma_n |c|`` to the error."""
    n = own[0].shape[-1]
    wobble = drift + gamma(n + 8) * np.maximum(np.abs(below), np.abs(above))
    signed, sized = np.empty((*own[0].shape, 2)), np.empty((*own[0].shape, 3))
    signed[..., 0], sized[..., 0] = own
    signed[..., 1], sized[..., 1] = 0.5 * (below + above), 0.5 * (below - above)
    sized[..., 2] = wobble * (1 + gamma(n + 8))  # the error column is itself a rounded sum
    return signed, sized


def _max_routes(node: Max, low: Array, high: Array) -> tuple[sp.csr_array, sp.csr_array, Array]:
    """Return the member below each maximum, the member above it (proven winners only) and the constant above it."""
    members = node.groups
    batch, n_in, n_out = len(low), low.shape[1], len(members)
    best = low[:, members].argmax(axis=-1)
    chosen = members[np.arange(n_out), best] + (np.arange(batch) * n_in)[:, None]
    sure = contenders(node, low, high).sum(axis=-1) == 1
    columns = np.arange(batch * n_out)
    shape = (batch * n_in, batch * n_out)
    below = sp.csr_array((np.ones(batch * n_out), (chosen.ravel(), columns)), shape=shape)
    kept = sure.ravel()
    above = sp.csr_array((np.ones(int(kept.sum())), (chosen.ravel()[kept], columns[kept])), shape=shape)
    return below, above, np.where(sure, 0.0, high[:, members].max(axis=-1))
