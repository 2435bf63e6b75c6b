"""A proven bound on the objective without a search: linear functions below the networks, and one linear program.

What the objective makes of a network's outputs is bounded from below by a linear function of the inputs, with optimised
slopes (alpha-CROWN). With these functions in the place of the networks the user's own rows and columns are left: over
their box, or over their rows by a linear program whose duals are made a proof.

Sources: Xu et al., ICLR 2021; Neumaier and Shcherbina, Math. Programming 99 (2004).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.backends.highs import Highs
from nnembed.bounds.alpha import AlphaCrown, advance
from nnembed.bounds.alpha_sweep import Functions, Shared, Sweeps
from nnembed.bounds.box import Bounds
from nnembed.bounds.interval import UNIT, gamma
from nnembed.bounds.lp_relaxation import Program
from nnembed.bounds.safe_dual import SafeDual
from nnembed.certificate import relative_gap
from nnembed.engine.effort import LOST, hopelessness
from nnembed.engine.recover import feasible
from nnembed.engine.unasked import is_alone, verdict
from nnembed.engine.units import objective_size
from nnembed.events import Event
from nnembed.heuristics.scene import Point
from nnembed.matrices import canonical, relabel, stack
from nnembed.options import Budget, Clock, Options
from nnembed.problem import Placement, Problem
from nnembed.protocols import Solution

_SWEEPS = 30
_PART = 0.05  # of the time limit
_UNLIMITED = 5.0  # seconds where there is none
_CHUNK = 4_000_000  # numbers of one tensor held for all functions of a sweep
_MOST_OUTPUTS = 100  # outputs in rows of the user that get functions of their own, below and above


@dataclass(eq=False)
class DualSide:
    """The best bound proved so far.

    Attributes
    ----------
    best : float
        In minimisation form, without the offset; minus infinity where nothing is proved.
    """

    problem: Problem
    stopped: Callable[[], bool]
    options: Options
    clock: Clock
    best: float = -np.inf

    def before(self, point: Point | None) -> Solution | None:
        """Prove a bound before the solver starts, where that may be the only one; return the answer if it is done.

        Raises
        ------
        BoxError
            If no solver is asked and a variable lets the objective grow for ever.
        """
        if is_alone(self.options) and (found := verdict(self.problem, point, self.clock, self.stopped)) is not None:
            return found
        if point is None:
            return None  # nothing that it could close; `after` still improves what the solver says
        hopeless = hopelessness(self.problem)
        if hopeless < LOST or self.clock.expired or self.stopped():
            return None
        unlimited = _UNLIMITED if np.isinf(self.clock.remaining) else np.inf
        self.improve(min(unlimited, _PART * (self.options.time_limit or np.inf), 0.5 * self.clock.remaining))
        if not point.complete:
            return None
        x = np.empty(self.problem.n_columns)
        x[point.columns] = point.values
        if not feasible(self.problem, x):
            return None
        solution = self.merged(Solution("feasible", x, self.problem.objective(x), None))
        return solution if solution.status == "optimal" else None

    def after(self, solution: Solution) -> Solution:
        """Return what the solver found with the better of its bound and ours."""
        if solution.status in ("optimal", "infeasible", "unbounded"):
            return solution
        if not np.isfinite(self.best):
            late = self.stopped() or self.clock.expired or solution.x is None  # without a point there is no gap
            self.improve(0.0 if late else min(_UNLIMITED, self.clock.remaining))
        return self.merged(solution)

    def merged(self, solution: Solution) -> Solution:
        """Return a solution with the better of its bound and ours; optimal where that closes the gap."""
        ours, theirs = self.bound, solution.bound
        if ours is None:
            return solution
        if theirs is not None and self._sign * theirs >= self._sign * ours:
            return solution
        solution = replace(solution, bound=ours)
        size = objective_size(self.problem)
        gap = relative_gap(solution.objective, ours, size) if solution.x is not None else None
        closed = gap is not None and gap <= self.options.gap and solution.status == "feasible"
        return replace(solution, status="optimal", message="proved by linear bounds") if closed else solution

    @property
    def bound(self) -> float | None:
        """The bound on the objective, None where nothing is proved."""
        if not np.isfinite(self.best):
            return None
        value = self._sign * self.best + self.problem.offset
        return value - self._sign * 4 * UNIT * (abs(self.best) + abs(self.problem.offset))

    def improve(self, seconds: float | None) -> float | None:
        """Spend some time on a better bound and return the best; at no time, what one pass gives.

        Parameters
        ----------
        seconds : float or None
            Wall-clock; None is as long as the method takes.
        """
        problem, clock = self.problem, Budget(seconds).start()
        known: list[Bounds] = [p.embedding.bounds for p in problem.placements]
        if not problem.placements or any(b is None or not b.sound for b in known):
            return self.bound
        if not all(p.block.exact for p in problem.placements):
            return self.bound
        self._prove(known, clock)
        if clock.remaining > 0.05 and not self.stopped():
            share = None if seconds is None else 0.7 * clock.remaining / len(known)
            tighter = [AlphaCrown().tighten(b.network, b, Budget(share)) for b in known]
            if not self.stopped():
                self._prove(tighter, clock)
        return self.bound

    @property
    def _sign(self) -> float:
        return -1.0 if self.problem.maximize else 1.0

    def _prove(self, bounds: list[Bounds], clock: Clock) -> None:
        problem = self.problem
        own = own_rows(problem)
        lines = [
            _lines(problem, placement, b, clock, self._sign * problem.cost, used_outputs(problem, own, placement))
            for placement, b in zip(problem.placements, bounds, strict=True)
        ]
        matrix = stack([sp.csr_array(problem.matrix[own]), *(line.matrix for line in lines)], problem.n_columns)
        constants = np.concatenate([line.constant for line in lines])
        program = Program(
            canonical(matrix),
            np.concatenate([problem.row_lower[own], constants]),
            np.concatenate([problem.row_upper[own], np.full(len(constants), np.inf)]),
            problem.lower,
            problem.upper,
            np.zeros(problem.n_columns, dtype=bool),
        )
        cost = self._sign * problem.cost
        guess = np.concatenate([np.zeros(len(own)), *(line.price for line in lines)])
        prices = [guess, np.zeros(len(guess))]
        if len(own) or len(constants) > 1:
            prices += self._duals(program, cost, clock)
        safe, curved = SafeDual(program), self._curved()
        for y in prices:
            total = safe.bound(cost, y) + curved
            self.best = max(self.best, total - 4 * UNIT * (abs(total) + abs(curved)) if np.isfinite(total) else total)

    def _duals(self, program: Program, cost: Array, clock: Clock) -> list[Array]:
        """Return row duals of the linear program, in both conventions of sign; none where time is over."""
        if clock.remaining <= 0 or self.stopped():
            return []
        left = None if np.isinf(clock.remaining) else clock.remaining
        linear = Problem(
            program.matrix, program.row_lower, program.row_upper, program.lower, program.upper, program.integer, cost
        )
        with Highs().load(linear, Options(time_limit=left)) as session:
            found = session.solve(_unheard, self.stopped)
        return [] if found.duals is None else [found.duals, -found.duals]

    def _curved(self) -> float:
        """Return a lower bound on the quadratic part of the objective, term by term over the box."""
        if self.problem.quadratic is None:
            return 0.0
        q = sp.coo_array(self.problem.quadratic)
        low, high = self.problem.lower, self.problem.upper
        i, j = q.coords
        with np.errstate(invalid="ignore"):
            ends = np.stack([a[i] * b[j] for a in (low, high) for b in (low, high)])
        least, most = ends.min(axis=0), ends.max(axis=0)
        least = np.where((i == j) & (low[i] <= 0) & (high[i] >= 0), 0.0, least)
        weight = 0.5 * self._sign * q.data
        with np.errstate(invalid="ignore"):
            terms = np.where(weight > 0, weight * least, np.where(weight < 0, weight * most, 0.0))
        total = float(terms.sum()) - gamma(len(terms) + 4) * float(np.abs(terms).sum())
        return total if np.isfinite(total) else -np.inf


@dataclass(frozen=True, eq=False)
class Lines:
    """Rows ``matrix @ x >= constant`` that networks meet; `price` is 1 for those that stand for the objective."""

    matrix: sp.csr_array
    constant: Array
    price: Array


def own_rows(problem: Problem) -> Index:
    """Return the rows over the user's columns, inputs and outputs only."""
    hidden = np.zeros(problem.n_columns)
    for placement in problem.placements:
        hidden[placement.columns] = 1.0
    for placement in problem.placements:
        hidden[placement.drivers] = 0.0
        hidden[placement.columns[placement.block.outputs]] = 0.0
    return np.flatnonzero(((abs(problem.matrix) @ hidden) == 0) & (np.diff(problem.matrix.indptr) > 0))


def used_outputs(problem: Problem, own: Index, placement: Placement) -> Index:
    """Return the outputs of a network, in block order, that occur in the user's rows or that other networks read."""
    count = np.asarray(abs(problem.matrix[own]).sum(axis=0)).ravel() if len(own) else np.zeros(problem.n_columns)
    for other in problem.placements:
        if other is not placement:
            count[other.drivers] += 1.0
    return np.flatnonzero(count[placement.columns[placement.block.outputs]] > 0)[:_MOST_OUTPUTS]


def _lines(problem: Problem, placement: Placement, bounds: Bounds, clock: Clock, cost: Array, used: Index) -> Lines:
    """Return linear functions of the drivers below the network: below its part of the objective and single outputs."""
    network, batch = bounds.network, placement.block.batch
    columns = placement.columns[placement.block.outputs]
    sizes = [s.size for s in network.outputs]
    where = np.split(np.arange(len(columns)), np.cumsum([batch * s for s in sizes])[:-1])
    where = [w.reshape(batch, s) for w, s in zip(where, sizes, strict=True)]  # places in block order, per output
    weight = cost[columns]
    dear = np.flatnonzero(np.logical_or.reduce([(weight[w] != 0).any(axis=1) for w in where]))
    point = _point_of(where, used)
    box = np.concatenate([dear, point, point])
    coefficients = {}
    for spec, places in zip(network.outputs, where, strict=True):
        one = (places[point] == used[:, None]).astype(float)
        coefficients[spec.name] = np.concatenate([weight[places[dear]], one, -one])
    widest = max(spec.size for spec in network.tensors.values())
    step = max(1, _CHUNK // widest)
    parts = [
        _below(bounds, {t: a[i : i + step] for t, a in coefficients.items()}, box[i : i + step], clock)
        for i in range(0, len(box), step)
    ]
    flat = [np.concatenate([p[0][s.name] for p in parts]) if parts else np.zeros((0, s.size)) for s in network.inputs]
    constant = np.concatenate([p[1] for p in parts]) if parts else np.zeros(0)
    slopes, shift = _over_drivers(problem, placement, flat, box)
    outputs = _rows(
        [coefficients[s.name] for s in network.outputs], [columns[places][box] for places in where], problem.n_columns
    )
    matrix = canonical(sp.csr_array(outputs - slopes))
    price = np.concatenate([np.ones(len(dear)), np.zeros(2 * len(used))])
    constant = constant + shift
    constant = constant - 4 * UNIT * (np.abs(constant) + np.abs(shift))
    return Lines(matrix, np.where(np.isfinite(constant), constant, -np.inf), price)


def _point_of(where: list[Index], used: Index) -> Index:
    """Return which point of the batch each output in block order belongs to."""
    owner = np.concatenate([np.repeat(np.arange(w.shape[0]), w.shape[1]) for w in where])
    return owner[used]


def _below(bounds: Bounds, coefficients: dict[str, Array], box: Index, clock: Clock) -> tuple[dict[str, Array], Array]:
    """Return coefficients of the inputs and constants of linear functions below functions of outputs."""
    network = bounds.network
    shared = Shared(network, dict(bounds.low), dict(bounds.high))
    functions = Functions(coefficients, np.zeros(len(box)), box, len(network.nodes))
    sweeps, best = Sweeps(shared, functions), np.full(len(box), -np.inf)
    slopes = {s.name: np.zeros((len(box), s.size)) for s in network.inputs}
    for k in range(_SWEEPS):
        trace = sweeps.bound()
        better = trace.value > best
        best = np.where(better, trace.value, best)
        for name, old in slopes.items():
            new = trace.ends.get(name)
            slopes[name] = np.where(better[:, None], 0.0 if new is None else new, old)
        if k + 1 >= _SWEEPS or clock.expired:
            break
        advance(sweeps, trace, sweeps.derivatives(trace), 0.8 * 0.05 ** (k / _SWEEPS))
    reach, size, n = np.zeros(len(box)), np.abs(best), 0
    for name, slope in slopes.items():
        centre, radius = (np.broadcast_to(a, (bounds.batch, a.shape[1]))[box] for a in shared.centred(name))
        reach = reach + (slope * centre - np.abs(slope) * radius).sum(axis=1)
        size = size + (np.abs(slope) * (np.abs(centre) + radius)).sum(axis=1)
        n += slope.shape[1]
    return slopes, best - reach - 4 * gamma(n + 16) * size


def _over_drivers(
    problem: Problem, placement: Placement, slopes: list[Array], box: Index
) -> tuple[sp.csr_array, Array]:
    """Return functions of inputs over problem columns, and what their constants change by, rounding taken off."""
    batch, starts = placement.block.batch, np.cumsum([0, *(placement.block.batch * s.shape[1] for s in slopes)])
    places = [
        start + box[:, None] * s.shape[1] + np.arange(s.shape[1]) for start, s in zip(starts, slopes, strict=False)
    ]
    assert starts[-1] == placement.matrix.shape[0], f"{batch} points"
    wide = _rows(slopes, places, placement.matrix.shape[0])
    over = sp.csr_array(wide @ placement.matrix)
    ends = problem.lower[placement.drivers], problem.upper[placement.drivers]
    furthest = np.maximum(np.abs(ends[0]), np.abs(ends[1]))
    furthest = np.where(np.diff(sp.csc_array(placement.matrix).indptr) > 0, furthest, 0.0)
    size = abs(wide) @ (abs(placement.matrix) @ furthest + np.abs(placement.constant))
    shift = wide @ placement.constant - 2 * gamma(sum(s.shape[1] for s in slopes) + 8) * size
    return relabel(over, placement.drivers, problem.n_columns), shift


def _rows(values: list[Array], columns: list[Index], width: int) -> sp.csr_array:
    """Return rows from dense values and the columns they belong to, both (rows, n) per part."""
    data, place = np.concatenate(values, axis=1), np.concatenate(columns, axis=1)
    indptr = np.arange(len(data) + 1) * data.shape[1]
    matrix = sp.csr_array((data.ravel(), place.ravel(), indptr), shape=(len(data), width))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _unheard(event: Event) -> None:
    """Hear nothing of the linear program."""
