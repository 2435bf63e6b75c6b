"""SCIP's side of a running solve: an event handler that takes down news and a heuristic that hands in points.

Both run on SCIP's thread. They touch nothing but their own attributes and deques, whose appends and pops are atomic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nnembed.aliases import Array
from pyscipopt import Eventhdlr, Heur, Model, scip

_EVENT: Any = scip.PY_SCIP_EVENTTYPE
_TIMING: Any = scip.PY_SCIP_HEURTIMING
_RESULT: Any = scip.PY_SCIP_RESULT


class Listener(Eventhdlr):
    """Takes down incumbents, one entry each, and the latest bound."""

    def __init__(self, columns: Sequence[Any]) -> None:
        self.incumbents: deque[tuple[float, Array]] = deque()
        self._columns = columns
        self.bound: float | None = None

    def eventinit(self) -> None:
        """Ask for better points and better bounds."""
        self.model.catchEvent(_EVENT.BESTSOLFOUND, self)
        self.model.catchEvent(_EVENT.DUALBOUNDIMPROVED, self)

    def eventinitsol(self) -> None:
        """Take down a start: SCIP accepts it before it listens to anyone."""
        if self.model.getNSols():
            self._take_best()

    def _take_best(self) -> None:
        best = self.model.getBestSol()
        x = np.array([best[v] for v in self._columns], dtype=float)
        self.incumbents.append((self.model.getSolObjVal(best), x))

    def eventexec(self, event: Any) -> None:
        """Take down what has changed."""
        if event.getType() == _EVENT.BESTSOLFOUND:
            self._take_best()
        else:
            self.bound = self.model.getDualbound()


class Injector(Heur):
    """Tries the points that were offered since the last call."""

    def __init__(self, inbox: deque[Array], write: Callable[[Any, Array], None]) -> None:
        self.inbox = inbox
        self.write = write

    def heurexec(self, heurtiming: int, nodeinfeasible: bool) -> dict[str, int]:
        """Hand in the waiting points."""
        if not self.inbox:
            return {"result": _RESULT.DIDNOTRUN}
        found = False
        while self.inbox:
            point = self.model.createOrigSol(self)
            self.write(point, self.inbox.popleft())
            found |= bool(self.model.trySol(point, printreason=False))
        return {"result": _RESULT.FOUNDSOL if found else _RESULT.DIDNOTFIND}


def listen(model: Model, columns: Sequence[Any]) -> Listener:
    """Add a listener to a model."""
    listener = Listener(columns)
    model.includeEventhdlr(listener, "nnembed_listener", "reports points and bounds to nnembed")
    return listener


def inject(model: Model, inbox: deque[Array], write: Callable[[Any, Array], None]) -> None:
    """Add an injector to a model."""
    often = _TIMING.BEFORENODE | _TIMING.DURINGLPLOOP | _TIMING.AFTERLPNODE
    model.includeHeur(
        Injector(inbox, write), "nnembed_injector", "takes points offered to nnembed's session", "N",
        priority=1_000_000, freq=1, timingmask=often,
    )  # fmt: skip
