r"""Maximum with every member split in what counts and what does not.

For ``y = max_i x_i`` with members in ``[lo_i, hi_i]``

    y = sum_i v_i,   lo_i z_i <= v_i <= hi_i z_i,   lo_i (1 - z_i) <= x_i - v_i <= hi_i (1 - z_i),   y >= x_i,
    sum_i z_i = 1

Ideal for two members; sharp for more (its LP relaxation projects to the convex hull), where big-M is neither. One
binary and one column per member, 5 d + 2 rows for d members; long members have columns of their own.

Assumes finite proven bounds. Source: Anderson, Huchette, Ma, Tjandraatmadja and Vielma, Mathematical Programming 183
(2020).

>>> import numpy as np
>>> from nnembed.formulations.show import show
>>> print(show(MaxSplit(), low=-1.0, high=2.0, inputs=2, node=Max("max", ("x",), "y", np.array([[0, 1]]))))
input.in[0] in [-1, 2]
input.in[1] in [-1, 2]
max.post[0] in [-1, 2]
max.on[0] binary
max.on[1] binary
max.part[0] in [-1, 2]
max.part[1] in [-1, 2]
y.out[0] in [-1, 2]
+1 max.post[0] -1 max.part[0] -1 max.part[1] == 0
-2 max.on[0] +1 max.part[0] <= 0
-2 max.on[1] +1 max.part[1] <= 0
+1 max.on[0] +1 max.part[0] >= 0
+1 max.on[1] +1 max.part[1] >= 0
+1 input.in[0] +2 max.on[0] -1 max.part[0] <= 2
+1 input.in[1] +2 max.on[1] -1 max.part[1] <= 2
+1 input.in[0] -1 max.on[0] -1 max.part[0] >= -1
+1 input.in[1] -1 max.on[1] -1 max.part[1] >= -1
-1 input.in[0] +1 max.post[0] >= 0
-1 input.in[1] +1 max.post[0] >= 0
+1 max.on[0] +1 max.on[1] == 1
-1 max.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

import numpy as np

from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows, scale_rows
from nnembed.features import Feature
from nnembed.fills import Value
from nnembed.formulations.disjunctive import Switched
from nnembed.formulations.pieces import Contest, emit_max
from nnembed.ir.nodes import Max, Node


class MaxSplit:
    """A share of every member."""

    name = "max_split"
    summary = "maximum by shares of the members: the hull of two, sharp for more"
    emits = Feature.LINEAR | Feature.INTEGER
    handles: frozenset[type[Node]] = frozenset({Max})
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Max):
            emit_max(node, bounds, block, _contest)


def _contest(k: Contest, block: BlockBuilder) -> Rows:
    groups = len(k.own)
    floor, best = np.full(groups, -np.inf), np.full(groups, -np.inf)
    np.maximum.at(floor, k.owner, k.low)
    np.maximum.at(best, k.owner, k.high)
    y = block.columns(k.layer, Role.POST, k.output, k.own, floor, best, Value(k.output, k.own))
    z = block.binaries(k.layer, k.tensor, k.member, k.winner())
    sides = np.minimum(k.low, 0.0), np.maximum(k.high, 0.0)
    fill = Switched(Value(k.tensor, k.member), k.winner())
    v = block.columns(k.layer, Role.PART, k.tensor, k.member, *sides, fill)
    own, on, c = block.unit(v).matrix, block.unit(z).matrix, k.rows.constant
    block.add([block.unit(y).matrix, -block.sums(v, k.owner, groups)], 0.0, 0.0)
    block.add([own, scale_rows(on, -k.high)], -np.inf, 0.0)
    block.add([own, scale_rows(on, -k.low)], 0.0, np.inf)
    block.add([k.rows.matrix, -own, scale_rows(on, k.high)], -np.inf, k.high - c)
    block.add([k.rows.matrix, -own, scale_rows(on, k.low)], k.low - c, np.inf)
    block.add([block.unit(y[k.owner]).matrix, -k.rows.matrix], c, np.inf)
    block.add([block.sums(z, k.owner, groups)], 1.0, 1.0)
    return block.unit(y)
