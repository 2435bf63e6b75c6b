"""What tests of formulations need again and again: bounds, a block with one part everywhere, and both optima."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from nnembed.aliases import Array
from nnembed.block import Block
from nnembed.bounds.box import Bounds, input_bounds
from nnembed.bounds.ladder import climb
from nnembed.embedding import emit_block
from nnembed.engine.embed import tighteners
from nnembed.hooks.manager import registry
from nnembed.ir.network import Network
from nnembed.options import Budget
from nnembed.protocols import Formulation
from nnembed.testing.enumerate import enumerate_optimum
from nnembed.testing.networks import chain


def bounded(
    network: Network, low: Array | float, high: Array | float, methods: str | Sequence[str] = "crown"
) -> Bounds:
    """Return the bounds of all tensors over a box, by registered methods without a limit."""
    return climb(input_bounds(network, (low, high)), tighteners(methods, registry()), Budget())


def written(network: Network, bounds: Bounds, part: Formulation) -> Block:
    """Return the block in which one formulation writes every layer."""
    return emit_block(network, bounds, {node.name: part for node in network.activations})


@cache
def enumerated(layers: tuple[tuple[int, str], ...], seed: int, skip: bool) -> tuple[Network, list[float]]:
    """Return a random network of two inputs and one output, and its least and greatest value over [-1, 1]^2.

    Parameters
    ----------
    layers : tuple of (int, str)
        Width and kind of each hidden layer, as of `chain`.
    """
    network = chain([*layers, (1, "none")], 2, np.random.default_rng(seed), skip=skip)
    box = -np.ones(2), np.ones(2)
    return network, [enumerate_optimum(network, *box, np.ones(1), maximize=up) for up in (False, True)]
