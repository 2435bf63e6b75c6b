"""What presolve has done to an embedding: nonzeros before and after, and the difference to the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nnembed.aliases import Array
from nnembed.block import Block, Presolved
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Clip, Kink, Node, Round, Step
from nnembed.protocols import Formulation

_SAMPLES = 8


@dataclass(frozen=True)
class Reduction:
    """Sizes with and without presolve.

    Attributes
    ----------
    layers : tuple of Presolved
        What was done, per layer where there was a choice.
    kept, substituted : int
        Nonzeros with a column for every stably active neuron, and with none.
    after : int
        Nonzeros as chosen.
    difference : float or None
        Largest residual of a row when its columns are filled by forward passes of the original network at random points
        of the box, relative to one plus the row's largest term; None where the bounds hold for part of the box only.
    """

    layers: tuple[Presolved, ...]
    kept: int
    substituted: int
    after: int
    difference: float | None

    def __str__(self) -> str:
        """Say it in one line."""
        count = Counter[str]()
        for layer in self.layers:
            count[layer.choice] += layer.neurons
        done = ", ".join(f"{count[name]} {name}" for name in ("substituted", "kept", "folded"))
        rest = f"nonzeros {self.kept} -> {self.after} ({self.substituted} by substitution alone)"
        if self.difference is None:
            return f"{done}; {rest}"
        return f"{done}; {rest}; largest difference to the network {self.difference:.1e}"


def reduction(
    network: Network, bounds: Bounds, emit: Callable[[str], Block], *, samples: int = _SAMPLES, seed: int = 0
) -> Reduction:
    """Compare a network's block with what it would be without presolve.

    Parameters
    ----------
    network : Network
    bounds : Bounds
    emit : callable
        Returns the block for "auto", "kept" or "substituted" stable neurons.
    samples : int
        Random points per box for the difference.
    seed : int
    """
    chosen = emit("auto")
    plain = {name: emit(name) if chosen.presolved else chosen for name in ("kept", "substituted")}
    difference = None if bounds.region is not None else residual(network, bounds, chosen, samples, seed)
    sizes = {name: int(block.matrix.nnz) for name, block in plain.items()}
    return Reduction(chosen.presolved, sizes["kept"], sizes["substituted"], int(chosen.matrix.nnz), difference)


def residual(network: Network, bounds: Bounds, block: Block, samples: int = _SAMPLES, seed: int = 0) -> float:
    """Return the largest relative residual of a block's rows at forward passes from random points of the box."""
    rng, worst = np.random.default_rng(seed), 0.0
    size = abs(block.matrix)
    for _ in range(samples):
        state = network.forward({s.name: rng.uniform(bounds.low[s.name], bounds.high[s.name]) for s in network.inputs})
        x = block.fill(state)
        value = block.matrix @ x
        largest = size.multiply(np.abs(x)[None, :]).max(axis=1).toarray().ravel() if block.n_rows else value
        off = np.maximum(block.row_lower - value, value - block.row_upper)
        worst = max(worst, float((off / (1 + largest)).max(initial=0.0)))
    return worst


def appearances(part: Formulation, node: Node) -> float:
    """Return how often a formulation writes the row of an open neuron, counted on a single one; at least 1."""
    if isinstance(node, Kink):
        which = np.flatnonzero(node.left != node.right)[:1]
        single: Node = replace(node, inputs=("x",), output="y", left=node.left[which], right=node.right[which])
        low, high, open_ = -1.0, 1.0, len(which)
    elif isinstance(node, Clip):
        single = replace(node, inputs=("x",), output="y", lower=node.lower[:1], upper=node.upper[:1])
        low, high, open_ = float(node.lower[0]) - 1, float(node.upper[0]) + 1, len(node.lower)
    elif isinstance(node, Step):
        which = np.flatnonzero(node.low != node.high)[:1]
        single = replace(node, inputs=("x",), output="y", low=node.low[which], high=node.high[which])
        low, high, open_ = -1.0, 1.0, len(which)
    elif isinstance(node, Round):
        return 2.0  # every form: once on either side of a level
    else:
        return 1.0  # a maximum or winner gives its long members columns by itself
    if not open_:
        return 1.0
    x, y = TensorSpec("x", (1,)), TensorSpec("y", (1,))
    ends = single.evaluate(np.array([[low], [0.5 * (low + high)], [high]]))
    sides: tuple[dict[str, Array], dict[str, Array]] = (
        {"x": np.full((1, 1), low), "y": ends.min(axis=0)[None]},
        {"x": np.full((1, 1), high), "y": ends.max(axis=0)[None]},
    )
    network = Network((x,), (y,), (single,), {"x": x, "y": y})
    bounds = Bounds(network, *sides)
    builder = BlockBuilder(network, bounds, stable="substituted")
    part.emit(single, bounds, builder)
    return float(max(builder.entries(0), 1))
