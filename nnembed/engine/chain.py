"""A component that is one plain chain of layers: affine, two slopes that meet at zero, affine, and so on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnembed.aliases import Array
from nnembed.engine.parts import Part
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Kink

_WIDEST = 512  # neurons of one layer: beyond, rows of coefficients no longer fit the processor's cache
_LARGEST = 1e15  # number that single precision can still square


@dataclass(frozen=True, eq=False)
class Layer:
    """``left g + jump max(g, 0)`` of ``g = weight @ h + bias``; weight (m, k), the others (m,)."""

    weight: Array
    bias: Array
    left: Array
    jump: Array


@dataclass(frozen=True, eq=False)
class Chain:
    """Maximise ``last @ h + slope @ x + constant`` over a box, h the last layer's values at x.

    Attributes
    ----------
    layers : tuple of Layer
    last : array (m,), slope : array (n,), constant : float
    lower, upper : arrays (n,)
    """

    layers: tuple[Layer, ...]
    last: Array
    slope: Array
    constant: float
    lower: Array
    upper: Array

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        return sum(len(layer.bias) for layer in self.layers)

    def values(self, x: Array) -> tuple[Array, list[Array]]:
        """Return the objective (s,) and the pre-activations per layer (s, m) at points (s, n)."""
        h, found = x, []
        for layer in self.layers:
            g = h @ layer.weight.T + layer.bias
            found.append(g)
            h = layer.left * g + layer.jump * np.maximum(g, 0.0)
        return h @ self.last + x @ self.slope + self.constant, found

    def gradient(self, found: list[Array]) -> Array:
        """Return the gradients (s, n) where the pre-activations are `found`."""
        a = np.broadcast_to(self.last, (len(found[0]), len(self.last)))
        for layer, g in zip(self.layers[::-1], found[::-1], strict=True):
            a = (a * (layer.left + layer.jump * (g > 0))) @ layer.weight
        return a + self.slope

    def steepness(self, low: list[Array], high: list[Array]) -> Array:
        """Return how far each derivative may vary (s, n) for ranges of pre-activations per layer (s, m)."""
        least = most = np.broadcast_to(self.last, (len(low[0]), len(self.last)))
        for layer, lo, hi in zip(self.layers[::-1], low[::-1], high[::-1], strict=True):
            right = layer.left + layer.jump
            ends = np.stack([np.where(hi <= 0, layer.left, right), np.where(lo >= 0, right, layer.left)])
            products = np.concatenate([ends * least, ends * most])
            least, most = products.min(axis=0), products.max(axis=0)
            up, down = np.maximum(layer.weight, 0.0), np.minimum(layer.weight, 0.0)
            least, most = least @ up + most @ down, most @ up + least @ down
        return most - least

    def sizes(self, reach: Array) -> list[Array]:
        """Return the sums of absolute terms for |x| <= reach, per layer (s, m) and of the objective (s, 1)."""
        found, h = [], reach
        for layer in self.layers:
            g = h @ np.abs(layer.weight).T + np.abs(layer.bias)
            found.append(g)
            h = (np.abs(layer.left) + np.abs(layer.jump)) * g
        total = h @ np.abs(self.last) + reach @ np.abs(self.slope) + abs(self.constant)
        return [*found, total[:, None]]


def chain_of(part: Part) -> Chain | None:
    """Return a part as a chain to be maximised, None where it is something else."""
    if len(part.ports) != 1 or len(part.rows) or part.integer.any() or part.square.any():
        return None
    (port,) = part.ports
    taken = _layers(port.network)
    if taken is None:
        return None
    layers, weight, bias = taken
    price = -part.cost[part.k + port.outputs]
    first = layers[0]
    layers[0] = Layer(first.weight @ port.matrix, first.bias + first.weight @ port.constant, first.left, first.jump)
    chain = Chain(tuple(layers), price @ weight, -part.cost[: part.k], float(price @ bias), part.lower, part.upper)
    sizes = chain.sizes(np.maximum(np.abs(part.lower), np.abs(part.upper))[None])
    numbers = [*sizes, *(np.abs(layer.weight) for layer in layers)]
    largest = np.max([a.max(initial=0.0) for a in numbers])
    return chain if largest < _LARGEST else None


def _layers(network: Network) -> tuple[list[Layer], Array, Array] | None:
    """Return the layers, and the affine map from the last one to the outputs."""
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        return None
    current, n = network.inputs[0].name, network.inputs[0].size
    weight, bias = np.eye(n), np.zeros(n)
    layers: list[Layer] = []
    for node in network.nodes:
        if tuple(node.inputs) != (current,):
            return None
        if isinstance(node, Affine):
            rows = node.operators[0].rows(np.arange(len(node.bias)))
            weight, bias = rows @ weight, rows @ bias + node.bias
        elif isinstance(node, Kink) and len(bias) <= _WIDEST:
            layers.append(Layer(weight, bias, node.left, node.right - node.left))
            weight, bias = np.eye(len(bias)), np.zeros(len(bias))
        else:
            return None
        current = node.output
    return (layers, weight, bias) if layers and network.outputs[0].name == current else None
