"""Which licence Gurobi will use and what fits into it.

The licence inside the wheel takes 2000 variables and 2000 linear rows; with a quadratic objective, even a convex one,
200 variables. Gurobi itself says so only when it is asked to solve; here it is found before anything is built.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from nnembed.errors import Unavailable
from nnembed.features import Availability
from nnembed.problem import Problem

MOST_COLUMNS = 2000
MOST_ROWS = 2000
MOST_COLUMNS_QUADRATIC = 200

#: Variables by which a user points Gurobi to a licence; only whether they are set is of interest here.
_POINTERS = ("GRB_LICENSE_FILE", "GRB_WLSACCESSID", "GRB_CLOUDACCESSID", "GRB_TOKENSERVER", "GRB_COMPUTESERVER")
_TOO_LARGE = 10010  # Gurobi's error code


def licence_state() -> Availability:
    """Return FULL where the user has set up a licence, LIMITED_LICENSE with the wheel's alone; imports nothing."""
    spec = importlib.util.find_spec("gurobipy")
    if spec is None or spec.origin is None:
        return Availability.NOT_FOUND
    if any(os.environ.get(name) for name in _POINTERS) or any(path.is_file() for path in _usual_places()):
        return Availability.FULL
    inside = Path(spec.origin).parent / ".libs" / "gurobi.lic"
    return Availability.LIMITED_LICENSE if inside.is_file() else Availability.NO_LICENSE


def _usual_places() -> list[Path]:
    """Return where Gurobi looks for ``gurobi.lic`` by itself."""
    folders = {"win32": [Path("C:/gurobi")], "darwin": [Path("/Library/gurobi")]}
    shared = folders.get(sys.platform, [Path("/opt/gurobi")])
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE")
    return [folder / "gurobi.lic" for folder in [*shared, *([Path(home)] if home else [])]]


def check_size(problem: Problem, api: Any, env: Any) -> None:
    """Refuse a problem that the licence of `env` cannot take.

    Only a problem beyond the limits of the wheel's licence costs a look at the licence, which takes milliseconds.

    Raises
    ------
    Unavailable
        With the size, the limit, and what would fit.
    """
    columns, rows, quadratic = problem.n_columns, count_rows(problem), problem.quadratic is not None
    allowed = MOST_COLUMNS_QUADRATIC if quadratic else MOST_COLUMNS
    if (columns <= allowed and rows <= MOST_ROWS) or not is_limited(api, env):
        return
    kind = " with a quadratic objective" if quadratic else ""
    raise Unavailable(
        f"Gurobi's size-limited licence takes {allowed} variables and {MOST_ROWS} rows{kind}; this model has {columns} "
        f"and {rows}{_share(problem)}; set up a full licence (gurobi.com), embed a smaller network or fewer points, "
        "or use another solver, for example backend='highs'"
    )


def count_rows(problem: Problem) -> int:
    """Return the rows Gurobi will see: one per finite side, equations once."""
    low, high = np.isfinite(problem.row_lower), np.isfinite(problem.row_upper)
    return int((low | high).sum() + (low & high & (problem.row_lower < problem.row_upper)).sum())


def _share(problem: Problem) -> str:
    """Return how much of the size is the networks'."""
    columns = sum(p.block.n_columns for p in problem.placements)
    rows = sum(p.block.n_rows for p in problem.placements)
    if not problem.placements:
        return ""
    names = ", ".join(repr(p.embedding.name) for p in problem.placements)
    return f", of which the network(s) {names} need {columns} and {rows}"


def is_limited(api: Any, env: Any) -> bool:
    """Return whether the licence refuses a model of one variable more than the wheel's licence takes."""
    with api.Model(env=env) as probe:
        probe.addMVar(MOST_COLUMNS + 1)
        try:
            probe.optimize()
        except api.GurobiError as error:
            if error.errno != _TOO_LARGE:
                raise
            return True
    return False


def start_environment(api: Any) -> Any:
    """Return a silent environment.

    Raises
    ------
    Unavailable
        If there is no licence or it has expired.
    """
    env = api.Env(empty=True)
    env.setParam("OutputFlag", 0)
    try:
        env.start()
    except api.GurobiError as error:
        env.dispose()
        raise Unavailable(
            f"Gurobi does not start: {error}; renew or set up its licence (gurobi.com, GRB_LICENSE_FILE), or use "
            "another solver, for example backend='highs'"
        ) from None
    return env
