"""HiGHS: free, the default solver.

Facts this file works around (highspy 1.15): status codes are returned, not raised; the number of threads is global to
the
process, so a run after another one with a different number fails until the scheduler is reset; a starting point that is
infeasible is dropped silently; presolve calls some problems infeasible that are not, even linear ones of three rows.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.backends.highs_loading import check, pass_problem, set_option, set_options
from nnembed.errors import UnsupportedFeature
from nnembed.events import Event, Incumbent
from nnembed.features import Availability, Capability, Feature, missing
from nnembed.options import Options
from nnembed.protocols import Conflict, Solution

if TYPE_CHECKING:
    from nnembed.problem import Problem

_AGAIN = (5.0, 10.0)  # checking a claim of infeasibility may take so many seconds and so many times what it took
_IRREDUCIBLE = 3  # HighsIis.status_: every member is needed
_SEARCHES = "mip_heuristic_run_rins", "mip_heuristic_run_rens", "mip_heuristic_run_feasibility_jump"
_ENTRY = 5e-6  # seconds of presolve for a nonzero, at most
_STATUS = {
    "kOptimal": "optimal",
    "kInfeasible": "infeasible",
    "kUnbounded": "unbounded",
    "kUnboundedOrInfeasible": "infeasible_or_unbounded",
    "kTimeLimit": "time_limit",
    "kIterationLimit": "time_limit",
    "kSolutionLimit": "feasible",
    "kObjectiveBound": "feasible",
    "kObjectiveTarget": "feasible",
    "kInterrupt": "interrupted",
    "kModelEmpty": "optimal",
}


class Highs:
    """The HiGHS backend."""

    name = "highs"
    summary = "HiGHS: free MILP and LP solver, the default"
    accepts = Feature.LINEAR | Feature.INTEGER | Feature.QUADRATIC_OBJECTIVE
    capabilities = (
        Capability.MIP_START
        | Capability.INJECT_POINT
        | Capability.INCUMBENT_EVENT
        | Capability.INTERRUPT
        | Capability.HOT_LP
        | Capability.DUALS
        | Capability.CONFLICT
    )

    def available(self) -> Availability:
        """Return whether highspy is installed."""
        return Availability.FULL if importlib.util.find_spec("highspy") else Availability.NOT_FOUND

    def load(self, problem: Problem, options: Options) -> HighsSession:
        """Hand the problem over by arrays.

        Raises
        ------
        UnsupportedFeature
            If the problem has sets, indicator rows or a nonconvex objective; they would be lost without a word.
        """
        if lacking := missing(problem.needs, self.accepts):
            raise UnsupportedFeature(
                f"HiGHS does not take {', '.join(lacking)}, which this problem needs; choose another backend="
            )
        return HighsSession(problem, options)


class HighsSession:
    """One problem in one HiGHS instance."""

    def __init__(self, problem: Problem, options: Options):
        import highspy

        self._api: Any = highspy
        self._highs: Any = highspy.Highs()
        self._problem, self._options, self._clock = problem, options, options.budget.start()
        self._injected: list[Array] = []
        self._stop = False
        set_options(self._highs, options, problem)
        pass_problem(self._highs, problem)

    def __enter__(self) -> HighsSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- changing the problem -----------------------------------------------------------------

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Offer a first point; where all integers are given but not all columns, an LP finds the others.

        With a strong start the sub-MIP heuristics RINS and RENS only cost: measured on embedded networks, half to three
        quarters of the whole solve; and the feasibility jump is done before any limit is looked at.
        """
        for name in _SEARCHES if strong else ():
            if name not in self._options.solver_options and hasattr(self._highs.getOptions(), name):
                self._option(name, False)
        full = np.full(self._problem.n_columns, np.nan)
        full[columns] = values
        whole = np.flatnonzero(self._problem.integer)
        if np.isnan(full).any() and not np.isnan(full[whole]).any():
            completed = self._complete(whole, full[whole])
            if completed is None:
                return
            full = completed
        if np.isnan(full).any():
            self._check(self._highs.setSolution(len(columns), columns.astype(np.int32), values), "setSolution")
            return
        solution = self._api.HighsSolution()
        solution.col_value = full
        self._check(self._highs.setSolution(solution), "setSolution")

    def _complete(self, whole: Index, values: Array) -> Array | None:
        """Return the best point with the integers fixed, None when there is none.

        Left to itself HiGHS would solve the same LP inside its run and report the bound of that LP as the problem's.
        """
        highs, problem, columns = self._highs, self._problem, whole.astype(np.int32)
        fixed = np.clip(np.rint(values), problem.lower[whole], problem.upper[whole])
        self.set_bounds(whole, fixed, fixed)
        self._check(highs.changeColsIntegrality(len(whole), columns, np.zeros(len(whole), np.uint8)), "integrality")
        self._limit()
        self._run()
        x = np.array(highs.getSolution().col_value) if self._has_point() else None
        self.set_bounds(whole, problem.lower[whole], problem.upper[whole])
        self._check(highs.changeColsIntegrality(len(whole), columns, np.ones(len(whole), np.uint8)), "integrality")
        highs.clearSolver()
        return x

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Change objective coefficients."""
        whole = self._problem.cost.copy()
        whole[columns] = cost
        self._problem = replace(self._problem, cost=whole)
        self._check(self._highs.changeColsCost(len(columns), columns.astype(np.int32), cost), "changeColsCost")

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        low, high = self._problem.lower.copy(), self._problem.upper.copy()
        low[columns], high[columns] = lower, upper
        self._problem = replace(self._problem, lower=low, upper=high)
        code = self._highs.changeColsBounds(len(columns), columns.astype(np.int32), lower, upper)
        self._check(code, "changeColsBounds")

    def add_rows(self, matrix: sp.csr_array, lower: Array, upper: Array) -> None:
        """Append rows."""
        flat = (matrix.indptr[:-1].astype(np.int32), matrix.indices.astype(np.int32), matrix.data)
        self._check(self._highs.addRows(len(lower), lower, upper, matrix.nnz, *flat), "addRows")

    def inject(self, x: Array) -> None:
        """Offer a complete point while the solver runs; it is handed over at the next chance."""
        self._injected.append(x)

    def interrupt(self) -> None:
        """Ask the running solver to stop at the next chance."""
        self._stop = True

    def close(self) -> None:
        """Free the solver's memory."""
        self._highs.clear()

    # ---- solving ------------------------------------------------------------------------------

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve; see `protocols.Session`."""
        self._stop = False
        if self._clock.expired:
            return Solution("time_limit", message="no time left to solve")
        removers = self._listen(on_event, should_stop)
        try:
            code, status = self._run_checked()
        finally:
            for remove in removers:
                remove()
        if code == self._api.HighsStatus.kError:
            return Solution("error", message=f"HiGHS stopped with an error ({self._highs.getModelStatus()})")
        return self._result(status)

    def _limit(self, at_most: float = np.inf) -> None:
        """Tell HiGHS the time that is left; it counts from its first run."""
        chosen = self._options.solver_options.get("time_limit", np.inf)
        remaining = min(self._clock.remaining, at_most, chosen)
        self._option("time_limit", float(remaining) + (self._highs.getRunTime() if np.isfinite(remaining) else 0.0))

    def _run_checked(self) -> tuple[Any, str]:
        """Run, and again without presolve where nothing was found; return HiGHS's code and model status.

        A claim of infeasibility stands unless the second run refutes it within the time that it may take.
        """
        self._limit()
        if "presolve" not in self._options.solver_options and self._clock.remaining < self._problem.matrix.nnz * _ENTRY:
            self._option("presolve", "off")  # it does not look at the limit
        started = self._clock.elapsed
        code, status = self._run(), self._highs.getModelStatus().name
        if status != "kInfeasible" or self._clock.expired or self._options.solver_options.get("presolve") == "off":
            return code, status
        left = _AGAIN[0] + _AGAIN[1] * (self._clock.elapsed - started)
        self._option("presolve", "off")
        try:
            self._limit(left)
            again, found = self._run(), self._highs.getModelStatus().name
            if found == "kTimeLimit" and self._has_point() and not self._clock.expired:
                self._limit()
                again, found = self._run(), self._highs.getModelStatus().name
        finally:
            self._option("presolve", self._options.solver_options.get("presolve", "choose"))
            self._limit()
        refuted = again != self._api.HighsStatus.kError and (found in ("kOptimal", "kUnbounded") or self._has_point())
        return (again, found) if refuted else (code, status)

    def _has_point(self) -> bool:
        found = self._highs.getInfo().primal_solution_status
        return bool(found == self._api.SolutionStatus.kSolutionStatusFeasible)

    def _run(self) -> Any:
        code = self._highs.run()
        if code == self._api.HighsStatus.kError:
            # Another instance in this process may have run with another number of threads.
            self._api.Highs.resetGlobalScheduler(True)
            code = self._highs.run()
        return code

    def _listen(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> list[Callable[[], None]]:
        highs, clock, width = self._highs, self._clock, self._problem.n_columns
        sign = -1.0 if self._problem.maximize else 1.0
        best: dict[str, float | None] = {"objective": None, "bound": None}

        def poll(event: Any) -> None:
            # HiGHS looks at its own limit between larger steps only and may overrun it by half.
            # The flag is set either way: HiGHS keeps what an earlier run was told.
            event.data_in.user_interrupt = bool(self._stop or clock.expired or should_stop())

        def watch(event: Any) -> None:
            poll(event)
            bound = float(event.data_out.mip_dual_bound)
            if np.isfinite(bound) and bound != best["bound"]:
                best["bound"] = bound
                on_event(Incumbent(clock.elapsed, best["objective"], bound, "solver"))

        def improved(event: Any) -> None:
            value = float(event.data_out.objective_function_value)
            old = best["objective"]
            if np.isfinite(value) and (old is None or sign * value < sign * old):
                best["objective"] = value
                x = np.array(event.data_out.mip_solution)  # a copy: HiGHS takes the memory back
                on_event(Incumbent(clock.elapsed, value, best["bound"], "solver", x if len(x) == width else None))

        def offer(event: Any) -> None:
            while self._injected:
                event.data_in.setSolution(self._injected.pop())

        pairs = [
            (highs.cbMipInterrupt, watch),
            (highs.cbSimplexInterrupt, poll),
            (highs.cbIpmInterrupt, poll),
            (highs.cbMipImprovingSolution, improved),
            (highs.cbMipSolution, improved),
            (highs.cbMipUserSolution, offer),
        ]
        for source, function in pairs:
            source.subscribe(function)
        return [functools.partial(source.unsubscribe, function) for source, function in pairs]

    def _result(self, code: str) -> Solution:
        highs, problem = self._highs, self._problem
        info = highs.getInfo()
        status = _STATUS.get(code, "error")
        if status == "interrupted" and self._clock.expired:
            status = "time_limit"
        has_point = self._has_point()
        solution = highs.getSolution()
        x = np.array(solution.col_value) if has_point else None
        mixed = bool(problem.integer.any())
        bound: float | None = float(info.mip_dual_bound) if mixed else None
        if not mixed and status == "optimal":
            bound = float(info.objective_function_value)
        if code == "kModelEmpty" and x is None:
            x = np.clip(np.zeros(problem.n_columns), problem.lower, problem.upper)
            bound = problem.objective(x)
        if x is not None and status in ("time_limit", "interrupted"):
            status = "feasible" if status == "time_limit" else "interrupted"
        if status == "infeasible_or_unbounded":
            status = self._decide()
        if status in ("infeasible", "unbounded"):
            x = None
        duals = np.array(solution.row_dual) if solution.dual_valid and not mixed else None
        return Solution(
            status,
            x,
            problem.objective(x) if x is not None else None,
            bound if bound is not None and np.isfinite(bound) else None,
            int(max(info.mip_node_count, 0)),
            f"HiGHS: {code[1:]}",
            duals,
        )

    def _decide(self) -> str:
        """Tell infeasible from unbounded: without an objective only infeasibility remains."""
        n, cost = self._problem.n_columns, self._problem.cost
        self.set_cost(np.arange(n), np.zeros(n))
        _, found = self._run_checked()
        self.set_cost(np.arange(n), cost)
        return {"kOptimal": "unbounded", "kInfeasible": "infeasible", "kTimeLimit": "time_limit"}.get(found, "error")

    # ---- why infeasible -----------------------------------------------------------------------

    def conflict(self) -> Conflict | None:
        """Return rows and columns (their bounds) of which each is needed to make the problem infeasible.

        Found on the LP relaxation; None where that has a point (so that integrality takes part), where the time left
        does not suffice, or where what HiGHS names turns out to have a point.
        """
        problem = self._problem
        whole, cost = np.zeros(problem.n_columns, dtype=bool), np.zeros(problem.n_columns)
        left = None if self._options.time_limit is None else self._clock.remaining
        options = replace(self._options, time_limit=left, solver_options={})
        if left == 0:
            return None
        relaxed = replace(problem, integer=whole, cost=cost, quadratic=None)
        with HighsSession(relaxed, options) as session:
            found = session._irreducible()
        if found is None:
            return None
        lower, upper = np.full(problem.n_columns, -np.inf), np.full(problem.n_columns, np.inf)
        lower[found.columns], upper[found.columns] = problem.lower[found.columns], problem.upper[found.columns]
        part = {k: getattr(problem, k)[found.rows] for k in ("matrix", "row_lower", "row_upper")}
        with HighsSession(replace(relaxed, lower=lower, upper=upper, **part), options) as session:
            agreed = session.solve(lambda event: None, lambda: False).status == "infeasible"
        return found if agreed else None

    def _irreducible(self) -> Conflict | None:
        """Return HiGHS's irreducible infeasible subset of a linear problem, None when it has none."""
        self._limit()
        if np.isfinite(self._clock.remaining):
            self._option("iis_time_limit", float(self._clock.remaining))
        kinds = self._api.IisStrategy
        self._option("iis_strategy", int(kinds.kIisStrategyFromLp) + int(kinds.kIisStrategyIrreducible))
        code, found = self._highs.getIis()
        if code != self._api.HighsStatus.kOk or not found.valid_ or found.status_ != _IRREDUCIBLE:
            return None
        absent = (self._api.IisBoundStatus.kIisBoundStatusFree, self._api.IisBoundStatus.kIisBoundStatusDropped)
        kept = [j for j, side in zip(found.col_index_, found.col_bound_, strict=True) if side not in map(int, absent)]
        return Conflict(np.array(sorted(found.row_index_), dtype=np.intp), np.array(sorted(kept), dtype=np.intp))

    def _option(self, name: str, value: object) -> None:
        set_option(self._highs, name, value)

    def _check(self, code: Any, what: str) -> None:
        check(code, what)
