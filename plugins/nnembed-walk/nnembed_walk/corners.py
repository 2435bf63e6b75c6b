"""Corners of the box that slopes point to: the best points of linear models of the problem."""

from __future__ import annotations

import numpy as np
from nnembed.aliases import Array

from nnembed_walk.breeding import slopes
from nnembed_walk.kinks import kink_ranges
from nnembed_walk.terrain import Terrain


def corners(terrain: Terrain, count: int) -> Array:
    """Return points (count, k): chains of layers with each open neuron on its line or by chance on or off.

    The first has all neurons on the upper lines of backward bounds. Slopes of other networks are read at random points.
    """
    if terrain.chain is None:
        points, slope = terrain.uniform(count), np.empty((count, terrain.k))
        terrain.field(count, np.float64)(points, slope)
    else:
        line = shares(terrain)
        states = np.where(terrain.rng.random((count, len(line))) < line, 1.0, 0.0)
        states[:1] = line
        slope = slopes(terrain.chain, states)
    points = np.where(slope > 0, terrain.upper, terrain.lower)
    terrain.project(points)
    return points


def shares(terrain: Terrain) -> Array:
    """Return the slope of every kink's upper line over its proven range, in [0, 1]."""
    low, high = kink_ranges(terrain.scene)
    opened = (low < 0) & (high > 0)
    return np.where(opened, high / np.where(opened, high - low, 1.0), (low >= 0).astype(float))
