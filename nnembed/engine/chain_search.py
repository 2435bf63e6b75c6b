"""Branch and bound over the box of a chain's inputs, with bounds from facets; see `nnembed.engine.chain_bounds`.

Bounds that are far above the best point will not close after one more split, so boxes are cut up to three times before
they are bounded again; how often is read off what splits have gained so far.
"""

from __future__ import annotations

import time
from bisect import bisect_right

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.engine.chain import Chain
from nnembed.engine.chain_bounds import ChainBounds, Ranges
from nnembed.engine.facets import FirstLayer
from nnembed.engine.parts import Part

_BATCH, _WORK = 128, 4e6  # boxes bounded at a time; fewer where there are so many coefficients
_QUICK, _FULL = 4, 8  # steps of lines with inherited and with own ranges
_DEEPEST = 3  # splits at a time
_STARTS, _CLIMBS = 64, 150
_EXPLORING = 0.1  # of the time goes to further random starts
_REFUSALS = 10
_MEMORY = 1e9  # bytes of open boxes, about


class Store:
    """Open boxes in slots that are used again, so that taking some and adding others copies nothing else.

    Attributes
    ----------
    top : array (slots,)
        Upper bounds of the objective; minus infinity marks a free slot.
    """

    def __init__(self, low: Array, high: Array, top: Array, known: Ranges, cut: Array):
        self.top = top
        self._arrays = [low, high, *known.arrays, cut]

    def __len__(self) -> int:
        return int(np.count_nonzero(self.top > -np.inf))

    def taken(self, slots: Index) -> tuple[Array, Array, Array, Ranges, Array]:
        """Take boxes out; return their ends, bounds, ranges and scores."""
        low, high, *ranges, cut = (a[slots] for a in self._arrays)
        top = self.top[slots]
        self.top[slots] = -np.inf
        return low, high, top, Ranges(*ranges), cut

    def put(self, low: Array, high: Array, top: Array, known: Ranges, cut: Array) -> None:
        """Add boxes."""
        free = np.flatnonzero(self.top == -np.inf)[: len(top)]
        if len(free) < len(top):
            more = max(len(self.top), len(top))
            self._arrays = [np.concatenate([a, np.empty((more, *a.shape[1:]), a.dtype)]) for a in self._arrays]
            self.top = np.concatenate([self.top, np.full(more, -np.inf)])
            free = np.flatnonzero(self.top == -np.inf)[: len(top)]
        self.top[free] = top
        for old, new in zip(self._arrays, (low, high, *known.arrays, cut), strict=True):
            old[free] = new


class ChainSearch:
    """The boxes that may still hold a better point.

    Attributes
    ----------
    part : Part
    best : array (k + m,) or None
        The best point known, as x of the part.
    value : float
        Its objective, to be minimised.
    bounded : int
        Boxes bounded so far.
    """

    def __init__(self, part: Part, chain: Chain, seed: int, start: Array | None = None):
        self.part, self.chain, self._bounds = part, chain, ChainBounds(chain)
        first, *others = (len(layer.bias) for layer in chain.layers)
        self._batch = int(np.clip(_WORK / (1 + 2 * first * sum(others)), 8, _BATCH))
        self.best: Array | None = None
        self.value, self.bounded = np.inf, 0
        self._gain, self._closed = np.inf, -np.inf
        if start is not None:
            self._offer(np.clip(start, chain.lower, chain.upper)[None])
        self._random, self._began, self._exploring = np.random.default_rng(seed), time.perf_counter(), 0.0
        self._explore()
        low, high = chain.lower[None], chain.upper[None]
        nothing = np.zeros((0, len(chain.lower)))
        self._open = Store(nothing, nothing, np.zeros(0), self._bounds.loose(0), nothing)
        self._bound((low, high), np.full(1, np.inf), self._bounds.loose(1), 0.0, quick=False)

    @property
    def lower(self) -> float:
        """The proven bound: no allowed point is below."""
        return -max(float(self._open.top.max(initial=-np.inf)), self._closed, -self.value)

    @property
    def gap(self) -> float:
        """How far the best point is above the bound."""
        return self.value - self.lower

    @property
    def full(self) -> bool:
        """Whether there are more open boxes than memory should hold."""
        return len(self._open) * self._bounds.bytes > _MEMORY

    def split(self, tolerance: float) -> bool:
        """Split boxes and bound the pieces; return whether there is still one to split.

        Boxes whose bound is within `tolerance` of the best point are closed.
        """
        if self._exploring < _EXPLORING * (time.perf_counter() - self._began):
            self._explore()
        tolerance = max(tolerance, self._bounds.least)
        self._close(tolerance)
        top = self._open.top
        used = np.flatnonzero(top > -np.inf)
        if not len(used):
            return False
        usual = (np.median(top[used]) + self.value) / self._gain if self._gain > 0 else 1.0
        times = int(np.clip(usual, 1, _DEEPEST)) if np.isfinite(usual) else 1
        count = max(1, self._batch >> times)
        if len(used) > count:
            used = used[np.argpartition(-top[used], count)[:count]]
        low, high, top, known, cut = self._open.taken(used)
        low, high, parent = _pieces(low, high, cut, times)
        far = float(top.min()) + self.value > 2 * times * self._gain  # no piece will be closed by what is known
        after = self._bound((low, high), top[parent], known.take(parent), tolerance, quick=not far)
        gained = float(np.mean(top[parent] - after)) / times
        if np.isfinite(gained):
            self._gain = gained if np.isinf(self._gain) else 0.8 * self._gain + 0.2 * gained
        return True

    def _close(self, tolerance: float) -> None:
        top = self._open.top
        done = (top <= -self.value + tolerance) & (top > -np.inf)
        if done.any():
            self._closed = max(self._closed, float(top[done].max()))
            top[done] = -np.inf

    def _bound(self, box: tuple[Array, Array], top: Array, known: Ranges, tolerance: float, *, quick: bool) -> Array:
        """Bound boxes and make those that are left the open ones; return the bounds of all of them."""
        (low, high), all_tops = box, top.copy()
        self.bounded += len(low)
        left: Index = np.arange(len(low))
        for steps in (_QUICK, _FULL) if quick and len(self.chain.layers) > 1 else (_FULL,):
            if steps == _FULL:
                known = self._bounds.ranges(low, high, known, float(np.median(top)) + self.value)
            slope, value, bound = self._bounds.line(low, high, known, steps)
            all_tops[left] = np.minimum(all_tops[left], bound)
            top = all_tops[left]
            self._offer(np.concatenate([np.where(slope > 0, high, low), 0.5 * (low + high)]), polish=True)
            some = top > -self.value + tolerance
            self._closed = max(self._closed, float(top[~some].max(initial=-np.inf)))
            low, high = self._shrunk(low[some], high[some], slope[some], value[some])
            left, top, known = left[some], top[some], known.take(np.flatnonzero(some))
            if not len(left):
                break
        self._open.put(low, high, top, known, self._scores(low, high, known))
        return all_tops

    def _shrunk(self, low: Array, high: Array, slope: Array, value: Array) -> tuple[Array, Array]:
        """Cut off what the line above the objective proves to be worse than the best point."""
        room = value + (np.abs(slope) * 0.5 * (high - low)).sum(axis=1) + self.value
        room = room + 1e-9 * (np.abs(value) + np.abs(self.value))
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = 1.000001 * room[:, None] / np.abs(slope) + 1e-15 * np.maximum(np.abs(low), np.abs(high))
        return (
            np.where(slope > 0, np.maximum(low, high - reach), low),
            np.where(slope < 0, np.minimum(high, low + reach), high),
        )

    def _scores(self, low: Array, high: Array, known: Ranges) -> Array:
        """Return how much each input bends the objective on boxes."""
        if not len(low):
            return np.zeros(low.shape)
        first = FirstLayer(self.chain.layers[0], 0.5 * (low + high), 0.5 * (high - low)).range
        lows, highs = self._bounds.layered(first, known)
        return self.chain.steepness(lows, highs) * (high - low) + 1e-12 * (high - low)

    def _offer(self, points: Array, *, polish: bool = False) -> None:
        """Remember the best point; a new one is improved first."""
        values, _ = self.chain.values(points)
        order = np.argsort(-values, kind="stable")
        if not -values[order[0]] < self.value:
            return
        if polish:
            points = np.concatenate([points[order[:1]], self._climbed(points[order[:8]], 0.03)])
            values, _ = self.chain.values(points)
        x = self.part.evaluate(points[int(values.argmax())][None])
        value = float(self.part.value(x, np.zeros(x.shape[1]))[0])
        if value < self.value:
            self.best, self.value = x[0], value

    def _explore(self) -> None:
        """Climb from random points."""
        began, chain = time.perf_counter(), self.chain
        starts = self._random.uniform(size=(_STARTS, len(chain.lower)))
        self._offer(self._climbed(chain.lower + starts * (chain.upper - chain.lower)), polish=True)
        self._exploring += time.perf_counter() - began

    def _climbed(self, x: Array, length: float = 0.3) -> Array:
        """Return the best points that ascent by normalised gradients passes (Adam), from points (s, n)."""
        chain = self.chain
        wide = chain.upper - chain.lower
        best, best_value = x.copy(), np.full(len(x), -np.inf)
        mean, square = np.zeros_like(x), np.zeros_like(x)
        for k in range(_CLIMBS):
            value, found = chain.values(x)
            better = value > best_value
            best[better], best_value[better] = x[better], value[better]
            gradient = chain.gradient(found) * wide
            mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
            step = mean / (1 - 0.9 ** (k + 1)) / (np.sqrt(square / (1 - 0.99 ** (k + 1))) + 1e-300)
            x = np.clip(x + length * 0.02 ** (k / _CLIMBS) * wide * step, chain.lower, chain.upper)
        return best


def _pieces(low: Array, high: Array, scores: Array, times: int) -> tuple[Array, Array, Index]:
    """Return the pieces of boxes cut a number of times where scores are largest, and whose they are."""
    parent, scores = np.arange(len(low)), scores.copy()
    for _ in range(times):
        r, j = np.arange(len(low)), scores.argmax(axis=1)
        middle = 0.5 * (low[r, j] + high[r, j])
        left, right = high.copy(), low.copy()
        left[r, j] = right[r, j] = middle
        low, high = np.concatenate([low, right]), np.concatenate([left, high])
        scores[r, j] *= 0.5
        parent, scores = np.tile(parent, 2), np.tile(scores, (2, 1))
    return low, high, parent


class Hope:
    """Says whether a search will end in time, from how much bounds rise when the boxes double."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._lowers: list[float] = []
        self._refused = 0

    def left(self, search: ChainSearch, tolerance: float, spent: float) -> float:
        """Return the seconds that the search is expected to go on, after those it has spent."""
        self._counts.append(search.bounded)
        self._lowers.append(search.lower)
        need = search.gap - tolerance
        before = bisect_right(self._counts, search.bounded / 4) - 1
        if need <= 0 or before < 0:
            return 0.0
        rise = 0.5 * (search.lower - self._lowers[before])
        if not rise > 0:
            return np.inf
        return float(1.5 * spent * np.expm1(min(need / rise, 100.0) * np.log(2.0)))

    def lost(self, left: float, patience: float) -> bool:
        """Return whether the expectation has exceeded the patience several times in a row."""
        self._refused = self._refused + 1 if left > patience else 0
        return self._refused >= _REFUSALS
