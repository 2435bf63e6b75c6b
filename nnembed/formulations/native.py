r"""ReLU rows as they are: ``r = max(g, 0)`` is said, not written; no binary, no big-M.

An open ReLU with pre-activation ``g = w x + b``, proven ``L <= g <= U``, gets a column for g and one for r

    g = w x + b,   L <= g <= U,   0 <= r <= U,   r = max(g, 0),   y = r

Any other kink with slopes ``a`` (left) and ``c`` (right) is ``y = a g + (c - a) r``, be it convex or concave. A clip
to [l, u] is two of them, on ``g = x - l`` and ``h = x - u``

    y = l + r - q,   q = max(h, 0),   0 <= r - q <= u - l

Solvers with general constraints (Gurobi) branch and choose constants themselves; for all others a lowering writes
big-M rows or complementary pairs. A maximum of more than two members is no row of this kind and not written here.

Assumes nothing about the bounds but that they hold. Sources: Gurobi 13, reference manual, "general constraints";
Anderson, Huchette, Ma, Tjandraatmadja and Vielma, Mathematical Programming 183 (2020), for what such a row stands for.

>>> from nnembed.formulations.show import show
>>> print(show(Native(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.pre[0] in [-1, 2]
relu.post[0] in [0, 2]
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.pre[0] == 0
-1 relu.post[0] +1 y.out[0] == 0
relu.post[0] == max(relu.pre[0], 0)
"""

from __future__ import annotations

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.features import Feature
from nnembed.fills import Part, Value
from nnembed.formulations.bigm import CONTINUOUS
from nnembed.formulations.pieces import Kinks, TwoKinks, emit_activation
from nnembed.ir.nodes import Activation, Max, Node


class Native:
    """Rows ``r = max(g, 0)`` for the solver to deal with."""

    name = "native"
    summary = "ReLU rows for solvers that take them: no binaries, no big-M of ours"
    emits = Feature.LINEAR | Feature.RELU
    handles: frozenset[type[Node]] = CONTINUOUS - {Max}
    exact = True
    needs_finite_bounds = False

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Activation):
            emit_activation(node, bounds, block, _kinks, _two_kinks, finite=False)


def _kinks(k: Kinks, block: BlockBuilder) -> Rows:
    g, r = _positive(block, k, k.layer, (k.low, k.high), k.threshold)
    if (k.left == 0).all() and (k.right == 1).all():
        return block.unit(r)
    total = block.unit(g, k.left).matrix + block.unit(r, k.right - k.left).matrix
    total.eliminate_zeros()
    return Rows(total, np.zeros(len(k.low)))


def _two_kinks(k: TwoKinks, block: BlockBuilder) -> Rows:
    """Return ``r - q``: what lies above the lower end less what lies above the upper one."""
    _, r = _positive(block, k, f"{k.layer}.lower", (k.low, k.high), k.threshold)
    _, q = _positive(block, k, f"{k.layer}.upper", (k.low - k.span, k.high - k.span), k.threshold + k.span)
    total = block.unit(r).matrix + block.unit(q, -1.0).matrix
    block.add([total], 0.0, k.span)
    return Rows(total, np.zeros(len(k.low)))


def _positive(
    block: BlockBuilder, k: Kinks | TwoKinks, layer: str, bounds: tuple[Array, Array], threshold: Array
) -> tuple[Index, Index]:
    """Write ``g = pre-activation - threshold`` and ``r = max(g, 0)``; return both columns."""
    low, high = bounds
    g = block.columns(layer, Role.PRE, k.tensor, k.elements, low, high, Value(k.tensor, k.elements, threshold))
    fill = Part(k.tensor, k.elements, 1.0, threshold)
    r = block.columns(layer, Role.POST, k.output, k.elements, 0.0, high, fill)
    side = k.pre.constant + k.threshold - threshold
    block.add([block.unit(g).matrix, -k.pre.matrix], side, side)
    block.relu(r, g)
    return g, r
