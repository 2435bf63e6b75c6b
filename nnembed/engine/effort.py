"""How long heuristics work before the solver does, and when they have worked long enough.

A mixed-integer solver proves small networks in seconds and finds next to nothing on large ones. In between its time
grows with the undecided neurons and with the size of the linear program; their product tells the two ends apart (see
docs/heuristics.md for measurements).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnembed.options import Budget, Clock, Options
from nnembed.problem import Problem

_EASY, _HOPELESS = 3e6, 1e8  # undecided neurons times nonzeros
_PART = 0.9  # of the time that is left, at most
_LEAST_PART = 0.1  # for heuristics that the user has named
_STILL = 0.5  # of a time limit, without anything better, after which heuristics without a solver give up
_UNLIMITED = 30.0  # seconds where there is no time limit
LOST = 0.25  # from here on a first bound is proved before the solver starts


def hopelessness(problem: Problem) -> float:
    """Return 0 where a solver will soon be done, 1 where it will hardly find a point.

    Points of a batch count one by one: what couples them is easy beside what is inside them.
    """
    known = [p for p in problem.placements if p.block.batch and p.embedding.bounds is not None]
    work = sum(p.embedding.bounds.unstable / p.block.batch * p.block.matrix.nnz for p in known)
    if work <= _EASY:
        return 0.0
    return float(min(1.0, np.log(work / _EASY) / np.log(_HOPELESS / _EASY)))


@dataclass(frozen=True)
class Effort:
    """What a heuristic may spend.

    Attributes
    ----------
    seconds : float or None
        Wall-clock; None is no limit.
    least, factor : float
        It is stopped once nothing better has come for `least` seconds and `factor` times the time that the last
        improvement had taken.
    """

    seconds: float | None
    least: float
    factor: float


def effort(hopeless: float, options: Options, clock: Clock, *, named: bool, alone: bool) -> Effort | None:
    """Return what the heuristics before the solver may spend together, None for nothing.

    Parameters
    ----------
    hopeless : float
        See `hopelessness`.
    named : bool
        The user has asked for these heuristics by name.
    alone : bool
        There is no solver behind them.
    """
    if clock.expired or (hopeless == 0 and not (named or alone)):
        return None
    part = _PART if alone else _PART * hopeless**0.5
    part = max(part, _LEAST_PART) if named else part
    if options.time_limit is not None:
        seconds: float | None = part * clock.remaining
    else:
        seconds = None if alone else _UNLIMITED * max(hopeless, _LEAST_PART)
    least = (2.0 if alone else 0.2) + 20.0 * hopeless
    if alone and options.time_limit is not None:
        least = max(least, _STILL * options.time_limit)
    return Effort(seconds, least, 3.0 if alone else 0.5 + 2.5 * hopeless)


@dataclass
class Watch:
    """Says when a heuristic is to stop: because the user asks, or because nothing comes any more."""

    spend: Effort
    stopped: Callable[[], bool]
    began: float = field(default_factory=time.perf_counter)
    last: float = field(default_factory=time.perf_counter)

    def improved(self) -> None:
        """Note that something better has come."""
        self.last = time.perf_counter()

    def ended(self) -> bool:
        """Return whether to stop."""
        patience = max(self.spend.least, self.spend.factor * (self.last - self.began))
        return self.stopped() or time.perf_counter() - self.last > patience


@dataclass(frozen=True)
class Leash(Budget):
    """A budget that also ends when the engine says so."""

    ended: Callable[[], bool] = field(default=lambda: False, compare=False)

    def start(self) -> Clock:
        """Start the clock of this budget."""
        return LeashedClock(self)


class LeashedClock(Clock):
    """A running clock with nothing left once its leash ends."""

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return 0.0 if isinstance(self.budget, Leash) and self.budget.ended() else super().remaining


def leashed(options: Options, spend: Effort, watch: Watch) -> Leash:
    """Return the budget of one heuristic; its threads are its own."""
    return Leash(spend.seconds, 1, options.seed, ended=watch.ended)


def is_brief(heuristic: Any) -> bool:
    """Return whether a heuristic ends by itself after a moment; it says so by an attribute ``brief``."""
    return bool(getattr(heuristic, "brief", False))


def is_automatic(heuristic: Any) -> bool:
    """Return whether ``"auto"`` means a heuristic; it says so by an attribute ``automatic``."""
    return bool(getattr(heuristic, "automatic", False))
