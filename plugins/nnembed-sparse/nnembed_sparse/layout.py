"""The weights of a network as one vector: what may become zero, and the biases that may move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from nnembed.aliases import Array
from nnembed.errors import InputError
from nnembed.ir.linear import Convolution, Dense, LinearOperator
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine
from nnembed.surrogates.centring import explaining_centre
from nnembed.surrogates.undecayed import patches

__all__ = ["Layout", "Mask", "Part", "layout_of", "patches", "unfolded"]

_ENTRIES = 40_000_000  # numbers a factor may hold

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Part:
    """A weight matrix or a bias inside the vector.

    Attributes
    ----------
    node : int
        Position of the affine node in the network.
    operator : int
        Position of the operator in the node; -1 for the bias.
    start : int
        First entry in the vector.
    rows, columns : int
        Rows are outputs (channels for a convolution); columns what each of them weighs; 1 for a bias.
    groups : int
        Channel groups of a convolution, 1 else.
    positions : int
        Entries of the output that share a row: pixels of a convolution, 1 else.
    """

    node: int
    operator: int
    start: int
    rows: int
    columns: int
    groups: int = 1
    positions: int = 1

    @property
    def size(self) -> int:
        """Entries."""
        return self.rows * self.columns

    @property
    def span(self) -> slice:
        """Where the entries are in the vector."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Layout:
    """Which weights and biases of a network stand where in one vector; weights first, then biases.

    Weights act on inputs from which `centres` has been taken off: a weight that becomes zero leaves its mean
    contribution in the bias. A bias entry is what is added on top of that, one number per row, zero at the start.

    Attributes
    ----------
    weights, biases : tuple of Part
        `biases` is empty where biases must stay as they are.
    centres : tuple of array (groups, columns)
        Per part of `weights`.
    """

    network: Network
    weights: tuple[Part, ...]
    biases: tuple[Part, ...]
    centres: tuple[Array, ...]

    @cached_property
    def count(self) -> int:
        """Number of weights; entries from here on are biases."""
        return sum(part.size for part in self.weights)

    @cached_property
    def size(self) -> int:
        """Weights and biases together."""
        return self.count + sum(part.size for part in self.biases)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Weights, then biases."""
        return self.weights + self.biases

    def node(self, part: Part) -> Affine:
        """Return the affine node of a part."""
        found = self.network.nodes[part.node]
        assert isinstance(found, Affine)
        return found

    def label(self, part: Part) -> str:
        """Return the name of a part as reports print it."""
        node = self.node(part)
        return node.name if len(node.operators) == 1 else f"{node.name}[{part.operator}]"

    @cached_property
    def start(self) -> Array:
        """The network's own weights and unmoved biases."""
        values = [_entries(self.node(p).operators[p.operator]).ravel() for p in self.weights]
        return np.concatenate([*values, np.zeros(self.size - self.count)])

    def rebuilt(self, vector: Array) -> Network:
        """Return the network with these weights and biases; it has no reference of its own."""
        nodes = list(self.network.nodes)
        for part, centre in zip(self.weights, self.centres, strict=True):
            node = nodes[part.node]
            assert isinstance(node, Affine)
            operators = list(node.operators)
            operators[part.operator] = _with_entries(operators[part.operator], vector[part.span])
            off = (self.start[part.span] - vector[part.span]).reshape(part.groups, -1, part.columns)
            shift = np.repeat(np.einsum("god,gd->go", off, centre).ravel(), part.positions)
            nodes[part.node] = replace(node, operators=tuple(operators), bias=node.bias + shift)
        for part in self.biases:
            node = nodes[part.node]
            assert isinstance(node, Affine)
            nodes[part.node] = replace(node, bias=node.bias + np.repeat(vector[part.span], part.positions))
        return replace(self.network, nodes=tuple(nodes), reference=None)

    def affordable(self, wanted: int, probes: int = 1) -> int:
        """Return how many samples a factor may hold, at most `wanted`: convolutions need much memory for each."""
        each = sum(p.columns * p.positions * p.groups for p in self.weights)
        each += sum(probes * (p.size if p.positions > 1 or p.groups > 1 else p.rows) for p in self.parts)
        return max(1, min(wanted, _ENTRIES // each))

    def kept_counts(self, keep: Mask) -> list[int]:
        """Return the number of kept weights per part."""
        return [int(keep[part.span].sum()) for part in self.weights]


def layout_of(network: Network, state: Mapping[str, Array] | None = None) -> Layout:
    """Return where the weights of a network are.

    Parameters
    ----------
    state : mapping tensor -> array (samples, n) or None
        A forward pass; its means become the centres. None leaves biases as they are.

    Raises
    ------
    InputError
        If it has no dense layer and no convolution.
    """
    weights: list[Part] = []
    rows: dict[int, tuple[int, int]] = {}
    start = 0
    for k, node in enumerate(network.nodes):
        if not isinstance(node, Affine):
            continue
        for i, operator in enumerate(node.operators):
            if isinstance(operator, Dense | Convolution):
                part = _part(operator, k, i, start)
                weights.append(part)
                start += part.size
                rows[k] = (part.rows, part.positions) if k not in rows else min(rows[k], (part.rows, part.positions))
    if not start:
        raise InputError(f"{network.name} has no dense layer and no convolution: there is no weight to prune")
    biases = []
    for k, (count, positions) in rows.items():
        biases.append(Part(k, -1, start, count, 1, positions=positions))
        start += count
    if state is None:
        return Layout(network, tuple(weights), (), tuple(np.zeros((p.groups, p.columns)) for p in weights))
    return Layout(network, tuple(weights), tuple(biases), tuple(_centre(network, p, state) for p in weights))


def _centre(network: Network, part: Part, state: Mapping[str, Array]) -> Array:
    node = network.nodes[part.node]
    assert isinstance(node, Affine)
    mean = state[node.inputs[part.operator]].mean(axis=0, keepdims=True)
    return np.asarray(patches(node.operators[part.operator], mean).mean(axis=(1, 2)))


def _part(operator: Dense | Convolution, node: int, index: int, start: int) -> Part:
    if isinstance(operator, Dense):
        return Part(node, index, start, *operator.shape)
    rows = operator.kernel.shape[0]
    positions = int(np.prod(operator.out_size))
    return Part(node, index, start, rows, operator.kernel.size // rows, operator.groups, positions)


def _entries(operator: LinearOperator) -> Array:
    if isinstance(operator, Convolution):
        return operator.kernel
    assert isinstance(operator, Dense)
    return operator.weight


def _with_entries(operator: LinearOperator, flat: Array) -> LinearOperator:
    if isinstance(operator, Convolution):
        return replace(operator, kernel=flat.reshape(operator.kernel.shape))
    assert isinstance(operator, Dense)
    return Dense(flat.reshape(operator.shape))


def unfolded(layout: Layout) -> Layout:
    """Return the layout with one centre per layer: the one that explains most of its biases.

    A normalisation of the inputs that was folded into weights and biases is undone by this, so that weights shrink
    together with the biases they brought along. Layouts with fixed biases are returned as they are.
    """
    if not layout.biases:
        return layout
    centres = []
    for part in layout.weights:
        sums = layout.start[part.span].reshape(part.rows, part.columns).sum(axis=1)
        bias = layout.node(part).bias.reshape(part.rows, part.positions).mean(axis=1)
        centres.append(np.full((part.groups, part.columns), explaining_centre(sums, bias)[0]))
    return replace(layout, centres=tuple(centres))
