"""A feasible first plan for models with rows of their own.

The LP relaxation says where, forward passes say which pieces: the drivers of the LP optimum are put through the
networks; with the networks' pieces fixed as those passes show them, the user's own rows and integers are left, a small
problem that is solved to a percent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nnembed.engine.recover import feasible, snapped
from nnembed.engine.units import loaded
from nnembed.events import Event
from nnembed.heuristics.scene import Point, Scene
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend


def first_plan(
    problem: Problem, backend: Backend, options: Options, seconds: float | None, stopped: Callable[[], bool]
) -> Point | None:
    """Return a complete feasible point, None when this way leads to none in time.

    Parameters
    ----------
    problem : Problem
        With networks; a quadratic objective is replaced by its slope in the middle of the box.
    seconds : float or None
        Wall-clock limit.
    """
    clock = replace(options.budget, seconds=seconds).start()
    linear = replace(problem, cost=_slope(problem), quadratic=None, placements=())
    limit = None if seconds is None else clock.remaining
    quick = replace(options, time_limit=limit, gap=1e-2, solver_options={})
    whole = np.zeros(problem.n_columns, dtype=bool)
    free = replace(linear, integer=whole, sos1=(), indicators=(), complementarities=(), relus=())
    with loaded(backend, free, quick) as session:
        relaxed = session.solve(_unheard, stopped)
    if relaxed.x is None or clock.expired or stopped():
        return None
    scene = Scene(problem)
    point = scene.point(scene.clip(relaxed.x[scene.drivers][None])[0])
    pieces = np.zeros(problem.n_columns, dtype=bool)
    for placement in problem.placements:
        pieces[placement.columns] = True
    fixed = np.intersect1d(np.flatnonzero(pieces & problem.integer), point.columns)
    x = np.zeros(problem.n_columns)
    x[point.columns] = np.rint(point.values)
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[fixed] = upper[fixed] = x[fixed]
    limit = None if seconds is None else clock.remaining
    with loaded(backend, replace(linear, lower=lower, upper=upper), replace(quick, time_limit=limit)) as session:
        found = session.solve(_unheard, stopped).x
    if found is None:
        return None
    exact = snapped(problem, found, scene)
    found = exact if feasible(problem, exact) else found
    if not feasible(problem, found):
        return None
    columns = np.arange(problem.n_columns)
    return Point(columns, found, problem.objective(found), 0.0, True, np.flatnonzero(problem.integer))


def _slope(problem: Problem) -> np.ndarray:
    if problem.quadratic is None:
        return problem.cost
    ends = np.stack([problem.lower, problem.upper])
    middle = np.where(np.isfinite(ends), ends, 0.0).mean(axis=0)
    return np.asarray(problem.cost + problem.quadratic @ middle)


def _unheard(event: Event) -> None:
    """Hear nothing of helper problems."""
