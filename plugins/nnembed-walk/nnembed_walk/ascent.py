"""Gradient walks: projected Adam from random starts, and the perturbed projected gradient with and without valve.

The papers on the perturbed variants give neither step sizes nor perturbations nor the rule of the valve; what is here
is our own reading of their description.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from nnembed.aliases import Array
from nnembed.errors import InputError
from nnembed.features import Capability
from nnembed.heuristics.scene import Scene
from nnembed.options import Budget
from nnembed.protocols import Candidate

from nnembed_walk.patience import Patience
from nnembed_walk.terrain import Terrain

_PAST = 1 + 1e-6  # how far beyond a region's boundary an exact step goes
_SMALLEST = 1e-4  # step, relative to the box, at which a climber is perturbed
_PATIENT = 3  # steps without a gain before the step is halved


class GradientWalk:
    """Batches of projected Adam ascents from uniform points.

    Parameters
    ----------
    batch, steps : int
    step : float
        First step relative to the box; falls linearly to zero.
    """

    name = "gradient-walk"
    summary = "batches of projected Adam ascents from random points"
    requires = Capability.MIP_START

    def __init__(self, batch: int = 16, steps: int = 400, step: float = 0.1):
        if batch < 1 or steps < 1 or not step > 0:
            raise InputError(f"batch={batch}, steps={steps} and step={step} must be positive")
        self.batch, self.steps, self.step = batch, steps, step

    def run(self, embedded: Scene, session: object, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points of the drivers, each better than the last; see `protocols.Heuristic`."""
        terrain, patience = Terrain(embedded, budget, rng), Patience(budget)
        count = terrain.batch(self.batch)
        try:
            yield from terrain.offer(terrain.uniform(count))
            while not terrain.clock.expired and patience.go_on(terrain.record.score):
                ends, _ = terrain.climb(terrain.uniform(count), self.steps, self.step)
                yield from terrain.offer(ends)
        finally:
            terrain.close()


class PerturbedWalk:
    """Perturbed projected gradient ascent.

    Every climber takes projected gradient steps of its own length, halved after some steps without a gain; when it has
    become tiny the climber is perturbed within `radius`, or restarted when that has failed `lives` times. With the
    valve a step goes along the gradient exactly to where the first neuron changes its state.

    Parameters
    ----------
    valve : bool
    batch : int
    radius : float
        Relative to the box.
    lives : int
    """

    requires = Capability.MIP_START

    def __init__(
        self, name: str = "ppga", *, valve: bool = False, batch: int = 16, radius: float = 0.1, lives: int = 5
    ):
        if batch < 1 or not radius > 0 or lives < 0:
            raise InputError(f"batch={batch} and radius={radius} must be positive, lives={lives} at least zero")
        self.name, self.valve, self.batch, self.radius, self.lives = name, valve, batch, radius, lives
        how = ", steps exactly to the next region" if valve else ""
        self.summary = f"perturbed projected gradient ascent{how}"

    def run(self, embedded: Scene, session: object, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points of the drivers, each better than the last; see `protocols.Heuristic`."""
        terrain, patience = Terrain(embedded, budget, rng), Patience(budget, least=2000)
        count = terrain.batch(self.batch)
        try:
            x = terrain.uniform(count)
            yield from terrain.offer(x)
            home, top = x.copy(), np.full(count, -np.inf)  # best point of each climber since its last restart
            step, failed, lives = np.full(count, 0.1), np.zeros(count), np.full(count, self.lives)
            slope = np.empty_like(x)
            field = terrain.field(count, np.float64)
            while not terrain.clock.expired and patience.go_on(terrain.record.score):
                score = field(x, slope)
                gain = score > top + 1e-9 * np.abs(top).clip(max=1e300)
                better = score > top
                home[better], top[better] = x[better], score[better]
                failed = np.where(gain, 0, failed + 1)
                step = np.where(failed > _PATIENT, 0.5 * step, step)
                failed[failed > _PATIENT] = 0
                if better.any() and top.max() > terrain.record.score:
                    yield from terrain.offer(home[[int(top.argmax())]])
                x = self._move(terrain, x, slope * terrain.width**2, step)
                self._perturb(terrain, (x, home, top), (step, lives))
        finally:
            terrain.close()

    def _move(self, terrain: Terrain, x: Array, slope: Array, step: Array) -> Array:
        """Return points one step further."""
        size = np.abs(slope / terrain.width.clip(min=1e-300)).max(axis=1)
        ray = slope / np.where(size > 0, size, 1.0)[:, None]
        blocked = ((x <= terrain.lower) & (ray < 0)) | ((x >= terrain.upper) & (ray > 0))
        ray = np.where(blocked, 0.0, ray)
        length = step
        if self.valve:
            length = np.where(step < 0.1, step, np.minimum(boundary(terrain, x, ray) * _PAST, 1.0))
        new = x + length[:, None] * ray
        terrain.project(new)
        return new

    def _perturb(self, terrain: Terrain, climbers: tuple[Array, Array, Array], state: tuple[Array, Array]) -> None:
        x, home, top = climbers
        step, lives = state
        for i in np.flatnonzero(step < _SMALLEST):
            if lives[i] > 0:
                noise = terrain.rng.uniform(-self.radius, self.radius, x.shape[1]) * terrain.width
                x[i] = home[i] + noise
                lives[i] -= 1
            else:
                x[i], top[i], lives[i] = terrain.uniform(1)[0], -np.inf, self.lives
            step[i] = 0.1
        terrain.project(x)


def boundary(terrain: Terrain, x: Array, ray: Array) -> Array:
    """Return how far (s,) each point may go along its ray until the first neuron changes its state; 1 at most.

    Within a region pre-activations are linear along the ray: their slopes are measured at a point that is still inside
    (found from a first guess), so the answer is exact up to rounding. Neurons that sit on their kink do not count.
    """
    g = terrain.record.look(x).kinks
    reach = np.full(len(x), 1e-3)
    for _ in range(2):
        slope = (terrain.record.look(x + reach[:, None] * ray).kinks - g) / reach[:, None]
        towards = (g * slope < 0) & (np.abs(g) > 1e-9)
        time = np.where(towards, np.abs(g) / np.where(towards, np.abs(slope), 1.0), np.inf).min(axis=1, initial=1.0)
        if (time >= reach).all():
            break
        reach = np.where(time < reach, 0.5 * time, reach)
    return np.asarray(time)
