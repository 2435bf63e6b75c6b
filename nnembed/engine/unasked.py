"""What can be said of a model that has no point yet and that no solver will be asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nnembed.backends.alone import NoSolver
from nnembed.backends.highs import Highs
from nnembed.engine.recover import credible
from nnembed.engine.units import loaded
from nnembed.events import Event
from nnembed.heuristics.endless import endless_column, no_best_value
from nnembed.heuristics.scene import Point, Scene
from nnembed.options import Clock, Options
from nnembed.problem import Problem
from nnembed.protocols import Solution

_LONGEST = 10.0  # seconds of a linear program


def is_alone(options: Options) -> bool:
    """Return whether no solver is asked."""
    choice = options.backend
    return isinstance(choice, NoSolver) or (isinstance(choice, str) and choice == NoSolver.name)


def verdict(problem: Problem, point: Point | None, clock: Clock, stopped: Callable[[], bool]) -> Solution | None:
    """Return that a model has no solution, None where that is not proved or a feasible `point` is known.

    Raises
    ------
    BoxError
        If a variable lets the objective grow for ever.
    """
    if clock.expired or stopped():
        return None
    point = _middle(problem) if point is None else point
    known = point is not None and point.complete and point.violation <= 1e-7
    if not known and is_empty(problem, clock, stopped):
        return credible(problem, Solution("infeasible"))
    column = None if clock.expired or stopped() else endless_column(problem, _seconds(clock))
    if column is not None:
        raise no_best_value(problem, column)
    return None


def _middle(problem: Problem) -> Point | None:
    """Return the networks' point in the middle of the box, which spares a linear program where it is allowed."""
    scene = Scene(problem)
    middle = 0.5 * (scene.lower + scene.upper)
    return scene.point(scene.clip(middle[None])[0]) if problem.placements and np.isfinite(middle).all() else None


def is_empty(problem: Problem, clock: Clock, stopped: Callable[[], bool]) -> bool:
    """Return whether the rows have no point even without integrality; False when not decided in time."""
    n = problem.n_columns
    free = replace(
        problem, cost=np.zeros(n), quadratic=None, integer=np.zeros(n, dtype=bool), placements=(), sos1=(),
        indicators=(), complementarities=(), relus=(),
    )  # fmt: skip
    with loaded(Highs(), free, Options(time_limit=_seconds(clock))) as session:
        return session.solve(_unheard, stopped).status == "infeasible"


def _seconds(clock: Clock) -> float:
    return min(_LONGEST, clock.remaining)


def _unheard(event: Event) -> None:
    """Hear nothing of the linear program."""
