"""Every piecewise-linear neuron as one or more kinks: a number g that is split into ``max(g, 0)`` and ``max(-g, 0)``.

ReLU, leaky ReLU and absolute value have one kink, a clip has two (at its lower and its upper limit), a maximum of k
members has k - 1. A *pattern* says for every kink of a problem whether g is positive; within a pattern all networks
are affine. Kinks are numbered over placements, nodes, members, then (batch point, entry).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from nnembed.aliases import Array
from nnembed.heuristics.scene import Scene
from nnembed.ir.nodes import Clip, Max, Node


def kink_values(scene: Scene, states: Sequence[Mapping[str, Array]], points: int) -> Array:
    """Return g of every kink, (points, kinks), from the tensors that `Scene.evaluate` returns."""
    parts = [np.zeros((points, 0))]
    for placement, state in zip(scene.problem.placements, states, strict=True):
        for node in placement.embedding.network.activations:
            g = state[node.inputs[0]]
            parts += [part.reshape(points, -1) for part in node_kinks(node, g)]
    return np.concatenate(parts, axis=1)


def node_kinks(node: Node, g: Array) -> Iterator[Array]:
    """Yield the kinks of one node from its input (..., n), each (..., outputs).

    Nodes of other kinds (steps) count as one kink: a pattern tells their regions apart, but there are no programs.
    """
    if isinstance(node, Clip):
        yield g - node.lower
        yield g - node.upper
    elif isinstance(node, Max):
        best = g[..., node.groups[:, 0]]
        for column in node.groups.T[1:]:
            step = g[..., column] - best
            yield step
            best = best + np.maximum(step, 0.0)
    else:
        yield g


def kink_ranges(scene: Scene) -> tuple[Array, Array]:
    """Return bounds of g of every kink from the proven bounds of the embeddings, slightly widened for rounding."""
    lows, highs = [np.zeros(0)], [np.zeros(0)]
    for placement in scene.problem.placements:
        bounds = placement.embedding.bounds
        for node in placement.embedding.network.activations:
            low, high = bounds.low[node.inputs[0]], bounds.high[node.inputs[0]]
            for lo, hi in _node_ranges(node, low, high):
                lows.append(lo.ravel())
                highs.append(hi.ravel())
    low, high = np.concatenate(lows), np.concatenate(highs)
    pad = 1e-9 * (1 + np.maximum(np.abs(low), np.abs(high)))
    return np.where(low >= 0, low, low - pad), np.where(high <= 0, high, high + pad)


def _node_ranges(node: Node, low: Array, high: Array) -> Iterator[tuple[Array, Array]]:
    if isinstance(node, Clip):
        yield low - node.lower, high - node.lower
        yield low - node.upper, high - node.upper
    elif isinstance(node, Max):
        best = low[:, node.groups[:, 0]], high[:, node.groups[:, 0]]
        for column in node.groups.T[1:]:
            lo, hi = low[:, column], high[:, column]
            yield lo - best[1], hi - best[0]
            best = np.maximum(best[0], lo), np.maximum(best[1], hi)
    else:
        yield low, high
