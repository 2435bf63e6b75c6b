"""Backward sweeps in which every function chooses its own lines, and the derivatives of their bounds.

Functions are pairs (box, row) in one flat list, so boxes with different open neurons cost what they have. A sweep
down gives for every function a bound and the point of the box where it is attained; the values of all tensors there,
carried up along the same lines, are the derivatives: the bound changes with the line of a neuron by the neuron's
coefficient times the change of the line at its value.

The bound holds for any choice of lines, and its rounding is accounted for as in `backward`.

Sources: Xu et al., ICLR 2021 (alpha-CROWN); Wang et al., NeurIPS 2021 (beta-CROWN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.alpha_lines import Family, Peaks, family, peaks
from nnembed.bounds.backward import centred
from nnembed.bounds.interval import UNIT, gamma
from nnembed.ir.network import Network
from nnembed.ir.nodes import Activation, Affine, Max, Node, Winner


@dataclass(frozen=True, eq=False)
class Functions:
    """Linear functions of tensors to be bounded from below, one per entry of `box`.

    Attributes
    ----------
    coefficients : mapping tensor -> array (p, n)
    constant : array (p,)
    box : int array (p,)
        The box each function is bounded over.
    position : int
        Only nodes before it are passed.
    """

    coefficients: Mapping[str, Array]
    constant: Array
    box: Index
    position: int


def entries(network: Network, position: int, box: Index, row: Index, sign: Array) -> Functions:
    """Return entries ``row`` of the affine node at `position`, times sign, as functions of what it reads."""
    node = network.nodes[position]
    assert isinstance(node, Affine)
    used, where = np.unique(row, return_inverse=True)
    coefficients: dict[str, Array] = {}
    for source, operator in zip(node.inputs, node.operators, strict=True):
        part = operator.rows(used)[where] * sign[:, None]
        coefficients[source] = coefficients[source] + part if source in coefficients else part
    return Functions(coefficients, node.bias[row] * sign, box, position)


@dataclass(frozen=True, eq=False)
class Trace:
    """What a sweep leaves: bounds, coefficients of the inputs and of passed tensors, lines of activations."""

    value: Array
    ends: dict[str, Array]
    passed: dict[str, Array]
    lines: dict[str, tuple[Array, Array]]  # slope and offset


class Sweeps:
    """Sweeps of one list of functions over fixed boxes; what does not change between sweeps is kept.

    Attributes
    ----------
    shares : dict activation's output -> array (p, n)
        The choice of lines, see `alpha_lines.Family`; made by the first sweep, which takes the lines of CROWN.
    splits : mapping tensor -> int array (batch, n)
        Entries known to be at least zero (1) or at most zero (-1) where the bounds are asked for, beyond the bounds of
        the tensors; 0 where nothing is known.
    prices : dict tensor -> array (p, n)
        What is paid per unit of a split entry, at least zero: any price gives a valid bound.
    values : dict tensor -> array (p, n)
        Where the bounds of the last sweep are attained, carried up along its lines; set by `derivatives`.
    """

    def __init__(self, shared: Shared, functions: Functions, splits: Mapping[str, Array] | None = None):
        self.shared, self.functions, self.splits = shared, functions, splits or {}
        self.shares: dict[str, Array] = {}
        self.prices: dict[str, Array] = {}
        self.values: dict[str, Array] = {}
        self._here: dict[str, Any] = {}

    def bound(self) -> Trace:
        """Return lower bounds for the present shares."""
        network, f = self.shared.network, self.functions
        live = dict(f.coefficients)
        constant, error = f.constant, 4 * UNIT * np.abs(f.constant)
        passed: dict[str, Array] = {}
        chosen: dict[str, tuple[Array, Array]] = {}
        for node in reversed(network.nodes[: f.position]):
            a = live.pop(node.output, None)
            if a is None:
                continue
            if node.output in self.splits:
                a = a - self._paid(node.output, a)
            passed[node.output] = a
            error = (
                error + _dot(np.abs(a), self._kept(node.output, self.shared.error(node))) + 2 * UNIT * np.abs(constant)
            )
            if isinstance(node, Affine):
                constant = constant + a @ node.bias
                parts = [op.pull(a) for op in node.operators]
            elif isinstance(node, Max):
                slope, offset = chosen[node.output] = self._maximum(node, a)
                constant = constant + _dot(a, offset)
                parts = [self._scatter(node, a[..., None] * slope)]
            elif isinstance(node, Winner):  # what is known of it does not depend on its input
                constant = constant + _dot(a, self._end(node.output, a))
                parts = [np.zeros((len(a), self.shared.network.tensors[node.input].size))]
            else:
                slope, offset = chosen[node.output] = self._lines(node, a)
                constant = constant + _dot(a, offset)
                parts = [a * slope]
            besides, more = self._besides(node, a)
            error = error + more
            for source, part in [*zip(node.inputs, parts, strict=True), *besides]:
                live[source] = live[source] + part if source in live else part
        for tensor, a in live.items():
            centre, radius = self._kept(tensor, self.shared.centred(tensor))
            constant = constant + _dot(a, centre) - _dot(np.abs(a), radius)
            error = error + 4 * UNIT * np.abs(constant)
        value = constant - error * (1 + gamma(2 * len(network.nodes)))
        return Trace(value - 8 * UNIT * np.abs(value), live, passed, chosen)

    def derivatives(self, trace: Trace) -> dict[str, Array]:
        """Return the derivatives of the bounds with respect to the shares and, by split tensor, the prices."""
        z = {tensor: self._end(tensor, a) for tensor, a in trace.ends.items()}
        found: dict[str, Array] = {}
        for node in self.shared.network.nodes[: self.functions.position]:
            a = trace.passed.get(node.output)
            if a is None:
                continue
            if isinstance(node, Affine):
                total = node.bias
                for source, operator in zip(node.inputs, node.operators, strict=True):
                    total = total + operator.apply(z[source])
                z[node.output] = total
                if node.output in self.splits:
                    found[node.output] = -self._kept(node.output + " split", self.splits[node.output]) * total
                continue
            if isinstance(node, Winner):
                z[node.output] = self._end(node.output, a)
                continue
            slope, offset = trace.lines[node.output]
            g = z[node.inputs[0]]
            if isinstance(node, Max):
                g = g[:, node.groups]
                found[node.output] = a * self._turn_maximum(node, a, g)
                z[node.output] = (slope * g).sum(axis=-1) + offset
            else:
                found[node.output] = a * self._turn(node, a, g)
                z[node.output] = slope * g + offset
                self._refill(node, a, z)
        self.values = z
        return found

    def _end(self, tensor: str, a: Array) -> Array:
        """Return where in its bounds a tensor makes coefficients least."""
        low, high = self._kept(tensor + " ends", (self.shared.low[tensor], self.shared.high[tensor]))
        return np.where(a >= 0, low, high)

    def _besides(self, node: Node, a: Array) -> tuple[list[tuple[str, Array]], Array | float]:
        """Return coefficients that go past a node's inputs to other tensors, and what they may be off (p,)."""
        return [], 0.0

    def _refill(self, node: Node, a: Array, z: dict[str, Array]) -> None:
        """Complete the values of a node's output where coefficients went past it."""

    def _paid(self, tensor: str, a: Array) -> Array:
        """Return what the prices of split entries take off the coefficients."""
        if tensor not in self.prices:
            self.prices[tensor] = np.zeros(a.shape)
        return self.prices[tensor] * self._kept(tensor + " split", self.splits[tensor])

    def _lines(self, node: Node, a: Array) -> tuple[Array, Array]:
        lines: Family = self.shared.family(node)
        positive = a >= 0
        slope, turn, offset = self._kept(node.output + " line", (lines.slope, lines.turn, lines.offset))
        t = self._share(node, positive, lines.start)
        if lines.one_sided:
            return np.where(positive, slope[0] + t * turn[0], slope[1]), np.where(positive, 0.0, offset[1])
        shift = self._kept(node.output + " shift", lines.shift)
        both = [(slope[i] + t * turn[i], offset[i] + t * shift[i]) for i in (0, 1)]
        return np.where(positive, both[0][0], both[1][0]), np.where(positive, both[0][1], both[1][1])

    def _share(self, node: Node, positive: Mask, start: Array) -> Array:
        if node.output not in self.shares:
            below, above = self._kept(node.output + " start", start)
            self.shares[node.output] = np.where(positive, below, above)
        return self.shares[node.output]

    def _turn(self, node: Node, a: Array, g: Array) -> Array:
        """Return how much the line at value g changes with its share."""
        lines = self.shared.family(node)
        turn = self._kept(node.output + " line", (lines.slope, lines.turn, lines.offset))[1]
        if lines.one_sided:
            return np.where(a >= 0, turn[0] * g, 0.0)
        shift = self._kept(node.output + " shift", lines.shift)
        return np.where(a >= 0, turn[0] * g + shift[0], turn[1] * g + shift[1])

    def _maximum(self, node: Max, a: Array) -> tuple[Array, Array]:
        """Return coefficients on the members (p, groups, k) and constants (p, groups); see `Peaks`."""
        peaks = self.shared.peaks(node)
        first, last, low, high, scale = self._kept(node.output + " members", peaks.members, axis=-3)
        sure, least, span = self._kept(node.output + " peak", (peaks.sure, peaks.least, peaks.span))
        t = self._share(node, a >= 0, peaks.start)
        level = least + t * span
        rise = np.maximum(high - level[..., None], 0.0) * scale
        on_one = (sure | (a >= 0))[..., None]
        slope = np.where(on_one, first + t[..., None] * (last - first), rise)
        return slope, np.where(on_one[..., 0], 0.0, level - (rise * low).sum(axis=-1))

    def _turn_maximum(self, node: Max, a: Array, g: Array) -> Array:
        peaks = self.shared.peaks(node)
        first, last, low, high, scale = self._kept(node.output + " members", peaks.members, axis=-3)
        _, least, span = self._kept(node.output + " peak", (peaks.sure, peaks.least, peaks.span))
        level = least + self.shares[node.output] * span
        above = 1.0 - (np.where(high > level[..., None], scale, 0.0) * (g - low)).sum(axis=-1)
        return np.where(a >= 0, ((last - first) * g).sum(axis=-1), span * above)

    def _scatter(self, node: Max, a: Array) -> Array:
        """Return coefficients on the tensor that the members (p, groups, k) are taken from."""
        n, p = self.shared.network.tensors[node.inputs[0]].size, len(a)
        place = node.groups + n * np.arange(p)[:, None, None]
        total: Array = np.bincount(place.ravel(), a.ravel(), minlength=p * n).astype(float)
        return total.reshape(p, n)

    def _kept(self, key: str, values: Any, axis: int = -2) -> Any:
        """Return arrays with the box of each function picked along `axis`; one box is broadcast instead."""
        if key not in self._here:
            several = values if isinstance(values, tuple) else (values,)
            if several[0].shape[axis] > 1:
                several = tuple(np.take(v, self.functions.box, axis=axis) for v in several)
            self._here[key] = several if isinstance(values, tuple) else several[0]
        return self._here[key]


@dataclass(eq=False)
class Shared:
    """One network with its bounds so far, and what all sweeps need of every node."""

    network: Network
    low: dict[str, Array]
    high: dict[str, Array]
    _families: dict[str, Family] = field(default_factory=dict)
    _errors: dict[str, Array] = field(default_factory=dict)
    _peaks: dict[str, Peaks] = field(default_factory=dict)

    def centred(self, tensor: str) -> tuple[Array, Array]:
        """Return centre and radius of a tensor's ranges; the radius covers the rounding of sums."""
        return centred(self.low[tensor], self.high[tensor])

    def family(self, node: Node) -> Family:
        """Return the lines of an activation."""
        if node.output not in self._families:
            assert isinstance(node, Activation)
            source = node.inputs[0]
            self._families[node.output] = family(node, self.low[source], self.high[source])
        return self._families[node.output]

    def peaks(self, node: Max) -> Peaks:
        """Return the lines of a layer of maxima."""
        if node.output not in self._peaks:
            self._peaks[node.output] = peaks(node, self.low[node.inputs[0]], self.high[node.inputs[0]])
        return self._peaks[node.output]

    def error(self, node: Node) -> Array:
        """Return per entry (batch, n) what passing a coefficient of one through the node may be off."""
        if node.output not in self._errors:
            self._errors[node.output] = self._error(node) * (1 + gamma(self.network.tensors[node.output].size + 8))
        return self._errors[node.output]

    def _error(self, node: Node) -> Array:
        n = self.network.tensors[node.output].size
        sizes = [np.maximum(np.abs(self.low[t]), np.abs(self.high[t])) for t in node.inputs]
        if isinstance(node, Affine):
            pairs = list(zip(node.operators, sizes, strict=True))
            drift = sum(op.absolute.apply(m) for op, m in pairs)
            relative = gamma(max(op.terms for op in node.operators) + len(pairs))
            return relative * drift + gamma(n + 8) * np.abs(node.bias)
        if isinstance(node, Max):
            return gamma(node.groups.size + n + 40) * (node.groups.shape[1] + 2) * sizes[0][:, node.groups].max(axis=-1)
        if isinstance(node, Winner):
            return np.full(self.low[node.output].shape, gamma(n + 8))
        lines = self.family(node)
        furthest = np.maximum(np.abs(lines.offset), np.abs(lines.offset + lines.shift)).max(axis=0)
        return lines.error + gamma(n + 8) * furthest


def _dot(a: Array, b: Array) -> Array:
    """Return the products of rows; one row `b` for all is a matrix product."""
    return a @ b[0] if len(b) == 1 else np.einsum("pn,pn->p", a, b)
