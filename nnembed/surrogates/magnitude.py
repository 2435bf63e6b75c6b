"""Magnitude pruning: the smallest weights become zero, biases stay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnembed.aliases import Array, Mask
from nnembed.bounds.box import Bounds
from nnembed.errors import InputError, UnknownName
from nnembed.ir.linear import Convolution, Dense
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine
from nnembed.options import Budget
from nnembed.surrogates.difference import error_bound
from nnembed.surrogates.twin import Twin, TwinReport, count_layers

SCOPES = ("layer", "global")
STRUCTURES = ("weights", "neurons")


@dataclass(frozen=True)
class Magnitude:
    """Zeroes the smallest weights of dense layers and convolution kernels.

    Parameters
    ----------
    sparsity : float
        Share of the weights, or of the hidden neurons, to take away; 0 <= sparsity < 1.
    scope : {"layer", "global"}
        The same share of each layer, or the smallest of the whole network. Layers compare by the weights themselves,
        neurons by their mean absolute weight.
    structure : {"weights", "neurons"}
        Single weights, or all incoming weights of the neurons (channels) where they are smallest in sum. Neurons keep
        their biases, so they become constant; those that write outputs are left alone.
    """

    sparsity: float = 0.5
    scope: str = "layer"
    structure: str = "weights"

    name = "magnitude"
    summary = "the smallest weights (or whole neurons) become zero"
    sound = True

    def __post_init__(self) -> None:
        """Refuse what cannot be pruned by."""
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity={self.sparsity}; give a share of the weights, 0 <= sparsity < 1")
        if self.scope not in SCOPES:
            raise UnknownName("scope", self.scope, SCOPES)
        if self.structure not in STRUCTURES:
            raise UnknownName("structure", self.structure, STRUCTURES)

    def build(self, network: Network, bounds: Bounds, samples: Array | None, budget: Budget) -> Twin:
        """Return the twin; its error is proved where `bounds` are finite; see `protocols.Surrogate`."""
        started, clock = time.perf_counter(), budget.start()
        places = self._places(network)
        if not places:
            what = "no dense layer or convolution" if self.structure == "weights" else "no hidden layer of neurons"
            raise InputError(f"{network.name} has {what} to prune")
        twin = _zeroed(network, places, self._gone([size for *_, size in places]))
        left = None if budget.seconds is None else clock.remaining
        error = error_bound(network, twin, bounds, replace(budget, seconds=left))
        report = TwinReport(self.name, count_layers(twin), time.perf_counter() - started)
        return Twin(twin, error, report)

    def _places(self, network: Network) -> list[tuple[int, int, Array]]:
        """Return (node, operator, sizes) of what may be pruned; sizes per weight, or per neuron."""
        outputs = {spec.name for spec in network.outputs}
        found = []
        for i, node in enumerate(network.nodes):
            if not isinstance(node, Affine):
                continue
            prunable = [k for k, op in enumerate(node.operators) if isinstance(op, Dense | Convolution)]
            if self.structure == "weights":
                found += [(i, k, np.abs(weights_of(node.operators[k]))) for k in prunable]
            elif len(node.operators) == len(prunable) == 1 and node.output not in outputs:
                weights = weights_of(node.operators[0])
                found.append((i, 0, np.abs(weights).reshape(len(weights), -1).mean(axis=1)))
        return found

    def _gone(self, sizes: Sequence[Array]) -> list[Mask]:
        """Return what is taken away, True where."""
        if self.scope == "layer":
            return [smallest(size, self.sparsity) for size in sizes]
        flat = smallest(np.concatenate([size.ravel() for size in sizes]), self.sparsity)
        parts = np.split(flat, np.cumsum([size.size for size in sizes])[:-1])
        return [part.reshape(size.shape) for part, size in zip(parts, sizes, strict=True)]


def smallest(sizes: Array, share: float) -> Mask:
    """Return the mask of the smallest `share` of the entries, the first of equal ones."""
    gone = np.zeros(sizes.size, dtype=bool)
    gone[np.argsort(sizes, axis=None, kind="stable")[: round(share * sizes.size)]] = True
    return gone.reshape(sizes.shape)


def weights_of(operator: Any) -> Array:
    """Return the weights of a dense layer or the kernel of a convolution."""
    values: Array = operator.weight if isinstance(operator, Dense) else operator.kernel
    return values


def _zeroed(network: Network, places: Sequence[tuple[int, int, Array]], gone: Sequence[Mask]) -> Network:
    nodes = list(network.nodes)
    for (i, k, _), mask in zip(places, gone, strict=True):
        node = nodes[i]
        assert isinstance(node, Affine)
        old = node.operators[k]
        weights = weights_of(old)
        kept = np.where(mask.reshape(mask.shape + (1,) * (weights.ndim - mask.ndim)), 0.0, weights)
        new = Dense(kept) if isinstance(old, Dense) else replace(old, kernel=kept)  # type: ignore[type-var]
        nodes[i] = replace(node, operators=(*node.operators[:k], new, *node.operators[k + 1 :]))
    return replace(network, nodes=tuple(nodes), reference=None)
