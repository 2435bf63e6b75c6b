r"""Maximum of affine functions: big-M and the cuts of their convex hull, looked for where they are violated.

For ``y = max_k f_k``, ``f_k = w^k x + b^k`` with d members over the box of their columns, the rows of *two_row* and,
for every choice I of a member for each column,

    y <= sum_i ( w_i^{I(i)} x_i + sum_k N_i^{I(i),k} z_k ) + sum_k b^k z_k
    N_i^{l,k} = max over the box of (w_i^k - w_i^l) x_i

There are d^n of these rows; the most violated one takes for every column the member whose term is smallest, in
O(d^2 n). Hereditarily sharp, and ideal for two members. Long members keep the columns that *two_row* gives them, the
cuts are over what they are made of. Solvers that take cuts get them during the search, for others `rounds` rounds are
added before it.

Assumes finite proven bounds. Source: Anderson, Huchette, Ma, Tjandraatmadja and Vielma, Mathematical Programming 183
(2020).

>>> import numpy as np
>>> from nnembed.formulations.show import show
>>> print(show(Maxout(), low=-1.0, high=2.0, inputs=2, node=Max("max", ("x",), "y", np.array([[0, 1]]))))
input.in[0] in [-1, 2]
input.in[1] in [-1, 2]
max.post[0] in [-1, 2]
max.on[0] binary
max.on[1] binary
y.out[0] in [-1, 2]
-1 input.in[0] +1 max.post[0] >= 0
-1 input.in[1] +1 max.post[0] >= 0
-1 input.in[0] +1 max.post[0] +3 max.on[0] <= 3
-1 input.in[1] +1 max.post[0] +3 max.on[1] <= 3
+1 max.on[0] +1 max.on[1] == 1
-1 max.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.block import Separator
from nnembed.bounds.box import Bounds
from nnembed.bounds.hull import RANGE
from nnembed.bounds.interval import gamma
from nnembed.builder import BlockBuilder, Rows, scale_rows
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.formulations.bigm import one_hot_columns
from nnembed.formulations.disjunctive import column_box
from nnembed.formulations.pieces import Contest, emit_max
from nnembed.ir.nodes import Max, Node
from nnembed.matrices import canonical


@dataclass(frozen=True)
class Maxout:
    """Big-M on the members with cuts of the hull.

    Parameters
    ----------
    rounds : int
        Rounds of cuts before the search, for solvers that take none on the way.
    """

    rounds: int = 3

    name: ClassVar[str] = "maxout"
    summary: ClassVar[str] = "maximum of affine functions: big-M and the most violated cuts of the hull"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = frozenset({Max})
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a negative number of rounds."""
        if self.rounds < 0:
            raise InputError(f"Maxout(rounds={self.rounds}): give 0 or more")

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Max):
            emit_max(node, bounds, block, self._contest)

    def _contest(self, k: Contest, block: BlockBuilder) -> Rows:
        members = block.unfolded(block.expression(k.tensor, k.member))
        box = column_box(members, block)
        y, z = one_hot_columns(k, block)
        block.separate(max_cuts(members, box, k.owner, y, z, self.rounds))
        return block.unit(y)


@dataclass(frozen=True, eq=False)
class MaxCuts(Separator):
    """Cuts of several maxima; groups have up to D members, and the t columns that occur in each are listed in a row.

    Attributes
    ----------
    owner, column : int arrays (t,)
        Group and block column.
    low, high : arrays (t,)
    weight : array (t, D)
        Coefficient of the column in each member.
    constant : array (groups, D)
    member : bool array (groups, D)
        Which places are members.
    y : int array (groups,); z : int array (groups, D)
    rounds : int
    """

    owner: Index
    column: Index
    low: Array
    high: Array
    weight: Array
    constant: Array
    member: Mask
    y: Index
    z: Index
    rounds: int = 3

    def violated(self, x: Array, tolerance: float) -> tuple[sp.csr_array, Array, Array]:
        """See `Separator`."""
        z = np.where(self.member, np.clip(x[self.z], 0.0, 1.0), 0.0)
        chosen = self._members(np.clip(x[self.column], self.low, self.high), z)
        own = np.take_along_axis(self.weight, chosen[:, None], axis=1)[:, 0]
        rest = self._reach(own[:, None])  # (t, D): N^{I(i), k}
        on_z = self._total(rest) + self.constant
        size = np.maximum(np.abs(self.low), np.abs(self.high))[:, None] * (np.abs(self.weight) + np.abs(own)[:, None])
        terms = int(np.bincount(self.owner, minlength=1).max(initial=0))
        on_z = on_z + 2 * gamma(terms) * (self._total(size) + np.abs(self.constant))
        bound = np.bincount(self.owner, own * x[self.column], minlength=len(self.y)) + (on_z * z).sum(axis=1)
        excess = x[self.y] - bound
        which = np.flatnonzero(excess > tolerance)
        return self._rows(which, own, on_z, excess, tolerance)

    def _members(self, x: Array, z: Array) -> Index:
        """Return for every column the member whose term is smallest at the point."""
        cost = np.full(self.weight.shape, np.inf)
        for place in range(self.weight.shape[1]):  # D passes keep the memory at (t, D)
            own = self.weight[:, place]
            value = own * x + (self._reach(own[:, None]) * z[self.owner]).sum(axis=1)
            cost[:, place] = np.where(self.member[self.owner, place], value, np.inf)
        best: Index = cost.argmin(axis=1)
        return best

    def _reach(self, own: Array) -> Array:
        """Return the largest value of ``(w^k - own) x`` over the box, (t, D)."""
        difference = self.weight - own
        out: Array = np.maximum(difference * self.low[:, None], difference * self.high[:, None])
        return out

    def _total(self, values: Array) -> Array:
        out = np.zeros((len(self.y), values.shape[1]))
        np.add.at(out, self.owner, values)
        return out

    def _rows(
        self, which: Index, own: Array, on_z: Array, excess: Array, tolerance: float
    ) -> tuple[sp.csr_array, Array, Array]:
        number = np.full(len(self.y), -1, dtype=np.intp)
        number[which] = np.arange(len(which))
        mine = np.flatnonzero((number[self.owner] >= 0) & (own != 0))
        group, place = np.nonzero(self.member[which] & (on_z[which] != 0))
        row = np.concatenate([np.arange(len(which)), number[self.owner[mine]], group])
        column = np.concatenate([self.y[which], self.column[mine], self.z[which][group, place]])
        data = np.concatenate([np.ones(len(which)), -own[mine], -on_z[which][group, place]])
        shape = (len(which), int(column.max(initial=0)) + 1)
        matrix = canonical(sp.csr_array(sp.coo_array((data, (row, column)), shape=shape)))
        if not len(which):
            return matrix, np.zeros(0), np.zeros(0)
        sizes = np.abs(matrix.data)
        largest = np.maximum.reduceat(sizes, matrix.indptr[:-1])
        smallest = np.minimum.reduceat(sizes, matrix.indptr[:-1])
        good = np.flatnonzero((excess[which] > tolerance * largest) & (largest <= RANGE * smallest))
        scale = np.exp2(-np.ceil(np.log2(largest[good])))
        return scale_rows(sp.csr_array(matrix[good]), scale), np.full(len(good), -np.inf), np.zeros(len(good))


def max_cuts(members: Rows, box: tuple[Array, Array], owner: Index, y: Index, z: Index, rounds: int) -> MaxCuts:
    """Return the cuts of maxima whose members are rows, group by group.

    Parameters
    ----------
    members : Rows
    box : pair of arrays (columns,)
    owner : int array (members,)
        Group of each member, sorted.
    y : int array (groups,); z : int array (members,)
        Their columns.
    rounds : int
    """
    groups = len(y)
    count = np.bincount(owner, minlength=groups)
    place = np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
    entry = members.matrix.tocoo()
    row, column = entry.coords
    pair, where = np.unique(owner[row] * np.int64(members.matrix.shape[1]) + column, return_inverse=True)
    home, columns = (np.asarray(part, dtype=np.intp) for part in np.divmod(pair, members.matrix.shape[1]))
    weight = np.zeros((len(pair), int(count.max(initial=1))))
    weight[where, place[row]] = entry.data
    shape = (groups, weight.shape[1])
    constant, member, binary = np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.intp)
    constant[owner, place], member[owner, place], binary[owner, place] = members.constant, True, z
    return MaxCuts(home, columns, box[0][columns], box[1][columns], weight, constant, member, y, binary, rounds)
