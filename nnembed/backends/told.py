"""What the observer of a running solver has been told, so that only news is passed on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnembed.aliases import Array
from nnembed.events import Event, Incumbent


class Told:
    """Passes better incumbents and better bounds on.

    Parameters
    ----------
    on_event : callable
    maximize : bool
    infinity : float
        From this size on the solver means "no bound".
    """

    def __init__(self, on_event: Callable[[Event], None], maximize: bool, infinity: float = np.inf):
        self._on_event, self._sign, self._infinity = on_event, -1.0 if maximize else 1.0, infinity
        self._best: float | None = None
        self._bound: float | None = None

    def objective(self, seconds: float, value: float, x: Array | None = None) -> None:
        """Pass a new incumbent on, with its point where the solver shows it."""
        if self._best is None or self._sign * value < self._sign * self._best:
            self._best = value
            self._on_event(Incumbent(seconds, value, self._bound, "solver", x))

    def bound(self, seconds: float, value: float | None) -> None:
        """Pass a new bound on."""
        if value is None or abs(value) >= self._infinity:
            return
        if self._bound is None or self._sign * value > self._sign * self._bound:
            self._bound = value
            self._on_event(Incumbent(seconds, self._best, value, "solver"))
