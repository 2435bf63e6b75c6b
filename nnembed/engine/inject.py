"""Heuristics that go on beside the running solver and hand it what they find.

They run on a thread of their own and touch the solver's session only through what they leave behind: the solver's own
thread, which asks every now and then whether to stop, takes the points along and offers them to the solver. Where only
one thread may work, the two take turns.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from nnembed.engine.effort import Leash, hopelessness
from nnembed.engine.start import StartSearch, better, is_plan
from nnembed.engine.turns import Turns
from nnembed.errors import BoxError
from nnembed.events import Event, HeuristicFinished, Incumbent
from nnembed.heuristics.scene import Point, Scene
from nnembed.protocols import Session

_DELAY = 1.0  # seconds that the solver gets first: what is over by then needs no help
_LEAST, _MORE = 1.0, 20.0  # seconds of turns without anything better: always, and more where a solver can do little
_FACTOR = 3.0  # and as many times what the last improvement had taken


class Beside:
    """Heuristics beside a solver; use as a context manager around its solve.

    Attributes
    ----------
    best : Point or None
        The best feasible point found here so far.
    """

    def __init__(self, heuristics: Sequence[Any], search: StartSearch, point: Point | None, session: Session):
        self.best: Point | None = point if point is not None and is_plan(point) else None
        self._heuristics, self._search, self._session = heuristics, search, session
        self._over = threading.Event()
        self._found: deque[tuple[str, Point]] = deque()
        self._failure: BaseException | None = None
        self._solvers: float | None = None  # the solver's own best objective
        self._patience = _LEAST + _MORE * hopelessness(search.problem) if heuristics else 0.0
        self._turns = Turns() if search.options.threads == 1 else None
        self._improved = 0.0  # when in its own turns something better was found
        self._thread = threading.Thread(target=self._work, name="nnembed heuristics", daemon=True)

    def __enter__(self) -> Beside:
        if self._heuristics:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._turns is not None:
            self._turns.end()
        if self._heuristics:
            self._thread.join()
        self._take()
        if self._failure is not None and error is None:
            raise self._failure

    def heard(self, event: Event) -> None:
        """Pass the solver's news on; remember how good its answer is."""
        if isinstance(event, Incumbent) and event.objective is not None:
            self._solvers = event.objective
        self._search.on_event(event)

    def stopped(self) -> bool:
        """Hand over what was found since the last call; return whether the solver is to stop."""
        if self._turns is not None and self._thread.is_alive():
            self._turns.give()
        for point in self._take():
            x = np.empty(len(point.values))
            x[point.columns] = point.values
            self._session.inject(x)
        return self._search.stopped()

    def _take(self) -> list[Point]:
        """Tell of the points that are better than all known before; return them."""
        news = []
        sign = -1.0 if self._search.problem.maximize else 1.0
        while self._found:
            name, point = self._found.popleft()
            if self._solvers is None or sign * point.objective < sign * self._solvers:
                news.append(point)
                self._search.on_event(HeuristicFinished(self._search.clock.elapsed, name, point.objective))
        return news[-1:]

    # ---- on the thread --------------------------------------------------------------------------

    def _ended(self) -> bool:
        if self._turns is not None:
            self._turns.pause()
            if self._turns.used - self._improved > max(self._patience, _FACTOR * self._improved):
                return True
        return self._over.is_set() or self._search.stopped()

    def _work(self) -> None:
        try:
            if self._turns is None:
                self._over.wait(_DELAY)
            else:
                self._turns.pause()
            self._run_all()
        finally:
            if self._turns is not None:
                self._turns.end()

    def _run_all(self) -> None:
        try:
            for k, heuristic in enumerate(self._heuristics):
                if self._ended():
                    return
                with contextlib.suppress(BoxError):  # of an endless objective: the solver will say so
                    self._run(heuristic, np.random.default_rng([self._search.options.seed, k, 1]))
        except BaseException as failure:  # noqa: BLE001 - raised again by the thread that waits
            self._failure = failure

    def _run(self, heuristic: Any, rng: np.random.Generator) -> None:
        problem = self._search.problem
        scene = Scene(problem)
        if self.best is not None:
            x = np.empty(problem.n_columns)
            x[self.best.columns] = self.best.values
            scene.know(x[scene.drivers])
        seconds = None if self._search.options.time_limit is None else self._search.clock.remaining
        budget = Leash(seconds, 1, self._search.options.seed, ended=self._ended)
        for candidate in heuristic.run(scene, None, budget, rng):
            if self._ended():
                return
            point: Point | None = scene.point(candidate.inputs["drivers"]["x"])
            if point is not None and not is_plan(point):
                point = self._search.repair.best(point)
            if point is not None and (self.best is None or better(problem, point, self.best)):
                self.best = point
                self._improved = 0.0 if self._turns is None else self._turns.used
                self._found.append((heuristic.name, point))
