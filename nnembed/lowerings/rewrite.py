"""What lowerings share: new binary columns behind the old ones, rows below the old ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Block, ColumnGroup, Role
from nnembed.fills import Fill, Nonzero
from nnembed.matrices import stack
from nnembed.problem import widen

Recover = Callable[[Array], Array]


@dataclass(frozen=True)
class FirstColumns:
    """Maps a point of a block that got columns at its end back to the block it was made from."""

    count: int

    def __call__(self, x: Array) -> Array:
        """Return the first columns of a point (or of points, along the last axis)."""
        return x[..., : self.count]


def unchanged(block: Block) -> tuple[Block, Recover]:
    """Return the block itself, for a lowering that finds nothing to do."""
    return block, FirstColumns(block.n_columns)


@dataclass(frozen=True, eq=False)
class Entries:
    """Rows in coordinate form, to be appended to a block."""

    row: Index
    column: Index
    value: Array
    lower: Array
    upper: Array


def simple_rows(columns: Sequence[Index], values: Sequence[Array], lower: Any, upper: Any) -> Entries:
    """Return rows with the same number of terms each: ``sum_j values[j][i] * column columns[j][i]``."""
    m, terms = len(columns[0]), len(columns)
    sides = (np.broadcast_to(np.asarray(side, float), (m,)) for side in (lower, upper))
    return Entries(np.tile(np.arange(m), terms), np.concatenate(columns), np.concatenate(values), *sides)


def switches(block: Block, columns: Index) -> tuple[tuple[ColumnGroup, ...], Index]:
    """Return column groups of binaries that are 1 where the given columns are nonzero, and the binaries' numbers.

    A forward pass fills them, so start vectors stay complete. Each is named after the column it stands for.
    """
    return companions(block, columns, Role.INDICATOR, Nonzero)


def companions(
    block: Block, columns: Index, role: Role, rule: Callable[[Fill, Index], Fill]
) -> tuple[tuple[ColumnGroup, ...], Index]:
    """Return groups of new columns, one for each of the given ones, and their numbers.

    Parameters
    ----------
    role : Role
        Of the new columns; each is named after the column it stands for.
    rule : callable (fill, members) -> Fill
        How they are filled from the places `members` of what fills the old ones.
    """
    starts = np.array([g.start for g in block.groups], dtype=np.intp)
    home = np.searchsorted(starts, columns, side="right") - 1
    order = np.argsort(home, kind="stable")
    number = np.empty(len(columns), dtype=np.intp)
    start = block.n_columns
    number[order] = start + np.arange(len(columns))
    taken = {(g.layer, g.role) for g in block.groups}
    groups = []
    for place in np.unique(home).tolist():
        source = block.groups[place]
        members = columns[order][home[order] == place] - source.start
        layer = _free_layer(source, role, taken)
        taken.add((layer, role))
        elements, fill = source.elements[members], rule(source.fill, members)
        groups.append(ColumnGroup(layer, role, start, source.tensor, source.tensor_size, elements, fill))
        start += len(members)
    return tuple(groups), number


def _free_layer(source: ColumnGroup, role: Role, taken: set[tuple[str, Role]]) -> str:
    layer, k = source.layer, 1
    while (layer, role) in taken:
        layer = f"{source.layer}.{source.role.value}{k if k > 1 else ''}"
        k += 1
    return layer


def extended(block: Block, groups: tuple[ColumnGroup, ...], parts: Sequence[Entries], **changes: Any) -> Block:
    """Return the block with binary columns and rows appended, and other fields changed."""
    new = sum(len(g.elements) for g in groups)
    width = block.n_columns + new
    matrices = [_matrix(part, width) for part in parts]
    changes.setdefault("indicators", block.indicators)
    changes["indicators"] = tuple(replace(i, matrix=widen(i.matrix, width)) for i in changes["indicators"])
    return replace(
        block,
        matrix=stack([widen(block.matrix, width), *matrices], width),
        row_lower=np.concatenate([block.row_lower, *(p.lower for p in parts)]),
        row_upper=np.concatenate([block.row_upper, *(p.upper for p in parts)]),
        lower=np.concatenate([block.lower, np.zeros(new)]),
        upper=np.concatenate([block.upper, np.ones(new)]),
        integer=np.concatenate([block.integer, np.ones(new, dtype=bool)]),
        groups=(*block.groups, *groups),
        **changes,
    )


def _matrix(part: Entries, width: int) -> sp.csr_array:
    shape = (len(part.lower), width)
    return sp.csr_array(sp.coo_array((part.value, (part.row, part.column)), shape=shape))


def column_name(block: Block, column: int) -> str:
    """Return the name of a column."""
    group = next(g for g in block.groups if g.columns.start <= column < g.columns.stop)
    return group.names("", block.batch)[column - group.start].removeprefix(".")
