"""The built-in choice of a formulation per layer; plugins may answer first.

The rules were made on half of the networks of ``benchmarks/study_forms.csv`` and hold on the other half; see
docs/choosing.md. They depend on counts alone, so the same model is always written alike.
"""

from __future__ import annotations

import numpy as np

from nnembed.bounds.box import Bounds
from nnembed.features import Feature
from nnembed.formulations.crelu import twins
from nnembed.hooks import hookimpl
from nnembed.ir.linear import Convolution
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink, Max, Node, Relu, Round, Winner
from nnembed.options import Options

_DENSE = 2_000  # open neurons times fan-in of a network at one point, from which writing the rows once pays
_CUTS_OPEN, _CUTS_FAN_IN = 50, 20  # open neurons and fan-in from which SCIP gains by cuts of the neurons' hulls


@hookimpl(trylast=True)
def nnembed_choose_formulation(
    network: Network, bounds: Bounds, layer: str, accepts: Feature, options: Options
) -> tuple[str, str] | None:
    """Choose between the two big-M forms; with SCIP cuts for a single wide layer."""
    node = next(n for n in network.activations if n.name == layer)
    opened = int(bounds.open(node).sum())
    if opened == 0:
        return "two_row", "every neuron is stable: nothing to write"
    if isinstance(node, Round):
        return "round", "an integer column per open neuron"
    if isinstance(node, Winner):
        return "winner", "big-M from bounds of differences"
    if isinstance(node, Max | Clip):
        return "two_row", "both big-M forms write the same rows here"
    if isinstance(node, Kink) and (shared := twins(network, bounds, node)):
        return "crelu", f"{shared} neurons are equal to others or their negative: one binary for both"
    if isinstance(node, Kink) and not isinstance(node, Relu):
        return "slack", "two slopes: the affine row once instead of four times"
    fan_in = _fan_in(network, node)
    wide = opened >= _CUTS_OPEN * bounds.batch and fan_in >= _CUTS_FAN_IN
    if wide and _solver(options) == "scip" and _alone(network, node):
        return "ideal", f"{opened} open neurons of fan-in {fan_in} right behind the inputs: SCIP gains by hull cuts"
    total = sum(int(bounds.open(n).sum()) * _fan_in(network, n) for n in network.activations)
    if total > _DENSE * bounds.batch:
        return "slack", f"{opened} open neurons of fan-in {fan_in}: half the nonzeros"
    return "two_row", f"{opened} open neurons: fewest columns"


def _solver(options: Options) -> str:
    return str(getattr(options.backend, "name", options.backend))


def _alone(network: Network, node: Node) -> bool:
    """Return whether this is the only layer, and its pre-activations are affine in the inputs: no bound is better."""
    before = network.producers.get(node.inputs[0])
    if len(network.activations) != 1 or not isinstance(before, Affine):
        return False
    return all(source not in network.producers for source in before.inputs)


def _fan_in(network: Network, node: Node) -> int:
    before = network.producers.get(node.inputs[0])
    if not isinstance(before, Affine):
        return 1
    width = [op.terms if isinstance(op, Convolution) else op.shape[1] for op in before.operators]
    return int(np.sum(width))
