r"""Indicator rows as big-M rows, with the smallest M that the columns' bounds prove.

``z = 1 => a x <= h`` becomes ``a x + M z <= h + M`` with ``M = max(a x) - h`` over the bounds of the columns, computed
by interval arithmetic and rounded outward; ``z = 0`` and ``>=`` are its mirror images. A side that the bounds imply
anyway is dropped.

Assumes finite bounds of the columns in the row; an M is never made up.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Block, Indicators
from nnembed.bounds.interval import gamma
from nnembed.errors import BoxError
from nnembed.features import Feature
from nnembed.lowerings.rewrite import Entries, FirstColumns, Recover, column_name, extended, unchanged


class IndicatorToBigM:
    """Indicator rows become rows with a big-M on the binary."""

    name = "indicator_to_bigm"
    summary = "indicator rows as big-M rows, M from the columns' bounds"
    removes = Feature.INDICATOR
    emits = Feature.LINEAR | Feature.INTEGER
    cost = 2.0

    def apply(self, block: Block) -> tuple[Block, Recover]:
        """Return the block without indicator rows, and the map of its points to points of the old one.

        Raises
        ------
        BoxError
            If a row has no finite bound; names the row's binary and the column to blame.
        """
        if not block.indicators:
            return unchanged(block)
        rows = [_relaxed(block, rule, above) for rule in block.indicators for above in (True, False)]
        return extended(block, (), rows, indicators=()), FirstColumns(block.n_columns)


def _relaxed(block: Block, rule: Indicators, above: bool) -> Entries:
    """Return ``a x <= side`` (or ``>=``) with as much room as it can need while the binary is off."""
    sign = 1.0 if above else -1.0
    side = rule.row_upper if above else -rule.row_lower
    low, high = (block.lower, block.upper) if above else (-block.upper, -block.lower)
    reach = row_maximum(rule.matrix, low, high)  # of sign * a x
    k = np.flatnonzero((side < np.inf) & (reach > side))
    if (unbounded := k[~np.isfinite(reach[k])]).size:
        raise BoxError(_blame(block, rule, int(unbounded[0])))
    matrix, side, reach = rule.matrix[k], side[k], reach[k]
    room = reach - side
    # on: a x + M z <= reach where z = 1 counts; off value 0: a x - M z <= side
    counts = rule.value[k] > 0.5
    column = np.concatenate([matrix.indices, rule.binary[k]])
    row = np.concatenate([np.repeat(np.arange(len(k)), np.diff(matrix.indptr)), np.arange(len(k))])
    value = np.concatenate([sign * matrix.data, np.where(counts, room, -room)])
    free = np.full(len(k), np.inf)
    right = np.where(counts, reach, side)
    return Entries(row, column, sign * value, *((-free, right) if above else (-right, free)))


def row_maximum(matrix: sp.csr_array, low: Array, high: Array) -> Array:
    """Return an upper bound, rounded outward, of every row over the box ``low <= x <= high``."""
    row: Index = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    used = matrix.data != 0
    row, data, column = row[used], matrix.data[used], matrix.indices[used]
    terms = data * np.where(data > 0, high[column], low[column])
    total = np.bincount(row, weights=terms, minlength=matrix.shape[0])
    size = np.bincount(row, weights=np.abs(terms), minlength=matrix.shape[0])
    count = np.bincount(row, minlength=matrix.shape[0])
    plain = np.ones(matrix.shape[0], dtype=bool)
    plain[row[np.abs(data) != 1]] = False
    exact = plain & (count <= 1)  # one column, taken as it is
    return np.where(exact, total, total + gamma(int(count.max(initial=0))) * size)


def _blame(block: Block, rule: Indicators, row: int) -> str:
    part = slice(rule.matrix.indptr[row], rule.matrix.indptr[row + 1])
    columns = rule.matrix.indices[part]
    open_ = columns[~(np.isfinite(block.lower[columns]) & np.isfinite(block.upper[columns]))]
    name, column = column_name(block, int(rule.binary[row])), int(open_[0])
    return (
        f"the indicator row of {name!r} cannot become a big-M row: column {column_name(block, column)!r} is in "
        f"[{block.lower[column]:g}, {block.upper[column]:g}]; give the variables it depends on finite bounds, or "
        "choose a solver that takes indicator rows"
    )
