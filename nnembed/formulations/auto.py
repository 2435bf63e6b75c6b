"""The built-in choice of a formulation per layer; plugins may answer first."""

from __future__ import annotations

import numpy as np

from nnembed.bounds.box import Bounds
from nnembed.features import Feature
from nnembed.hooks import hookimpl
from nnembed.ir.linear import Convolution
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink, Max, Relu
from nnembed.options import Options


@hookimpl(trylast=True)
def nnembed_choose_formulation(
    network: Network, bounds: Bounds, layer: str, accepts: Feature, options: Options
) -> tuple[str, str] | None:
    """Choose between the two big-M forms."""
    node = next(n for n in network.activations if n.name == layer)
    opened = int(bounds.open(node).sum())
    if opened == 0:
        return "two_row", "every neuron is stable: nothing to write"
    if isinstance(node, Max | Clip):
        return "two_row", "both big-M forms write the same rows here"
    if isinstance(node, Kink) and not isinstance(node, Relu):
        return "slack", "two slopes: the affine row once instead of four times"
    fan_in = _fan_in(network, node.inputs[0])
    if opened * fan_in > 50_000 * bounds.batch:
        return "slack", f"{opened} open neurons of fan-in {fan_in}: half the nonzeros"
    return "two_row", f"{opened} open neurons: fewest columns"


def _fan_in(network: Network, tensor: str) -> int:
    node = network.producers.get(tensor)
    if not isinstance(node, Affine):
        return 1
    width = [op.terms if isinstance(op, Convolution) else op.shape[1] for op in node.operators]
    return int(np.sum(width))
