"""Complementary pairs as indicator rows: a binary says which column is zero.

``z = 1 => second <= 0``, ``z = 0 => first <= 0``; both columns are at least zero. Needs no bounds.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Index
from nnembed.block import Block, Indicators
from nnembed.features import Feature
from nnembed.lowerings.rewrite import FirstColumns, Recover, extended, switches, unchanged


class ComplementarityToIndicator:
    """Complementary pairs become two indicator rows with a new binary."""

    name = "complementarity_to_indicator"
    summary = "complementary pairs as indicator rows on a new binary"
    removes = Feature.COMPLEMENTARITY
    emits = Feature.LINEAR | Feature.INTEGER | Feature.INDICATOR
    cost = 2.0

    def apply(self, block: Block) -> tuple[Block, Recover]:
        """Return the block without complementary pairs, and the map of its points to points of the old one."""
        if not block.complementarities:
            return unchanged(block)
        pairs = np.concatenate(block.complementarities)
        groups, binary = switches(block, pairs[:, 0])
        width = block.n_columns + len(pairs)
        rules = (_zero(binary, 1.0, pairs[:, 1], width), _zero(binary, 0.0, pairs[:, 0], width))
        changes = {"indicators": (*block.indicators, *rules), "complementarities": ()}
        return extended(block, groups, [], **changes), FirstColumns(block.n_columns)


def _zero(binary: Index, value: float, column: Index, width: int) -> Indicators:
    """Return ``binary == value => column <= 0``."""
    k = len(column)
    matrix = sp.csr_array((np.ones(k), column.astype(np.int32), np.arange(k + 1)), shape=(k, width))
    return Indicators(binary, np.full(k, value), matrix, np.full(k, -np.inf), np.zeros(k))
