r"""ReLU rows as complementary pairs: ``y = max(g, 0)`` is ``y - s = g, y >= 0, s >= 0, y s = 0``. Needs no bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.block import Block, Role
from nnembed.features import Feature
from nnembed.fills import Fill
from nnembed.lowerings.rewrite import FirstColumns, Recover, companions, extended, simple_rows, unchanged


@dataclass(frozen=True, eq=False)
class Negative(Fill):
    """The negative part of the places `members` of another group."""

    source: Fill
    members: Index

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return np.maximum(-self.source(state)[self.members], 0.0)


class ReluToComplementarity:
    """ReLU rows become complementary pairs with a new slack column."""

    name = "relu_to_complementarity"
    summary = "ReLU rows as complementary positive and negative part; needs no bounds"
    removes = Feature.RELU
    emits = Feature.LINEAR | Feature.COMPLEMENTARITY
    cost = 1.0

    def apply(self, block: Block) -> tuple[Block, Recover]:
        """Return the block without ReLU rows, and the map of its points to points of the old one."""
        if not block.relus:
            return unchanged(block)
        result, argument = np.concatenate(block.relus).T
        n, one = block.n_columns, np.ones(len(result))
        groups, slack = companions(block, argument, Role.SLACK, Negative)
        rows = simple_rows([result, argument, slack], [one, -one, -one], 0.0, 0.0)
        pairs = (*block.complementarities, np.stack([result, slack], axis=1))
        wide = extended(block, groups, [rows], complementarities=pairs, relus=())
        lower, upper, integer = wide.lower.copy(), wide.upper.copy(), wide.integer.copy()
        lower[result] = np.maximum(lower[result], 0.0)
        upper[slack] = np.maximum(-block.lower[argument], 0.0)
        integer[n:] = False
        return replace(wide, lower=lower, upper=upper, integer=integer), FirstColumns(n)
