"""The points that a search on twins comes upon, as points of the original model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.engine.recover import feasible, refit, snapped
from nnembed.events import Event, Incumbent
from nnembed.heuristics.scene import Scene
from nnembed.options import Budget
from nnembed.problem import Problem
from nnembed.protocols import Session

_WAITING = 5  # points kept that the user's rows do not allow
_STEPS, _PUSH, _LEAST = 50, 0.01, 1e-7  # of a walk: regions, how far beyond a vertex, relative gain to go on


@dataclass(eq=False)
class Passing:
    """The best point of the original model among the points that were heard of.

    Attributes
    ----------
    problem : Problem
        The original model with its networks.
    tell : callable
        Hears (objective, point) of every improvement.
    best : array (columns,) or None
    value : float
        Its objective.
    waiting : list of (key, point)
        Points whose networks' outputs the user's rows do not allow, the most promising first.
    heard : array or None
        Drivers of the last point that was heard of, good or bad.
    """

    problem: Problem
    tell: Callable[[float, Array], None]
    best: Array | None = None
    value: float = np.nan
    waiting: list[tuple[float, Array]] = field(default_factory=list)
    heard: Array | None = None

    def __post_init__(self) -> None:
        """Look at the model as heuristics do."""
        self.scene = Scene(self.problem)
        self.sign = -1.0 if self.problem.maximize else 1.0
        columns = np.concatenate([p.columns for p in self.problem.placements])
        inner = columns[columns >= len(self.problem.labels)]
        self.own = int(inner.min(initial=self.problem.n_columns))  # what lowering adds to the user's columns included

    @property
    def drivers(self) -> Array:
        """The best point's drivers."""
        assert self.best is not None
        return self.best[self.scene.drivers]

    def hear(self, x: Array) -> None:
        """Take a point of a model whose first columns are the user's; the networks are evaluated."""
        full = np.zeros(self.problem.n_columns)
        full[: self.own] = x[: self.own]
        full = self._snapped(full)
        self.heard = full[self.scene.drivers]
        self._consider(full)

    def hear_drivers(self, drivers: Array) -> None:
        """Take the drivers of a point; the user's other columns stay as in the best point."""
        self._consider(self._at(drivers))

    def take(self, columns: Index, values: Array) -> None:
        """Take values of some columns."""
        full = np.zeros(self.problem.n_columns)
        full[columns] = values
        exact = self._snapped(full)
        self._consider(exact if feasible(self.problem, exact) else full)

    def repair(self, session: Session) -> None:
        """Look for points in the linear regions of those that the user's rows do not allow."""
        for key, x in self.waiting:
            if self.best is None or key < self.sign * self.value:
                self._region(x, session)
        self.waiting = []

    def walk(self, session: Session, drivers: Array, over: Callable[[], bool]) -> None:
        """Go from linear region to linear region, by one linear program each, as long as they get better."""
        x, last = self._at(drivers), np.inf
        for _ in range(_STEPS):
            found = None if over() else refit(self.problem, x, session)
            if found is None:
                return
            vertex = self._snapped(found)
            self._consider(vertex, wait=False)
            value = self.sign * self.problem.objective(vertex)
            if not value < last - _LEAST * (1 + abs(value)):
                return
            last = value
            x = self._at(self._beyond(x[self.scene.drivers], vertex[self.scene.drivers]), vertex)

    def _beyond(self, start: Array, vertex: Array) -> Array:
        """Return a point a little further than the vertex of a region, where the next one begins."""
        free = ~self.problem.integer[self.scene.drivers]
        pushed = vertex + np.where(free, _PUSH * (vertex - start), 0.0)
        inside = (pushed >= self.scene.lower) & (pushed <= self.scene.upper)
        return np.where(inside, pushed, vertex)

    def _at(self, drivers: Array, other: Array | None = None) -> Array:
        """Return the point with these drivers; the user's other columns stay as in `other`, else in the best point."""
        known = self.best if other is None else other
        full = np.zeros(self.problem.n_columns) if known is None else known.copy()
        full[self.scene.drivers] = drivers
        return self._snapped(full)

    def _region(self, x: Array, session: Session) -> None:
        found = refit(self.problem, x, session)
        if found is not None:
            self._consider(self._snapped(found), wait=False)

    def _snapped(self, x: Array) -> Array:
        """Return the point with all network columns recomputed from the drivers."""
        return snapped(self.problem, x, self.scene)

    def _consider(self, x: Array, *, wait: bool = True) -> None:
        value = self.problem.objective(x)
        better = self.best is None or self.sign * value < self.sign * self.value
        if not better or not np.isfinite(value):
            return
        if feasible(self.problem, x):
            self.best, self.value = x, value
            self.tell(value, x)
        elif wait:
            self.waiting = sorted([*self.waiting, (self.sign * value, x)], key=lambda pair: pair[0])[:_WAITING]


@dataclass(eq=False)
class Ear:
    """Hears of incumbents; says when to look, where they come without their points."""

    passing: Passing
    seconds: float
    unseen: bool = False

    def __post_init__(self) -> None:
        """Start the round."""
        self.clock = Budget(self.seconds).start()

    def hear(self, event: Event) -> None:
        """Evaluate an incumbent on the original networks."""
        if isinstance(event, Incumbent) and event.x is not None and len(event.x) >= self.passing.own:
            self.passing.hear(event.x)
        elif isinstance(event, Incumbent) and event.objective is not None:
            self.unseen |= event.source == "solver"

    def over(self) -> bool:
        """Return whether the solver is to stop so that its point can be seen."""
        return self.unseen and self.clock.expired
