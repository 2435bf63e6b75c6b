"""The walk of Tong, Cai and Serra: from the best point of a region a short step beyond it, as long as that helps."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from nnembed.aliases import Array
from nnembed.protocols import Candidate

from nnembed_walk.terrain import Terrain

_STRICT = 1e-7  # relative gain that counts; smaller ones are noise of the solver


def walk(
    terrain: Terrain, start: Array, eps: float, iterations: int | None = None
) -> Generator[Candidate, None, tuple[Array, float]]:
    """Walk from `start`; yields improvements of the record, returns the last point and its value.

    Parameters
    ----------
    eps : float
        Step beyond the best point of a region, relative to the step that led to it; coordinates that would leave the
        box stay at the best point's value.
    iterations : int or None
        Limit of simplex iterations per region.
    """
    x, best, value = start, start, -np.inf
    while not terrain.clock.expired:
        pattern = terrain.look(x).kinks[0] > 0
        better, found = terrain.settle(pattern, iterations)
        yield from better
        if found is None or not is_gain(found.value, value):
            break
        value, best = found.value, terrain.drivers_of(found)
        beyond = best + eps * (best - x)
        x = np.where((beyond >= terrain.lower) & (beyond <= terrain.upper), beyond, best)
    return best, value


def flipped_ties(
    terrain: Terrain, start: Array, iterations: int | None = None
) -> Generator[Candidate, None, tuple[Array, float]]:
    """Walk by chance: neurons that are tight at the best point of a region are flipped with probability one half."""
    best, value = start, -np.inf
    pattern = terrain.look(start).kinks[0] > 0
    while not terrain.clock.expired:
        better, found = terrain.settle(pattern, iterations)
        yield from better
        if found is None or not is_gain(found.value, value):
            break
        value, best = found.value, terrain.drivers_of(found)
        kinks = terrain.look(best).kinks[0]
        tight = np.abs(kinks) <= 1e-7
        flip = tight & (terrain.rng.random(len(kinks)) < 0.5)
        pattern = np.where(tight, pattern, kinks > 0) ^ flip
    return best, value


def is_gain(new: float, old: float) -> bool:
    """Return whether a value is better by more than a solver's noise."""
    return not np.isfinite(old) or new > old + _STRICT * max(1.0, abs(old))
