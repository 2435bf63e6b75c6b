"""What ``bounds="auto"`` stands for: CROWN, and a costlier method where a solver will be busy long enough to repay it.

Decided by counts, never by a clock, so that the same model is always written alike. Measured with HiGHS on classifiers
of one to four hidden layers: up to some 30 open neurons a model is solved in a tenth of a second, and nothing is worth
its time. From 60 on it takes a second and more, and FastC2V takes a fifth off for a tenth of a second. In between
alpha-CROWN costs a few milliseconds. Linear programs cost what FastC2V does and leave more open. See docs/choosing.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nnembed.bounds.box import Bounds
from nnembed.ir.linear import Convolution
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine
from nnembed.options import Budget
from nnembed.protocols import BoundTightener

SOME, MANY = 30, 60  # open neurons from which alpha-CROWN and FastC2V repay what they cost
SPLIT_INPUTS = 8  # up to here the input box is split first, and every part bounded anew
_LIGHT, _HEAVY = 4e6, 2e7  # products of one pass for all open neurons, up to which FastC2V and alpha-CROWN are quick


@dataclass
class Where:
    """A method that is run only where it is expected to pay; `nnembed.bounds.ladder.climb` asks.

    Attributes
    ----------
    method : BoundTightener
    fewest : int
        Open neurons.
    most : float
        Products of one pass (`effort`).
    inputs : int
        The fewest inputs.
    better : Where or None
        A method that is left to where it pays, too.
    """

    method: BoundTightener
    fewest: int
    most: float
    inputs: int = 1
    better: Where | None = None

    def __post_init__(self) -> None:
        """Take over what the method says of itself."""
        self.name, self.summary = self.method.name, self.method.summary
        self.sound, self.cost = self.method.sound, self.method.cost

    def pays(self, bounds: Bounds) -> bool:
        """Return whether to run it on what others have found; many different boxes are left to cheaper methods."""
        if bounds.batch > 1 or bounds.network.input_size < self.inputs or bounds.unstable < self.fewest:
            return False
        narrow = effort(bounds) <= self.most and _deep(bounds)
        return narrow and (self.better is None or not self.better.pays(bounds))

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Run it."""
        return self.method.tighten(network, bounds, budget)


def automatic(
    get: Callable[[str], BoundTightener], *, region: bool = False, splits: bool = False
) -> list[BoundTightener]:
    """Return the methods of ``"auto"``.

    Parameters
    ----------
    get : callable
        Returns a method by name.
    region : bool
        Whether rows are known beside the box.
    splits : bool
        Whether the model is going to be solved by splitting the box of its inputs where these are few.
    """
    least = SPLIT_INPUTS + 1 if splits else 1
    facets = Where(get("fast-c2v"), MANY, _LIGHT, least)
    slopes = Where(get("alpha-crown"), SOME, _HEAVY, least, better=facets)
    return [*([get("fbbt")] if region else []), get("crown"), slopes, facets]


def _deep(bounds: Bounds) -> bool:
    """Return whether neurons are open behind the first layer, whose bounds no method can narrow."""
    network = bounds.network
    for node in network.activations:
        before = network.producers.get(node.inputs[0])
        inputs = node.inputs if before is None else before.inputs
        if any(source in network.producers for source in inputs) and bounds.open(node).any():
            return True
    return False


def effort(bounds: Bounds) -> float:
    """Return the products of one backward pass for every open neuron and output."""
    network, total, below = bounds.network, 0.0, 0.0
    outputs = {spec.name: spec.size for spec in network.outputs}
    opened: dict[str, int] = {}
    for node in network.activations:
        count = int(bounds.open(node).sum())
        opened[node.inputs[0]] = opened.get(node.inputs[0], 0) + count
    for affine in network.nodes:
        if isinstance(affine, Affine):
            rows = opened.get(affine.output, 0) + outputs.get(affine.output, 0)
            total += rows * below
            terms = [op.terms if isinstance(op, Convolution) else op.shape[1] for op in affine.operators]
            below += float(sum(terms)) * network.tensors[affine.output].size
    return total
