"""What formulations by disjunction share: terms of affine rows with their ranges, and values that a binary switches.

A row ``g = w x + b`` is taken over the block columns x that it is written over, with their bounds. Neurons below that
are stable have no column, so at any depth these are inputs and open neurons, and the box of these columns contains
every point of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import ColumnGroup, Role
from nnembed.bounds.interval import gamma
from nnembed.builder import BlockBuilder, Rows
from nnembed.fills import Fill, Part
from nnembed.formulations.pieces import Kinks


@dataclass(frozen=True, eq=False)
class Terms:
    """The nonzeros of k affine rows, one after the other, sorted by row; arrays (t,) unless stated.

    Attributes
    ----------
    owner, column : int arrays
        Row and column of each term.
    weight : array
        Coefficients, never zero.
    least, most : arrays
        Values of the column at which the term is smallest and largest.
    constant : array (k,)
    """

    owner: Index
    column: Index
    weight: Array
    least: Array
    most: Array
    constant: Array

    def __len__(self) -> int:
        return len(self.weight)

    def total(self, values: Array) -> Array:
        """Return the sums of `values` (t,) per row."""
        sums: Array = np.bincount(self.owner, values, minlength=len(self.constant)).astype(float)
        return sums


def column_box(rows: Rows, block: BlockBuilder) -> tuple[Array, Array]:
    """Return bounds of the columns of `rows`."""
    low, high = block.box()
    width = rows.matrix.shape[1]
    return low[:width], high[:width]


def terms_of(rows: Rows, block: BlockBuilder) -> Terms:
    """Return the terms of rows over the columns so far."""
    matrix = rows.matrix.tocoo()
    used = np.flatnonzero(matrix.data != 0)
    owner, column = (np.asarray(c, dtype=np.intp)[used] for c in matrix.coords)
    low, high = (side[column] for side in block.box())
    weight = matrix.data[used]
    up = weight > 0
    return Terms(owner, column, weight, np.where(up, low, high), np.where(up, high, low), rows.constant)


def positive_part(k: Kinks, block: BlockBuilder) -> tuple[Index, Rows]:
    """Return columns ``r = max(g, 0)``, whose rows are left to the caller, and ``y - value``.

    For a ReLU that is r itself; any other kink also has ``s = r - g`` and is ``right r - left s``.
    """
    fill = Part(k.tensor, k.elements, 1.0, k.threshold)
    r = block.columns(k.layer, Role.POST, k.output, k.elements, 0.0, k.high, fill)
    if (k.left == 0).all() and (k.right == 1).all():
        return r, block.unit(r)
    rest = (k.layer, Role.SLACK, k.tensor, k.elements)
    s = block.columns(*rest, 0.0, -k.low, Part(k.tensor, k.elements, -1.0, k.threshold))
    block.add([k.pre.matrix, block.unit(r, -1.0).matrix, block.unit(s).matrix], -k.pre.constant, -k.pre.constant)
    total = block.unit(r, k.right).matrix + block.unit(s, -k.left).matrix
    total.eliminate_zeros()
    return r, Rows(total, np.zeros(len(r)))


@dataclass(frozen=True, eq=False)
class Combined(Fill):
    """``matrix @ columns``; `groups` say how a forward pass fills the columns."""

    groups: tuple[ColumnGroup, ...]
    columns: Index
    matrix: sp.csr_array

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        starts = np.array([g.start for g in self.groups], dtype=np.intp)
        home = np.searchsorted(starts, self.columns, side="right") - 1
        value = np.zeros(len(self.columns))
        for place in np.unique(home).tolist():
            mine = home == place
            group = self.groups[place]
            value[mine] = group.fill(state)[self.columns[mine] - group.start]
        out: Array = self.matrix @ value
        return out


@dataclass(frozen=True, eq=False)
class Switched(Fill):
    """`value` where `gate` is 1, else 0."""

    value: Fill
    gate: Fill

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        out: Array = np.where(self.gate(state) > 0.5, self.value(state), 0.0)
        return out


def combined(block: BlockBuilder, matrix: sp.csr_array) -> Combined:
    """Return the fill of rows over the columns so far."""
    columns, where = np.unique(matrix.indices, return_inverse=True)
    own = sp.csr_array((matrix.data, where, matrix.indptr), shape=(matrix.shape[0], len(columns)))
    needed = np.asarray(columns, dtype=np.intp)
    groups = tuple(g for g in block.groups if ((needed >= g.columns.start) & (needed < g.columns.stop)).any())
    return Combined(groups, needed, own)


def part_sums(terms: Terms, part: Index, parts: int, width: int) -> tuple[sp.csr_array, Array, Array]:
    """Return the terms summed by `part` (t,), as rows over the columns, with the sums' ranges rounded outward."""
    sums = sp.csr_array(sp.coo_array((terms.weight, (part, terms.column)), shape=(parts, width)))
    low = np.bincount(part, terms.weight * terms.least, minlength=parts)
    high = np.bincount(part, terms.weight * terms.most, minlength=parts)
    ends = np.stack([np.abs(terms.weight * terms.least), np.abs(terms.weight * terms.most)])
    error = gamma(int(np.bincount(part, minlength=1).max(initial=1)))
    below, above = (error * np.bincount(part, end, minlength=parts) for end in ends)
    return sums, low - below, high + above
