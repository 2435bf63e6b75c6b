"""Solve a problem whose objective has products with a solver that takes none; see `nnembed.engine.products`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nnembed.aliases import Array
from nnembed.certificate import relative_gap
from nnembed.engine.decompose import take_apart
from nnembed.engine.dual import ABSOLUTE, Dual, PricedSearch, solve_briefly
from nnembed.engine.leaves import LeafChoice
from nnembed.engine.products import Pieces, Relaxation, Terms, find_terms, first_pieces, refine, relax
from nnembed.engine.recover import feasible, snapped
from nnembed.events import Event, Incumbent
from nnembed.features import Capability
from nnembed.heuristics.scene import Point
from nnembed.options import Clock, Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Solution

_ROUNDS = 60
_CUT_PER_ROUND = 0.5  # share of the factors that are cut in one round
_DESCENT_STEPS = 12
_PRICED_SECONDS = 120.0  # the most
_PRICED_SHARE = 0.8  # of the time that is left goes to the search by components, where there are any
_WIDE = 12  # decisions of a component from which on boxes over them are slow
_WIDE_SHARE = 0.5
_FEW_FACTORS = 2  # so many cut columns are better cut than all decisions of a wide component
_MOST_PROBES = 100  # linear programs per round
_SAFETY = 2e-6  # what a solver's bound may be off, relative to the scale of the objective it is given


@dataclass(eq=False)
class Refinement:
    """The loop: relax, solve, evaluate, cut; keeps the best answer and the best bound."""

    problem: Problem
    backend: Backend
    options: Options
    clock: Clock
    on_event: Callable[[Event], None]
    stopped: Callable[[], bool]
    best: Array | None = None
    bound: float | None = None
    nodes: int = 0
    infeasible: bool = False
    _dropped: float = np.inf  # the least bound of the pieces that were given up, in minimisation form

    @property
    def sign(self) -> float:
        """Return 1 for minimisation, -1 for maximisation."""
        return -1.0 if self.problem.maximize else 1.0

    def run(self, start: Point | None) -> Solution:
        """Return the answer with its bound.

        Parameters
        ----------
        start : Point or None
            From heuristics; used whole when it is a feasible point, else its integers.
        """
        terms = find_terms(self.problem)
        pieces = first_pieces(self.problem, terms)
        if start is not None and start.complete:
            x = np.empty(self.problem.n_columns)
            x[start.columns] = start.values
            self._offer(self._polish(x), "forward")
        if self.best is None and not self._meetable():
            return self._answer("infeasible")
        self._by_components()
        if self.infeasible:
            return self._answer("infeasible")
        if self._closed():
            return self._answer("optimal")
        status = "time_limit"
        for _ in range(_ROUNDS):
            status, solution, relaxation = self._round(terms, pieces, start)
            if status in ("infeasible", "unbounded", "error", "interrupted", "time_limit") or self._closed():
                break
            assert solution.x is not None
            x = solution.x
            w = x[relaxation.place["w"]]
            pieces = self._without_worse(relaxation)
            if self._closed():
                break
            most = max(1, int(np.ceil(_CUT_PER_ROUND * len(pieces.columns))))
            finer = refine(self.problem, terms, pieces, x[: self.problem.n_columns], w, most)
            if len(finer.owner) == len(relaxation.pieces.owner) == len(pieces.owner):
                break  # the relaxation is exact at its point
            pieces = finer
        return self._answer(status)

    def _meetable(self) -> bool:
        """Look for any point that meets the rows, without the objective; return False when there is proved to be none.

        Products are in the objective only, so nothing is relaxed here.
        """
        if self.clock.expired:
            return True
        n = self.problem.n_columns
        rows = replace(self.problem, cost=np.zeros(n), offset=0.0, quadratic=None)
        found = solve_briefly(rows, self.backend, self.options, lambda: self.clock.expired or self.stopped())
        self.nodes += found.nodes
        if found.x is not None:
            self._offer(self._polish(found.x), "rows alone")
        return found.status != "infeasible"

    def _by_components(self) -> None:
        """Bound a nearly separable problem by its components; the pieces take over where that does not close."""
        components = take_apart(self.problem)
        if components is None:
            return
        wide = max(part.k for part in components.parts) > _WIDE
        if wide and len(components.parts) == 1 and len(np.unique(find_terms(self.problem).factor)) <= _FEW_FACTORS:
            return
        share = _WIDE_SHARE if wide else _PRICED_SHARE
        end = self.clock.elapsed + min(share * self.clock.remaining, _PRICED_SECONDS)

        def stopped() -> bool:
            return self.clock.elapsed >= end or self.stopped()

        def heard(bound: float) -> None:
            if self.bound is None or self.sign * bound > self.sign * self.bound:
                self.bound = bound
                self.on_event(Incumbent(self.clock.elapsed, self._value(), bound, "components"))

        def offer(x: Array) -> None:
            self._offer(self._polish(x), "components")

        parts = (self.problem, components, self.backend, self.options)
        search = PricedSearch(*parts, stopped, offer, lambda: self.best, heard)
        dual = search.run()
        if not self._closed() and not stopped() and len(components.rows):
            self._by_leaves(search, dual)

    def _by_leaves(self, search: PricedSearch, dual: Dual) -> None:
        """Close what prices leave open by choosing boxes."""

        def offer(points: list[Array]) -> None:
            x = np.zeros(self.problem.n_columns)
            for tree, v in zip(dual.trees, points, strict=True):
                x[tree.part.columns] = np.where(tree.part.integer, np.rint(v), v)
            search.put(x, near=True)

        def target() -> float:
            return np.inf if self.best is None else self.sign * self.problem.objective(self.best)

        def heard(bound: float) -> None:
            search.heard(self.sign * bound)

        choice = LeafChoice(dual, self.backend, self.options, search.stopped, offer, target, heard)
        choice.run()
        self.nodes += choice.nodes
        self.infeasible = choice.infeasible

    def _without_worse(self, relaxation: Relaxation) -> Pieces:
        """Drop pieces of the partition on which even the linear relaxation is worse than the best answer."""
        pieces, value = relaxation.pieces, self._value()
        if value is None or Capability.HOT_LP not in self.backend.capabilities:
            return pieces
        cutoff = self.sign * value - 0.5 * self.options.gap * abs(value)
        linear = replace(relaxation.problem, integer=np.zeros(relaxation.problem.n_columns, dtype=bool))
        kept = np.ones(len(pieces.owner), dtype=bool)
        many = np.flatnonzero(pieces.count[pieces.owner] > 1)[:_MOST_PROBES]
        with self.backend.load(linear, replace(self.options, time_limit=None, solver_options={})) as session:
            for p in many.tolist():
                if self.stopped() or self.clock.expired:
                    break
                z = relaxation.place["z"][p : p + 1]
                session.set_bounds(z, np.ones(1), np.ones(1))
                found = session.solve(lambda event: None, self.stopped)
                worth = np.inf if found.status == "infeasible" else -np.inf
                if found.status == "optimal" and found.bound is not None:
                    worth = self.sign * found.bound - _SAFETY * (1 + abs(found.bound))
                kept[p] = worth < cutoff
                self._dropped = min(self._dropped, np.inf if kept[p] else worth)
                session.set_bounds(z, np.zeros(1), np.full(1, float(kept[p])))
        if not np.bincount(pieces.owner[kept], minlength=len(pieces.columns)).all():
            self._raise_bound(self.sign * self._dropped)
            return pieces
        return Pieces(pieces.columns, pieces.owner[kept], pieces.low[kept], pieces.high[kept])

    def _raise_bound(self, bound: float) -> None:
        """Take a bound of what is left of the partition; what was dropped is not better than its own."""
        bound = self.sign * min(self.sign * bound, self._dropped)
        if np.isfinite(bound) and (self.bound is None or self.sign * bound > self.sign * self.bound):
            self.bound = bound

    def _round(self, terms: Terms, pieces: Pieces, start: Point | None) -> tuple[str, Solution, Relaxation]:
        relaxation = relax(self.problem, terms, pieces)
        value, largest = self._value(), float(np.abs(relaxation.problem.cost).max(initial=0.0))
        scale = 1.0 if value is None else 1e-2 * max(abs(value), 1e-4 * largest, 1e-9)
        left = None if self.options.time_limit is None else self.clock.remaining
        options = replace(self.options, time_limit=left, gap=0.5 * self.options.gap)
        scaled = replace(relaxation.problem, cost=relaxation.problem.cost / scale, offset=self.problem.offset / scale)
        with self.backend.load(scaled, options) as session:
            if Capability.MIP_START not in self.backend.capabilities:
                pass  # starts are refused
            elif self.best is not None:
                session.set_start(np.arange(relaxation.problem.n_columns), relaxation.lift(self.best))
            elif start is not None and len(start.discrete):
                session.set_start(start.columns[start.discrete], start.values[start.discrete])
            solution = session.solve(lambda event: self._heard(event, scale), self.stopped)
        self.nodes += solution.nodes
        if solution.status == "infeasible" and np.isfinite(self._dropped):
            self._raise_bound(self.sign * self._dropped)
        if solution.bound is not None:
            self._raise_bound(solution.bound * scale - self.sign * _SAFETY * scale)
        if solution.x is not None:
            self._offer(self._polish(solution.x[: self.problem.n_columns]), "solver")
        status = "time_limit" if solution.status == "feasible" else solution.status
        return status, solution, relaxation

    def _heard(self, event: Event, scale: float) -> None:
        """Pass on bounds of the relaxation; its objectives are no answers of the problem."""
        if isinstance(event, Incumbent) and event.bound is not None:
            bound = self.sign * min(self.sign * event.bound * scale - _SAFETY * scale, self._dropped)
            if self.bound is None or self.sign * bound > self.sign * self.bound:
                self.on_event(Incumbent(event.seconds, self._value(), bound, event.source))

    def _value(self) -> float | None:
        return None if self.best is None else self.problem.objective(self.best)

    def _offer(self, x: Array | None, source: str) -> None:
        if x is None:
            return
        value, old = self.problem.objective(x), self._value()
        if old is None or self.sign * value < self.sign * old:
            self.best = x
            self.on_event(Incumbent(self.clock.elapsed, value, self.bound, source))

    def _polish(self, x: Array) -> Array | None:
        """Return a feasible point near `x`, improved with all integers fixed by conditional-gradient steps."""
        point = snapped(self.problem, x) if self.problem.placements else x
        if not feasible(self.problem, point):
            point = x
            if not feasible(self.problem, point):
                return None
        return self._descend(point)

    def _descend(self, x: Array) -> Array:
        problem, q = self.problem, self.problem.quadratic
        assert q is not None
        whole = np.flatnonzero(problem.integer)
        every = np.arange(problem.n_columns)
        left = None if self.options.time_limit is None else max(0.05 * self.clock.remaining, 0.0)
        linear = replace(problem, quadratic=None)
        with self.backend.load(linear, replace(self.options, time_limit=left, solver_options={})) as session:
            session.set_bounds(whole, np.rint(x[whole]), np.rint(x[whole]))
            for _ in range(_DESCENT_STEPS):
                slope = problem.cost + q @ x
                session.set_cost(every, slope)
                found = session.solve(lambda event: None, self.stopped)
                if found.x is None:
                    return x
                d = found.x - x
                first, second = float(slope @ d), 0.5 * float(d @ (q @ d))
                t = _best_step(self.sign * first, self.sign * second)
                gain = -(self.sign * (first * t + second * t * t))
                if gain <= 1e-7 * (1 + abs(problem.objective(x))):
                    return x
                x = x + t * d
        return x

    def _closed(self) -> bool:
        value = self._value()
        gap = relative_gap(value, self.bound)
        if value is None or self.bound is None or gap is None:
            return False
        return gap <= self.options.gap or abs(value - self.bound) <= ABSOLUTE

    def _answer(self, status: str) -> Solution:
        if status in ("infeasible", "unbounded", "error") and self.best is None:
            return Solution(status, nodes=self.nodes)
        if self._closed():
            status = "optimal"
        elif status != "interrupted":
            status = "time_limit" if self.best is None else "feasible"
        return Solution(status, self.best, self._value(), self.bound, self.nodes, "products by piecewise relaxation")


def _best_step(first: float, second: float) -> float:
    """Return the t in [0, 1] that minimises ``first t + second t^2``."""
    if second > 0:
        return float(np.clip(-first / (2 * second), 0.0, 1.0))
    return 1.0 if first + second < 0 else 0.0
