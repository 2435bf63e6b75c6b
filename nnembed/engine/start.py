"""A first point for the solver: the user's own, from heuristics, or a plan that respects the user's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnembed.engine.fill import first_plan
from nnembed.errors import InputError
from nnembed.events import Event, HeuristicFinished
from nnembed.features import Capability
from nnembed.heuristics.scene import Point, Scene
from nnembed.hooks.manager import Registry
from nnembed.options import Clock, Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Session
from nnembed.result import Result

_LONGEST_PLAN = 10.0  # seconds


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
        """Return the best point found, None when there is none."""
        given = given_start(self.options.start, self.problem)
        if given is not None or not self.problem.placements:
            return given
        if not any(len(p.drivers) for p in self.problem.placements):
            return Scene(self.problem).point(np.zeros(0))
        point = self._from_heuristics()
        return point if point is not None and is_plan(point) else self._plan(point)

    def _from_heuristics(self) -> Point | None:
        scene, best = Scene(self.problem), None
        rng = np.random.default_rng(self.options.seed)
        for heuristic in self.heuristics:
            if self.clock.expired or self.stopped():
                break
            last = None
            for candidate in heuristic.run(scene, None, replace(self.options.budget, seconds=self._share(0.1)), rng):
                last = candidate
                if self.stopped():
                    break
            if last is None:
                continue
            point = scene.point(last.inputs["drivers"]["x"])
            self._tell(heuristic.name, point.objective if is_plan(point) else None)
            if best is None or better(self.problem, point, best):
                best = point
        return best

    def _plan(self, point: Point | None) -> Point | None:
        """Return a feasible plan where forward passes alone could not respect the user's rows."""
        able = self.heuristics and Capability.MIP_START in self.backend.capabilities
        exact = all(p.block.exact for p in self.problem.placements)
        if not able or not exact or self.clock.expired or self.stopped():
            return point
        share = self._share(0.5)
        seconds = _LONGEST_PLAN if share is None else min(share, _LONGEST_PLAN)
        plan = first_plan(self.problem, self.backend, self.options, seconds, self.stopped)
        self._tell("first plan", None if plan is None else plan.objective)
        return point if plan is None else plan

    def _tell(self, name: str, objective: float | None) -> None:
        self.on_event(HeuristicFinished(self.clock.elapsed, name, objective))

    def _share(self, part: float) -> float | None:
        """Return the seconds that a part of what is left stands for."""
        return None if self.options.time_limit is None else part * self.clock.remaining


def is_plan(point: Point) -> bool:
    """Return whether a point is feasible as far as is known."""
    return point.complete and point.violation <= 1e-7


def chosen_heuristics(choice: Any, reg: Registry) -> list[Any]:
    """Return the heuristics an option stands for."""
    if isinstance(choice, str):
        choice = {"auto": ("forward",), "none": ()}.get(choice, (choice,))
    if not isinstance(choice, Sequence):
        choice = (choice,)
    return [reg.get("heuristic", h) for h in choice]


def offer(session: Session, point: Point) -> None:
    """Give the solver the whole point when it is feasible as far as is known, else only the binaries."""
    if point.complete and point.violation <= 1e-7:
        session.set_start(point.columns, point.values, strong=point.strong)
    elif len(point.discrete):
        session.set_start(point.columns[point.discrete], point.values[point.discrete])


def given_start(start: Any, problem: Problem) -> Point | None:
    """Return a start the user passed, as a point."""
    if start is None or (isinstance(start, str) and start == "auto"):
        return None
    if isinstance(start, Result):
        if start.point is None:
            raise InputError("start= is a Result without a point; pass one that has a solution")
        # Another solver or formulation may have had other inner columns: then the user's own variables are the start.
        start = start.point if len(start.point) == problem.n_columns else start.point[: len(problem.labels)]
    values = np.asarray(start, float)
    if values.shape not in ((problem.n_columns,), (len(problem.labels),)):
        raise InputError(
            f"start has shape {values.shape}; pass a Result of this model, or one value for each of its "
            f"{len(problem.labels)} variables"
        )
    if len(values) == problem.n_columns:
        columns = np.arange(problem.n_columns)
        return Point(columns, values, problem.objective(values), 0.0, True, np.flatnonzero(problem.integer))
    scene = Scene(problem)
    return scene.point(values[scene.drivers])


def better(problem: Problem, new: Point, old: Point) -> bool:
    """Return whether a point is better than another: feasible first, then by objective."""
    sign = -1.0 if problem.maximize else 1.0
    return (new.violation > 1e-7, sign * new.objective) < (old.violation > 1e-7, sign * old.objective)
