"""Elites and what is bred from them: starts for the next climbs.

Near-best points of a network share most of their neurons' states. Climbs from mixtures of two elites, and from elites
some of whose neurons are told to change sides, therefore find better points far more often than climbs from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from nnembed.aliases import Array, Index

from nnembed_walk.field import Chain

_FRACTIONS = (-1.7, -0.2)  # decimal logarithm of the part of the coordinates that are drawn anew
_LENIENT = 3.0  # mean rank of parents
KINDS = ("noise", "corner", "mirror", "sides", "mixture")


@dataclass(eq=False)
class Pool:
    """The best points so far, at most one per pattern.

    Attributes
    ----------
    points : array (s, k)
    scores : array (s,), falling
    patterns : bool array (s, kinks)
    """

    k: int
    kinks: int
    size: int = 12
    points: Array = field(init=False)
    scores: Array = field(init=False)
    patterns: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Begin without points."""
        self.points, self.scores = np.zeros((0, self.k)), np.zeros(0)
        self.patterns = np.zeros((0, self.kinks), dtype=bool)

    def __len__(self) -> int:
        return len(self.scores)

    def add(self, points: Array, scores: Array, patterns: np.ndarray) -> np.ndarray:
        """Take in points that are good enough and new; return the mask of those that stayed."""
        all_points = np.concatenate([self.points, points])
        all_scores = np.concatenate([self.scores, scores])
        all_patterns = np.concatenate([self.patterns, patterns])
        order = np.argsort(-all_scores, kind="stable")
        kept: list[int] = []
        seen: set[bytes] = set()
        for i in order.tolist():
            key = np.packbits(all_patterns[i]).tobytes() + (b"" if self.kinks else all_points[i].tobytes())
            close = kept and abs(all_scores[kept[-1]] - all_scores[i]) <= 1e-6 * abs(all_scores[i])
            if key in seen or close:
                continue
            seen.add(key)
            kept.append(i)
            if len(kept) == self.size:
                break
        index = np.array(kept, dtype=np.intp)
        stayed = np.isin(len(self.scores) + np.arange(len(scores)), index)
        self.points, self.scores, self.patterns = all_points[index], all_scores[index], all_patterns[index]
        return stayed


@dataclass(eq=False)
class Choice:
    """Draws one of several ways again and again; those that bring new elites more often, what is long ago counts less.

    Parameters
    ----------
    count : int
    rng : Generator
    """

    count: int
    rng: np.random.Generator
    tried: Array = field(init=False)
    won: Array = field(init=False)

    def __post_init__(self) -> None:
        """Begin without preference."""
        self.tried, self.won = np.full(self.count, 8.0), np.full(self.count, 4.0)

    def draw(self, size: int, able: np.ndarray | bool = True) -> Index:
        """Return numbers of ways."""
        rate = self.won / self.tried * able
        rate = np.maximum(rate / rate.sum(), 0.05 * (rate > 0))
        return np.asarray(self.rng.choice(self.count, size=size, p=rate / rate.sum()))

    def learn(self, drawn: Index, stayed: np.ndarray) -> None:
        """Remember which draws brought elites."""
        self.tried = 0.9 * self.tried + np.bincount(drawn, minlength=self.count) + 0.4
        self.won = 0.9 * self.won + np.bincount(drawn, weights=stayed.astype(float), minlength=self.count) + 0.1


@dataclass(eq=False)
class Breeder:
    """Makes starts from elites; ways that bring new elites are taken more often.

    Parameters
    ----------
    lower, upper : arrays (k,)
    chain : Chain or None
        Needed to tell neurons to change sides.
    """

    lower: Array
    upper: Array
    chain: Chain | None
    rng: np.random.Generator
    choice: Choice = field(init=False)

    def __post_init__(self) -> None:
        """Begin without preference."""
        self.choice = Choice(len(KINDS), self.rng)

    def breed(self, pool: Pool, count: int) -> tuple[Array, Index]:
        """Return starts (count, k) and the number of the way each was made."""
        able = np.ones(len(KINDS), dtype=bool)
        able[KINDS.index("sides")] = self.chain is not None and bool(self.chain.left)
        ways = self.choice.draw(count, able)
        parents = np.minimum(self.rng.exponential(_LENIENT, count).astype(int), len(pool) - 1)
        starts = pool.points[parents].copy()
        for i, way in enumerate(ways.tolist()):
            starts[i] = self._child(pool, int(parents[i]), KINDS[way])
        return starts, ways

    def _child(self, pool: Pool, parent: int, kind: str) -> Array:
        rng, point = self.rng, pool.points[parent]
        if kind == "mixture":
            other = pool.points[int(rng.integers(len(pool)))]
            return np.where(rng.random(len(point)) < rng.uniform(0.1, 0.5), other, point)
        if kind == "sides":
            assert self.chain is not None
            return self._other_sides(point, pool.patterns[parent])
        anew = rng.random(len(point)) < 10 ** rng.uniform(*_FRACTIONS)
        if kind == "mirror":
            return np.where(anew, self.lower + self.upper - point, point)
        share = rng.random(len(point))
        share = np.rint(share) if kind == "corner" else share
        return np.where(anew, self.lower + share * (self.upper - self.lower), point)

    def _other_sides(self, point: Array, pattern: np.ndarray) -> Array:
        """Return the point with those coordinates at their other end that the changed neurons would like there."""
        chain, n = self.chain, len(pattern)
        assert chain is not None
        count = max(1, int(2 ** self.rng.uniform(0, np.log2(max(n / 4, 2)))))
        changed = pattern.copy()
        changed[self.rng.choice(n, size=min(count, n), replace=False)] ^= True
        before, after = slopes(chain, np.stack([pattern, changed]))
        return np.where((before > 0) == (after > 0), point, np.where(after > 0, self.upper, self.lower))


def slopes(chain: Chain, states: Array) -> Array:
    """Return the slope of the score over the drivers (s, k) for given states (s, kinks) of the neurons in [0, 1]."""
    flow = np.broadcast_to(chain.output @ chain.weights[-1], (len(states), chain.weights[-1].shape[1]))
    stop = states.shape[1]
    for k in range(len(chain.left) - 1, -1, -1):
        start = stop - len(chain.left[k])
        state = states[:, start:stop]
        flow = (flow * (chain.left[k] + state * (chain.right[k] - chain.left[k]))) @ chain.weights[k]
        stop = start
    return np.asarray(flow + chain.cost)
