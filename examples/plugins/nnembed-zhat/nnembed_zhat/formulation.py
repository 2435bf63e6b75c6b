"""The textbook big-M form of a ReLU, with a column of its own for the pre-activation."""

from __future__ import annotations

import numpy as np

from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Piece
from nnembed.errors import BoxError
from nnembed.features import Feature
from nnembed.fills import Above, Value
from nnembed.ir.nodes import Node, Relu


class Zhat:
    """``zhat = w x + b, y >= 0, y >= zhat, y <= zhat - L (1 - on), y <= U on`` for every open neuron."""

    name = "hat"
    summary = "textbook big-M with a column for the pre-activation (ReLU only)"
    emits = Feature.LINEAR | Feature.INTEGER
    handles = frozenset({Relu})
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Write one layer; all arrays run over the neurons of all points of the batch."""
        source = node.inputs[0]
        low, high = bounds.low[source].ravel(), bounds.high[source].ravel()
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise BoxError(f"layer {node.name!r} has infinite pre-activation bounds; give every input finite bounds")
        on = np.flatnonzero(low >= 0)
        open_ = np.flatnonzero((low < 0) & (high > 0))
        block.define(
            node.output,
            [
                Piece(on, block.expression(source, on)),  # y is the pre-activation itself: no column, no row
                Piece(open_, self._open(node, source, open_, low[open_], high[open_], block)),
            ],
        )  # neurons in no piece are off: y is zero

    def _open(self, node, source, i, low, high, block):
        """Return the outputs of the open neurons `i` as rows over columns."""
        zhat = block.materialise(node.name, Role.PRE, source, i)  # a column tied to w x + b by an equality
        y = block.columns(node.name, Role.POST, node.output, i, 0.0, high, Value(node.output, i))
        on = block.binaries(node.name, source, i, Above(source, i))
        own, pre = block.unit(y).matrix, block.unit(zhat, -1.0).matrix
        block.add([own, pre], 0.0, np.inf)
        block.add([own, pre, block.unit(on, -low).matrix], -np.inf, -low)
        block.add([own, block.unit(on, -high).matrix], -np.inf, 0.0)
        return block.unit(y)
