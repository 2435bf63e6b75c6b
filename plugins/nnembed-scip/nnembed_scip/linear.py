"""A linear problem in SoPlex, the LP solver inside SCIP.

SoPlex restarts from its last basis after any change and has row duals, which SCIP's presolving destroys. It cannot be
stopped from outside, so it runs in slices of time and goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyscipopt
import scipy.sparse as sp
from nnembed.aliases import Array, Index
from nnembed.events import Event
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Conflict, Solution

from nnembed_scip.checks import canonical, contradiction

_PARAMETER: Any = pyscipopt.scip.PY_SCIP_LPPARAM
_SLICES = (0.5, 1.0, 2.0)  # seconds; each restart costs a little, the last one repeats


class SoplexSession:
    """One linear problem in one SoPlex instance."""

    def __init__(self, problem: Problem, options: Options):
        self._problem, self._options, self._clock = problem, options, options.budget.start()
        self._stop = False
        self._lp: Any = pyscipopt.LP(sense="maximize" if problem.maximize else "minimize")
        self._lp.setIntParam(_PARAMETER.RANDOMSEED, int(options.seed) % (2**31))
        low, high = self._sides(problem.lower, problem.upper)
        self._lp.addCols([[] for _ in low], problem.cost.tolist(), low, high)
        self._append(problem.matrix, problem.row_lower, problem.row_upper)

    def __enter__(self) -> SoplexSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- changing the problem -----------------------------------------------------------------

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Do nothing: the simplex method starts from a basis, which a point does not give."""

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Change objective coefficients."""
        whole = self._problem.cost.copy()
        whole[columns] = cost
        self._problem = replace(self._problem, cost=whole)
        self._change_cost(columns, cost)

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        low, high = self._problem.lower.copy(), self._problem.upper.copy()
        low[columns], high[columns] = lower, upper
        self._problem = replace(self._problem, lower=low, upper=high)
        for j, a, b in zip(np.asarray(columns).tolist(), *self._sides(low[columns], high[columns]), strict=True):
            self._lp.chgBound(j, a, b)

    def add_rows(self, matrix: sp.csr_array, lower: Array, upper: Array) -> None:
        """Append rows."""
        old = self._problem
        self._problem = replace(
            old,
            matrix=sp.csr_array(sp.vstack([old.matrix, matrix], format="csr")),
            row_lower=np.concatenate([old.row_lower, lower]),
            row_upper=np.concatenate([old.row_upper, upper]),
        )
        self._append(matrix, lower, upper)

    def inject(self, x: Array) -> None:
        """Do nothing: a linear problem needs no help."""

    def interrupt(self) -> None:
        """Ask the running solver to stop at the end of its slice."""
        self._stop = True

    def separate(self, cuts: Callable[[Array], tuple[sp.csr_array, Array, Array]]) -> None:
        """Do nothing: a linear problem is its own relaxation, and every feasible point meets the cuts."""

    def conflict(self) -> Conflict | None:
        """Return rows and columns (their bounds) that cannot hold together; see `ScipSession.conflict`."""
        from nnembed_scip.conflict import find

        return find(self._problem, lambda: self._clock.remaining)

    def close(self) -> None:
        """Free SoPlex's memory."""
        self._lp = None

    # ---- solving ------------------------------------------------------------------------------

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve; see `protocols.Session`."""
        self._stop = False
        if found := contradiction(self._problem):
            return Solution("infeasible", message=found)
        if stopped := self._run(should_stop):
            return Solution(stopped, message=f"SoPlex: stopped after {self._clock.elapsed:.3g} s")
        if not self._lp.isOptimal():
            return self._without_point(on_event, should_stop)
        x = np.array(self._lp.getPrimal(), dtype=float)
        value = self._problem.objective(x)
        duals = np.array(self._lp.getDual(), dtype=float)
        return Solution("optimal", x, value, value, message="SoPlex: optimal", duals=duals)

    def _run(self, should_stop: Callable[[], bool]) -> str:
        """Solve slice by slice; return the status when stopped before the end, else an empty string."""
        for k in range(10**9):
            if self._stop or should_stop():
                return "interrupted"
            piece = min(_SLICES[min(k, len(_SLICES) - 1)], self._clock.remaining)
            if piece <= 0:
                return "time_limit"
            self._lp.setRealParam(_PARAMETER.LPTILIM, piece)
            started = time.perf_counter()
            self._lp.solve()
            if self._settled() or time.perf_counter() - started < 0.5 * piece:
                return ""
        raise AssertionError("unreachable")  # pragma: no cover

    def _settled(self) -> bool:
        return bool(self._lp.isOptimal()) or self._lp.getDualRay() is not None or self._lp.getPrimalRay() is not None

    def _without_point(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Tell infeasible from unbounded: without an objective only infeasibility remains."""
        if self._lp.getDualRay() is not None:
            return Solution("infeasible", message="SoPlex: infeasible")
        columns = np.arange(self._problem.n_columns)
        self._change_cost(columns, np.zeros(len(columns)))
        stopped = self._run(should_stop)
        feasible, infeasible = bool(self._lp.isOptimal()), self._lp.getDualRay() is not None
        self._change_cost(columns, self._problem.cost)
        if stopped:
            return Solution(stopped, message="SoPlex: infeasible or unbounded")
        if feasible or infeasible:
            return Solution("unbounded" if feasible else "infeasible", message="SoPlex: infeasible or unbounded")
        return self._by_scip(on_event, should_stop)

    def _by_scip(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Let SCIP try where SoPlex alone has given up for numerical reasons."""
        from nnembed_scip.session import ScipSession

        left = None if self._options.time_limit is None else self._clock.remaining
        with ScipSession(self._problem, replace(self._options, time_limit=left)) as session:
            return session.solve(on_event, should_stop)

    # ---- the arrays ---------------------------------------------------------------------------

    def _change_cost(self, columns: Index, cost: Array) -> None:
        for j, c in zip(np.asarray(columns).tolist(), cost.tolist(), strict=True):
            self._lp.chgObj(j, c)

    def _append(self, matrix: sp.csr_array, lower: Array, upper: Array) -> None:
        matrix = canonical(matrix)
        pairs = list(zip(matrix.indices.tolist(), matrix.data.tolist(), strict=True))
        starts = matrix.indptr.tolist()
        rows = [pairs[a:b] for a, b in pairwise(starts)]
        if rows:
            self._lp.addRows(rows, *self._sides(lower, upper))

    def _sides(self, lower: Array, upper: Array) -> tuple[list[float], list[float]]:
        """Return both sides with SoPlex's infinity, never crossing: that is found before solving."""
        infinity = self._lp.infinity()
        low = np.clip(lower, -infinity, infinity)
        return low.tolist(), np.maximum(np.clip(upper, -infinity, infinity), low).tolist()
