r"""ReLU rows as big-M rows: a binary says which of the two pieces is active.

``y = max(g, 0)`` with ``L <= g <= U`` from the columns' bounds becomes

    y >= g,   y >= 0,   y <= min(U, bound of y) z,   y <= g - L (1 - z)

Pairs whose g cannot change sign get no binary: ``y = g`` or ``y = 0``. The bounds are taken as they are, so nothing
has to be rounded. Assumes finite bounds where g can change sign; an M is never made up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnembed.aliases import Index
from nnembed.block import Block
from nnembed.errors import BoxError
from nnembed.features import Feature
from nnembed.lowerings.rewrite import FirstColumns, Recover, column_name, extended, simple_rows, switches, unchanged


class ReluToBigM:
    """ReLU rows become rows with a big-M on a new binary."""

    name = "relu_to_bigm"
    summary = "ReLU rows as big-M rows, M from the columns' bounds"
    removes = Feature.RELU
    emits = Feature.LINEAR | Feature.INTEGER
    cost = 1.5  # less than any way through pairs or sets: they become the same binaries, with more columns

    def apply(self, block: Block) -> tuple[Block, Recover]:
        """Return the block without ReLU rows, and the map of its points to points of the old one.

        Raises
        ------
        BoxError
            If a pre-activation that can change sign has an infinite bound; names it.
        """
        if not block.relus:
            return unchanged(block)
        result, argument = np.concatenate(block.relus).T
        low, high = block.lower[argument], block.upper[argument]
        opened = (low < 0) & (high > 0)
        _refuse_open(block, result, argument, opened)
        groups, binary = switches(block, result[opened])
        y, g = result[opened], argument[opened]
        one, infinite = np.ones(len(y)), np.full(len(y), np.inf)
        most = np.minimum(high[opened], np.maximum(block.upper[y], 0.0))
        on, off = result[low >= 0], result[(high <= 0) & (low < 0)]
        same = np.ones(len(on))
        rows = [
            simple_rows([y, g], [one, -one], 0.0, infinite),
            simple_rows([y, binary], [one, -most], -infinite, 0.0),
            simple_rows([y, g, binary], [one, -one, -low[opened]], -infinite, -low[opened]),
            simple_rows([on, argument[low >= 0]], [same, -same], 0.0, 0.0),
        ]
        lower, upper = block.lower.copy(), block.upper.copy()
        lower[result] = np.maximum(lower[result], 0.0)
        upper[off] = np.minimum(upper[off], 0.0)
        tight = replace(block, lower=lower, upper=upper)
        return extended(tight, groups, rows, relus=()), FirstColumns(block.n_columns)


def _refuse_open(block: Block, result: Index, argument: Index, opened: np.ndarray) -> None:
    infinite = ~(np.isfinite(block.lower[argument]) & np.isfinite(block.upper[argument]))
    bad = np.flatnonzero(opened & infinite)
    if len(bad):
        column = int(argument[bad[0]])
        y, g = column_name(block, int(result[bad[0]])), column_name(block, column)
        raise BoxError(
            f"the ReLU row of {y!r} cannot become big-M rows: its argument {g!r} is in [{block.lower[column]:g}, "
            f"{block.upper[column]:g}]; give the variables it depends on finite bounds, or choose a solver that takes "
            "ReLU rows or sets of type 1"
        )
