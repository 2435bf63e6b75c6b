"""A first point for the solver: the user's own, from heuristics, or a plan that respects the user's rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.backends.alone import NoSolver
from nnembed.backends.highs import Highs
from nnembed.engine.dual_side import own_rows
from nnembed.engine.effort import Effort, Watch, effort, hopelessness, is_automatic, is_brief, leashed
from nnembed.engine.fill import first_plan
from nnembed.engine.repair import Repair
from nnembed.engine.unasked import is_empty
from nnembed.errors import BoxError, InputError, UnsupportedFeature
from nnembed.events import Event, HeuristicFinished, Incumbent
from nnembed.features import Capability
from nnembed.heuristics.scene import Point, Scene
from nnembed.hooks.manager import Registry
from nnembed.options import Budget, Clock, Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Session
from nnembed.result import Result

_LONGEST_PLAN = 10.0  # seconds
_NEWS = 0.1  # seconds between two reports of a heuristic that improves its point all the time
_HARMLESS = Capability.MIP_START | Capability.INJECT_POINT  # asked for, but points are of use without them, too


@dataclass(eq=False)
class StartSearch:
    """The search for a first point."""

    problem: Problem
    backend: Backend
    heuristics: Sequence[Any]
    options: Options
    clock: Clock
    on_event: Callable[[Event], None]
    stopped: Callable[[], bool]

    def run(self) -> Point | None:
        """Return the user's start made feasible, or the best point of the heuristics that take a moment only."""
        given = self._given()
        if given is not None or not self.problem.placements:
            return given
        if not self._decides:
            return Scene(self.problem).point(np.zeros(0))
        point, scene = None, Scene(self.problem)
        rng = np.random.default_rng(self.options.seed)
        for heuristic in filter(is_brief, self.heuristics):
            if self.clock.expired or self.stopped():
                break
            budget = replace(self.options.budget, seconds=self._share(0.1))
            point = self._better(point, self._found(heuristic, scene, budget, rng, lambda: None))
        if point is None and self.heuristics:  # without rows of the user's own every point will do
            point = scene.point(scene.clip(0.5 * (scene.lower + scene.upper)[None])[0])
        return point if point is not None and is_plan(point) else self._plan(point)

    def deepen(self, point: Point | None) -> Point | None:
        """Return a point that the long heuristics have made better, as far as the problem is worth their time."""
        long = self.long
        if not long or not self._decides or self.stopped():
            return point
        alone = isinstance(self.backend, NoSolver)
        spend = effort(hopelessness(self.problem), self.options, self.clock, named=self.named, alone=alone)
        if spend is None or (alone and self._without_room(point)):
            return point
        for k, heuristic in enumerate(long):
            if self.clock.expired or self.stopped():
                break
            rng = np.random.default_rng([self.options.seed, k])
            until = None if spend.seconds is None else spend.seconds / len(long)
            point = self._better(point, self._long(heuristic, point, replace(spend, seconds=until), rng))
        return point

    def _without_room(self, point: Point | None) -> bool:
        """Return whether the user's own rows leave heuristics nothing to find."""
        own = own_rows(self.problem)
        if not len(own) or (point is not None and is_plan(point)):
            return False
        p = self.problem
        part = replace(p, matrix=p.matrix[own], row_lower=p.row_lower[own], row_upper=p.row_upper[own])
        return is_empty(part, self.clock, self.stopped)

    @property
    def long(self) -> list[Any]:
        """The heuristics that go on until they are stopped.

        Raises
        ------
        UnsupportedFeature
            If one that the user has named asks for what the solver does not have.
        """
        found = []
        for heuristic in self.heuristics:
            lacking = missing_capabilities(heuristic, self.backend)
            if lacking and self.named:
                raise UnsupportedFeature(
                    f"heuristic {heuristic.name!r} needs {', '.join(lacking)}, which solver {self.backend.name!r} does "
                    "not have; choose another of heuristics= or another backend="
                )
            if not lacking and not is_brief(heuristic):
                found.append(heuristic)
        return found

    @property
    def named(self) -> bool:
        """Whether the user has asked for these heuristics by name."""
        return self.options.heuristics not in ("auto", "none")

    @property
    def beside(self) -> list[Any]:
        """The heuristics that go on beside the solver, where it takes points."""
        able = Capability.INJECT_POINT in self.backend.capabilities
        free = (h for h in self.long if not h.requires & ~_HARMLESS)
        return list(free) if able and self._decides else []

    @property
    def repair(self) -> Repair:
        """What makes points whole."""
        return Repair(self.problem, helper(self.backend), self.options, self.stopped, self._plan_seconds)

    @property
    def _decides(self) -> bool:
        return any(len(p.drivers) for p in self.problem.placements)

    def _given(self) -> Point | None:
        values = given_values(self.options.start, self.problem)
        if values is None:
            return None
        point = self.repair.start(values)
        self._tell("start", None if point is None else point.objective)
        return point

    def _long(self, heuristic: Any, point: Point | None, spend: Effort, rng: np.random.Generator) -> Point | None:
        scene, watch = Scene(self.problem), Watch(spend, self.stopped)
        if point is not None:
            x = np.zeros(self.problem.n_columns)
            x[point.columns] = point.values
            scene.know(x[scene.drivers])
        found = self._found(heuristic, scene, leashed(self.options, spend, watch), rng, watch.improved)
        if found is None or is_plan(found):
            return found
        return self.repair.best(found) or found

    def _found(
        self, heuristic: Any, scene: Scene, budget: Budget, rng: np.random.Generator, improved: Callable[[], None]
    ) -> Point | None:
        """Return the last candidate of a heuristic as a point."""
        last: Array | None = None
        told = self.clock.elapsed
        with self._session(heuristic) as session, self._left_to_solver():
            for candidate in heuristic.run(scene, session, budget, rng):
                last = candidate.inputs["drivers"]["x"]
                improved()
                if self.clock.elapsed - told > _NEWS:
                    self._news(heuristic.name, scene.point(last))
                    told = self.clock.elapsed
                if self.stopped():
                    break
        if last is None:
            return None
        point = scene.point(last)
        self._tell(heuristic.name, point.objective if is_plan(point) else None)
        return point

    def _news(self, name: str, point: Point) -> None:
        """Tell of an improvement on the way."""
        if is_plan(point):
            x = np.empty(len(point.values))
            x[point.columns] = point.values
            self.on_event(Incumbent(self.clock.elapsed, point.objective, None, name, x))

    def _left_to_solver(self) -> contextlib.AbstractContextManager[None]:
        """Return what swallows the error of an endless objective, where a solver comes that will say so."""
        alone = isinstance(self.backend, NoSolver)
        return contextlib.nullcontext() if alone or self.named else contextlib.suppress(BoxError)

    @contextlib.contextmanager
    def _session(self, heuristic: Any) -> Iterator[Session | None]:
        """Give a session of the solver to heuristics that need more of it than a place for their points."""
        if not heuristic.requires & ~_HARMLESS:
            yield None
            return
        left = None if self.options.time_limit is None else self.clock.remaining
        with self.backend.load(self.problem, replace(self.options, time_limit=left)) as session:
            yield session

    def _plan(self, point: Point | None) -> Point | None:
        """Return a feasible plan where forward passes alone could not respect the user's rows."""
        backend = helper(self.backend)
        able = self.heuristics and Capability.MIP_START in backend.capabilities
        exact = all(p.block.exact for p in self.problem.placements)
        if not able or not exact or self.clock.expired or self.stopped():
            return point
        plan = first_plan(self.problem, backend, self.options, self._plan_seconds(), self.stopped)
        self._tell("first plan", None if plan is None else plan.objective)
        return point if plan is None else plan

    def _better(self, old: Point | None, new: Point | None) -> Point | None:
        return new if old is None or (new is not None and better(self.problem, new, old)) else old

    def _tell(self, name: str, objective: float | None) -> None:
        self.on_event(HeuristicFinished(self.clock.elapsed, name, objective))

    def _share(self, part: float) -> float | None:
        """Return the seconds that a part of what is left stands for."""
        return None if self.options.time_limit is None else part * self.clock.remaining

    def _plan_seconds(self) -> float | None:
        share = self._share(0.5)
        return _LONGEST_PLAN if share is None else min(share, _LONGEST_PLAN)


def is_plan(point: Point) -> bool:
    """Return whether a point is feasible as far as is known."""
    return point.complete and point.violation <= 1e-7


def chosen_heuristics(choice: Any, reg: Registry) -> list[Any]:
    """Return the heuristics an option stands for; ``"auto"`` is those that say so themselves, short ones first."""
    if isinstance(choice, str) and choice == "auto":
        known = [h for h in reg.parts("heuristic").values() if is_automatic(h)]
        return sorted(known, key=lambda heuristic: not is_brief(heuristic))
    if isinstance(choice, str):
        choice = () if choice == "none" else (choice,)
    if not isinstance(choice, Sequence):
        choice = (choice,)
    return [reg.get("heuristic", h) for h in choice]


def helper(backend: Backend) -> Backend:
    """Return the solver of small problems on the way."""
    return Highs() if isinstance(backend, NoSolver) else backend


def missing_capabilities(heuristic: Any, backend: Backend) -> list[str]:
    """Return the capabilities that a heuristic needs of a solver and that this one lacks."""
    return [c.name or str(c) for c in heuristic.requires & ~(backend.capabilities | _HARMLESS)]


def offer(session: Session, point: Point) -> None:
    """Give the solver the whole point when it is feasible as far as is known, else only the binaries."""
    if is_plan(point):
        session.set_start(point.columns, point.values, strong=point.strong)
    elif len(point.discrete):
        session.set_start(point.columns[point.discrete], point.values[point.discrete])


def given_values(start: Any, problem: Problem) -> Array | None:
    """Return a start the user passed as values of the problem's first columns, None when there is none.

    Raises
    ------
    InputError
        If it is no start of this model.
    """
    if start is None or (isinstance(start, str) and start == "auto"):
        return None
    if isinstance(start, str):
        raise InputError(f"start={start!r}; pass a Result, one value for each variable, or 'auto'")
    if isinstance(start, Result):
        if start.point is None:
            raise InputError("start= is a Result without a point; pass one that has a solution")
        # Another solver or formulation may have had other inner columns: then the user's own variables are the start.
        start = start.point if len(start.point) == problem.n_columns else start.point[: len(problem.labels)]
    try:
        values = np.asarray(start, float)
    except (TypeError, ValueError):
        raise InputError(
            f"start= is a {type(start).__name__}; pass a Result of this model, or one number for each of its "
            f"{len(problem.labels)} variables"
        ) from None
    if values.shape not in ((problem.n_columns,), (len(problem.labels),)):
        raise InputError(
            f"start has shape {values.shape}; pass a Result of this model, or one value for each of its "
            f"{len(problem.labels)} variables"
        )
    return values


def better(problem: Problem, new: Point, old: Point) -> bool:
    """Return whether a point is better than another: whole before not, feasible first, then by objective."""
    sign = -1.0 if problem.maximize else 1.0

    def rank(point: Point) -> tuple[bool, bool, float]:
        return point.violation > 1e-7, not point.complete, sign * point.objective

    return rank(new) < rank(old)
