"""OptC2V: linear programs over the layers before, with facets of each neuron's hull added until none is violated.

The programs are those of `lp`. Where the optimum of one has a neuron above a facet of the neuron's hull over its own
inputs (`hull.projected_cut`), the facet becomes a row of the program, loosened by the rounding of the rows it is made
of. Facets hold for every objective and stay for later layers as long as they bind.

Source: Tjandraatmadja, Anderson, Huchette, Ma, Patel, Vielma, NeurIPS 2020.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.bounds.alpha import wanted
from nnembed.bounds.backward import Crown
from nnembed.bounds.box import Bounds, Provenance
from nnembed.bounds.hull import RANGE
from nnembed.bounds.hull_sweep import facets
from nnembed.bounds.interval import UNIT, gamma, narrow, node_interval
from nnembed.bounds.lp_pieces import emit
from nnembed.bounds.lp_relaxation import Affines, Program, Relaxation, widen
from nnembed.bounds.lp_solver import HotProgram
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Kink
from nnembed.options import Budget, Clock

_PER_NEURON = 3  # facets per round, from different optima
_BINDING = 1e-6


@dataclass(frozen=True)
class OptC2V:
    """Linear programs with facets of single neurons.

    Parameters
    ----------
    rounds : int
        Times that facets are added in a layer.
    tolerance : float
        Violation, relative to the neuron's size, below which a facet is left out.
    """

    rounds: int = 4
    tolerance: float = 1e-4

    name = "opt-c2v"
    summary = "linear programs with facets of each neuron's hull over its inputs (OptC2V)"
    sound = True
    cost = 50

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`.

        Bounds that this method was the last to work on, to its end, are returned as they are.
        """
        if (
            bounds.complete
            and bounds.history
            and bounds.history[-1].method == self.name
            and bounds.history[-1].finished
        ):
            return bounds
        started, clock = time.perf_counter(), budget.start()
        if not bounds.complete:
            bounds = Crown().tighten(network, bounds, budget)
        passes: list[_Pass] = []
        for k in range(bounds.batch):
            left = clock.remaining / (bounds.batch - k)
            own = replace(budget, seconds=None if budget.seconds is None else left)
            lps = None if budget.lps is None else max(0, budget.lps - sum(p.lps for p in passes))
            passes.append(_Pass(self, bounds.repeat(np.array([k]), (1,)), replace(own, lps=lps).start()))
            passes[-1].run()
        low = {t: np.concatenate([p.low[t] for p in passes]) for t in bounds.low}
        high = {t: np.concatenate([p.high[t] for p in passes]) for t in bounds.high}
        record = Provenance(
            self.name,
            time.perf_counter() - started,
            -1,
            lps=sum(p.lps for p in passes),
            finished=budget.layer_seconds is None and not any(p.over for p in passes),
        )
        return bounds.intersect(low, high, record)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Facets as rows ``matrix @ columns <= side``."""

    matrix: sp.csr_array
    side: Array

    def take(self, index: Index) -> _Rows:
        return _Rows(self.matrix[index], self.side[index])


@dataclass(eq=False)
class _Pass:
    """One pass over one box."""

    settings: OptC2V
    bounds: Bounds
    clock: Clock
    lps: int = 0
    cuts: list[_Rows] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = self.bounds.network
        self.low, self.high = dict(self.bounds.low), dict(self.bounds.high)
        self.live = replace(self.bounds, low=self.low, high=self.high)
        self.relaxation = Relaxation(self.live)
        self._written: list[Kink] = []
        self._ranges = self._program().lower, self._program().upper

    @property
    def over(self) -> bool:
        most = self.clock.budget.lps
        return self.clock.expired or (most is not None and self.lps >= most)

    def run(self) -> None:
        """Go through the network once."""
        for node in self.network.nodes:
            if self.over:
                return
            lo, hi = node_interval(node, [(self.low[t], self.high[t]) for t in node.inputs])
            narrow(node.output, lo, hi, (self.low, self.high))
            deep = any(source in self.network.producers for source in node.inputs)
            if isinstance(node, Affine) and deep and len(rows := np.flatnonzero(wanted(self.live, node)[0])):
                self._layer(node, rows)
            emit(self.relaxation, node)
            if isinstance(node, Kink) and isinstance(self.network.producers.get(node.inputs[0]), Affine):
                self._written.append(node)

    def _layer(self, node: Affine, rows: Index) -> None:
        functions = self.relaxation.value(node.output).take(rows)
        matrix = widen(functions.matrix, self.relaxation.width).toarray()
        low, high = self.low[node.output].copy(), self.high[node.output].copy()
        per_layer = self.clock.budget.layer_seconds
        layer = Budget(seconds=min(self.clock.remaining, np.inf if per_layer is None else per_layer)).start()
        for k in range(self.settings.rounds + 1):
            program = self._program()
            points = self._solve(program, functions, matrix, rows, (low, high), layer)
            self._purge(points)
            if k == self.settings.rounds or not len(points) or self.over or layer.expired or not self._separate(points):
                break
        narrow(node.output, low, high, (self.low, self.high))

    def _program(self) -> Program:
        program = self.relaxation.program()
        for cuts in self.cuts:
            program = program.with_rows(cuts.matrix, np.full(len(cuts.side), -np.inf), cuts.side)
        self._ranges = program.lower, program.upper
        return program

    def _solve(
        self,
        program: Program,
        functions: Affines,
        matrix: Array,
        rows: Index,
        sides: tuple[Array, Array],
        layer: Clock,
    ) -> Array:
        """Bound the functions from both sides; return the optima (points, columns)."""
        hot = HotProgram(program, threads=self.clock.budget.threads)
        low, high = sides
        points: list[Array] = []
        for i, row in enumerate(rows):
            for side, sign in ((low, 1.0), (high, -1.0)):
                if self.over or layer.expired:
                    return np.array(points)
                answer = hot.minimise(sign * matrix[i], min(self.clock.remaining, layer.remaining))
                self.lps += 1
                if answer.x is not None:
                    points.append(answer.x)
                if np.isfinite(answer.bound):
                    slack = functions.error[i] + 4 * UNIT * (abs(answer.bound) + abs(functions.constant[i]))
                    bound = float(functions.constant[i] + sign * (answer.bound - slack))
                    if sign > 0:
                        side[0, row] = min(max(side[0, row], bound), high[0, row])
                    else:
                        side[0, row] = max(min(side[0, row], bound), low[0, row])
        return np.array(points)

    # ---- facets --------------------------------------------------------------------------------

    def _purge(self, points: Array) -> None:
        """Drop facets that bind at none of the points."""
        if not len(points):
            return
        kept = []
        for cuts in self.cuts:
            slack = cuts.side[:, None] - widen(cuts.matrix, points.shape[1]) @ points.T
            kept.append(cuts.take(np.flatnonzero(slack.min(axis=1) <= _BINDING * (1 + np.abs(cuts.side)))))
        self.cuts = [cuts for cuts in kept if len(cuts.side)]

    def _separate(self, points: Array) -> bool:
        """Add the facets that the points violate; return whether there are any."""
        before = len(self.cuts)
        for node in self._written:
            self._separate_layer(node, points)
        return len(self.cuts) > before

    def _separate_layer(self, node: Kink, points: Array) -> None:
        affine = self.network.producers[node.inputs[0]]
        assert isinstance(affine, Affine)
        neurons = np.flatnonzero(self.live.open(node)[0] & (node.right > node.left))
        if not len(neurons):
            return
        g, y = (self._at(t, points)[:, neurons].ravel() for t in (node.inputs[0], node.output))
        x = np.concatenate([self._at(t, points) for t in affine.inputs], axis=1)
        point, neuron = np.repeat(np.arange(len(points)), len(neurons)), np.tile(neurons, len(points))
        found = facets(node, affine, (self.low, self.high), np.zeros(len(point), int), neuron, (x[point], g, y))
        score = found.violation / found.size
        best = np.lexsort((-score, neuron))
        rank = np.arange(len(best)) - np.searchsorted(neuron[best], neuron[best])
        chosen = best[(rank < _PER_NEURON) & (score[best] > self.settings.tolerance)]
        if len(chosen):
            coefficients, constant = found.coefficients[chosen], found.constant[chosen]
            pad = 2 * gamma(x.shape[1] + 20) * found.size[chosen]
            self.cuts.append(self._rows(node, affine.inputs, neuron[chosen], coefficients, constant + pad))

    def _at(self, tensor: str, points: Array) -> Array:
        """Return the values (points, n) of a tensor at points of the program."""
        value = self.relaxation.value(tensor)
        return (widen(value.matrix, points.shape[1]) @ points.T).T + value.constant

    def _rows(self, node: Kink, sources: Sequence[str], neuron: Index, coefficients: Array, constant: Array) -> _Rows:
        """Return ``y - coefficients . inputs <= constant`` over columns, loosened by what the tensors' rows are off."""
        width = self.relaxation.width
        y = self.relaxation.value(node.output).take(neuron)
        total, side, error = widen(y.matrix, width), constant - y.constant, y.error + 4 * UNIT * y.size
        size, start = np.abs(constant) + y.size, 0
        for source in sources:
            value = self.relaxation.value(source)
            n = len(value.constant)
            part = coefficients[:, start : start + n]
            total = total - sp.csr_array(part @ widen(value.matrix, width).toarray())
            side = side + part @ value.constant
            error = error + np.abs(part) @ value.error
            size = size + np.abs(part) @ value.size
            start += n
        side = side + (error + gamma(2 * start + 20) * size) * (1 + gamma(start + 20))
        return self._sane(sp.csr_array(total), side)

    def _sane(self, matrix: sp.csr_array, side: Array) -> _Rows:
        """Return rows with largest entries of about one; tiny entries are replaced by the least value of their term."""
        low, high = self._ranges
        full = matrix.toarray()
        most = np.maximum(np.abs(full).max(axis=1), np.finfo(float).tiny)
        factor = np.exp2(-np.ceil(np.log2(most)))  # powers of two: nothing is rounded
        full, side = full * factor[:, None], side * factor
        tiny = np.abs(full) < 1.0 / RANGE
        least = np.where(tiny, np.minimum(full * low, full * high), 0.0)
        side = side - least.sum(axis=1) + gamma(full.shape[1] + 4) * np.abs(least).sum(axis=1) + UNIT * np.abs(side)
        return _Rows(sp.csr_array(np.where(tiny, 0.0, full)), side)
