"""scipy.optimize.milp as a solver of nnembed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp

from nnembed.errors import UnknownName, UnsupportedFeature
from nnembed.events import Event
from nnembed.features import Availability, Capability, Feature, missing
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Solution

_OPTIONS = ("disp", "presolve", "node_limit")


class Scipy:
    """The backend: what it takes, whether it is there, and how a problem is handed over."""

    name = "scipy"
    summary = "scipy.optimize.milp: linear problems with integers, nothing more"
    accepts = Feature.LINEAR | Feature.INTEGER
    capabilities = Capability.NONE

    def available(self) -> Availability:
        """Return whether scipy is installed."""
        return Availability.FULL if importlib.util.find_spec("scipy") else Availability.NOT_FOUND

    def load(self, problem: Problem, options: Options) -> ScipySession:
        """Keep the problem; there is nothing to hand over before it is solved."""
        if lacking := missing(problem.needs, self.accepts):
            raise UnsupportedFeature(f"scipy does not take {', '.join(lacking)}; choose another backend=")
        for name in options.solver_options:
            if name not in _OPTIONS:
                raise UnknownName("scipy option", name, _OPTIONS)
        return ScipySession(problem, options)


class ScipySession:
    """A problem, changed by replacing its arrays and solved from scratch every time."""

    def __init__(self, problem: Problem, options: Options):
        self._problem, self._options, self._clock = problem, options, options.budget.start()

    def __enter__(self) -> ScipySession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to free."""

    # ---- changing the problem ---------------------------------------------------------------------

    def set_cost(self, columns: np.ndarray, cost: np.ndarray) -> None:
        """Change objective coefficients."""
        whole = self._problem.cost.copy()
        whole[columns] = cost
        self._problem = replace(self._problem, cost=whole)

    def set_bounds(self, columns: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        """Change column bounds."""
        low, high = self._problem.lower.copy(), self._problem.upper.copy()
        low[columns], high[columns] = lower, upper
        self._problem = replace(self._problem, lower=low, upper=high)

    def add_rows(self, matrix: Any, lower: np.ndarray, upper: np.ndarray) -> None:
        """Append rows."""
        old = self._problem
        self._problem = replace(
            old,
            matrix=sp.csr_array(sp.vstack([old.matrix, matrix], format="csr")),
            row_lower=np.concatenate([old.row_lower, lower]),
            row_upper=np.concatenate([old.row_upper, upper]),
        )

    # ---- what is not claimed in `capabilities` must be refused ------------------------------------

    def set_start(self, columns: np.ndarray, values: np.ndarray, *, strong: bool = False) -> NoReturn:
        """Refuse a first point."""
        raise UnsupportedFeature("scipy takes no starting point")

    def inject(self, x: np.ndarray) -> NoReturn:
        """Refuse a point."""
        raise UnsupportedFeature("scipy takes no points while it runs")

    def interrupt(self) -> NoReturn:
        """Refuse to stop."""
        raise UnsupportedFeature("scipy cannot be interrupted; give a time_limit")

    # ---- solving ----------------------------------------------------------------------------------

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve from scratch."""
        if should_stop():
            return Solution("interrupted")
        if self._clock.expired:
            return Solution("time_limit", message="no time left to solve")
        problem = self._problem
        if not problem.n_columns or (problem.lower > problem.upper).any():
            return self._trivial()
        found = self._milp(-problem.cost if problem.maximize else problem.cost)
        if found.status == 4 and self._milp(np.zeros(problem.n_columns)).status == 0:
            return Solution("unbounded", message=found.message)
        return self._solution(found)

    def _milp(self, cost: np.ndarray) -> Any:
        from scipy.optimize import Bounds, LinearConstraint, milp

        problem, left = self._problem, self._clock.remaining
        options = {**self._options.solver_options, "mip_rel_gap": self._options.gap}
        if np.isfinite(left):
            options["time_limit"] = max(left, 1e-3)
        matrix = problem.matrix.copy()
        matrix.sum_duplicates()
        rows = LinearConstraint(matrix, problem.row_lower, problem.row_upper)
        return milp(
            cost,
            integrality=problem.integer.astype(int),
            bounds=Bounds(problem.lower, problem.upper),
            constraints=[rows] if problem.n_rows else [],
            options=options,
        )

    def _solution(self, found: Any) -> Solution:
        """Translate scipy's answer; its objective and bound are those of minimising, without the offset."""
        problem, sign = self._problem, -1.0 if self._problem.maximize else 1.0
        status = {0: "optimal", 1: "time_limit", 2: "infeasible", 3: "unbounded", 4: "infeasible"}[found.status]
        x = found.x if status in ("optimal", "time_limit") else None
        if status == "time_limit" and x is not None:
            status = "feasible"
        bound = found.get("mip_dual_bound") if problem.integer.any() else found.fun if status == "optimal" else None
        known = bound is not None and np.isfinite(bound) and status in ("optimal", "feasible", "time_limit")
        return Solution(
            status,
            x,
            problem.objective(x) if x is not None else None,
            sign * float(bound) + problem.offset if known else None,
            int(found.get("mip_node_count") or 0),
            f"scipy: {found.message}",
        )

    def _trivial(self) -> Solution:
        """Answer what scipy does not take: no columns, or an empty range."""
        problem = self._problem
        rows = (problem.row_lower <= 0).all() and (problem.row_upper >= 0).all()
        if problem.n_columns or not rows:
            return Solution("infeasible", message="a range is empty")
        return Solution("optimal", np.zeros(0), problem.offset, problem.offset)
