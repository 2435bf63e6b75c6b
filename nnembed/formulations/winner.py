r"""The winner among affine functions: one binary per member, and rows on differences.

For ``z = one-hot of argmax_k f_k`` with members that may win K and proven bounds ``m_kj <= f_k - f_j``

    sum_{k in K} z_k = 1,      f_k - f_j >= m_kj (1 - z_k)      for k, j in K with m_kj < 0

The big-M is the bound of the *difference*, carried backwards through the network as one function (CROWN), which is far
below what the ranges of both members give where they move together. Members that another one beats everywhere are left
out: they neither win nor decide who does. At most |K| (|K| - 1) rows of three entries, long members get a column.

**Ties.** The network's winner is the first of equal members. The block allows each of them, as both values of a *step*
are allowed at its threshold, and what is said there holds here: the block is the network and its limits, bounds are
proofs, and the answer is what the network itself says at the solver's inputs. With a margin m > 0 a member must lead
those before it by m, so points with ``0 < f_k - f_j < m`` for the winner k and a member j before it do not count, and a
tie has one winner, the network's. It is the caller who states that nothing else matters; nobody checks it. A margin is
needed where members are equal on a whole region, behind ReLUs that are all off: no move of the inputs settles that.

Assumes finite proven bounds. Source: the rows are those of classification constraints in verification, for example
Tjeng, Xiao and Tedrake, ICLR 2019, section 3.

>>> import numpy as np
>>> from nnembed.formulations.show import show
>>> print(show(WinnerRows(), low=-1.0, high=2.0, inputs=2, node=Winner("first", ("x",), "y", np.array([[0, 1]]))))
input.in[0] in [-1, 2]
input.in[1] in [-1, 2]
first.on[0] binary
first.on[1] binary
y.out[0] in [0, 1]
y.out[1] in [0, 1]
+1 first.on[0] +1 first.on[1] == 1
+1 input.in[0] -1 input.in[1] -3 first.on[0] >= -3
-1 input.in[0] +1 input.in[1] -3 first.on[1] >= -3
-1 first.on[0] +1 y.out[0] == 0
-1 first.on[1] +1 y.out[1] == 0
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from nnembed import fills
from nnembed.aliases import Array, Index
from nnembed.block import Role
from nnembed.bounds.backward import Backward, rivals
from nnembed.bounds.box import Bounds, pairs
from nnembed.bounds.ladder import distinct
from nnembed.builder import BlockBuilder, Piece, Rows, scale_rows
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.formulations.pieces import member_rows, require_finite
from nnembed.ir.nodes import Node, Winner
from nnembed.presolve import units


@dataclass(frozen=True)
class WinnerRows:
    """A one-hot vector of binaries, and a row for every pair of members.

    Parameters
    ----------
    margin : float
        By how much a winner must lead the members before it, see the module; 0 leaves nothing out.
    """

    margin: float = 0.0

    summary: ClassVar[str] = "one-hot winner with big-M from bounds of differences"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = frozenset({Winner})
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no margin."""
        if not 0 <= self.margin < np.inf:
            raise InputError(f"WinnerRows(margin={self.margin}): give a number >= 0")

    @property
    def name(self) -> str:
        """The name, with the margin where there is one, so that plans show it."""
        return f"winner(margin={self.margin:g})" if self.margin else "winner"

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the columns and rows of one layer."""
        if isinstance(node, Winner):
            emit_winner(node, bounds, block, margin=self.margin)


def emit_winner(
    node: Winner, bounds: Bounds, block: BlockBuilder, *, margin: float = 0.0, integer: bool = True
) -> None:
    """Define the output of a layer of winners; without `integer` as a relaxation."""
    require_finite(node, bounds)
    few, which = distinct(replace(bounds, region=None), bounds.low)
    sweep = Backward(bounds.network, dict(few.low), dict(few.high))
    alive, least = rivals(sweep, node, bounds.network.nodes.index(node))
    alive, least = alive[which], least[which]
    several = alive.sum(axis=-1, keepdims=True) > 1
    sure = np.flatnonzero(alive & ~several)
    pieces = [Piece(sure, Rows(sp.csr_array((len(sure), max(block.width, 1))), np.ones(len(sure))))]
    point, group, place = np.nonzero(alive & several)
    if len(point):
        own = np.ravel_multi_index((point, group, place), alive.shape)
        owner = np.unique(point * alive.shape[1] + group, return_inverse=True)[1]
        member = point * bounds.low[node.input].shape[1] + node.groups[group, place]
        i, j = pairs(owner)
        gap = least[point[i], group[i], place[i], place[j]]
        z = _write(node, block, (own, member, owner), (i, j, gap), np.where(j < i, margin, 0.0), integer)
        pieces.append(Piece(own, block.unit(z)))
    block.define(node.output, pieces)


def _write(
    node: Winner,
    block: BlockBuilder,
    members: tuple[Index, Index, Index],
    duels: tuple[Index, Index, Array],
    lead: Array,
    integer: bool,
) -> Index:
    """Write open groups, members (own element, place in the input, group) one after the other; return their columns z.

    `duels` are pairs of members and proven bounds of their differences, `lead` is what the first must lead by.
    """
    own, member, owner = members
    i, j, gap = duels
    rows = member_rows(node, block, member)
    fill = fills.Winner(node.input, member, owner)
    z = block.columns(node.name, Role.INDICATOR, node.output, own, 0.0, 1.0, fill, integer=integer)
    block.add([block.sums(z, owner, int(owner[-1]) + 1)], 1.0, 1.0)
    kept = gap < lead  # the others hold anyway
    i, j, gap, lead = i[kept], j[kept], gap[kept], lead[kept]
    first, second = rows.take(i), rows.take(j)
    matrix = sp.csr_array(first.matrix - second.matrix)
    unit = 1.0 / units(np.minimum(gap, 0.0), lead, matrix)  # powers of two, against tiny and huge rows
    side = (gap - first.constant + second.constant) * unit
    block.add([scale_rows(matrix, unit), block.unit(z[i], (gap - lead) * unit).matrix], side, np.inf)
    return z
