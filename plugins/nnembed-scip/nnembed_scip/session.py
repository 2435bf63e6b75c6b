"""A problem in SCIP.

SCIP runs on a thread of its own without the interpreter's lock; the caller's thread waits, passes events on and asks
SCIP to stop. So Ctrl-C works at once, and a slow observer does not slow the solver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np
import pyscipopt
import scipy.sparse as sp
from nnembed.aliases import Array, Index
from nnembed.backends.told import Told
from nnembed.events import Event
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Conflict, Solution

from nnembed_scip.checks import contradiction
from nnembed_scip.conflict import find
from nnembed_scip.cutting import Cuts, Separator, include
from nnembed_scip.listening import inject, listen
from nnembed_scip.loading import INFINITY, add_rows, finite, load
from nnembed_scip.parameters import is_network, set_parameters, skip_sub_mips

_STAGE: Any = pyscipopt.scip.PY_SCIP_STAGE
_POLL = 0.02  # seconds between two looks at a running solve

_STATUS = {
    "optimal": "optimal",
    "gaplimit": "optimal",
    "infeasible": "infeasible",
    "unbounded": "infeasible_or_unbounded",
    "inforunbd": "infeasible_or_unbounded",
    "timelimit": "time_limit",
    "userinterrupt": "interrupted",
    "memlimit": "error",
    "unknown": "error",
}  # every other status is a limit that the user set


class ScipSession:
    """One problem in one SCIP model."""

    def __init__(self, problem: Problem, options: Options):
        self._problem, self._clock = problem, options.budget.start()
        self._chosen = options.solver_options
        self._limited = options.time_limit is not None
        self._stop = False
        self._model: Any = pyscipopt.Model()
        set_parameters(self._model, problem, options)
        self._time_limit = self._model.getParam("limits/time")
        self._loaded = load(self._model, problem)
        self._inbox: deque[Array] = deque()
        self._listener = listen(self._model, self._loaded.columns)
        inject(self._model, self._inbox, self._write)
        self._separator: Separator | None = None

    def __enter__(self) -> ScipSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- changing the problem -----------------------------------------------------------------

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Offer a first point; one with columns missing is completed by SCIP's heuristic for partial solutions."""
        model = self._editable()
        if strong:
            skip_sub_mips(model, self._chosen)
        if len(columns) == self._problem.n_columns:
            full = np.empty(len(columns))
            full[columns] = values
            self._add(full)
            return
        point = model.createPartialSol()
        for j, value in zip(columns.tolist(), values.tolist(), strict=True):
            point[self._loaded.columns[j]] = value
        model.addSol(point)

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Change objective coefficients."""
        whole = self._problem.cost.copy()
        whole[columns] = cost
        self._problem = replace(self._problem, cost=whole)
        self._set_objective(whole)

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        low, high = self._problem.lower.copy(), self._problem.upper.copy()
        low[columns], high[columns] = lower, upper
        self._problem = replace(self._problem, lower=low, upper=high)
        model = self._editable()
        shown = np.maximum(low, high)[columns]  # an empty range is found before solving; SCIP must not see it
        for j, below, above in zip(np.asarray(columns).tolist(), finite(low[columns]), finite(shown), strict=True):
            variable = self._loaded.columns[j]
            if variable.vtype() == "BINARY" and not (low[j] >= 0 and high[j] <= 1):
                model.chgVarType(variable, "INTEGER")
            model.chgVarLb(variable, None)
            model.chgVarUb(variable, above)
            model.chgVarLb(variable, below)

    def add_rows(self, matrix: sp.csr_array, lower: Array, upper: Array) -> None:
        """Append rows."""
        old = self._problem
        rows = {
            "matrix": sp.csr_array(sp.vstack([old.matrix, matrix], format="csr")),
            "row_lower": np.concatenate([old.row_lower, lower]),
            "row_upper": np.concatenate([old.row_upper, upper]),
        }
        self._problem = replace(old, **rows)
        add_rows(self._editable(), self._loaded.columns, matrix, lower, upper, old.n_rows)

    def inject(self, x: Array) -> None:
        """Offer a complete point while SCIP runs; it is tried at the next node."""
        self._inbox.append(np.array(x, dtype=float))

    def interrupt(self) -> None:
        """Ask the running solver to stop at the next chance."""
        self._stop = True

    def separate(self, cuts: Cuts) -> None:
        """Offer rows where the relaxation violates them; replaces what was offered before.

        ``cuts(x)``, with `x` the point of a node's relaxation over all columns of the problem, returns (CSR matrix,
        lower, upper) of rows that every feasible point meets, best those that `x` violates; no rows means none. It is
        called on SCIP's thread, never by two at once: at the root at most 20 times, in the tree once in nodes of every
        tenth depth. What it raises ends the solve and is raised by `solve`. SCIP's own cuts stay as they are. Where the
        user sets ``separating/maxrounds`` or ``separating/maxroundsroot``, these count.
        """
        if self._separator is None:
            quiet = is_network(self._problem)
            self._separator = include(self._editable(), self._loaded.columns, self._chosen, quiet)
        self._separator.cuts = cuts

    def conflict(self) -> Conflict | None:
        """Return rows and columns (their bounds) that cannot hold together, of which each is needed.

        To be called after a `solve` that found the problem infeasible. Integrality, sets and indicator rows hold
        throughout. None when there is a point or the time left does not suffice.
        """
        return find(self._problem, lambda: self._clock.remaining)

    def close(self) -> None:
        """Free SCIP's memory."""
        if self._model is not None:
            self._model.free()
            self._model = None

    # ---- solving ------------------------------------------------------------------------------

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve; see `protocols.Session`."""
        self._stop = False
        if found := contradiction(self._problem):
            return Solution("infeasible", message=found)
        if self._clock.remaining <= 0:
            return Solution("time_limit", message="no time left to solve")
        if should_stop():
            return Solution("interrupted")
        self._editable()
        while self._inbox:
            self._add(self._inbox.popleft())
        failure = self._run(on_event, should_stop)
        if failure is not None:
            return Solution("error", message=f"SCIP stopped with an error: {failure}")
        return self._result(should_stop)

    def _run(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> BaseException | None:
        """Run SCIP beside this thread; return what went wrong."""
        if self._limited:
            self._model.setParam("limits/time", min(self._clock.remaining, self._time_limit))
        self._listener.incumbents.clear()
        self._listener.bound = None
        told = Told(on_event, self._problem.maximize, INFINITY)
        with ThreadPoolExecutor(1, thread_name_prefix="scip") as pool:
            running: Future[None] = pool.submit(self._model.optimizeNogil)
            try:
                while wait([running], timeout=_POLL).not_done:
                    self._tell(told)
                    if self._stop or should_stop():
                        self._model.interruptSolve()
                self._tell(told)
            finally:  # after an exception in the caller's functions SCIP must not go on alone
                while not running.done():
                    self._model.interruptSolve()
                    wait([running], timeout=_POLL)
        if self._separator is not None and self._separator.failure is not None:
            failure, self._separator.failure = self._separator.failure, None
            raise failure
        return running.exception()

    def _tell(self, told: Told) -> None:
        while self._listener.incumbents:
            told.objective(self._clock.elapsed, *self._listener.incumbents.popleft())
        told.bound(self._clock.elapsed, self._listener.bound)

    def _result(self, should_stop: Callable[[], bool]) -> Solution:
        model, code = self._model, self._model.getStatus()
        status = _STATUS.get(code, "time_limit")
        best = model.getBestSol() if model.getNSols() else None
        x = np.array([best[v] for v in self._loaded.columns], dtype=float) if best is not None else None
        bound: float | None = float(model.getDualbound())
        nodes = int(model.getNTotalNodes())
        if status == "infeasible_or_unbounded":
            status = self._decide(should_stop)
        if status in ("infeasible", "unbounded"):
            x = bound = None
        if x is not None and status in ("time_limit", "error"):
            status = "feasible"
        return Solution(
            status,
            x,
            self._problem.objective(x) if x is not None else None,
            bound if bound is not None and abs(bound) < INFINITY else None,
            nodes,
            f"SCIP: {code}",
        )

    def _decide(self, should_stop: Callable[[], bool]) -> str:
        """Tell infeasible from unbounded: without an objective only infeasibility remains.

        SCIP's own "unbounded" speaks of a ray of the relaxation, not of a feasible point.
        """
        self._set_objective(np.zeros(self._problem.n_columns), epigraph=0.0)
        failure = self._run(lambda event: None, should_stop)
        code = "unknown" if failure is not None else self._model.getStatus()
        feasible = failure is None and self._model.getNSols() > 0
        self._set_objective(self._problem.cost)
        if feasible:
            return "unbounded"
        return _STATUS.get(code, "time_limit")

    # ---- the model ----------------------------------------------------------------------------

    def _editable(self) -> Any:
        """Return the model at the stage in which it can be changed."""
        if self._model.getStage() > _STAGE.PROBLEM:
            self._model.freeTransform()
        return self._model

    def _set_objective(self, cost: Array, epigraph: float = 1.0) -> None:
        model = self._editable()
        columns = [*self._loaded.columns]
        values = cost.tolist()
        if self._loaded.epigraph is not None:
            columns.append(self._loaded.epigraph)
            values.append(epigraph)
        terms = {next(iter(v.terms)): c for v, c in zip(columns, values, strict=True)}
        sense = "maximize" if self._problem.maximize else "minimize"
        model.setObjective(pyscipopt.Expr(terms), sense, clear=False)

    def _add(self, x: Array) -> None:
        """Put a complete point among the candidates that SCIP tries first."""
        point = self._model.createOrigSol()
        self._write(point, x)
        self._model.addSol(point)

    def _write(self, point: Any, x: Array) -> None:
        """Fill a solution of the original problem."""
        for variable, value in zip(self._loaded.columns, x.tolist(), strict=True):
            point[variable] = value
        if self._loaded.epigraph is not None:
            point[self._loaded.epigraph] = (
                self._problem.objective(x) - float(self._problem.cost @ x) - self._problem.offset
            )
