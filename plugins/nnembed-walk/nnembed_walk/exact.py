"""The programs of the portfolio: walks from elites, neighbourhoods of neurons, the relaxation; chosen by what pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from nnembed.aliases import Array, Index
from nnembed.protocols import Candidate

from nnembed_walk.breeding import Pool
from nnembed_walk.regions import neighbourhood
from nnembed_walk.relax import Relaxation
from nnembed_walk.terrain import SECONDS, Terrain

_SHARE = 0.3  # work on programs, relative to climbing, before it is known what pays
_ITERATIONS = 20_000  # per region program
_NODES = 100  # per neighbourhood
_FREE = 15  # neurons of a neighbourhood
_ROWS, _ENTRIES = 600, 600_000  # of programs beyond which only single regions are solved
_FLIPS = 8  # neurons flipped per turn


class Exact:
    """Programs over regions, in turns after each climb.

    No region is solved twice: patterns are remembered.
    """

    def __init__(self, terrain: Terrain):
        self.terrain = terrain
        self.work = 0.0
        self._seen: set[bytes] = set()
        self._relaxed = False
        self._arms: dict[str, Callable[[Array, np.ndarray], Iterator[Candidate]]] = {
            "walk": self._walk,
            "flips": self._flips,
            "tight": self._tight,
            "near": self._near,
            "relax": self._relax,
        }
        program = terrain.program
        rows, entries = program.matrix.shape[0], program.matrix.nnz
        region = 1e-3 + 1e-6 * entries if rows <= _ROWS or terrain.is_dense else 1e-3 + 1e-8 * rows * entries
        self._usual = {
            "walk": 2 * region,
            "flips": _FLIPS * region,
            "tight": 1e-2 + 5e-5 * entries,
            "near": 1e-2 + 5e-5 * entries,
            "relax": 1e-2 + 1e-8 * rows * entries,
        }
        if rows > _ROWS or entries > _ENTRIES:
            for large in ("tight", "near", "relax"):
                del self._arms[large]
        if program.integer.any():
            self._arms.pop("relax", None)
        self._gain = dict.fromkeys(self._arms, 1.0)
        self._cost = {name: max(self._usual[name], 1e-3) for name in self._arms}
        self._news: list[Array] = []
        self._done: dict[str, bytes] = {}

    def turn(self, pool: Pool, climbing: float) -> Iterator[Candidate]:
        """Do a share of work on the best elite; what is found joins the pool."""
        if not len(pool):
            return
        best = self.terrain.record.point
        point = pool.points[0] if best is None else best
        pattern = self.terrain.look(point).kinks[0] > 0
        able = [a for a in self._arms if not self._is_idle(a, pattern)]
        name = max(able, key=lambda a: self._gain[a] / self._cost[a], default="")
        if not name or self.work + self._usual[name] > _SHARE * climbing:
            return
        before, began = self.terrain.record.score, self.work
        yield from self._arms[name](point, pattern)
        gained, spent = self.terrain.record.score > before, max(self.work - began, 1e-3)
        self._gain[name] = 0.8 * self._gain[name] + (1.0 if gained else 0.0)
        self._cost[name] = 0.8 * self._cost[name] + spent
        self._usual[name] = 0.5 * (self._usual[name] + spent)
        if self._news:
            news = self.terrain.inside(np.stack(self._news))
            self._news.clear()
            look = self.terrain.record.look(news)
            allowed = look.violation <= 1e-7
            pool.add(news[allowed], look.score[allowed], look.kinks[allowed] > 0)

    def _is_idle(self, name: str, pattern: np.ndarray) -> bool:
        """Return whether a way has nothing to do at this pattern."""
        if name == "relax":
            return self._relaxed
        return name in ("walk", "tight") and self._done.get(name) == pattern.tobytes()

    def _region(self, pattern: np.ndarray) -> Iterator[Candidate]:
        key = np.packbits(pattern).tobytes()
        if key in self._seen:
            return
        self._seen.add(key)
        better, found = self.terrain.settle(pattern, _ITERATIONS)
        yield from better
        self.work += 1e-3 if found is None else 1e-3 + SECONDS * found.work
        if found is not None and better:
            self._news.append(self.terrain.drivers_of(found))

    def _walk(self, point: Array, pattern: np.ndarray) -> Iterator[Candidate]:
        """Find the best point of this region, and of the one a step on."""
        self._done["walk"] = pattern.tobytes()
        yield from self._region(pattern)
        best = self.terrain.record.point
        if best is not None:
            beyond = np.clip(best + 0.01 * (best - point), self.terrain.lower, self.terrain.upper)
            yield from self._region(self.terrain.look(beyond).kinks[0] > 0)

    def _flips(self, point: Array, pattern: np.ndarray) -> Iterator[Candidate]:
        """Look at regions on the other side of one neuron; near ones first, by chance."""
        for j in self._close(point, _FLIPS):
            if self.terrain.clock.expired:
                return
            other = pattern.copy()
            other[j] ^= True
            yield from self._region(other)

    def _tight(self, point: Array, pattern: np.ndarray) -> Iterator[Candidate]:
        """Look at all regions that meet where some of the tight neurons are."""
        self._done["tight"] = pattern.tobytes()
        kinks = self.terrain.look(point).kinks[0]
        free = np.flatnonzero(np.abs(kinks) <= 1e-5)
        yield from self._neighbourhood(pattern, self.terrain.rng.permutation(free)[:_FREE])

    def _near(self, point: Array, pattern: np.ndarray) -> Iterator[Candidate]:
        """Look at all states of some neurons, near or random ones."""
        if self.terrain.rng.random() < 0.5:
            free = self._close(point, _FREE)
        else:
            opened = np.flatnonzero(self.terrain.program.open)
            free = self.terrain.rng.permutation(opened)[:_FREE]
        yield from self._neighbourhood(pattern, free)

    def _close(self, point: Array, count: int) -> Index:
        """Return open neurons near their kink, with some chance in the order."""
        program = self.terrain.program
        kinks = self.terrain.look(point).kinks[0]
        opened = np.flatnonzero(program.open)
        size = np.abs(kinks[opened]) / (program.high[opened] - program.low[opened])
        return opened[np.argsort(size * self.terrain.rng.uniform(0.1, 1.0, len(opened)), kind="stable")[:count]]

    def _neighbourhood(self, pattern: np.ndarray, free: Index) -> Iterator[Candidate]:
        terrain = self.terrain
        if not len(free):
            self.work += 1e-3
            return
        found = neighbourhood(terrain.program, pattern, np.sort(free), terrain.clock, _NODES, seed=terrain.seed)
        self.work += 2e-2
        if found is None:
            return
        self.work += SECONDS * found.work
        if (better := terrain.record.offer_kept(found.kept)) is not None:
            self._news.append(terrain.drivers_of(found))
            yield better

    def _relax(self, point: Array, pattern: np.ndarray) -> Iterator[Candidate]:
        """Find the best point of the linear relaxation."""
        self._relaxed = True
        terrain = self.terrain
        relaxation = Relaxation(terrain.program, terrain.seed)
        found = relaxation.solve(np.full(len(terrain.program.low), -1, dtype=np.int8), terrain, _ITERATIONS)
        relaxation.close()
        self.work += self._usual["relax"]
        if found is not None:
            self._news.append(found[0])
            yield from terrain.offer(found[0][None], settle=1)
