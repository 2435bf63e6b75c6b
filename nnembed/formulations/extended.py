r"""Extended formulation: a copy of every term, the convex hull of one neuron over the box of its columns.

For an open ReLU ``y = max(g, 0)``, ``g = w x + b`` over ``lo <= x <= hi``, with ``x = p + q``

    lo z <= p <= hi z,   lo (1 - z) <= q <= hi (1 - z),   y = w p + b z >= 0,   w q + b (1 - z) <= 0

written without q, and with the copies ``w_i p_i`` in place of ``p_i``. Ideal: every vertex of its LP relaxation has
integral z. One binary, n columns and 4n + 3 rows for a neuron with n terms, so it is for layers of few inputs, and the
yardstick of all others: *ideal* has the same strength by cuts, *partition* is between it and big-M. Where the proven
bounds are tighter than the box of the columns implies, the big-M rows join and the LP is stronger still.

Assumes finite proven bounds. Sources: Balas, Discrete Applied Mathematics 89 (1998); Anderson, Huchette, Ma,
Tjandraatmadja and Vielma, Mathematical Programming 183 (2020).

>>> from nnembed.formulations.show import show
>>> print(show(Extended(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.on[0] binary
relu.part[0] in [-1, 2]
y.out[0] in [0, 2]
-2 relu.on[0] +1 relu.part[0] <= 0
+1 relu.on[0] +1 relu.part[0] >= 0
+1 input.in[0] +2 relu.on[0] -1 relu.part[0] <= 2
+1 input.in[0] -1 relu.on[0] -1 relu.part[0] >= -1
+1 relu.post[0] -1 relu.part[0] == 0
-1 input.in[0] +1 relu.post[0] >= 0
-1 relu.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from dataclasses import replace

from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.features import Feature
from nnembed.formulations.bigm import ALL_KINDS, one_hot, ordered_pair
from nnembed.formulations.disjunctive import terms_of
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.partition import disjunction
from nnembed.formulations.pieces import Kinks
from nnembed.ir.nodes import Node


class Extended:
    """A copy of every term of a neuron."""

    name = "extended"
    summary = "a copy of every term: the hull of a neuron, for few inputs"
    emits = Feature.LINEAR | Feature.INTEGER
    handles = ALL_KINDS
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer; clips with two open ends and maxima as in *two_row*."""
        emit_layer(node, bounds, block, _kinks, ordered_pair, one_hot)


def _kinks(k: Kinks, block: BlockBuilder) -> Rows:
    k = replace(k, pre=block.unfolded(k.pre))
    terms = terms_of(k.pre, block)
    return disjunction(k, block, terms, terms.column)
