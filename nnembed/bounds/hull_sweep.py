"""FastC2V: backward bounds in which the upper line of a neuron may be a facet of its hull over its own inputs.

A sweep gives the point of the box where the bound of a function is attained, a pass up the values of all neurons
there. Where the value of an open neuron violates a facet of the neuron's hull (`hull.projected_cut`), the most violated
one replaces the neuron's upper line in the next sweep of that function. Every mixture of lines and facets is valid; the
best bound is kept.

Source: Tjandraatmadja, Anderson, Huchette, Ma, Patel, Vielma, NeurIPS 2020. There a facet takes the place of the line
and the lower lines stay those of DeepPoly. Here the lower lines are moved along the gradients in the same passes, and
the upper one is the mean of all facets so far, a subgradient method that does not jump to and fro between facets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.bounds.alpha import advance, layer_by_layer
from nnembed.bounds.alpha_sweep import Functions, Shared, Sweeps, Trace
from nnembed.bounds.box import Bounds
from nnembed.bounds.hull import projected_cut
from nnembed.bounds.interval import gamma
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Kink, Node
from nnembed.options import Budget, Clock

_CHUNK = 2_000_000  # numbers of the cuts of one sweep


@dataclass(frozen=True)
class FastC2V:
    """Linear backward bounds with facets of single neurons as upper lines.

    Parameters
    ----------
    lines : int
        Rounds per layer that move the lower lines only.
    facets : int
        Rounds after them that separate facets.
    published : bool
        The method as published: facets only, they replace lines instead of being mixed with them, and lower lines stay.
    """

    lines: int = 6
    facets: int = 6
    published: bool = False

    name = "fast-c2v"
    summary = "backward bounds with facets of each neuron's hull over its inputs (FastC2V)"
    sound = True
    cost = 25

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener` and `alpha.AlphaCrown`."""

        def maximise(shared: Shared, functions: Functions, clock: Clock) -> Array:
            """Return lower bounds (functions,) on functions of a layer, in parts that fit into memory."""
            best = np.full(len(functions.box), -np.inf)
            for part in _parts(shared.network, functions):
                if clock.expired:
                    break
                some = Functions(
                    {t: a[part] for t, a in functions.coefficients.items()},
                    functions.constant[part],
                    functions.box[part],
                    functions.position,
                )
                best[part] = self._maximised(CutSweeps(shared, some), clock)
            return best

        return layer_by_layer(self.name, bounds, budget, maximise)

    def _maximised(self, sweeps: CutSweeps, clock: Clock) -> Array:
        best = np.full(len(sweeps.functions.box), -np.inf)
        first = 0 if self.published else self.lines
        for k in range(first + self.facets + 1):
            trace = sweeps.bound()
            best = np.maximum(best, trace.value)
            if k == first + self.facets or clock.expired:
                break
            slopes, late = sweeps.derivatives(trace), k - first
            if late >= 0:
                sweeps.separate(trace, 1.0 if self.published else 1.0 / (1 + late))
            if not self.published:
                advance(
                    sweeps, trace, slopes, 0.8 * 0.1 ** (k / first) if late < 0 else 0.2 * 0.3 ** (late / self.facets)
                )
        return best


@dataclass(frozen=True, eq=False)
class _Cuts:
    """Facets in use at one layer: of function and neuron, ``y <= coefficients . inputs + constant``."""

    function: Index
    neuron: Index
    coefficients: Array
    constant: Array
    error: Array


@dataclass(frozen=True, eq=False)
class Facets:
    """Facets of convex neurons over their inputs, one per entry: ``y <= coefficients . inputs + constant``.

    `size` is what rounding errors are relative to; `weights` are the neurons' rows.
    """

    violation: Array
    coefficients: Array
    constant: Array
    size: Array
    weights: Array


def facets(
    node: Kink,
    before: Affine,
    bounds: tuple[Mapping[str, Array], Mapping[str, Array]],
    box: Index,
    neuron: Index,
    point: tuple[Array, Array, Array],
) -> Facets:
    """Return the most violated facet above neurons with ``right > left`` whose pre-activation `before` computes.

    ``y = left g + (right - left) max(g, 0)`` lies below the same mixture of g and of a facet of the ReLU.

    Parameters
    ----------
    bounds : pair of mappings tensor -> array (batch, n)
        Lower and upper bounds.
    box, neuron : int arrays (k,)
    point : (x (k, inputs), g (k,), y (k,))
        Values of the inputs of `before`, of the pre-activation and of the neuron.
    """
    used, where = np.unique(neuron, return_inverse=True)
    weights = np.concatenate([op.rows(used) for op in before.operators], axis=1)[where]
    low, high = (np.concatenate([side[t][box] for t in before.inputs], axis=1) for side in bounds)
    x, g, y = point
    bias, left, right = before.bias[neuron], node.left[neuron], node.right[neuron]
    rise = right - left
    violation, coefficients, constant = projected_cut(weights, bias, low, high, x, (y - left * g) / rise)
    size = np.abs(bias) + (np.abs(weights) * np.maximum(np.abs(low), np.abs(high))).sum(axis=1)
    return Facets(
        rise * violation,
        rise[:, None] * coefficients + left[:, None] * weights,
        rise * constant + left * bias,
        (rise + 2 * np.abs(left) + np.abs(right)) * size,
        weights,
    )


class CutSweeps(Sweeps):
    """Sweeps with facets as upper lines; no split entries."""

    def __init__(self, shared: Shared, functions: Functions):
        super().__init__(shared, functions)
        self.cuts: dict[str, _Cuts] = {}

    def separate(self, trace: Trace, share: float) -> None:
        """Mix into every function's upper lines the facets that its last point violates most, one per open neuron.

        `share` is the new facet's part in the mean; with 1 it takes the place of what was there.
        """
        for name in trace.lines:
            node = self.shared.network.producers[name]
            before = self.shared.network.producers.get(node.inputs[0])
            if isinstance(node, Kink) and isinstance(before, Affine):
                self._separate_layer(node, before, trace.passed[name], share)

    def _separate_layer(self, node: Kink, before: Affine, a: Array, share: float) -> None:
        box, source, z = self.functions.box, node.inputs[0], self.values
        low, high = self.shared.low[source][box], self.shared.high[source][box]
        function, neuron = np.nonzero((low < 0) & (high > 0) & (node.right > node.left) & (a < 0))
        if not len(function):
            return
        x = np.concatenate([z[t][function] for t in before.inputs], axis=1)
        value = z[node.output][function, neuron]
        bounds = self.shared.low, self.shared.high
        found = facets(node, before, bounds, box[function], neuron, (x, z[source][function, neuron], value))
        good = found.violation > 1e-9 * found.size
        new = _Cuts(
            function[good],
            neuron[good],
            found.coefficients[good],
            found.constant[good],
            # Roundings of coefficients, of sums over neurons and of sums over inputs.
            2 * gamma(x.shape[1] + a.shape[1] + 20) * found.size[good],
        )
        old = self._present(node, new, found.weights[good], before.bias[new.neuron], a.shape)
        mixed = _mixed(old, new, share, found.size[good])
        self.cuts[node.output] = _merged(self.cuts.get(node.output), mixed, a.shape)

    def _present(self, node: Node, found: _Cuts, weights: Array, bias: Array, shape: tuple[int, ...]) -> _Cuts:
        """Return what is above the neurons of `found` now: the chord, or a mixture from before."""
        lines, at = self.shared.family(node), self.functions.box[found.function]
        slope, offset = lines.slope[1][at, found.neuron], lines.offset[1][at, found.neuron]
        coefficients, constant, error = slope[:, None] * weights, slope * bias + offset, found.error.copy()
        old = self.cuts.get(node.output)
        if old is not None:
            number = np.full(shape, -1)
            number[old.function, old.neuron] = np.arange(len(old.function))
            which = number[found.function, found.neuron]
            there = which >= 0
            coefficients[there] = old.coefficients[which[there]]
            constant[there], error[there] = old.constant[which[there]], old.error[which[there]]
        return _Cuts(found.function, found.neuron, coefficients, constant, error)

    def _lines(self, node: Node, a: Array) -> tuple[Array, Array]:
        slope, offset = super()._lines(node, a)
        cuts, use = self._used(node, a)
        if cuts is not None:
            place = cuts.function[use], cuts.neuron[use]
            slope[place], offset[place] = 0.0, cuts.constant[use]
        return slope, offset

    def _besides(self, node: Node, a: Array) -> tuple[list[tuple[str, Array]], Array | float]:
        cuts, use = self._used(node, a)
        if cuts is None or not len(use):
            return [], 0.0
        factor = a[cuts.function[use], cuts.neuron[use]]
        before = self.shared.network.producers[node.inputs[0]]
        parts = _summed(cuts.function[use], factor[:, None] * cuts.coefficients[use], len(a))
        error = _summed(cuts.function[use], (np.abs(factor) * cuts.error[use])[:, None], len(a))[:, 0]
        sizes = np.cumsum([self.shared.network.tensors[t].size for t in before.inputs])[:-1]
        return list(zip(before.inputs, np.split(parts, sizes, axis=1), strict=True)), error

    def _refill(self, node: Node, a: Array, z: dict[str, Array]) -> None:
        cuts, use = self._used(node, a)
        if cuts is not None and len(use):
            before = self.shared.network.producers[node.inputs[0]]
            function = cuts.function[use]
            x = np.concatenate([z[t][function] for t in before.inputs], axis=1)
            z[node.output][function, cuts.neuron[use]] += np.einsum("en,en->e", cuts.coefficients[use], x)

    def _used(self, node: Node, a: Array) -> tuple[_Cuts | None, Index]:
        """Return the facets of a layer and which of them are in use: those of negative coefficients."""
        cuts = self.cuts.get(node.output)
        if cuts is None:
            return None, np.zeros(0, dtype=np.intp)
        return cuts, np.flatnonzero(a[cuts.function, cuts.neuron] < 0)


def _mixed(old: _Cuts, new: _Cuts, share: float, size: Array) -> _Cuts:
    """Return the mean of two sets of functions above the same neurons, with a share of the new ones."""
    return _Cuts(
        new.function,
        new.neuron,
        (1 - share) * old.coefficients + share * new.coefficients,
        (1 - share) * old.constant + share * new.constant,
        np.maximum(old.error, new.error) + 2 * gamma(8) * size,
    )


def _merged(old: _Cuts | None, new: _Cuts, shape: tuple[int, ...]) -> _Cuts:
    """Return the facets with new ones in place of old ones of the same function and neuron, by function."""
    if old is not None:
        fresh = np.zeros(shape, dtype=bool)
        fresh[new.function, new.neuron] = True
        kept = ~fresh[old.function, old.neuron]
        pairs = [(getattr(old, f)[kept], getattr(new, f)) for f in _Cuts.__dataclass_fields__]
        new = _Cuts(*(np.concatenate(pair) for pair in pairs))
    order = np.argsort(new.function, kind="stable")
    return _Cuts(*(getattr(new, f)[order] for f in _Cuts.__dataclass_fields__))


def _summed(function: Index, values: Array, count: int) -> Array:
    """Return the sums (count, n) of rows that belong to the same function; functions ascend."""
    total = np.zeros((count, values.shape[1]))
    if len(function):
        first = np.flatnonzero(np.diff(function, prepend=-1))
        total[function[first]] = np.add.reduceat(values, first, axis=0)
    return total


def _parts(network: Network, functions: Functions) -> Iterator[slice]:
    """Return slices of functions whose cuts fit into memory."""
    nodes = network.nodes[: functions.position]
    cuts = sum(op.shape[0] * op.shape[1] for n in nodes if isinstance(n, Affine) for op in n.operators)
    size = max(1, _CHUNK // max(1, cuts))
    return (slice(i, i + size) for i in range(0, len(functions.box), size))
