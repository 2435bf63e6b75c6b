"""When to stop without a time limit: after as many rounds without a better point as it took to find the best."""

from __future__ import annotations

from nnembed.options import Budget


class Patience:
    """Counts rounds; with a time limit it never ends.

    Parameters
    ----------
    budget : Budget
    least : int
        Rounds without a better point that are always allowed.
    """

    def __init__(self, budget: Budget, least: int = 30):
        self._limited = budget.seconds is not None
        self._least, self._round, self._last, self._score = least, 0, 0, float("-inf")

    def go_on(self, score: float) -> bool:
        """Return whether another round is worth it, given the best score so far."""
        self._round += 1
        if score > self._score:
            self._score, self._last = score, self._round
        return self._limited or self._round - self._last <= max(self._least, self._last)
