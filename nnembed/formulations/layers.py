"""Which part of a formulation writes a layer, by the layer's kind."""

from __future__ import annotations

from collections.abc import Callable

from nnembed.aliases import Index
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.formulations.pieces import (
    Contest,
    Kinks,
    Steps,
    TwoKinks,
    emit_activation,
    emit_max,
    relaxed_sides,
    two_sides,
)
from nnembed.formulations.round import emit_round
from nnembed.formulations.winner import emit_winner
from nnembed.ir.nodes import Activation, Max, Node, Round, Winner


def emit_layer(
    node: Node,
    bounds: Bounds,
    block: BlockBuilder,
    kinks: Callable[[Kinks, BlockBuilder], Rows],
    two_kinks: Callable[[TwoKinks, BlockBuilder], Rows],
    contest: Callable[[Contest, BlockBuilder], Rows],
    *,
    steps: Callable[[Steps, BlockBuilder], Index] | None = None,
    integer: bool = True,
) -> None:
    """Define the output of a layer of any kind; roundings and winners are written alike by all formulations.

    Parameters
    ----------
    kinks, two_kinks, contest, steps : callables
        What makes this formulation; `steps` as in *step* if it is None.
    integer : bool
        False writes roundings, winners and, unless `steps` is given, steps as relaxations.
    """
    if isinstance(node, Max):
        emit_max(node, bounds, block, contest)
    elif isinstance(node, Round):
        emit_round(node, bounds, block, integer=integer)
    elif isinstance(node, Winner):
        emit_winner(node, bounds, block, integer=integer)
    elif isinstance(node, Activation):
        emit_activation(node, bounds, block, kinks, two_kinks, steps=steps or (two_sides if integer else relaxed_sides))
