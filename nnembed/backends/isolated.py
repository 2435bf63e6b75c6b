"""Another backend in a process of its own: a solver that crashes, hangs or eats all memory costs its answer, no more.

The other process is started by this interpreter's executable, not forked, and reads nothing of the user's script. It
sends incumbents (with their points, where the solver's session tells them) and bounds as they come; when it is lost,
they are what is known. The session keeps the problem as it was last changed, so a solve after a loss starts anew.
"""

from __future__ import annotations

import importlib.util
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.backends.isolated_process import SMALLER, Process, obituary
from nnembed.errors import InputError, NnembedError, SolverError, UnsupportedFeature
from nnembed.events import Event, Incumbent
from nnembed.features import Availability, Capability, Feature
from nnembed.options import Clock, Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Conflict, Solution

_POLL = 0.02  # seconds between two looks at a running solve


class Isolated:
    """A backend whose sessions run in a process of their own.

    Parameters
    ----------
    backend : Backend
        What does the work; picklable, of a class in a module that can be imported.
    grace : float
        Seconds after its time limit, or after it was asked to stop, at which a solver that goes on is killed.
    memory : float or None
        Most bytes of address space the process may use; None means no limit of ours.

    Raises
    ------
    UnsupportedFeature
        If `memory` is given on a system that cannot limit it.
    """

    def __init__(self, backend: Backend, *, grace: float = 10.0, memory: float | None = None):
        if memory is not None and importlib.util.find_spec("resource") is None:
            raise UnsupportedFeature("this system cannot limit the memory of one process; leave memory= out")
        self.backend, self.grace, self.memory = backend, grace, memory
        self.name = backend.name
        self.summary = f"{backend.summary}, in a process of its own"
        self.accepts: Feature = backend.accepts
        self.capabilities: Capability = backend.capabilities
        self._idle: list[Process] = []

    def __reduce__(self) -> Any:
        return _rebuilt, (self.backend, self.grace, self.memory)

    def available(self) -> Availability:
        """Return whether the solver can be used here."""
        return self.backend.available()

    def load(self, problem: Problem, options: Options) -> IsolatedSession:
        """Hand the problem over to another process.

        A process lost on the way is no error here: `solve` then returns status "error".

        Raises
        ------
        InputError
            If the backend or its options cannot be sent to another process.
        NnembedError
            What the backend itself raises.
        """
        return IsolatedSession(self, problem, options)

    def take(self, *, fresh: bool = False) -> Process:
        """Return an idle process, else a new one; always a new one if `fresh`."""
        while self._idle and not fresh:
            process = self._idle.pop()
            if process.alive:
                return process
        return Process(0 if self.memory is None else int(self.memory))

    def give_back(self, process: Process) -> None:
        """Keep a process for the next session; starting one costs about half a second."""
        self._idle.append(process)

    def close(self) -> None:
        """End the processes that wait for a next session."""
        while self._idle:
            self._idle.pop().end()


def _rebuilt(backend: Backend, grace: float, memory: float | None) -> Isolated:
    return Isolated(backend, grace=grace, memory=memory)


class _Lost(Exception):
    """The process is gone or of no use any more."""

    def __init__(self, message: str, *, asked: bool = False):
        super().__init__(message)
        self.asked = asked  # it was asked to stop, and did not


class IsolatedSession:
    """A session in another process; see `protocols.Session`."""

    def __init__(self, owner: Isolated, problem: Problem, options: Options):
        self._owner, self._problem, self._options = owner, problem, options
        self._clock: Clock = options.budget.start()
        self._process: Process | None = None
        self._first: tuple[Index, Array, bool] | None = None
        self._offered: list[Array] = []
        self._cuts: Callable[[Array], Any] | None = None
        self._stop = self._running = False
        self._trouble: str | None = None
        if self._clock.expired:
            return  # there is nothing to be done in no time
        try:
            self._start()
        except _Lost as lost:
            self._trouble = str(lost)
        except NnembedError:
            self.close()
            raise

    def __enter__(self) -> IsolatedSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- changing the problem -----------------------------------------------------------------

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Offer a first point."""
        self._claim(Capability.MIP_START, "set_start")
        self._first = columns, values, strong
        self._tell("set_start", *self._first)

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Change objective coefficients."""
        self._tell("set_cost", columns, cost)
        whole = self._problem.cost.copy()
        whole[columns] = cost
        self._problem = replace(self._problem, cost=whole)

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        self._tell("set_bounds", columns, lower, upper)
        low, high = self._problem.lower.copy(), self._problem.upper.copy()
        low[columns], high[columns] = lower, upper
        self._problem = replace(self._problem, lower=low, upper=high)

    def add_rows(self, matrix: sp.csr_array, lower: Array, upper: Array) -> None:
        """Append rows."""
        self._tell("add_rows", matrix, lower, upper)
        old = self._problem
        self._problem = replace(
            old,
            matrix=sp.csr_array(sp.vstack([old.matrix, matrix], format="csr")),
            row_lower=np.concatenate([old.row_lower, lower]),
            row_upper=np.concatenate([old.row_upper, upper]),
        )

    def inject(self, x: Array) -> None:
        """Offer a complete point while the solver runs."""
        self._claim(Capability.INJECT_POINT, "inject")
        process = self._process
        if self._running and process is not None:
            process.send("inject", x)
        else:
            self._offered.append(x)

    def interrupt(self) -> None:
        """Ask the running solver to stop at the next chance."""
        self._claim(Capability.INTERRUPT, "interrupt")
        self._stop = True

    def separate(self, cuts: Callable[[Array], Any]) -> None:
        """Cut off fractional points; `cuts` is called here, on the thread that waits in `solve`."""
        self._claim(Capability.CUTS, "separate")
        self._cuts = cuts
        self._tell("separate")

    def conflict(self) -> Conflict | None:
        """Return rows and bounds that cannot hold together; None also when the process was lost over it."""
        self._claim(Capability.CONFLICT, "conflict")
        found: Conflict | None = self._tell("conflict")
        return found

    def close(self) -> None:
        """Free the solver; the process is kept for the next session."""
        process, self._process = self._process, None
        if process is not None:
            process.send("close")
            self._owner.give_back(process)

    def _claim(self, capability: Capability, method: str) -> None:
        if not capability & self._owner.capabilities:
            raise UnsupportedFeature(f"solver {self._owner.name!r} has no {method}(); choose another backend=")

    def _tell(self, name: str, *content: Any) -> Any:
        """Pass a change on; a process lost meanwhile is replaced by the next solve."""
        if self._process is None:
            return None
        try:
            return self._talk((name, *content))
        except _Lost:
            return None

    # ---- solving ------------------------------------------------------------------------------

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve; whatever becomes of the other process, this returns what is known.

        Returns
        -------
        Solution
            With status "error" when the process was lost: the best point and the last bound that it told.
        """
        self._stop = False
        if self._clock.expired:
            return Solution("time_limit", message="no time left to solve")
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            return Solution("error", message=trouble)
        known = _Known(self._problem, on_event)
        try:
            if self._process is None:
                self._start()
            self._running = True
            offered, self._offered = self._offered, []
            found: Solution = self._talk(("solve", offered), known.hear, should_stop)
        except _Lost as lost:
            return known.solution("interrupted" if lost.asked else "error", str(lost))
        finally:
            self._running = False
        return found

    def _start(self) -> None:
        """Load the problem, as it is by now, into a process."""
        parcel = _packed(self._owner.backend, self._problem, self._options)
        deadline = None if self._options.time_limit is None else time.time() + self._clock.remaining
        self._process = process = self._owner.take()
        try:
            self._talk(("load", parcel, deadline))
        except _Lost:
            if process.fresh:
                raise
            self._process = self._owner.take(fresh=True)  # it may have been lost while it was idle
            self._talk(("load", parcel, deadline))
        if self._cuts is not None:
            self._talk(("separate",))
        if self._first is not None:
            self._talk(("set_start", *self._first))

    def _talk(
        self,
        message: tuple[Any, ...],
        on_event: Callable[[Event], None] = lambda event: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Send a message and return the reply; kill the process if anything gets in between."""
        process, grace = self._process, self._owner.grace
        assert process is not None
        process.send(*message)
        late = time.perf_counter() + self._clock.remaining + grace
        asked: float | None = None
        whole = False
        try:
            while True:
                kind, *content = process.receive(_POLL)
                if kind == "done":
                    whole = True
                    return content[0]
                if kind == "failed":
                    error = self._failure(message[0], *content)
                    whole = not isinstance(error, _Lost)
                    raise error
                if kind == "end":
                    raise _Lost(self._say(obituary(process.code())))
                if kind == "event":
                    on_event(content[0])
                elif kind == "cuts" and self._cuts is not None:
                    process.send("cuts", self._cuts(content[0]))
                now = time.perf_counter()
                if asked is None and (self._stop or should_stop()):
                    asked = now
                    process.send("stop")
                if asked is not None and now > asked + grace:
                    raise _Lost(self._say(f"did not stop within {grace:g} s of being asked and was killed"), asked=True)
                if now > late:
                    raise _Lost(self._say(f"went on {grace:g} s beyond its time limit and was killed; {SMALLER}"))
        finally:
            if not whole:
                self._process = None
                process.end()

    def _failure(self, task: str, kind: str, text: str, ours: bool) -> Exception:
        """Return what to raise for an exception in the other process."""
        found = _errors().get(kind) if ours else None
        if found is not None and not (task == "solve" and issubclass(found, SolverError)):
            error: NnembedError = found.__new__(found, text)
            return error
        if kind == "MemoryError":
            return _Lost(self._say(f"ran out of memory; give it more, {SMALLER}"))
        return _Lost(self._say(f"failed with {kind}: {text}; try other solver_options or another backend="))

    def _say(self, what: str) -> str:
        return f"the process of solver {self._owner.name!r} {what}"


class _Known:
    """What a running solver has told."""

    def __init__(self, problem: Problem, on_event: Callable[[Event], None]):
        self._problem, self._on_event = problem, on_event
        self._sign = -1.0 if problem.maximize else 1.0
        self._x: Array | None = None
        self._value = np.inf
        self._told: float | None = None
        self._bound: float | None = None

    def hear(self, event: Event) -> None:
        """Remember and pass on."""
        if isinstance(event, Incumbent):
            # the last bound, not the strongest: solvers take some of them back
            self._bound = self._bound if event.bound is None else event.bound
            self._told = self._told if event.objective is None else event.objective
            if event.x is not None and event.x.shape == (self._problem.n_columns,):
                value = self._sign * self._problem.objective(event.x)
                if value < self._value:
                    self._x, self._value = event.x, value
        self._on_event(event)

    def solution(self, status: str, message: str) -> Solution:
        """Return what is known as a solution."""
        bound = self._bound
        if self._x is None:
            if self._told is not None:
                message += f"; it had told of a point of objective {self._told:.9g}, but not the point"
            return Solution(status, bound=bound, message=message)
        if bound is not None and self._sign * bound > self._value + 1e-6 * (1 + abs(self._value)):
            bound = None  # the point is there, so this bound was none
        return Solution(status, self._x, self._sign * self._value, bound, message=message)


def _packed(backend: Backend, problem: Problem, options: Options) -> bytes:
    """Return what the other process needs, without references to the user's model."""
    bare = Options(
        gap=options.gap,
        time_limit=options.time_limit,
        threads=options.threads,
        seed=options.seed,
        tolerance=options.tolerance,
        solver_options=dict(options.solver_options),
    )
    places = [replace(p, embedding=SimpleNamespace(name=p.embedding.name)) for p in problem.placements]
    try:
        return pickle.dumps((backend, replace(problem, placements=tuple(places)), bare))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"solver {backend.name!r} or its solver_options cannot be sent to a process of its own: {error}; use plain "
            "values and a solver class defined in a module, or isolated=False"
        ) from error


def _errors() -> dict[str, type[NnembedError]]:
    """Return our errors by name."""
    found, todo = {}, [NnembedError]
    while todo:
        kind = todo.pop()
        found[kind.__name__] = kind
        todo += kind.__subclasses__()
    return found
