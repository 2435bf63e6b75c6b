"""A problem in Gurobi.

Gurobi runs on a thread of its own; the caller's thread waits, passes events on and asks Gurobi to stop. So an exception
of an observer is raised where it belongs (gurobipy drops those of callbacks), and Ctrl-C works at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import gurobipy
import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array, Index
from nnembed.backends.told import Told
from nnembed.errors import InputError, SolverError, UnknownName
from nnembed.events import Event
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Conflict, Solution

from nnembed_gurobi.licence import check_size, start_environment
from nnembed_gurobi.listening import INFINITY, Cuts, Listener, Separation
from nnembed_gurobi.loading import add_rows, load

_POLL = 0.02  # seconds between two looks at a running solve

_STATUS = {
    "OPTIMAL": "optimal",
    "INFEASIBLE": "infeasible",
    "INF_OR_UNBD": "infeasible_or_unbounded",
    "UNBOUNDED": "infeasible_or_unbounded",
    "INTERRUPTED": "interrupted",
    "NUMERIC": "error",
    "MEM_LIMIT": "error",
    "SUBOPTIMAL": "feasible",
}  # every other status is a limit that was set


class GurobiSession:
    """One problem in one Gurobi model."""

    def __init__(self, problem: Problem, options: Options):
        self._problem, self._options, self._clock = problem, options, options.budget.start()
        self._stop = False
        self._env: Any = start_environment(gurobipy)
        try:
            check_size(problem, gurobipy, self._env)
            set_parameters(self._env, options)
            self._loaded = load(gurobipy, self._env, problem)
        except BaseException:
            self._env.dispose()
            raise
        self._model: Any = self._loaded.model
        self._time_limit = float(self._model.Params.TimeLimit)
        self._listener = Listener(self._loaded.columns.tolist())

    def __enter__(self) -> GurobiSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- changing the problem -----------------------------------------------------------------

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Offer a first point; Gurobi completes one with columns missing."""
        self._loaded.columns[columns].Start = values

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Change objective coefficients."""
        whole = self._problem.cost.copy()
        whole[columns] = cost
        self._problem = replace(self._problem, cost=whole)
        self._loaded.columns[columns].Obj = cost

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        low, high = self._problem.lower.copy(), self._problem.upper.copy()
        low[columns], high[columns] = lower, upper
        self._problem = replace(self._problem, lower=low, upper=high)
        part = self._loaded.columns[columns]
        part.LB, part.UB = low[columns], high[columns]

    def add_rows(self, matrix: sp.csr_array, lower: Array, upper: Array) -> None:
        """Append rows.

        Raises
        ------
        Unavailable
            If the model outgrows the licence.
        """
        old = self._problem
        rows = {
            "matrix": sp.csr_array(sp.vstack([old.matrix, matrix], format="csr")),
            "row_lower": np.concatenate([old.row_lower, lower]),
            "row_upper": np.concatenate([old.row_upper, upper]),
        }
        grown = replace(old, **rows)
        check_size(grown, gurobipy, self._env)
        self._problem = grown
        add_rows(self._loaded, matrix, lower, upper, old.n_rows)

    def inject(self, x: Array) -> None:
        """Offer a complete point while Gurobi runs; it is tried at the next node."""
        self._listener.inbox.append(np.array(x, dtype=float))

    def interrupt(self) -> None:
        """Ask the running solver to stop at the next chance."""
        self._stop = True

    def separate(self, cuts: Cuts) -> None:
        """Offer rows where the relaxation violates them; replaces what was offered before.

        ``cuts(x)``, with `x` the point of a node's relaxation over all columns of the problem, returns (CSR matrix,
        lower, upper) of rows that every feasible point meets, best those that `x` violates; no rows means none. It is
        called on Gurobi's thread, never by two at once: at the root at most 20 times, in the tree every 20 nodes.
        What it raises ends the solve and is raised by `solve`. A problem without integers or conditions is its own
        relaxation and never asks.
        """
        self._model.Params.PreCrush = 1  # rows over the columns as they were before presolve
        self._listener.separation = Separation(cuts, self._loaded.columns.tolist())

    def conflict(self) -> Conflict | None:
        """Return rows and columns (their bounds) that cannot hold together, of which each is needed.

        To be called after a `solve` that found the problem infeasible. Integrality, sets, indicator and ReLU rows hold
        throughout. None when there is a point or the time left does not suffice.
        """
        model = self._model
        if self._options.time_limit is not None:
            model.Params.TimeLimit = min(self._clock.remaining, self._time_limit)
        for part, force in ((model.getSOSs(), "IISSOSForce"), (model.getGenConstrs(), "IISGenConstrForce")):
            for condition in part:
                condition.setAttr(force, 1)
        try:
            model.computeIIS()
            if not model.IISMinimal:
                return None
        except gurobipy.GurobiError as error:
            if error.errno in (gurobipy.GRB.Error.IIS_NOT_INFEASIBLE, gurobipy.GRB.Error.DATA_NOT_AVAILABLE):
                return None
            raise SolverError(f"Gurobi finds no conflict: {error}") from None
        columns = self._loaded.columns
        return Conflict(self._loaded.conflicting(), np.flatnonzero(np.array(columns.IISLB) | np.array(columns.IISUB)))

    def close(self) -> None:
        """Free Gurobi's memory and give the licence back."""
        self._model.dispose()
        self._env.dispose()

    # ---- solving ------------------------------------------------------------------------------

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve; see `protocols.Session`."""
        self._stop = False
        if self._clock.remaining <= 0:
            return Solution("time_limit", message="no time left to solve")
        if should_stop():
            return Solution("interrupted")
        if self._listener.inbox:  # offered before the start: as good as a start
            self.set_start(np.arange(self._problem.n_columns), self._listener.inbox.pop())
        failure = self._run(on_event, should_stop)
        if failure is not None:
            return Solution("error", message=f"Gurobi stopped with an error: {failure}")
        return self._result(should_stop)

    def _run(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> BaseException | None:
        """Run Gurobi beside this thread; return what went wrong."""
        if self._options.time_limit is not None:
            self._model.Params.TimeLimit = min(self._clock.remaining, self._time_limit)
        listener = self._listener
        listener.reset()
        told = Told(on_event, self._problem.maximize, INFINITY)
        with ThreadPoolExecutor(1, thread_name_prefix="gurobi") as pool:
            running: Future[None] = pool.submit(self._model.optimize, listener)
            try:
                while wait([running], timeout=_POLL).not_done:
                    self._tell(told)
                    if self._stop or should_stop():
                        self._model.terminate()
                self._tell(told)
            finally:  # after an exception in the caller's functions Gurobi must not go on alone
                while not running.done():
                    self._model.terminate()
                    wait([running], timeout=_POLL)
        if listener.failure is not None:
            raise listener.failure
        return running.exception()

    def _tell(self, told: Told) -> None:
        while self._listener.incumbents:
            told.objective(self._clock.elapsed, *self._listener.incumbents.popleft())
        told.bound(self._clock.elapsed, self._listener.bound)

    def _result(self, should_stop: Callable[[], bool]) -> Solution:
        model, code = self._model, self._status()
        status = _STATUS.get(code, "time_limit")
        x = np.array(self._loaded.columns.X, dtype=float) if model.SolCount > 0 else None
        mixed = bool(model.IsMIP)
        bound: float | None = None
        if mixed or code == "OPTIMAL":
            bound = float(model.ObjBound if mixed else model.ObjVal)
        nodes = int(model.NodeCount)
        duals = None
        if not mixed and code == "OPTIMAL" and self._problem.quadratic is None:
            duals = self._loaded.duals(self._problem.n_rows)
        if status == "infeasible_or_unbounded":
            status = self._decide(should_stop)
        if status in ("infeasible", "unbounded"):
            x = bound = None
        if x is not None and status in ("time_limit", "error"):
            status = "feasible"
        if x is None and status == "feasible":
            status = "time_limit"
        return Solution(
            status,
            x,
            self._problem.objective(x) if x is not None else None,
            bound if bound is not None and abs(bound) < INFINITY else None,
            nodes,
            f"Gurobi: {code}",
            duals,
        )

    def _decide(self, should_stop: Callable[[], bool]) -> str:
        """Tell infeasible from unbounded: without an objective only infeasibility remains.

        Gurobi's own "unbounded" speaks of a ray, not of a feasible point.
        """
        self._model.setObjective(0.0, self._model.ModelSense)
        failure = self._run(lambda event: None, should_stop)
        code = "NUMERIC" if failure is not None else self._status()
        feasible = failure is None and self._model.SolCount > 0
        self._loaded.set_objective(self._problem)
        return "unbounded" if feasible else _STATUS.get(code, "time_limit")

    def _status(self) -> str:
        codes = gurobipy.GRB.Status
        found = (name for name in dir(codes) if name.isupper() and getattr(codes, name) == self._model.Status)
        return next(found, f"status {self._model.Status}")


def set_parameters(env: Any, options: Options) -> None:
    """Set what the options ask for, then the user's own choices.

    Raises
    ------
    UnknownName, InputError
        If one of ``options.solver_options`` does not exist or has a value that Gurobi refuses.
    """
    env.setParam("Threads", min(options.threads, 1024))  # Gurobi takes no more
    env.setParam("MIPGap", float(options.gap))
    env.setParam("Seed", int(options.seed) % 2_000_000_000)
    _set_user_parameters(env, options.solver_options)


def _set_user_parameters(env: Any, chosen: Mapping[str, Any]) -> None:
    names = [name for name in dir(gurobipy.GRB.Param) if not name.startswith("_")]
    spelled = {name.lower(): name for name in names}
    for name, value in chosen.items():
        if name.lower() not in spelled:
            raise UnknownName("Gurobi parameter", name, names)
        try:
            env.setParam(spelled[name.lower()], value)
        except (gurobipy.GurobiError, TypeError, ValueError) as error:
            raise InputError(f"Gurobi refuses {name}={value!r}: {error}") from None
