r"""Complementary pairs: the product of the positive and the negative part is zero; no binary, no big-M.

For an open ReLU ``y = max(g, 0)``, ``g = w x + b``, proven ``L <= g <= U``

    g = r - s,   0 <= r <= U,   0 <= s <= -L,   r s = 0,   y = r

Other kinks, clips and maxima as in the ``sos1`` form with a product for each set: for a maximum these are the
optimality conditions of ``min y, y >= x_i``. Meant for solvers of mathematical programs with complementarity
constraints; others take it after a lowering.

Assumes nothing about the bounds but that they hold. Sources: Yang, Balaprakash and Leyffer, Computational
Optimization and Applications 83 (2022); Ceccon et al., OMLT, JMLR 23 (2022).

>>> from nnembed.formulations.show import show
>>> print(show(Complementarity(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.slack[0] in [0, 1]
y.out[0] in [0, 2]
+1 input.in[0] -1 relu.post[0] +1 relu.slack[0] == 0
-1 relu.post[0] +1 y.out[0] == 0
relu.post[0] * relu.slack[0] == 0
"""

from __future__ import annotations

from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.features import Feature
from nnembed.formulations.bigm import CONTINUOUS
from nnembed.formulations.pieces import Contest, Kinks, TwoKinks, emit_activation, emit_max
from nnembed.formulations.sos1 import lifted, split, split_twice
from nnembed.ir.nodes import Activation, Max, Node


class Complementarity:
    """Positive and negative part with product zero."""

    name = "complementarity"
    summary = "complementary positive and negative part: no binaries, no big-M"
    emits = Feature.LINEAR | Feature.COMPLEMENTARITY
    handles = CONTINUOUS
    exact = True
    needs_finite_bounds = False

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Max):
            emit_max(node, bounds, block, _contest, finite=False)
        elif isinstance(node, Activation):
            emit_activation(node, bounds, block, _kinks, _two_kinks, finite=False)


def _kinks(k: Kinks, block: BlockBuilder) -> Rows:
    pair, rows = split(k, block)
    block.complementary(pair.first, pair.second)
    return rows


def _two_kinks(k: TwoKinks, block: BlockBuilder) -> Rows:
    lower, upper, rows = split_twice(k, block)
    block.complementary(lower.first, lower.second)
    block.complementary(upper.first, upper.second)
    return rows


def _contest(k: Contest, block: BlockBuilder) -> Rows:
    weights, gaps, rows = lifted(k, block, integer=False)
    block.complementary(weights, gaps)
    return rows
