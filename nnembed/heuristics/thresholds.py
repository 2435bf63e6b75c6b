"""Points that a solver has left where a network jumps, moved to the side that its binaries say.

Solvers hold rows up to a tolerance and like to answer where ``g = 0``, half way between two levels of a rounding, or
where two members are equal; which side the network finds there is decided by the last digit. A move of the inputs that
is itself far below the tolerance of rows settles it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nnembed.aliases import Array, Index, Mask
from nnembed.block import ColumnGroup
from nnembed.fills import AtLeast, Fill, Level, Winner
from nnembed.heuristics.scene import Scene
from nnembed.ir import nodes
from nnembed.ir.gradient import gradient
from nnembed.presolve import InUnits
from nnembed.problem import Placement

_ROUNDS, _TRIALS = 4, 12
_CLOSE = 1e-5  # how far a solver's tolerance may have led past a threshold
_NEAR = 1e-6  # the longest move, relative to 1 + |drivers|: rows must go on holding
_JITTER = 1e-7  # how far a further trial begins away, relative to 1 + |drivers|
_INSIDE = 1e-9  # how far from the threshold a point is put, relative to the slope of g


@dataclass(frozen=True, eq=False)
class _Sides:
    """What a group of columns asks of its layer: ``factor (tensor[entry] - tensor[other]) + constant >= 0``.

    Arrays (k,); `other` is -1 where there is no second entry, positions are flat over the batch. `wrong` says which are
    not met by the network.
    """

    tensor: str
    size: int
    entry: Index
    other: Index
    factor: Array
    value: Array
    wrong: Mask


def settled(scene: Scene, x: Array, drivers: Array) -> Array:
    """Return drivers next to the given ones at which layers are on the sides that the binaries of a point say.

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
    rng = np.random.default_rng(0)
    best, fewest = drivers, np.inf
    for trial in range(_TRIALS):
        # A vertex of a region, where slopes are those of one side only, is left before the next trial.
        jitter = rng.uniform(-1, 1, len(drivers)) * (trial > 0) * _JITTER * (1 + np.abs(drivers))
        found, wrong, movable = _moved(scene, x, np.where(scene.integer, drivers, drivers + jitter), drivers)
        if wrong < fewest:
            best, fewest = found, wrong
        if not fewest or not movable:
            break
    return best


def _moved(scene: Scene, x: Array, drivers: Array, start: Array) -> tuple[Array, float, bool]:
    """Return the best drivers of some rounds, how much is wrong there, and whether anything could be moved."""
    best, fewest, movable = start, np.inf, False
    drivers = np.clip(drivers, scene.lower, scene.upper)
    for _ in range(_ROUNDS):
        slopes, gaps, wrong = _thresholds(scene, x, drivers)
        if wrong < fewest:
            best, fewest = drivers, wrong
        movable = movable or bool(len(gaps))
        if not wrong or not len(gaps):
            break
        step = np.linalg.pinv(slopes) @ gaps
        out = (drivers + step < scene.lower) | (drivers + step > scene.upper)
        if out.any():  # what is at its bound stays there, the others go further
            step = np.linalg.pinv(np.where(out, 0.0, slopes)) @ gaps
        drivers = np.clip(drivers + step, scene.lower, scene.upper)
        if (np.abs(drivers - start) > _NEAR * (1 + np.abs(start))).any():
            break
    return best, fewest, movable


def _thresholds(scene: Scene, x: Array, drivers: Array) -> tuple[Array, Array, float]:
    """Return slopes over the drivers and missing lengths of what is to be moved, and how much is wrong."""
    slopes, gaps, wrong = [np.zeros((0, len(drivers)))], [np.zeros(0)], 0
    states = scene.evaluate(drivers[None])[3]
    for i, placement in enumerate(scene.problem.placements):
        values = x[placement.columns]
        for sides in _sides(placement, values, states[i]):
            wrong += int(sides.wrong.sum())
            # One that is far off is behind another one that is wrong, and follows it.
            which, reach = _slopes(scene, i, states[i], sides, np.flatnonzero(np.abs(sides.value) <= _CLOSE))
            slopes.append(reach)
            gaps.append(np.maximum(_INSIDE * np.linalg.norm(reach, axis=1) - sides.value[which], 0.0))
    return np.concatenate(slopes), np.concatenate(gaps), float(wrong)


def _slopes(scene: Scene, i: int, state: dict[str, Array], sides: _Sides, which: Index) -> tuple[Index, Array]:
    """Return those of the sides that depend on continuous drivers, and their slopes."""
    placement = scene.problem.placements[i]
    network = placement.embedding.network
    point, entry = np.divmod(sides.entry[which], sides.size)
    row = np.arange(len(which))
    weights = np.zeros((len(which), sides.size))
    weights[row, entry] = sides.factor[which]
    second = np.flatnonzero(sides.other[which] >= 0)
    weights[row[second], sides.other[which][second] % sides.size] -= sides.factor[which][second]
    found = gradient(network, {name: v[point] for name, v in state.items()}, {sides.tensor: weights})
    rows, start = np.zeros((len(which), len(placement.constant))), 0
    for spec in network.inputs:
        columns = start + point[:, None] * spec.size + np.arange(spec.size)
        np.put_along_axis(rows, columns, found[spec.name], axis=1)
        start += placement.block.batch * spec.size
    over = np.asarray(rows @ scene.over_drivers(i))
    over[:, scene.integer] = 0.0
    able = np.flatnonzero(over.any(axis=1))
    return which[able], over[able]


# ---- what columns say -----------------------------------------------------------------------------


def _sides(placement: Placement, values: Array, state: dict[str, Array]) -> Iterator[_Sides]:
    """Yield what the columns of steps, roundings and winners ask for."""
    layers = {node.name: node for node in placement.embedding.network.activations}
    for group in placement.block.groups:
        fill, node, own = _bare(group.fill), layers.get(group.layer), values[group.columns]
        if isinstance(fill, AtLeast):
            yield _of_steps(group, own, state)
        elif isinstance(fill, Level) and isinstance(node, nodes.Round):
            yield from _of_levels(node, group, np.rint(own) + fill.least, state)
        elif isinstance(fill, Winner) and isinstance(node, nodes.Winner):
            yield _of_winners(node, fill, own, state)


def _of_steps(group: ColumnGroup, own: Array, state: dict[str, Array]) -> _Sides:
    g, on = state[group.tensor].reshape(-1)[group.elements], own > 0.5
    factor, none = np.where(on, 1.0, -1.0), np.full(len(g), -1)
    return _Sides(group.tensor, group.tensor_size, group.elements, none, factor, factor * g, (g >= 0) != on)


def _of_levels(node: nodes.Round, group: ColumnGroup, level: Array, state: dict[str, Array]) -> Iterator[_Sides]:
    """Yield both ends of the levels that the columns say."""
    n, at = len(node.step), group.elements
    step, low, high = (v[at % n] for v in (node.step, node.low, node.high))
    g = state[node.input].reshape(-1)[at]
    found = np.rint(state[node.output].reshape(-1)[at] / node.scale[at % n])
    none = np.full(len(at), -1)
    for factor, ends, limit in ((1.0, (level - 1 + node.shift) * step, low), (-1.0, (level + node.shift) * step, high)):
        value = np.where(level == limit, np.inf, factor * (g - ends))
        wrong = factor * (found - level) < 0
        yield _Sides(node.input, n, at, none, np.full(len(at), factor), value, wrong)


def _of_winners(node: nodes.Winner, fill: Winner, own: Array, state: dict[str, Array]) -> _Sides:
    """Return that the member the columns choose is ahead of the others."""
    g = state[node.input].reshape(-1)
    chosen = own > 0.5
    best = np.full(int(fill.owner[-1]) + 1, -1)
    best[fill.owner[chosen]] = fill.elements[chosen]
    first = best[fill.owner]
    rivals = np.flatnonzero((first >= 0) & (first != fill.elements))
    entry, other = first[rivals], fill.elements[rivals]
    one = np.ones(len(rivals))
    wrong = fill(state)[rivals] > 0.5
    return _Sides(node.input, state[node.input].shape[-1], entry, other, one, g[entry] - g[other], wrong)


def _bare(fill: Fill) -> Fill:
    return fill.rule if isinstance(fill, InUnits) else fill
