r"""Sets of type 1 as binaries: a column may leave zero only while its binary says so.

For a set of two columns one binary is enough, for more every member has its own

    L_1 z <= x_1 <= U_1 z,   L_2 (1 - z) <= x_2 <= U_2 (1 - z)
    L_i z_i <= x_i <= U_i z_i,   sum z_i <= 1

U and L are the bounds of the columns, so of a network's positive and negative parts this makes the slack form of
big-M. Members that are fixed at zero are left out.

Assumes finite bounds of the members.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnembed.aliases import Index, Mask
from nnembed.block import Block
from nnembed.errors import BoxError
from nnembed.features import Feature
from nnembed.lowerings.rewrite import (
    Entries,
    FirstColumns,
    Recover,
    column_name,
    extended,
    simple_rows,
    switches,
    unchanged,
)


class Sos1ToBinary:
    """Sets of type 1 become binaries and rows."""

    name = "sos1_to_binary"
    summary = "sets of type 1 as binaries and big-M rows from the members' bounds"
    removes = Feature.SOS1
    emits = Feature.LINEAR | Feature.INTEGER
    cost = 2.0

    def apply(self, block: Block) -> tuple[Block, Recover]:
        """Return the block without sets, and the map of its points to points of the old one.

        Raises
        ------
        BoxError
            If a member has no finite bounds; names it.
        """
        if not block.sos1:
            return unchanged(block)
        member, owner, size = _members(block)
        _refuse_open(block, member)
        first = np.r_[True, owner[1:] != owner[:-1]] if len(owner) else np.zeros(0, dtype=bool)
        pair = size[owner] == 2
        groups, number = switches(block, member[first | ~pair])
        binary = np.empty(len(member), dtype=np.intp)
        binary[first | ~pair] = number
        second = np.flatnonzero(pair & ~first)
        binary[second] = binary[second - 1]
        rows = [*_bounded(block, member, binary, pair & ~first), _at_most_one(binary[~pair], owner[~pair])]
        return extended(block, groups, rows, sos1=()), FirstColumns(block.n_columns)


def _members(block: Block) -> tuple[Index, Index, Index]:
    """Return the columns that compete in sets, their sets (sorted, from 0) and the sizes of all sets."""
    member = np.concatenate([s.columns.reshape(-1) for s in block.sos1])
    per_set = np.concatenate([np.full(len(s.columns), s.columns.shape[1]) for s in block.sos1])
    owner = np.repeat(np.arange(len(per_set)), per_set)
    free = (block.lower[member] != 0) | (block.upper[member] != 0)
    member, owner = member[free], owner[free]
    contested = np.bincount(owner, minlength=len(per_set))[owner] > 1
    member, owner = member[contested], owner[contested]
    return member, owner, np.bincount(owner, minlength=len(per_set))


def _refuse_open(block: Block, member: Index) -> None:
    low, high = block.lower[member], block.upper[member]
    bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
    if len(bad):
        name = column_name(block, int(member[bad[0]]))
        raise BoxError(
            f"a set of type 1 cannot become binaries: its member {name!r} is in [{low[bad[0]]:g}, {high[bad[0]]:g}]; "
            "give the variables it depends on finite bounds, or choose a solver that takes such sets (SOS1)"
        )


def _bounded(block: Block, member: Index, binary: Index, flipped: Mask) -> Iterator[Entries]:
    """Yield ``x <= U z`` and ``x >= L z``, with ``1 - z`` for z where `flipped`."""
    for bound, needed, upper in ((block.upper, block.upper > 0, True), (block.lower, block.lower < 0, False)):
        k = np.flatnonzero(needed[member])
        size = bound[member[k]]
        free = np.full(len(k), -np.inf if upper else np.inf)
        side = np.where(flipped[k], size, 0.0)
        values = [np.ones(len(k)), np.where(flipped[k], size, -size)]
        yield simple_rows([member[k], binary[k]], values, *((free, side) if upper else (side, free)))


def _at_most_one(binary: Index, owner: Index) -> Entries:
    groups, row = np.unique(owner, return_inverse=True)
    m = len(groups)
    return Entries(row, binary, np.ones(len(binary)), np.full(m, -np.inf), np.ones(m))
