"""Minima and maxima of many affine functions over one linear program: pure work that can go to another process.

Two phases. *Decide*: a side is tried only where it may still settle a breakpoint; every point found so far, of the
network or of the relaxation, shows a value that no bound can pass, so most sides are ruled out without a program, and
the side closer to its breakpoint goes first. *Widths*: bounds of neurons that stay open are narrowed, the largest
possible gain first, until the gains are small.

Work is estimated from iterations and sizes, not taken from the clock, so that a run without a time limit is
deterministic.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.interval import UNIT
from nnembed.bounds.lp_relaxation import Program
from nnembed.bounds.lp_solver import Answer, HotProgram

_TRIES = 8  # programs that run before either phase may give up
_WINDOW = 16  # widths: gains that are averaged


@dataclass(frozen=True, eq=False)
class Limits:
    """When a chunk stops.

    Attributes
    ----------
    seconds : float
        Wall-clock seconds, of the chunk.
    lps : int
    patience : float
        Estimated seconds of work without a neuron decided after which the first phase ends.
    gain : float
        Share of its width that a bound must be able to gain, and gains on average, in the second phase.
    widths : bool
        Whether neurons that stay open are narrowed; without, only outputs are.
    threads : int
    """

    seconds: float = np.inf
    lps: float = np.inf
    patience: float = np.inf
    gain: float = 0.01
    widths: bool = True
    threads: int = 1


@dataclass(frozen=True, eq=False)
class Chunk:
    """Affine functions over a program and what is known about them.

    Attributes
    ----------
    program : Program
    rows : CSR array (k, columns), constant, error : arrays (k,)
        ``|value - (rows @ x + constant)| <= error``.
    breaks : array (k, m)
        Places where it matters on which side a function is; NaN for none.
    always : mask (k,)
        Functions whose bounds are wanted in any case, as those of outputs.
    member : mask (k,)
        Functions that are narrowed with those that stay open, as members of maxima are.
    low, high : arrays (k,)
        Proven bounds.
    seen_low, seen_high : arrays (k,)
        Smallest and largest value at points found so far, infinite for none.
    done_low, done_high : masks (k,)
        Sides that need no program any more.
    keep : int
        Columns of each point that are handed back.
    """

    program: Program
    rows: sp.csr_array
    constant: Array
    error: Array
    breaks: Array
    always: Mask
    member: Mask
    low: Array
    high: Array
    seen_low: Array
    seen_high: Array
    done_low: Mask
    done_high: Mask
    limits: Limits = field(default_factory=Limits)
    keep: int = 0

    def part(self, index: Index) -> Chunk:
        """Return the chunk of some of the functions."""
        names = ["rows", "constant", "error", "breaks", "always", "member", "low", "high"]
        names += ["seen_low", "seen_high", "done_low", "done_high"]
        return replace(self, **{name: getattr(self, name)[index] for name in names})


@dataclass(frozen=True, eq=False)
class Found:
    """What a chunk has found; arrays as in `Chunk`.

    `points` (lps, keep) are the first columns of the optima; `work` is in estimated seconds; `complete` is False where
    a limit ended the chunk.
    """

    low: Array
    high: Array
    done_low: Mask
    done_high: Mask
    points: Array
    lps: int
    work: float
    complete: bool
    infeasible: bool


def solve_chunk(chunk: Chunk) -> Found:
    """Return narrower bounds of the functions of a chunk."""
    return Work(chunk).run()


class Work:
    """One chunk at work; `answer` is the part that another kind of program replaces."""

    def __init__(self, chunk: Chunk):
        self.chunk, self.limits = chunk, chunk.limits
        self.low, self.high = chunk.low.copy(), chunk.high.copy()
        self.seen_low, self.seen_high = chunk.seen_low.copy(), chunk.seen_high.copy()
        self.done_low, self.done_high = chunk.done_low.copy(), chunk.done_high.copy()
        self.points: list[Array] = []
        self.work, self.lps = 0.0, 0
        self.infeasible = False
        self._started = time.perf_counter()
        self._solver: HotProgram | None = None

    def run(self) -> Found:
        """Do both phases."""
        complete = self._decide()
        complete = complete and self._narrow()
        points = np.array(self.points) if self.points else np.zeros((0, self.chunk.keep))
        sides = (self.low, self.high, self.done_low, self.done_high)
        return Found(*sides, points, self.lps, self.work, complete, self.infeasible)

    # ---- phases --------------------------------------------------------------------------------

    def _decide(self) -> bool:
        """Try the sides that may settle a breakpoint; return False when a limit has ended it."""
        idle, tried = 0.0, 0
        while True:
            distance = np.stack([self._distance_below(), self._distance_above()])
            if not np.isfinite(distance).any():
                return True
            if tried >= _TRIES and idle > self.limits.patience:
                return True
            if self._over:
                return False
            side, k = divmod(int(distance.argmin()), len(self.low))
            before, open_ = self.work, self._inside(self.low[k], self.high[k], k).sum()
            self._solve(k, side)
            if self.infeasible:
                return False
            tried += 1
            settled = self._inside(self.low[k], self.high[k], k).sum() < open_
            idle = 0.0 if settled else idle + self.work - before

    def _narrow(self) -> bool:
        """Narrow what stays open; return False when a limit has ended it."""
        gains: list[float] = []
        while True:
            wanted = self.chunk.always.copy()
            if self.limits.widths:
                wanted |= self.chunk.member | self._inside(self.low[:, None], self.high[:, None]).any(axis=1)
            width = np.maximum(self.high - self.low, np.finfo(float).tiny)
            with np.errstate(over="ignore"):
                below = np.where(wanted & ~self.done_low, np.minimum(self.seen_low - self.low, width) / width, 0.0)
                above = np.where(wanted & ~self.done_high, np.minimum(self.high - self.seen_high, width) / width, 0.0)
            best = np.stack([below, above])
            side, k = divmod(int(best.argmax()), len(self.low)) if best.size else (0, 0)
            if not best.size or best[side, k] <= self.limits.gain:
                return True
            recent = gains[-_WINDOW:]
            if len(recent) == _WINDOW and sum(recent) < _WINDOW * self.limits.gain and not self.chunk.always[k]:
                return True
            if self._over:
                return False
            self._solve(k, side)
            if self.infeasible:
                return False
            gains.append(1.0 - float(self.high[k] - self.low[k]) / float(width[k]))

    @property
    def _over(self) -> bool:
        return self.lps >= self.limits.lps or time.perf_counter() - self._started >= self.limits.seconds

    # ---- which side ----------------------------------------------------------------------------

    def _inside(self, low: Array, high: Array, k: int | slice = slice(None)) -> Mask:
        """Return which breakpoints lie strictly inside bounds."""
        inside: Mask = (low < self.chunk.breaks[k]) & (self.chunk.breaks[k] < high)
        return inside

    def _distance_below(self) -> Array:
        """Return how far the lower bound is from a breakpoint it may reach, as a share of the width."""
        breaks = self.chunk.breaks
        useful = self._inside(self.low[:, None], self.high[:, None]) & (breaks <= self.seen_low[:, None])
        share = (breaks - self.low[:, None]) / np.maximum(self.high - self.low, np.finfo(float).tiny)[:, None]
        return np.where(self.done_low, np.inf, np.where(useful, share, np.inf).min(axis=1, initial=np.inf))

    def _distance_above(self) -> Array:
        breaks = self.chunk.breaks
        useful = self._inside(self.low[:, None], self.high[:, None]) & (breaks >= self.seen_high[:, None])
        share = (self.high[:, None] - breaks) / np.maximum(self.high - self.low, np.finfo(float).tiny)[:, None]
        return np.where(self.done_high, np.inf, np.where(useful, share, np.inf).min(axis=1, initial=np.inf))

    # ---- one program ---------------------------------------------------------------------------

    def _solve(self, k: int, side: int) -> None:
        """Bound function k from below (side 0) or from above (side 1)."""
        chunk = self.chunk
        row = chunk.rows[[k]].toarray()[0]
        left = self.limits.seconds - (time.perf_counter() - self._started)
        answer = self.answer(k, side, -row if side else row, left)
        self.lps += 1
        self.work += answer.work
        self.infeasible = answer.status == "infeasible"
        # Bounds that the row's own rounding may have moved are pushed out by it.
        slack = chunk.error[k] + 4 * UNIT * (abs(answer.bound) + abs(chunk.constant[k]))
        if np.isfinite(answer.bound):
            self._keep(k, side, answer.bound, float(slack))
        (self.done_high if side else self.done_low)[k] = answer.status != "limit"
        self._look(answer)

    def answer(self, k: int, side: int, cost: Array, seconds: float) -> Answer:
        """Return a proven lower bound on ``cost @ x``, which is function k or its negative without the constant."""
        if self._solver is None:
            self._solver = HotProgram(self.chunk.program, threads=self.limits.threads)
        return self._solver.minimise(cost, seconds)

    def _keep(self, k: int, side: int, bound: float, slack: float) -> None:
        constant = float(self.chunk.constant[k])
        if side:
            self.high[k] = max(min(self.high[k], constant - bound + slack), self.low[k])
        else:
            self.low[k] = min(max(self.low[k], constant + bound - slack), self.high[k])

    def _look(self, answer: Answer) -> None:
        """Remember what the optimum shows about all functions."""
        if answer.x is None:
            return
        values = self.chunk.rows @ answer.x + self.chunk.constant
        self.seen_low, self.seen_high = np.minimum(self.seen_low, values), np.maximum(self.seen_high, values)
        self.points.append(answer.x[: self.chunk.keep])
