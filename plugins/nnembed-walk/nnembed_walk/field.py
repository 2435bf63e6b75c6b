"""Scores and slopes of many points at once: a fast path for plain dense chains, the scene itself for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nnembed.aliases import Array
from nnembed.heuristics.scene import Scene
from nnembed.ir.nodes import Affine, Kink

_LARGEST = 60_000_000  # weights of a chain that are kept a second time


@dataclass(frozen=True, eq=False)
class Chain:
    """One network of dense layers on one point, with the input map folded in: ``cost @ x + weights @ net(x)``.

    Attributes
    ----------
    weights, biases : matrices (out, in) and vectors, in float64
    left, right : slopes of each hidden layer's neurons
    cost : array (k,)
        Score per driver.
    output : array (outputs,)
        Score per output.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    left: tuple[Array, ...]
    right: tuple[Array, ...]
    cost: Array
    output: Array

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(w.size for w in self.weights)

    @property
    def is_relu(self) -> bool:
        """Whether all hidden neurons are ReLUs."""
        return all(not lo.any() and (hi == 1).all() for lo, hi in zip(self.left, self.right, strict=True))


def chain_of(scene: Scene) -> Chain | None:
    """Return the problem's networks as a chain, None where they are more than that."""
    problem = scene.problem
    if len(problem.placements) != 1 or problem.quadratic is not None:
        return None
    placement = problem.placements[0]
    network = placement.embedding.network
    if placement.block.batch != 1 or len(network.inputs) != 1 or len(network.outputs) != 1:
        return None
    if not _is_chain(network.nodes, network.inputs[0].name, network.outputs[0].name):
        return None
    affine = [n for n in network.nodes if isinstance(n, Affine)]
    if sum(n.operators[0].shape[0] * n.operators[0].shape[1] for n in affine) > _LARGEST:
        return None
    kinks = [n for n in network.nodes if isinstance(n, Kink)]
    weights = [n.operators[0].rows(np.arange(len(n.bias))) for n in affine]
    biases = [np.asarray(n.bias, float) for n in affine]
    places = np.searchsorted(scene.drivers, placement.drivers)
    first = np.zeros((len(biases[0]), len(scene.drivers)))
    first[:, places] = (placement.matrix.T @ weights[0].T).T
    biases[0] = biases[0] + weights[0] @ placement.constant
    weights[0] = first
    written = placement.columns[placement.block.outputs]
    if len(np.unique(written)) < len(written):
        return None
    return Chain(
        tuple(weights),
        tuple(biases),
        tuple(n.left for n in kinks),
        tuple(n.right for n in kinks),
        scene.sign * problem.cost[scene.drivers],
        scene.sign * problem.cost[written],
    )


def _is_chain(nodes: tuple[object, ...], source: str, target: str) -> bool:
    """Return whether the nodes are affine, kink, affine, ..., affine, each reading the one before."""
    if len(nodes) % 2 == 0 or not nodes:
        return False
    for i, node in enumerate(nodes):
        kind = Kink if i % 2 else Affine
        if not isinstance(node, kind) or node.inputs != (source,):
            return False
        source = node.output
    return source == target


class FastField:
    """Scores and slopes of a ReLU-like chain in single or double precision, in buffers of its own.

    Parameters
    ----------
    chain : Chain
    batch : int
        Number of points of every call.
    """

    def __init__(self, chain: Chain, batch: int, dtype: type = np.float32):
        self._w: list[Any] = [np.ascontiguousarray(w, dtype) for w in chain.weights]
        self._b: list[Any] = [np.asarray(b, dtype) for b in chain.biases]
        self._left: list[Any] = [np.asarray(v, dtype) for v in chain.left]
        self._right: list[Any] = [np.asarray(v, dtype) for v in chain.right]
        self._relu = chain.is_relu
        self._cost: Any = np.asarray(chain.cost, dtype)
        self._costs = bool(chain.cost.any())
        self._last: Any = np.asarray(chain.output @ chain.weights[-1], dtype)
        self._offset = dtype(chain.output @ chain.biases[-1])
        self._g: list[Any] = [np.empty((batch, w.shape[0]), dtype) for w in self._w[:-1]]
        self._on: list[Any] = [np.empty(g.shape, dtype) for g in self._g]

    def __call__(self, points: Array, slope: Array) -> Array:
        """Return the scores (batch,) of `points` (batch, k) and write their slopes into `slope`."""
        y = points
        for w, b, g, on, left, right in zip(
            self._w[:-1], self._b[:-1], self._g, self._on, self._left, self._right, strict=True
        ):
            np.matmul(y, w.T, out=g)
            np.add(g, b, out=g)
            np.greater(g, 0, out=on)
            if not self._relu:
                np.multiply(on, right - left, out=on)
                np.add(on, left, out=on)
            y = np.multiply(g, on, out=g)
        score = y @ self._last + self._offset
        if self._costs:
            score = score + points @ self._cost
        if not self._g:
            slope[:] = self._last
        else:
            flow = np.multiply(self._on[-1], self._last, out=self._on[-1])
            for k in range(len(self._g) - 1, 0, -1):
                np.matmul(flow, self._w[k], out=self._g[k - 1])
                flow = np.multiply(self._g[k - 1], self._on[k - 1], out=self._on[k - 1])
            np.matmul(flow, self._w[0], out=slope)
        if self._costs:
            slope += self._cost
        return score


class SceneField:
    """Scores and slopes of any scene; rows that involve outputs are charged with a penalty.

    Parameters
    ----------
    scene : Scene
    penalty : float
        Score lost per unit of violation of a row over outputs.
    """

    def __init__(self, scene: Scene, penalty: float = 0.0):
        self._scene = scene
        self.penalty = penalty

    def __call__(self, points: Array, slope: Array) -> Array:
        """See `FastField`."""
        score, _, values, states = self._scene.evaluate(points)
        side = self._scene.side if self.penalty else None
        if side is None:
            slope[:] = self._scene.ascent(values, states)
            return score
        matrix, low, high = side
        value = (matrix @ values.T).T
        excess = np.maximum(value - high, 0.0) - np.maximum(low - value, 0.0)
        pressure = -self.penalty * ((matrix.T @ np.sign(excess).T).T)
        slope[:] = self._scene.ascent(values, states, pressure)
        return score - self.penalty * np.abs(excess).sum(axis=1)
