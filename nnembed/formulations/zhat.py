r"""Big-M on a column of its own for the pre-activation.

For an open ReLU ``y = max(g, 0)`` with proven ``L <= g <= U``

    g = w x + b,   y >= 0,   y >= g,   y <= g - L (1 - z),   y <= U z

The affine row is written once, as in *slack*; the four rows have two or three entries each, and the solver may branch
on, propagate and cut with the pre-activation itself. One column and one row more per neuron than *two_row*, about half
its nonzeros. As strong as *two_row*; other kinks and clips are written on the column in the same way, and a maximum's
long members have columns of their own in every form.

Assumes finite proven bounds. Source: the form with the pre-activation ``z-hat`` as a variable is that of Bunel et al.,
NeurIPS 2018, and of the open modelling tools; the rows are those of Tjeng, Xiao and Tedrake, ICLR 2019.

>>> from nnembed.formulations.show import show
>>> print(show(ZHat(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.pre[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.on[0] binary
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.pre[0] == 0
-1 relu.pre[0] +1 relu.post[0] >= 0
-1 relu.pre[0] +1 relu.post[0] +1 relu.on[0] <= 1
+1 relu.post[0] -2 relu.on[0] <= 0
-1 relu.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from dataclasses import replace

from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.features import Feature
from nnembed.formulations.bigm import ALL_KINDS, one_hot, ordered_pair, two_row
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Kinks, TwoKinks
from nnembed.ir.nodes import Node


class ZHat:
    """Big-M with the pre-activation as a column."""

    name = "zhat"
    summary = "big-M on a column for the pre-activation: the affine row once, short rows on it"
    emits = Feature.LINEAR | Feature.INTEGER
    handles = ALL_KINDS
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, _kinks, _two_kinks, one_hot)


def _kinks(k: Kinks, block: BlockBuilder) -> Rows:
    return two_row(replace(k, pre=_own(k, block)), block)


def _two_kinks(k: TwoKinks, block: BlockBuilder) -> Rows:
    return ordered_pair(replace(k, pre=_own(k, block)), block)


def _own(k: Kinks | TwoKinks, block: BlockBuilder) -> Rows:
    """Return the shifted pre-activations as columns of their own."""
    columns = block.materialise(k.layer, Role.PRE, k.tensor, k.elements)
    return Rows(block.unit(columns).matrix, -k.threshold)
