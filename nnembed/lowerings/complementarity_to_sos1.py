"""Complementary pairs as sets of type 1: of two columns that are at least zero, one is zero."""

from __future__ import annotations

from dataclasses import replace

from nnembed.block import Block, Sos1
from nnembed.features import Feature
from nnembed.lowerings.rewrite import FirstColumns, Recover, unchanged


class ComplementarityToSos1:
    """Complementary pairs become sets of two."""

    name = "complementarity_to_sos1"
    summary = "complementary pairs as sets of type 1: nothing added, nothing lost"
    removes = Feature.COMPLEMENTARITY
    emits = Feature.LINEAR | Feature.SOS1
    cost = 1.0

    def apply(self, block: Block) -> tuple[Block, Recover]:
        """Return the block without complementary pairs, and the map of its points to points of the old one."""
        if not block.complementarities:
            return unchanged(block)
        sets = (*block.sos1, *(Sos1(pairs) for pairs in block.complementarities))
        return replace(block, sos1=sets, complementarities=()), FirstColumns(block.n_columns)
