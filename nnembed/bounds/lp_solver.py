"""Many objectives over one linear program in one HiGHS instance; every answer is a proven bound.

Small programs keep the simplex hot. For larger ones the interior point method without crossover is several times
faster, and since a bound needs any duals, not a vertex, nothing is lost by it (measured on random networks from 10-50x2
to 784-256x4: equal at 10 000 nonzeros, 1.3 to 10 times faster from 14 000 on).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.lp_relaxation import Program
from nnembed.bounds.safe_dual import SafeDual
from nnembed.errors import SolverError

_ITERATION, _ITERATION_NONZERO = 8e-6, 2e-9  # seconds of a simplex iteration, and per nonzero; within a factor of two
_INTERIOR_NONZERO = 1.25e-6  # seconds of an interior point run, per nonzero
_LARGE = 50_000  # nonzeros from which the simplex is not tried
_NOTICEABLE = 2e-3


@dataclass(frozen=True, eq=False)
class Answer:
    """What one objective gave.

    Attributes
    ----------
    bound : float
        Proven lower bound, ``-inf`` when the solver had no duals to show.
    x : array or None
        The optimum as the solver sees it; not exactly feasible.
    work : float
        Seconds, estimated from iterations and size.
    status : str
        "optimal", "infeasible", "limit" or "error".
    """

    bound: float
    x: Array | None
    work: float
    status: str


class HotProgram:
    """A program that stays loaded while objectives change.

    Parameters
    ----------
    program : Program
    threads : int

    Attributes
    ----------
    interior : bool
        Whether the interior point method is in use; chosen by size, then by the work the simplex has had.
    work : float
        Seconds of work so far, estimated from iterations and size: the same in every run.
    """

    def __init__(self, program: Program, *, threads: int = 1):
        import highspy

        self._api: Any = highspy
        self._highs: Any = highspy.Highs()
        self._safe = SafeDual(program)
        self._columns = np.arange(len(program.lower), dtype=np.int32)
        nonzeros = program.matrix.nnz
        self._step, self._point = _ITERATION + _ITERATION_NONZERO * nonzeros, _INTERIOR_NONZERO * nonzeros
        self.interior, self.work = nonzeros > _LARGE, 0.0
        for name, value in (("output_flag", False), ("threads", threads), ("presolve", "off")):
            self._option(name, value)
        self._option("run_crossover", "off")
        self._pass(program)

    def minimise(self, cost: Array, seconds: float = np.inf) -> Answer:
        """Return a proven lower bound on ``cost @ x``.

        Parameters
        ----------
        cost : array (columns,)
        seconds : float
            The solver stops after about this long; what it has by then is still a bound.
        """
        self._check(self._highs.changeColsCost(len(cost), self._columns, cost), "changeColsCost")
        deadline = time.perf_counter() + seconds
        answer = self._run(cost, seconds, interior=self.interior)
        if self.interior and answer.status in ("limit", "error") and time.perf_counter() < deadline:
            self.interior = False  # it does not converge here
            answer = self._run(cost, deadline - time.perf_counter(), interior=False)
        self.interior |= answer.work > 1.5 * self._point and answer.work > _NOTICEABLE
        self.work += answer.work
        return answer

    def _run(self, cost: Array, seconds: float, *, interior: bool) -> Answer:
        highs = self._highs
        self._option("solver", "ipm" if interior else "simplex")
        if interior:
            highs.clearSolver()
        if np.isfinite(seconds):
            self._option("time_limit", float(highs.getRunTime() + max(seconds, 0.0)))
        code = highs.run()
        if code == self._api.HighsStatus.kError:
            # Another instance in this process may have run with another number of threads.
            self._api.Highs.resetGlobalScheduler(True)
            code = highs.run()
        name = highs.getModelStatus().name
        status = {"kOptimal": "optimal", "kInfeasible": "infeasible", "kModelEmpty": "optimal"}.get(name, "limit")
        if code == self._api.HighsStatus.kError:
            status = "error"
        solution = highs.getSolution()
        x = np.array(solution.col_value) if status == "optimal" and solution.value_valid else None
        y = np.array(solution.row_dual) if solution.dual_valid else np.zeros(0)
        if len(y) != self._rows:
            y = np.zeros(self._rows)
        steps = max(0, int(highs.getInfo().simplex_iteration_count))
        return Answer(self._safe.bound(cost, y), x, self._point if interior else self._step * steps, status)

    def _option(self, name: str, value: object) -> None:
        self._check(self._highs.setOptionValue(name, value), f"option {name}")

    def _pass(self, program: Program) -> None:
        api, matrix, n = self._api, program.matrix, len(program.lower)
        self._rows = matrix.shape[0]
        # Rows whose sides differ by rounding only are equations to the solver; the proof uses the true sides.
        gap = program.row_upper - program.row_lower
        with np.errstate(invalid="ignore"):
            middle = 0.5 * (program.row_lower + program.row_upper)
            thin = np.isfinite(gap) & (gap <= 1e-9 * (1 + np.abs(middle)))
        low, high = np.where(thin, middle, program.row_lower), np.where(thin, middle, program.row_upper)
        code = self._highs.passModel(
            n,
            self._rows,
            int(matrix.nnz),
            int(api.MatrixFormat.kRowwise),
            int(api.ObjSense.kMinimize),
            0.0,
            np.zeros(n),
            program.lower,
            program.upper,
            low,
            high,
            matrix.indptr.astype(np.int32, copy=False),
            matrix.indices.astype(np.int32, copy=False),
            matrix.data,
            np.zeros(n, dtype=np.int32),
        )
        self._check(code, "passModel")

    def _check(self, code: Any, what: str) -> None:
        if code == self._api.HighsStatus.kError:
            raise SolverError(f"HiGHS refuses {what}")
