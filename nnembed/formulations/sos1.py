r"""Sets of type 1: of the positive and the negative part of a pre-activation, one is zero; no binary, no big-M.

For an open ReLU ``y = max(g, 0)``, ``g = w x + b``, proven ``L <= g <= U``

    g = r - s,   0 <= r <= U,   0 <= s <= -L,   SOS1(r, s),   y = r

The bounds of r and s are kept where they are finite, because they tighten the LP; the form is right without them. Any
other kink with slopes ``a`` (left) and ``c`` (right) is ``y = c r - a s``. A clip to [l, u] is two kinks with one
output: ``g - l = y + q - s``, ``y + t = u - l``, SOS1(y, s), SOS1(q, t). A maximum is

    y = x_i + s_i,   s_i >= 0,   sum z_i = 1,   0 <= z_i,   SOS1(z_i, s_i)

some weight z_i is positive and its member is reached, so the weights need not be integers.

Assumes nothing about the bounds but that they hold. Sources: Beale and Tomlin, 1970 (sets); Turner, Chmiela, Koch and
Winkler, PySCIPOpt-ML, 2023 (ReLU as a set).

>>> from nnembed.formulations.show import show
>>> print(show(Sets(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.slack[0] in [0, 1]
y.out[0] in [0, 2]
+1 input.in[0] -1 relu.post[0] +1 relu.slack[0] == 0
-1 relu.post[0] +1 y.out[0] == 0
sos1 relu.post[0], relu.slack[0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnembed.aliases import Index
from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.features import Feature
from nnembed.fills import Above, Gap, Part, Value
from nnembed.formulations.bigm import CONTINUOUS, top_two
from nnembed.formulations.pieces import Contest, Kinks, TwoKinks, emit_activation, emit_max
from nnembed.ir.nodes import Activation, Max, Node


class Sets:
    """Positive and negative part in a set of type 1."""

    name = "sos1"
    summary = "sets of type 1 on positive and negative part: no binaries, no big-M"
    emits = Feature.LINEAR | Feature.SOS1
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
    block.sos1(np.stack([pair.first, pair.second], axis=1))
    return rows


def _two_kinks(k: TwoKinks, block: BlockBuilder) -> Rows:
    lower, upper, rows = split_twice(k, block)
    for pair in (lower, upper):
        block.sos1(np.stack([pair.first, pair.second], axis=1))
    return rows


def _contest(k: Contest, block: BlockBuilder) -> Rows:
    weights, gaps, rows = lifted(k, block, integer=False)
    block.sos1(np.stack([weights, gaps], axis=1))
    return rows


# ---- what the indicator and the complementarity form share -----------------------------------------


@dataclass(frozen=True, eq=False)
class Pair:
    """Columns, all at least zero, of which `first` or `second` must be zero; `above` is 1 where `first` may not be."""

    layer: str
    tensor: str
    elements: Index
    first: Index
    second: Index
    above: Above


def split(k: Kinks, block: BlockBuilder) -> tuple[Pair, Rows]:
    """Write ``g = r - s`` and return the pair with ``y - value = right r - left s``."""
    r = block.columns(
        k.layer, Role.POST, k.output, k.elements, 0.0, k.high, Part(k.tensor, k.elements, 1.0, k.threshold)
    )
    s = block.columns(
        k.layer, Role.SLACK, k.tensor, k.elements, 0.0, -k.low, Part(k.tensor, k.elements, -1.0, k.threshold)
    )
    block.add([k.pre.matrix, block.unit(r, -1.0).matrix, block.unit(s).matrix], -k.pre.constant, -k.pre.constant)
    pair = Pair(k.layer, k.tensor, k.elements, r, s, k.above())
    if (k.left == 0).all() and (k.right == 1).all():
        return pair, block.unit(r)
    total = block.unit(r, k.right).matrix + block.unit(s, -k.left).matrix
    total.eliminate_zeros()
    return pair, Rows(total, np.zeros(len(k.low)))


def split_twice(k: TwoKinks, block: BlockBuilder) -> tuple[Pair, Pair, Rows]:
    """Write ``g = y + q - s``, ``y + t = span`` and return the pairs (y, s), (q, t) and ``y``, shifted by the floor."""
    top = k.threshold + k.span
    below, over = f"{k.layer}.lower", f"{k.layer}.upper"
    y = block.columns(k.layer, Role.POST, k.output, k.elements, 0.0, k.span, Value(k.output, k.elements, k.threshold))
    s = block.columns(below, Role.SLACK, k.tensor, k.elements, 0.0, -k.low, Part(k.tensor, k.elements, -1, k.threshold))
    q = block.columns(over, Role.POST, k.tensor, k.elements, 0.0, k.high - k.span, Part(k.tensor, k.elements, 1, top))
    t = block.columns(over, Role.SLACK, k.output, k.elements, 0.0, k.span, Part(k.output, k.elements, -1, top))
    terms = [k.pre.matrix, block.unit(y, -1.0).matrix, block.unit(q, -1.0).matrix, block.unit(s).matrix]
    block.add(terms, -k.pre.constant, -k.pre.constant)
    block.add([block.unit(y).matrix, block.unit(t).matrix], k.span, k.span)
    lower = Pair(below, k.tensor, k.elements, y, s, Above(k.tensor, k.elements, k.threshold))
    upper = Pair(over, k.tensor, k.elements, q, t, Above(k.tensor, k.elements, top))
    return lower, upper, block.unit(y)


def lifted(k: Contest, block: BlockBuilder, *, integer: bool) -> tuple[Index, Index, Rows]:
    """Write ``y = x_i + s_i`` and ``sum z = 1``; return the weights z, the gaps s and ``y``.

    A gap is at most the best upper bound among the other members minus the lower bound of its own member.
    """
    groups = len(k.own)
    best, second, holder = top_two(k.high, k.owner, groups)
    rival = np.where(np.arange(len(k.member)) == holder[k.owner], second[k.owner], best[k.owner])
    reach = np.nextafter(np.maximum(rival - k.low, 0.0), np.inf)
    floor = np.full(groups, -np.inf)
    np.maximum.at(floor, k.owner, k.low)
    y = block.columns(k.layer, Role.POST, k.output, k.own, floor, best, Value(k.output, k.own))
    fill = Gap(k.tensor, k.member, k.output, k.own[k.owner])
    s = block.columns(k.layer, Role.SLACK, k.tensor, k.member, 0.0, reach, fill)
    z = block.columns(k.layer, Role.INDICATOR, k.tensor, k.member, 0.0, 1.0, k.winner(), integer=integer)
    each = block.unit(y[k.owner]).matrix
    block.add([each, -k.rows.matrix, block.unit(s, -1.0).matrix], k.rows.constant, k.rows.constant)
    block.add([block.sums(z, k.owner, groups)], 1.0, 1.0)
    return z, s, block.unit(y)
