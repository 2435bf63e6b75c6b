"""Rows and bounds that cannot hold together.

SCIP's own search for an irreducible infeasible subset finds the rows. With ``iis/removebounds`` it would take out
bounds too, but then it returns nothing at all for a row that has no integer between its sides (SCIP 10.0). So bounds
are left out here, one column after the other, as long as what remains is proven to have no point; where SCIP cannot
tell within a second, the bounds count as needed. The binaries of indicator rows keep theirs: SCIP negates them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np
import pyscipopt
from nnembed.aliases import Index
from nnembed.problem import Problem
from nnembed.protocols import Conflict

from nnembed_scip.checks import empty
from nnembed_scip.loading import load, row_number

_TRIAL = 1.0  # seconds: a problem that has lost its bounds may keep SCIP busy for ever


def find(problem: Problem, remaining: Callable[[], float]) -> Conflict | None:
    """Return rows and columns of which each is needed, None when there is a point or the time does not suffice.

    Parameters
    ----------
    problem : Problem
        Its integrality, sets and indicator rows hold throughout.
    remaining : callable
        Seconds left.
    """
    bare = replace(problem, cost=np.zeros(problem.n_columns), quadratic=None, placements=())
    nothing = np.zeros(0, dtype=np.intp)
    if (column := empty(problem.lower, problem.upper)) is not None:
        return Conflict(nothing, np.array([column]))
    if (row := empty(problem.row_lower, problem.row_upper)) is not None:
        return Conflict(np.array([row]), nothing)
    rows = _rows(bare, remaining())
    if rows is None:
        return None
    part = replace(
        bare, matrix=bare.matrix[rows], row_lower=bare.row_lower[rows], row_upper=bare.row_upper[rows], row_groups=()
    )
    columns = _columns(part, remaining)
    return None if columns is None else Conflict(rows, columns)


def _rows(problem: Problem, seconds: float) -> Index | None:
    model = _loaded(problem, seconds)
    model.setParam("iis/silent", True)
    model.setParam("iis/time", min(seconds, 1e20))
    model.optimize()
    if model.getStatus() != "infeasible":
        return None
    with ThreadPoolExecutor(1) as pool:  # SCIP 10.0 fails here on some problems with sets, by a plain Exception
        search = pool.submit(model.generateIIS)
        wait([search])
    if search.exception() is not None:
        return None
    found = search.result()
    if not (found.isSubscipInfeasible() and found.isSubscipIrreducible()):
        return None
    numbers = [row_number(c.name) for c in found.getSubscip().getConss()]
    return np.array(sorted(k for k in numbers if k is not None), dtype=np.intp)


def _columns(problem: Problem, remaining: Callable[[], float]) -> Index | None:
    """Return the columns whose bounds are needed; a column in no row and no condition is not."""
    bounded = np.flatnonzero(np.isfinite(problem.lower) | np.isfinite(problem.upper))
    bounded = np.setdiff1d(bounded, np.concatenate([np.zeros(0, np.intp), *(r.binary for r in problem.indicators)]))
    free = _without(problem, np.setdiff1d(bounded, _used(problem)))
    if not _infeasible(free, remaining()):
        return None
    needed = []
    for j in np.intersect1d(bounded, _used(problem)).tolist():
        if remaining() <= 0:
            return None
        trial = _without(free, np.array([j]))
        if _infeasible(trial, min(_TRIAL, remaining())):
            free = trial
        else:
            needed.append(j)
    return np.array(needed, dtype=np.intp)


def _used(problem: Problem) -> Index:
    parts = [problem.matrix.indices, *(s.ravel() for s in problem.sos1)]
    parts += [p for rule in problem.indicators for p in (rule.binary, rule.matrix.indices)]
    return np.unique(np.concatenate(parts)).astype(np.intp)


def _without(problem: Problem, columns: Index) -> Problem:
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[columns], upper[columns] = -np.inf, np.inf
    return replace(problem, lower=lower, upper=upper)


def _infeasible(problem: Problem, seconds: float) -> bool:
    model = _loaded(problem, seconds)
    model.optimize()
    return bool(model.getStatus() == "infeasible")


def _loaded(problem: Problem, seconds: float) -> Any:
    model = pyscipopt.Model()
    model.hideOutput()
    model.setParam("limits/time", min(max(seconds, 0.0), 1e20))
    model.setParam("timing/clocktype", 2)
    model.setParam("misc/catchctrlc", False)
    load(model, problem)
    return model
