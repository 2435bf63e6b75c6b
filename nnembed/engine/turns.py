"""Two threads of which one works at a time: the solver's gives the heuristics' a turn now and then, and waits for it.

Where there is one thread to use, heuristics beside the solver cost it a known share of its time instead of a part of it
fixed beforehand: little where it proves its answer soon, more the longer it takes.
"""

from __future__ import annotations

import threading
import time

_DELAY = 1.0  # seconds that the solver works before the first turn: what is over by then needs no help
_SHARE = 0.2  # of the time in which both work
_SHORTEST = 0.1  # seconds; shorter turns go into coming and going
_LONGEST = 2.0  # seconds; in between the solver's thread asks whether to stop


class Turns:
    """See the module.

    Attributes
    ----------
    used : float
        Seconds of all turns so far.
    """

    def __init__(self) -> None:
        self.used = 0.0
        self._began = time.perf_counter()
        self._until = 0.0
        self._mine, self._back = threading.Event(), threading.Event()
        self._over = False

    def give(self) -> None:
        """Let the other thread work if it is its turn, and wait; to be called often by the solver's thread."""
        solver = time.perf_counter() - self._began - self.used
        owed = (solver - _DELAY) * _SHARE / (1 - _SHARE) - self.used
        if self._over or self._mine.is_set() or owed < _SHORTEST:
            return
        owed, began = min(owed, _LONGEST), time.perf_counter()
        self._until = began + owed
        self._back.clear()
        self._mine.set()
        self._back.wait(2 * owed)  # it may be deep in something; then both go on
        self.used += time.perf_counter() - began

    def pause(self) -> None:
        """Wait for a turn unless this one goes on; to be called often by the other thread."""
        if self._over or (self._mine.is_set() and time.perf_counter() < self._until):
            return
        self._mine.clear()
        self._back.set()
        if self._over:  # `end` may have come between the question above and the clear
            self._mine.set()
        self._mine.wait()

    def end(self) -> None:
        """No turns any more: nobody waits."""
        self._over = True
        self._mine.set()
        self._back.set()
