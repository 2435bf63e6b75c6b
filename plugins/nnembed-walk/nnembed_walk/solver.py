"""HiGHS, kept loaded, with the few calls that walks need."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array, Index
from nnembed.options import Clock

_TOLERANCE = 1e-9
_SPARSIFY = 1 << 14  # a rule of presolve that takes nearly all of its time and finds nothing on rows of weights
_LARGE = 200_000  # nonzeros from which on asking the clock at every iteration costs nothing beside it


class Solver:
    """One HiGHS instance with the few calls that walks need.

    Parameters
    ----------
    seed : int
    presolve : bool
        Off for programs that are solved again and again from their last basis.
    """

    def __init__(self, seed: int = 0, *, presolve: bool = False):
        import highspy

        self._api: Any = highspy
        self.highs: Any = highspy.Highs()
        for name, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", seed % (2**31)),
            ("presolve", "on" if presolve else "off"),
            ("presolve_rule_off", _SPARSIFY),
            ("primal_feasibility_tolerance", _TOLERANCE),
        ):
            self.highs.setOptionValue(name, value)
        if not presolve:  # weights of networks need no scaling, and a restart does not have to do it again
            self.highs.setOptionValue("simplex_scale_strategy", 0)
        self._rows = 0
        self._polls = False
        self._clock: Clock | None = None
        self.unbounded = False
        self.ray: Array | None = None
        self._rough = False

    def load(
        self,
        matrix: sp.csr_array,
        rows: tuple[Array, Array],
        sides: tuple[Array, Array],
        cost: Array,
        whole: np.ndarray,
    ) -> None:
        """Pass ``max cost @ x`` over rows and column bounds."""
        self._rows = matrix.shape[0]
        self.highs.passModel(
            matrix.shape[1], matrix.shape[0], int(matrix.nnz), int(self._api.MatrixFormat.kRowwise),
            int(self._api.ObjSense.kMaximize), 0.0, cost, *sides, *rows,
            matrix.indptr.astype(np.int32, copy=False), matrix.indices.astype(np.int32, copy=False), matrix.data,
            whole.astype(np.int32),
        )  # fmt: skip
        if not self._polls and (whole.any() or matrix.nnz > _LARGE):
            self._obey()

    def accept_rough(self) -> None:
        """Take solutions that are a little off: where only a rough point is wanted."""
        self.highs.setOptionValue("primal_feasibility_tolerance", 1e-6)
        self.highs.setOptionValue("dual_feasibility_tolerance", 1e-6)
        self._rough = True

    def _obey(self) -> None:
        """End programs when the clock ends, also one that ends before its time."""

        def poll(event: Any) -> None:
            event.data_in.user_interrupt = self._clock is not None and self._clock.expired

        self._polls = True
        for source in (self.highs.cbMipInterrupt, self.highs.cbSimplexInterrupt, self.highs.cbIpmInterrupt):
            source.subscribe(poll)

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        self.highs.changeColsBounds(len(columns), columns.astype(np.int32), lower, upper)

    def add_rows(self, rows: Array, least: Array) -> None:
        """Add full rows ``rows @ x >= least``."""
        part = dense_rows(rows)
        self.highs.addRows(len(least), least, no_limit(least), part.nnz, part.indptr[:-1], part.indices, part.data)
        self._rows += len(least)

    def basis(self) -> tuple[list[Any], np.ndarray]:
        """Return the states of the columns and a mask of the rows that are tight."""
        basis = self.highs.getBasis()
        basic = self._api.HighsBasisStatus.kBasic
        return list(basis.col_status), np.array([status != basic for status in basis.row_status], dtype=bool)

    def set_basis(self, columns: list[Any], tight: np.ndarray) -> None:
        """Begin from states of columns and rows that are tight at their lower side."""
        status = self._api.HighsBasisStatus
        basis = self._api.HighsBasis()
        basis.col_status = columns
        basis.row_status = [status.kLower if t else status.kBasic for t in tight.tolist()]
        basis.valid = True
        self.highs.setBasis(basis)

    def run(self, clock: Clock, iterations: int | None = None) -> tuple[Array | None, float, float, bool]:
        """Solve and return the point (None without one), its value, the work done and whether it was finished."""
        if clock.expired:
            return None, -np.inf, 0.0, False
        self._clock = clock
        left = clock.remaining
        if np.isfinite(left):
            self.highs.setOptionValue("time_limit", float(left) + self.highs.getRunTime())
        if iterations is not None:
            self.highs.setOptionValue("simplex_iteration_limit", int(iterations))
        code = self.highs.run()
        if code == self._api.HighsStatus.kError:  # another instance has run with another number of threads
            self._api.Highs.resetGlobalScheduler(True)
            code = self.highs.run()
        if clock.expired:
            return None, -np.inf, 0.0, False  # where the clock has cut must not decide what is found
        status = self.highs.getModelStatus()
        endless = self._api.HighsModelStatus.kUnbounded, self._api.HighsModelStatus.kUnboundedOrInfeasible
        self.unbounded = status in endless
        self.ray = self._direction() if self.unbounded else None
        info = self.highs.getInfo()
        work = float(max(info.simplex_iteration_count, 1)) * self._rows
        finished = status == self._api.HighsModelStatus.kOptimal
        if self._rough and finished is False and status == self._api.HighsModelStatus.kUnknown:
            solution = self.highs.getSolution()
            if solution.value_valid:
                return np.array(solution.col_value), float(info.objective_function_value), work, False
        if self.unbounded or info.primal_solution_status != self._api.SolutionStatus.kSolutionStatusFeasible:
            return None, -np.inf, work, status == self._api.HighsModelStatus.kInfeasible
        return np.array(self.highs.getSolution().col_value), float(info.objective_function_value), work, finished

    def _direction(self) -> Array | None:
        """Return a direction in which the objective grows for ever, if HiGHS knows one."""
        _, known, ray = self.highs.getPrimalRay()
        return np.array(ray) if known else None

    def close(self) -> None:
        """Free the solver's memory."""
        self.highs.clear()


def no_limit(like: Array | Index) -> Array:
    """Return upper sides of rows that have none."""
    return np.full(len(like), np.inf)


def dense_rows(rows: Array) -> sp.csr_array:
    """Return full rows as CSR, zeros kept."""
    n, k = rows.shape
    indices = np.tile(np.arange(k, dtype=np.int32), n)
    return sp.csr_array((rows.ravel(), indices, np.arange(0, n * k + 1, k, dtype=np.int32)), shape=(n, k))
