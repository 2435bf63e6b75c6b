r"""Maximum of affine functions with a copy of their columns for every member: the convex hull over the box.

For ``y = max_k f_k``, ``f_k = w^k x + b^k`` with d members over ``lo <= x <= hi``

    x = sum_k x^k,   lo z_k <= x^k <= hi z_k,   sum_k z_k = 1
    y = sum_k (w^k x^k + b^k z_k),   w^k x^k + b^k z_k >= w^l x^k + b^l z_k  for all k, l

Ideal. One binary per member, ``d n`` columns and ``O(d^2 + d n)`` rows for n columns in a group: for few inputs, and
the yardstick of *maxout*, which has the hull by cuts.

Assumes finite proven bounds. Source: Balas, Discrete Applied Mathematics 89 (1998).

>>> import numpy as np
>>> from nnembed.formulations.show import show
>>> print(show(MaxExtended(), low=-1.0, high=2.0, inputs=2, node=Max("max", ("x",), "y", np.array([[0, 1]]))))
input.in[0] in [-1, 2]
input.in[1] in [-1, 2]
max.post[0] in [-1, 2]
max.on[0] binary
max.on[1] binary
max.part[0] in [-1, 2]
max.part[1] in [-1, 2]
max.part[0]_2 in [-1, 2]
max.part[1]_2 in [-1, 2]
y.out[0] in [-1, 2]
+1 max.on[0] +1 max.on[1] == 1
-2 max.on[0] +1 max.part[0] <= 0
-2 max.on[1] +1 max.part[1] <= 0
-2 max.on[0] +1 max.part[0]_2 <= 0
-2 max.on[1] +1 max.part[1]_2 <= 0
+1 max.on[0] +1 max.part[0] >= 0
+1 max.on[1] +1 max.part[1] >= 0
+1 max.on[0] +1 max.part[0]_2 >= 0
+1 max.on[1] +1 max.part[1]_2 >= 0
+1 input.in[0] -1 max.part[0] -1 max.part[1] == 0
+1 input.in[1] -1 max.part[0]_2 -1 max.part[1]_2 == 0
+1 max.post[0] -1 max.part[0] -1 max.part[1]_2 == 0
+1 max.part[0] -1 max.part[0]_2 >= 0
-1 max.part[1] +1 max.part[1]_2 >= 0
-1 max.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Index
from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows, scale_rows
from nnembed.features import Feature
from nnembed.fills import Nonzero, Value
from nnembed.formulations.disjunctive import Switched, column_box, combined
from nnembed.formulations.pieces import Contest, emit_max
from nnembed.ir.nodes import Max, Node


class MaxExtended:
    """Copies of the inputs for every member."""

    name = "max_extended"
    summary = "maximum of affine functions by copies of their inputs: the hull, for few inputs"
    emits = Feature.LINEAR | Feature.INTEGER
    handles: frozenset[type[Node]] = frozenset({Max})
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Max):
            emit_max(node, bounds, block, _contest)


@dataclass(frozen=True, eq=False)
class _Copies:
    """Pairs of a group and a column that occurs in it, and a copy of each pair for every member of the group.

    `owner`, `column` belong to pairs, `pair`, `member` to copies, `start` and `count` to groups (their members);
    copies are sorted by pair, then member, and `first` is the first copy of a pair.
    """

    owner: Index
    column: Index
    pair: Index
    member: Index
    start: Index
    count: Index
    first: Index


def _contest(k: Contest, block: BlockBuilder) -> Rows:
    groups = len(k.own)
    members = block.unfolded(block.expression(k.tensor, k.member))
    low, high = column_box(members, block)
    floor, best = np.full(groups, -np.inf), np.full(groups, -np.inf)
    np.maximum.at(floor, k.owner, k.low)
    np.maximum.at(best, k.owner, k.high)
    y = block.columns(k.layer, Role.POST, k.output, k.own, floor, best, Value(k.output, k.own))
    z = block.binaries(k.layer, k.tensor, k.member, k.winner())
    block.add([block.sums(z, k.owner, groups)], 1.0, 1.0)
    copies = _copies(members, k.owner, groups)
    column = copies.column[copies.pair]
    width = members.matrix.shape[1]
    fill = Switched(combined(block, _unit(column, width)), Nonzero(k.winner(), copies.member))
    sides = np.minimum(low[column], 0.0), np.maximum(high[column], 0.0)
    part = block.columns(k.layer, Role.PART, k.tensor, k.member[copies.member], *sides, fill)
    own, on = block.unit(part).matrix, block.unit(z[copies.member]).matrix
    block.add([own, scale_rows(on, -high[column])], -np.inf, 0.0)
    block.add([own, scale_rows(on, -low[column])], 0.0, np.inf)
    block.add([_unit(copies.column, width), -block.sums(part, copies.pair, len(copies.column))], 0.0, 0.0)
    _write_values(k, block, copies, members, (y, z, part))
    return block.unit(y)


def _copies(members: Rows, owner: Index, groups: int) -> _Copies:
    entry = members.matrix.tocoo()
    row, column = entry.coords
    wide = np.int64(members.matrix.shape[1])
    home, columns = (np.asarray(p, dtype=np.intp) for p in np.divmod(np.unique(owner[row] * wide + column), wide))
    count = np.bincount(owner, minlength=groups)
    start = np.cumsum(count) - count
    pair = np.repeat(np.arange(len(home)), count[home])
    first = np.cumsum(count[home]) - count[home]
    member = start[home[pair]] + np.arange(len(pair)) - first[pair]
    return _Copies(home, columns, pair, member, start, count, first)


def _unit(columns: Index, width: int) -> sp.csr_array:
    k = len(columns)
    return sp.csr_array((np.ones(k), columns.astype(np.int32), np.arange(k + 1)), shape=(k, width))


def _write_values(
    k: Contest, block: BlockBuilder, copies: _Copies, members: Rows, columns: tuple[Index, Index, Index]
) -> None:
    """Write ``y = sum_k f_k`` on the copies, and that every member is the largest on its own copy."""
    y, z, part = columns
    c, owner = members.constant, k.owner
    entry = members.matrix.tocoo()
    member, column = entry.coords
    known = copies.owner * np.int64(members.matrix.shape[1]) + copies.column  # sorted
    pair = np.searchsorted(known, owner[member] * np.int64(members.matrix.shape[1]) + column)
    own = part[copies.first[pair] + member - copies.start[owner[member]]]
    groups = len(y)
    value = sp.csr_array(sp.coo_array((entry.data, (owner[member], own)), shape=(groups, block.width)))
    fixed = sp.csr_array(sp.coo_array((c, (owner, z)), shape=(groups, block.width)))
    block.add([block.unit(y).matrix, -value, -fixed], 0.0, 0.0)
    # rows (i, j) of a group: f_i - f_j >= 0 on the copy of i
    count = copies.count[owner]
    base = np.cumsum(count) - count  # first row of member i
    rows = int(count.sum())
    winner = np.repeat(np.arange(len(owner)), count)
    rival = copies.start[owner[winner]] + np.arange(rows) - base[winner]
    again = copies.count[owner[member]]
    which = np.repeat(np.arange(len(member)), again)
    other = copies.start[owner[member[which]]] + np.arange(len(which)) - (np.cumsum(again) - again)[which]
    local = member[which] - copies.start[owner[member[which]]]
    plus = (base[member[which]] + other - copies.start[owner[other]], own[which], entry.data[which])
    rival_copy = part[copies.first[pair[which]] + other - copies.start[owner[other]]]
    minus = (base[other] + local, rival_copy, -entry.data[which])
    constant = (np.arange(rows), z[winner], c[winner] - c[rival])
    row, col, data = (np.concatenate(parts) for parts in zip(plus, minus, constant, strict=True))
    matrix: sp.csr_array = sp.csr_array(sp.coo_array((data, (row, col)), shape=(rows, block.width)))
    matrix.eliminate_zeros()
    block.add([matrix[np.flatnonzero(winner != rival)]], 0.0, np.inf)
