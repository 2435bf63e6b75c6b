"""From what a solver returns to an answer that follows the networks exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnembed.aliases import Array
from nnembed.certificate import relative_gap
from nnembed.engine.units import objective_size
from nnembed.heuristics.scene import Point, Scene
from nnembed.heuristics.thresholds import settled
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Session, Solution

_NOTHING = 1e-8  # between a point and its bound, of the objective's size; next to zero every relative gap is one
_STRICT = 1e-9  # feasibility of a point that is to refute a solver's proof


def better_of(problem: Problem, solution: Solution, point: Point | None) -> Solution:
    """Keep a point known already where the solver stopped without one as good.

    A point that beats what the solver calls proved refutes the proof, if it is feasible beyond doubt.
    """
    if point is None or not point.complete or solution.status in ("infeasible", "unbounded"):
        return solution
    x = np.empty(problem.n_columns)
    x[point.columns] = point.values
    if not feasible(problem, x):
        return solution
    value, size = problem.objective(x), objective_size(problem)
    sign = -1.0 if problem.maximize else 1.0
    if solution.objective is not None and sign * solution.objective <= sign * value:
        return solution
    beaten = solution.bound is not None and sign * (solution.bound - value) > 1e-6 * max(abs(value), size)
    if beaten and feasible(problem, x, _STRICT * size):
        message = "a known point is better than the solver's bound, which is not counted"
        return replace(solution, status="feasible", x=x, objective=value, bound=None, message=message)
    if solution.status == "optimal":
        return solution
    status = {"time_limit": "feasible"}.get(solution.status, solution.status)
    return replace(solution, status=status, x=x, objective=value)


def repaired(problem: Problem, solution: Solution, session: Session, options: Options) -> Solution:
    """Replace solver values by the networks' own at the same inputs.

    Solvers accept binaries that are off by 1e-6, and with a big-M that moves outputs. First the networks are
    evaluated at the point's inputs; where the user's rows then fail, the binaries are fixed and an LP is solved.
    """
    if solution.x is None or not problem.placements or not all(p.block.exact for p in problem.placements):
        return solution
    x = snapped(problem, solution.x)
    if not feasible(problem, x):
        trial = refit(problem, x, session)
        x = trial if trial is not None and feasible(problem, trial) else solution.x
    value = problem.objective(x)
    status, gap = solution.status, max(10 * options.gap, 1e-6)
    if status == "optimal" and problem.is_discrete and not closed(value, solution.bound, gap, objective_size(problem)):
        status = "feasible"  # the solver's optimum lived on its tolerances
    return replace(solution, x=x, objective=value, status=status)


def closed(value: float, bound: float | None, gap: float, size: float = 1.0) -> bool:
    """Return whether a value is within a relative gap of a bound, or next to it; no bound says nothing against it.

    `size` is what objectives are like, see `certificate.relative_gap`.
    """
    found = relative_gap(value, bound, size)
    return found is None or bound is None or found <= gap or abs(value - bound) <= _NOTHING * size


def snapped(problem: Problem, x: Array, scene: Scene | None = None) -> Array:
    """Return the point with all network columns recomputed from the drivers, inside their bounds."""
    scene = Scene(problem) if scene is None else scene
    out = x.copy()
    out[problem.integer] = np.rint(out[problem.integer])
    drivers = np.clip(out[scene.drivers], problem.lower[scene.drivers], problem.upper[scene.drivers])
    point = scene.point(settled(scene, out, drivers))
    out[point.columns] = point.values
    return out


def credible(problem: Problem, solution: Solution) -> Solution:
    """Take back what a solver proved where its tolerances hide outputs of a network; points are checked apart."""
    hidden = [f"{p.embedding.name}: {layer}" for p in problem.placements for layer in p.block.doubtful]
    if not hidden:
        return solution
    status = {"optimal": "feasible", "infeasible": "error"}.get(solution.status, solution.status)
    message = (
        f"the numbers of {', '.join(hidden)} are so far apart that the solver's tolerances hide some outputs; its "
        f"{'bound' if status != 'error' else 'verdict infeasible'} is not counted: tighten the bounds of the network's "
        "inputs or the bounds= method, or rescale the layer"
    )
    return replace(solution, status=status, bound=None, message=message)


def refit(problem: Problem, x: Array, session: Session) -> Array | None:
    """Return the best point with integers fixed as in `x` and sets at zero where `x` is; None if there is none."""
    whole, zero = np.flatnonzero(problem.integer), problem.idle(x)
    columns = np.concatenate([whole, zero])
    fixed = np.concatenate([np.rint(x[whole]), np.zeros(len(zero))])
    session.set_bounds(columns, fixed, fixed)
    found = session.solve(lambda event: None, lambda: False)
    session.set_bounds(columns, problem.lower[columns], problem.upper[columns])
    return found.x


def feasible(problem: Problem, x: Array, tolerance: float = 1e-6) -> bool:
    """Return whether a point satisfies rows, bounds, integrality, sets and indicator rows."""
    value = problem.matrix @ x
    size = tolerance * (1 + np.abs(value))
    rows = (value >= problem.row_lower - size) & (value <= problem.row_upper + size)
    pad = tolerance * (1 + np.abs(x))
    bounds = (x >= problem.lower - pad) & (x <= problem.upper + pad)
    whole = np.abs(x - np.rint(x))[problem.integer] <= tolerance
    return bool(rows.all() and bounds.all() and whole.all()) and problem.condition_residual(x) <= tolerance


def trivial_bound(problem: Problem) -> float | None:
    """Return the bound that column bounds alone give, None when infinite or the objective is quadratic."""
    if problem.quadratic is not None:
        return None
    sign = -1.0 if problem.maximize else 1.0
    cost = sign * problem.cost
    used = cost != 0
    best = np.where(cost[used] > 0, problem.lower[used], problem.upper[used])
    total = float(cost[used] @ best) if used.any() else 0.0
    return sign * total + problem.offset if np.isfinite(total) else None
