r"""Triangle relaxation: the convex hull of one neuron over its pre-activation range, no binary.

For an open ReLU with proven ``L <= g <= U``

    y >= 0,   y >= g,   y <= U (g - L) / (U - L)

A relaxation: it contains the graph of the network and more, so an optimum over it is a bound, not an answer. Any kink
has the same three rows (mirrored where the kink is concave); a clip open at both ends has the two chords of its hull; a
maximum has ``y >= x_i`` and ``y <= sum_i (x_i - l_i) + max_i l_i``; a step has the rows of *step* without integrality.

Source: Ehlers, ATVA 2017. Assumes finite proven bounds.

>>> from nnembed.formulations.show import show
>>> print(show(Triangle(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.post[0] >= 0
-0.666667 input.in[0] +1 relu.post[0] <= 0.666667
-1 relu.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

import numpy as np

from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows, scale_rows
from nnembed.features import Feature
from nnembed.fills import Value
from nnembed.formulations.bigm import ALL_KINDS, kink_column
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Contest, Kinks, TwoKinks
from nnembed.ir.nodes import Node


class Triangle:
    """The LP relaxation of every neuron by itself."""

    name = "triangle"
    summary = "LP relaxation, no binaries: bounds, not answers"
    emits = Feature.LINEAR
    handles = ALL_KINDS
    exact = False
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if bounds.open(node).any():
            block.exact = False
        emit_layer(node, bounds, block, triangle, two_chords, sum_bound, integer=False)


def triangle(k: Kinks, block: BlockBuilder) -> Rows:
    """Return ``y - value`` after writing both slopes and the chord."""
    sign = np.sign(k.right - k.left)
    y = kink_column(k, block)
    own, g, c = block.unit(y, sign).matrix, k.pre.matrix, k.pre.constant
    block.add([own, scale_rows(g, -sign * k.right)], sign * k.right * c, np.inf)
    rest = np.flatnonzero(k.left != 0)
    if len(rest):
        left = (sign * k.left)[rest]
        block.add([own[rest], scale_rows(g[rest], -left)], left * c[rest], np.inf)
    slope = (k.right * k.high - k.left * k.low) / (k.high - k.low)
    # Evaluated at both ends and the larger offset taken, so that rounding never cuts off an end of the graph.
    offset = np.maximum(sign * (k.left - slope) * k.low, sign * (k.right - slope) * k.high)
    block.add([own, scale_rows(g, -sign * slope)], -np.inf, sign * slope * c + offset)
    return block.unit(y)


def two_chords(k: TwoKinks, block: BlockBuilder) -> Rows:
    """Return ``y - lower`` of a clip between the chords ``(L, 0)-(span, span)`` and ``(0, 0)-(U, span)``."""
    origin = Value(k.output, k.elements, k.threshold)
    y = block.columns(k.layer, Role.POST, k.output, k.elements, 0.0, k.span, origin)
    own, g, c = block.unit(y).matrix, k.pre.matrix, k.pre.constant
    upper, lower = k.span / (k.span - k.low), k.span / k.high
    block.add([own, scale_rows(g, -upper)], -np.inf, upper * (c - k.low))
    block.add([own, scale_rows(g, -lower)], lower * c + np.minimum(0.0, k.span - lower * k.high), np.inf)
    return block.unit(y)


def sum_bound(k: Contest, block: BlockBuilder) -> Rows:
    """Return the largest member per group, relaxed."""
    groups = len(k.own)
    floor, best = np.full(groups, -np.inf), np.full(groups, -np.inf)
    np.maximum.at(floor, k.owner, k.low)
    np.maximum.at(best, k.owner, k.high)
    y = block.columns(k.layer, Role.POST, k.output, k.own, floor, best, Value(k.output, k.own))
    block.add([block.unit(y[k.owner]).matrix, -k.rows.matrix], k.rows.constant, np.inf)
    gather = block.sums(np.arange(len(k.member)), k.owner, groups)
    gather = type(gather)((gather.data, gather.indices, gather.indptr), shape=(groups, len(k.member)))
    side = gather @ (k.rows.constant - k.low) + floor
    block.add([block.unit(y).matrix, -(gather @ k.rows.matrix)], -np.inf, side)
    return block.unit(y)
