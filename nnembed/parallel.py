"""Work that splits, on any `concurrent.futures.Executor`: a process pool, threads, ``dask.distributed``'s client.

A task is a module-level function and one picklable payload. Results come back in the order of the payloads. A worker
that dies costs nothing but its own task:

* its task, and all others that went down with the pool, are issued again; results that are there are kept;
* dask replaces workers itself. A `ProcessPoolExecutor` is broken for good, so the rest runs in a new one: from the
  factory, where one was passed instead of an executor, else in a pool of ours with as many spawned workers and a
  warning. Never in this process: what killed a worker would take the caller with it;
* after a loss the tasks go one at a time until several have come back, so that the one to blame is found and not its
  neighbours; a task that is lost `retries` times more while it is alone ends in `WorkerLost`.
"""

from __future__ import annotations

import heapq
import os
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nnembed.aliases import Index
from nnembed.errors import InputError, WorkerLost

P = TypeVar("P")
R = TypeVar("R")
Place: TypeAlias = Executor | Callable[[], Executor] | None

_CALM = 8  # tasks that come back one at a time before they go out together again
_POLL = 0.1  # seconds between two looks at should_stop
_LOST = {"KilledWorker", "CommClosedError"}  # what dask.distributed raises for a worker that is gone


def run_tasks(
    function: Callable[[P], R],
    payloads: Sequence[P],
    executor: Place = None,
    *,
    on_result: Callable[[int, R], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    retries: int = 2,
) -> list[R | None]:
    """Return ``[function(p) for p in payloads]``, computed wherever the executor says.

    Parameters
    ----------
    function : callable
        Of module level, so that it can be pickled; called with one payload.
    payloads : sequence
        Picklable.
    executor : Executor, callable that returns a new one, or None
        None is this process. An executor that is passed is left open; those made by a factory are closed.
    on_result : callable or None
        Hears (place, result) in this thread as results arrive.
    should_stop : callable or None
        Polled; once true, no further task is begun, and those that are running are waited for.
    retries : int
        How often a task whose worker died is tried again.

    Returns
    -------
    list
        Results in the order of the payloads; None for tasks that were not begun because of `should_stop`.

    Raises
    ------
    WorkerLost
        If a task keeps killing its worker.
    InputError
        If `executor` is no executor.
    Exception
        What `function` raises, at once; tasks that have not begun are dropped.
    """
    run: _Run[P, R] = _Run(function, payloads, on_result or _ignore, should_stop or _never, retries)
    if executor is None:
        run.here()
        return run.results
    if not (isinstance(executor, Executor) or callable(executor)):
        raise InputError(
            f"executor= is a {type(executor).__name__}; pass a concurrent.futures.Executor, a function that returns "
            "one, or None"
        )
    if payloads:
        with _Supply(executor) as supply:
            run.spread(supply, polled=should_stop is not None)
    return run.results


def chunks(costs: ArrayLike, workers: int, per_worker: int = 1) -> list[Index]:
    """Split tasks into parts of nearly equal cost, the longest tasks first, each to the lightest part.

    Parameters
    ----------
    costs : array (tasks,)
        Expected costs, at least zero.
    workers : int
        Workers that share the parts.
    per_worker : int
        Parts per worker; more than one levels out costs that are only guessed.

    Returns
    -------
    list of int arrays
        Places of the tasks of each part, ascending; costliest part first; none is empty.

    Examples
    --------
    >>> [part.tolist() for part in chunks([3, 1, 1, 1], 2)]
    [[0], [1, 2, 3]]
    """
    cost = np.asarray(costs, float).ravel()
    count = min(workers * per_worker, len(cost))
    if count < 1:
        return []
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, 0, k) for k in range(count)]
    for task in np.argsort(-cost, kind="stable").tolist():
        load, size, k = loads[0]
        parts[k].append(task)
        heapq.heapreplace(loads, (load + cost[task], size + 1, k))
    order = sorted(range(count), key=lambda k: -float(cost[parts[k]].sum()))
    return [np.sort(np.array(parts[k], dtype=np.intp)) for k in order]


def shares(costs: ArrayLike, executor: Place, size: int) -> list[Index]:
    """Split tasks for an executor: parts of at most about `size` tasks, their number a multiple of its workers.

    With fewer or oddly many parts some workers would wait for others at the end. Without an executor it is one part.

    Parameters
    ----------
    costs : array (tasks,)
    executor : as in `run_tasks`
    size : int
        Tasks that should travel together, because they share work.
    """
    return chunks(costs, count_of(np.size(costs), executor, size))


def count_of(tasks: int, executor: Place, size: int) -> int:
    """Return how many parts `shares` makes of so many tasks, at most."""
    if executor is None:
        return min(tasks, 1)
    workers = workers_of(executor)
    return min(tasks, workers * max(1, -(-tasks // (size * workers))))


def workers_of(executor: Place) -> int:
    """Return how many tasks an executor runs at once; where it does not tell, the number of processors."""
    if executor is None:
        return 1
    client = getattr(executor, "_client", None)  # dask.distributed
    threads = getattr(client, "nthreads", None)
    known = sum(threads().values()) if callable(threads) else getattr(executor, "_max_workers", None)
    return max(1, int(known or os.cpu_count() or 1))


def _ignore(place: int, result: Any) -> None:
    """Hear nothing."""


def _never() -> bool:
    return False


def _call(function: Callable[[P], R], payload: P, place: int, attempt: int) -> R:
    """Run one task; place and attempt make every issue of it a call of its own for schedulers that remember calls."""
    return function(payload)


def _error(future: Future[Any]) -> BaseException | None:
    """Return what a finished future ended with."""
    try:
        return future.exception(0)
    except CancelledError as error:
        return error


def _is_loss(error: BaseException) -> bool:
    """Return whether an error says that the worker is gone, not that the task has failed."""
    return isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ in _LOST


class _Supply:
    """The executor in use, and a new one where it breaks; as a context manager it closes those it has made."""

    def __init__(self, place: Executor | Callable[[], Executor]):
        self._factory = None if isinstance(place, Executor) else place
        self._own: list[Executor] = []
        self.executor = place if isinstance(place, Executor) else self._make(place)

    def __enter__(self) -> _Supply:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        for executor in self._own:
            executor.shutdown(wait=kind is None, cancel_futures=True)

    def renew(self, error: BaseException) -> None:
        """Replace the executor if it is broken."""
        if not isinstance(error, BrokenExecutor):
            return  # cancelled, or dask has brought up another worker
        if self._factory is None:
            old = self.executor
            if not isinstance(old, ProcessPoolExecutor):
                raise WorkerLost(
                    f"the executor broke ({error}) and cannot be replaced; pass executor= a function that returns a "
                    "new one"
                ) from error
            workers, context = getattr(old, "_max_workers", None), getattr(old, "_mp_context", None)
            self._factory = lambda: ProcessPoolExecutor(workers, mp_context=context)
            warnings.warn(
                "a worker of the process pool died and broke the pool; its tasks go on in a new pool. To choose the "
                "new one, pass executor= a function that returns a pool",
                RuntimeWarning,
                stacklevel=4,
            )
        self.executor = self._make(self._factory)

    def _make(self, factory: Callable[[], Executor]) -> Executor:
        made = factory()
        if not isinstance(made, Executor):
            raise InputError(f"the function passed as executor= returned a {type(made).__name__}, not an Executor")
        self._own.append(made)
        return made


@dataclass(eq=False)
class _Run(Generic[P, R]):
    """The tasks of one call, and what has come back."""

    function: Callable[[P], R]
    payloads: Sequence[P]
    on_result: Callable[[int, R], None]
    should_stop: Callable[[], bool]
    retries: int
    results: list[R | None] = field(init=False)
    _running: dict[Future[R], int] = field(default_factory=dict)
    _calm: int = 0  # tasks still to come back one at a time

    def __post_init__(self) -> None:
        """Make room for the results."""
        self.results = [None] * len(self.payloads)
        self._issued, self._blamed = [0] * len(self.payloads), [0] * len(self.payloads)

    def here(self) -> None:
        """Run everything in this process."""
        for place, payload in enumerate(self.payloads):
            if self.should_stop():
                return
            self._keep(place, self.function(payload))

    def spread(self, supply: _Supply, *, polled: bool) -> None:
        """Run everything on the executors of `supply`."""
        waiting = deque(range(len(self.payloads)))
        try:
            while waiting or self._running:
                if self.should_stop():
                    waiting.clear()
                    self._running = {f: k for f, k in self._running.items() if not f.cancel()}
                lost = self._send(supply.executor, waiting) or self._collect(polled)
                if lost:
                    waiting.extendleft(sorted(lost, reverse=True))
                    self._calm = _CALM
                    supply.renew(lost[min(lost)])
        finally:
            for future in self._running:
                future.cancel()

    def _send(self, executor: Executor, waiting: deque[int]) -> dict[int, BaseException]:
        """Issue what may be issued; return the task at which the executor turned out to be broken, with the error."""
        while waiting and not (self._calm and self._running):
            place = waiting.popleft()
            try:
                future = executor.submit(_call, self.function, self.payloads[place], place, self._issued[place])
            except BrokenExecutor as error:
                if self._running:  # they end now, and say so
                    waiting.appendleft(place)
                    return {}
                self._blame(place, error)
                return {place: error}
            self._issued[place] += 1
            self._running[future] = place
        return {}

    def _collect(self, polled: bool) -> dict[int, BaseException]:
        """Wait for results and keep them; return the tasks whose workers are gone, with the errors."""
        done = wait(self._running, timeout=_POLL if polled else None, return_when=FIRST_COMPLETED).done
        if any(isinstance(_error(f), BrokenExecutor) for f in done):
            done = wait(self._running).done  # the pool has ended all its tasks
        alone, lost = len(self._running) == 1, {}
        for future in sorted(done, key=self._running.__getitem__):
            place, error = self._running.pop(future), _error(future)
            if error is None:
                self._keep(place, future.result())
            elif not _is_loss(error):
                raise error
            else:
                lost[place] = error
                if alone:
                    self._blame(place, error)
        return lost

    def _keep(self, place: int, result: R) -> None:
        self._calm = max(0, self._calm - 1)
        self.results[place] = result
        self.on_result(place, result)

    def _blame(self, place: int, error: BaseException) -> None:
        self._blamed[place] += 1
        if self._blamed[place] > self.retries:
            raise WorkerLost(
                f"task {place} of {len(self.payloads)} ended its worker {self._blamed[place]} times while it ran "
                f"alone ({error}); give the workers more memory, or pass executor=None"
            ) from error
