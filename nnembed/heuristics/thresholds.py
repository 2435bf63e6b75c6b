"""Points that a solver has left at the threshold of a step, moved to the side that its binaries say.

Solvers hold rows up to a tolerance and like to answer where ``g = 0``; which side the network finds there is decided by
the last digit. A move of the inputs that is itself far below the tolerance of rows settles it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnembed.aliases import Array, Index, Mask
from nnembed.block import AtLeast, ColumnGroup, Fill
from nnembed.heuristics.scene import Scene
from nnembed.ir.gradient import gradient
from nnembed.presolve import InUnits
from nnembed.problem import Placement

_ROUNDS = 4
_CLOSE = 1e-5  # how far a solver's tolerance may have led past a threshold
_NEAR = 1e-6  # the longest move, relative to 1 + |drivers|: rows must go on holding
_INSIDE = 1e-9  # how far from the threshold a point is put, relative to the slope of g


def settled(scene: Scene, x: Array, drivers: Array) -> Array:
    """Return drivers next to the given ones at which steps are on the sides that the binaries of a point say.

    Parameters
    ----------
    scene : Scene
    x : array (columns,)
        A solver's point of the problem.
    drivers : array (k,)
        Its values of the drivers.

    Returns
    -------
    array (k,)
        The drivers themselves where nothing is wrong or no small move helps. Integer drivers stay.
    """
    best, start, fewest = drivers, drivers, np.inf
    for _ in range(_ROUNDS):
        slopes, gaps, wrong = _thresholds(scene, x, drivers)
        if wrong < fewest:
            best, fewest = drivers, wrong
        if not wrong or not len(gaps):
            break
        drivers = np.clip(drivers + np.linalg.pinv(slopes) @ gaps, scene.lower, scene.upper)
        if (np.abs(drivers - start) > _NEAR * (1 + np.abs(start))).any():
            break
    return best


def _thresholds(scene: Scene, x: Array, drivers: Array) -> tuple[Array, Array, float]:
    """Return slopes over the drivers and missing lengths of the pre-activations to move, and how many are wrong."""
    slopes, gaps, wrong = [np.zeros((0, len(drivers)))], [np.zeros(0)], 0
    states = scene.evaluate(drivers[None])[3]
    for i, placement in enumerate(scene.problem.placements):
        values = x[placement.columns]
        for group in _steps(placement):
            g = states[i][group.tensor].reshape(-1)[group.elements]
            on = values[group.columns] > 0.5
            bad = (g >= 0) != on
            wrong += int(bad.sum())
            # One that is far off is behind another one that is wrong, and follows it.
            reach = _slopes(scene, i, states[i], group, np.flatnonzero(np.abs(g) <= _CLOSE))
            slopes.append(reach[1])
            gaps.append(_missing(g[reach[0]], on[reach[0]], np.linalg.norm(reach[1], axis=1)))
    return np.concatenate(slopes), np.concatenate(gaps), float(wrong)


def _missing(g: Array, on: Mask, slope: Array) -> Array:
    """Return by how much pre-activations must grow to be inside; zero for those that are."""
    inside = _INSIDE * slope
    return np.where(on, np.maximum(inside - g, 0.0), np.minimum(-inside - g, 0.0))


def _slopes(scene: Scene, i: int, state: dict[str, Array], group: ColumnGroup, which: Index) -> tuple[Index, Array]:
    """Return those of the neurons that depend on continuous drivers, and their slopes."""
    placement = scene.problem.placements[i]
    network = placement.embedding.network
    point, entry = np.divmod(group.elements[which], group.tensor_size)
    weights = np.zeros((len(which), group.tensor_size))
    weights[np.arange(len(which)), entry] = 1.0
    found = gradient(network, {name: v[point] for name, v in state.items()}, {group.tensor: weights})
    rows, start = np.zeros((len(which), len(placement.constant))), 0
    for spec in network.inputs:
        columns = start + point[:, None] * spec.size + np.arange(spec.size)
        np.put_along_axis(rows, columns, found[spec.name], axis=1)
        start += placement.block.batch * spec.size
    over = np.asarray(rows @ scene.over_drivers(i))
    over[:, scene.integer] = 0.0
    able = np.flatnonzero(over.any(axis=1))
    return which[able], over[able]


def _steps(placement: Placement) -> Iterator[ColumnGroup]:
    """Yield the groups of binaries of steps."""
    return (group for group in placement.block.groups if isinstance(_bare(group.fill), AtLeast))


def _bare(fill: Fill) -> Fill:
    return fill.rule if isinstance(fill, InUnits) else fill
