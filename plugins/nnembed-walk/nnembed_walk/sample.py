"""Sampling of Perakis and Tsiourvas: programs of random regions, and of all regions that meet at their vertex."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from nnembed.features import Capability
from nnembed.heuristics.scene import Scene
from nnembed.options import Budget
from nnembed.protocols import Candidate

from nnembed_walk.patience import Patience
from nnembed_walk.regions import neighbourhood
from nnembed_walk.terrain import Terrain
from nnembed_walk.walking import is_gain

_MOST_NODES = 100_000


class SampleLp:
    """Random points, the best point of the region of each."""

    name = "sample-lp"
    summary = "random points and the best point of the region of each (Perakis, Tsiourvas)"
    requires = Capability.MIP_START

    def run(self, embedded: Scene, session: object, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points of the drivers, each better than the last; see `protocols.Heuristic`."""
        terrain, patience = Terrain(embedded, budget, rng), Patience(budget)
        try:
            while not terrain.clock.expired and patience.go_on(terrain.record.score):
                points = terrain.uniform(1)
                yield from terrain.offer(points, settle=0)
                yield from terrain.settle(terrain.look(points[0]).kinks[0] > 0)[0]
        finally:
            terrain.close()


class SampleMip:
    """Sample-LP, and a mixed-integer program over the neurons that are tight at the vertex of promising regions.

    Parameters
    ----------
    gamma : float
        A region is promising when its value is within this part of the best so far.
    tight : float
        Neurons whose pre-activation is at most this are tight.
    """

    name = "sample-mip"
    summary = "sampled regions, deepened over the neurons tight at their vertex (Perakis, Tsiourvas)"
    requires = Capability.MIP_START

    def __init__(self, gamma: float = 2 / 3, tight: float = 1e-7):
        self.gamma, self.tight = gamma, tight

    def run(self, embedded: Scene, session: object, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points of the drivers, each better than the last; see `protocols.Heuristic`."""
        terrain, patience = Terrain(embedded, budget, rng), Patience(budget)
        try:
            while not terrain.clock.expired and patience.go_on(terrain.record.score):
                points = terrain.uniform(1)
                yield from terrain.offer(points, settle=0)
                pattern = terrain.look(points[0]).kinks[0] > 0
                better, found = terrain.settle(pattern)
                yield from better
                best = terrain.record.score
                if found is None or not abs(best - found.value) < self.gamma * abs(best):
                    continue
                yield from self.deepen(terrain, pattern, terrain.drivers_of(found), found.value)
        finally:
            terrain.close()

    def deepen(self, terrain: Terrain, pattern: np.ndarray, point: np.ndarray, value: float) -> Iterator[Candidate]:
        """Yield what the regions around a vertex bring, again and again."""
        while not terrain.clock.expired:
            kinks = terrain.look(point).kinks[0]
            free = np.flatnonzero(np.abs(kinks) <= self.tight)
            found = neighbourhood(terrain.program, pattern, free, terrain.clock, _MOST_NODES, seed=terrain.seed)
            if found is None:
                return
            if (better := terrain.record.offer_kept(found.kept)) is not None:
                yield better
            if not is_gain(found.value, value):
                return
            point, value = terrain.drivers_of(found), found.value
            pattern = terrain.look(point).kinks[0] > 0
