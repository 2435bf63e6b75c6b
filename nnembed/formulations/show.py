"""Print what a formulation writes for one neuron; used by doctests and by authors of formulations."""

from __future__ import annotations

import numpy as np

from nnembed.bounds.box import input_bounds
from nnembed.bounds.interval import Interval
from nnembed.builder import BlockBuilder
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Node, relu
from nnembed.options import Budget
from nnembed.protocols import Formulation


def show(formulation: Formulation, *, low: float, high: float, node: Node | None = None, inputs: int = 1) -> str:
    """Return the block of ``y = node(x)``, one ReLU by default, for ``low <= x <= high`` as text."""
    node = node or relu("relu", "x", "y", 1)
    x, y = TensorSpec("x", (inputs,)), TensorSpec("y", node.evaluate(np.zeros(inputs)).shape)
    network = Network((x,), (y,), (node,), {"x": x, "y": y})
    bounds = Interval().tighten(network, input_bounds(network, (np.full(inputs, low), np.full(inputs, high))), Budget())
    builder = BlockBuilder(network, bounds)
    formulation.emit(node, bounds, builder)
    return builder.finish().to_text()
