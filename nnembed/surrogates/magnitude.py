"""Magnitude pruning: the smallest weights become zero, biases take over their mean contribution."""

from __future__ import annotations

import numbers
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnembed.aliases import Array, Mask
from nnembed.bounds.box import Bounds
from nnembed.errors import InputError, UnknownName
from nnembed.ir.linear import Convolution, Dense
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Node
from nnembed.options import Budget
from nnembed.surrogates.centring import balanced, in_units, points_of, units_of
from nnembed.surrogates.difference import error_bound
from nnembed.surrogates.twin import Twin, TwinReport, count_layers

SCOPES = ("auto", "layer", "global")
STRUCTURES = ("weights", "neurons")


@dataclass(frozen=True)
class Magnitude:
    """Zeroes the smallest weights of dense layers and convolution kernels.

    Parameters
    ----------
    sparsity : float
        Share of the weights, or of the hidden neurons, to take away; 0 <= sparsity < 1.
    scope : {"auto", "layer", "global"}
        The same share of each layer, or the smallest of the whole network. Layers compare by the weights themselves,
        neurons by their mean absolute weight. "auto" is "global" for the weights of networks with several outputs
        unless a layer would lose all, else "layer": what the literature does with classifiers and with regressors.
    structure : {"weights", "neurons"}
        Single weights, or all incoming weights of the neurons (channels) where they are smallest in sum. Neurons keep
        their biases, so they become constant; those that write outputs are left alone.
    biases : bool
        Let biases take over what pruned weights contributed in the mean over the samples, or over points of the box
        where there are none; without either, only what a normalisation folded into the weights had brought along.
        False keeps them as they are.
    units : bool
        Compare weights of the network's inputs in units of each input's spread, over the samples or the box.
    """

    sparsity: float = 0.5
    scope: str = "auto"
    structure: str = "weights"
    biases: bool = True
    units: bool = True
    proves: bool = field(default=True, init=False, repr=False)  # False where only the network is wanted

    name = "magnitude"
    summary = "the smallest weights (or whole neurons) become zero"
    sound = True

    def __post_init__(self) -> None:
        """Refuse what cannot be pruned by."""
        s = self.sparsity
        if isinstance(s, bool) or not isinstance(s, numbers.Real) or not 0 <= s < 1:
            raise InputError(f"sparsity={s!r}; give a share of the weights, 0 <= sparsity < 1")
        if self.scope not in SCOPES:
            raise UnknownName("scope", self.scope, SCOPES)
        if self.structure not in STRUCTURES:
            raise UnknownName("structure", self.structure, STRUCTURES)

    def build(self, network: Network, bounds: Bounds, samples: Any, budget: Budget) -> Twin:
        """Return the twin; its error is proved where `bounds` are finite; see `protocols.Surrogate`."""
        started, clock = time.perf_counter(), budget.start()
        points = points_of(network, bounds, samples, budget.seed) if self.biases or self.units else None
        places = self._places(network, units_of(network, bounds, points, samples) if self.units else {})
        if not places:
            what = "no dense layer or convolution" if self.structure == "weights" else "no hidden layer of neurons"
            raise InputError(f"{network.name} has {what} to prune")
        nodes = _zeroed(network, places, self._gone([size for *_, size in places], network.output_size))
        if self.biases:
            nodes = balanced(network, nodes, bounds, points, samples)
        twin = replace(network, nodes=tuple(nodes), reference=None)
        left = None if budget.seconds is None else clock.remaining
        error = error_bound(network, twin, bounds, replace(budget, seconds=left)) if self.proves else None
        report = TwinReport(self.name, count_layers(twin), time.perf_counter() - started)
        return Twin(twin, error, report)

    def _places(self, network: Network, units: Mapping[str, Array]) -> list[tuple[int, int, Array]]:
        """Return (node, operator, sizes) of what may be pruned; sizes per weight, or per neuron."""

        def sizes(node: Affine, k: int) -> Array:
            operator = node.operators[k]
            size = np.abs(weights_of(operator))
            unit = units.get(node.inputs[k])
            return size if unit is None else in_units(operator, size, unit)  # type: ignore[arg-type]

        outputs = {spec.name for spec in network.outputs}
        found = []
        for i, node in enumerate(network.nodes):
            if not isinstance(node, Affine):
                continue
            prunable = [k for k, op in enumerate(node.operators) if isinstance(op, Dense | Convolution)]
            if self.structure == "weights":
                found += [(i, k, sizes(node, k)) for k in prunable]
            elif len(node.operators) == len(prunable) == 1 and node.output not in outputs:
                size = sizes(node, 0)
                found.append((i, 0, size.reshape(len(size), -1).mean(axis=1)))
        return found

    def _gone(self, sizes: Sequence[Array], outputs: int) -> list[Mask]:
        """Return what is taken away, True where."""
        automatic = self.scope == "auto"
        each = [smallest(size, self.sparsity) for size in sizes]
        if self.scope == "layer" or (automatic and (outputs == 1 or self.structure == "neurons")):
            return each
        flat = smallest(np.concatenate([size.ravel() for size in sizes]), self.sparsity)
        parts = np.split(flat, np.cumsum([size.size for size in sizes])[:-1])
        joined = [part.reshape(size.shape) for part, size in zip(parts, sizes, strict=True)]
        return each if automatic and any(part.all() for part in joined) else joined


def smallest(sizes: Array, share: float) -> Mask:
    """Return the mask of the smallest `share` of the entries, the first of equal ones."""
    gone = np.zeros(sizes.size, dtype=bool)
    gone[np.argsort(sizes, axis=None, kind="stable")[: round(share * sizes.size)]] = True
    return gone.reshape(sizes.shape)


def weights_of(operator: Any) -> Array:
    """Return the weights of a dense layer or the kernel of a convolution."""
    values: Array = operator.weight if isinstance(operator, Dense) else operator.kernel
    return values


def _zeroed(network: Network, places: Sequence[tuple[int, int, Array]], gone: Sequence[Mask]) -> list[Node]:
    nodes: list[Node] = list(network.nodes)
    for (i, k, _), mask in zip(places, gone, strict=True):
        node = nodes[i]
        assert isinstance(node, Affine)
        old = node.operators[k]
        weights = weights_of(old)
        kept = np.where(mask.reshape(mask.shape + (1,) * (weights.ndim - mask.ndim)), 0.0, weights)
        new = Dense(kept) if isinstance(old, Dense) else replace(old, kernel=kept)  # type: ignore[type-var]
        nodes[i] = replace(node, operators=(*node.operators[:k], new, *node.operators[k + 1 :]))
    return nodes
