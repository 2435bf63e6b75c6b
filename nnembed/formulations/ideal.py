r"""Ideal formulation: big-M and the cuts of the convex hull of each neuron, looked for where they are violated.

For an open ReLU ``y = max(g, 0)``, ``g = w x + b`` over the box of its columns, big-M and for every set I of terms

    y <= sum_{i in I} w_i (x_i - wl_i (1 - z)) + (b + sum_{i not in I} w_i wu_i) z

with ``wl_i, wu_i`` the values of x_i where ``w_i x_i`` is smallest and largest. There are 2^n of these rows; the most
violated one at a point is found in O(n). With all of them the formulation is ideal, of the same strength as *extended*,
and needs no column. Solvers that take cuts get them during the search (option `rounds` has no effect there); for others
`rounds` rounds of cuts are added before it, at the optimum of the LP relaxation.

The block is that of *two_row* for one neuron with one input, where no cut exists that big-M lacks. Kinks other than
ReLU are cut in the same way, steps as in *step_ideal*; clips with two open ends and maxima are as in *two_row*.

Assumes finite proven bounds. Source: Anderson, Huchette, Ma, Tjandraatmadja and Vielma, Mathematical Programming 183
(2020).

>>> from nnembed.formulations.show import show
>>> print(show(Ideal(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.on[0] binary
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.post[0] >= 0
-1 input.in[0] +1 relu.post[0] +1 relu.on[0] <= 1
+1 relu.post[0] -2 relu.on[0] <= 0
-1 relu.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnembed.aliases import Index
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.formulations.bigm import ALL_KINDS, one_hot, ordered_pair, two_row_columns
from nnembed.formulations.disjunctive import column_box
from nnembed.formulations.ideal_cuts import IdealCuts
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Kinks, Steps
from nnembed.formulations.step import two_sides_with_cuts
from nnembed.ir.nodes import Node


@dataclass(frozen=True)
class Ideal:
    """Big-M with ideal cuts.

    Parameters
    ----------
    rounds : int
        Rounds of cuts before the search, for solvers that take none on the way; 0 leaves big-M as it is.
    """

    rounds: int = 3

    name: ClassVar[str] = "ideal"
    summary: ClassVar[str] = "big-M and the most violated cuts of each neuron's hull"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = ALL_KINDS
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a negative number of rounds."""
        if self.rounds < 0:
            raise InputError(f"Ideal(rounds={self.rounds}): give 0 or more")

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, self._kinks, ordered_pair, one_hot, steps=self._steps)

    def _steps(self, k: Steps, block: BlockBuilder) -> Index:
        return two_sides_with_cuts(k, block, self.rounds)

    def _kinks(self, k: Kinks, block: BlockBuilder) -> Rows:
        pre = block.unfolded(k.pre)
        box = column_box(pre, block)
        y, z = two_row_columns(k, block)
        block.separate(IdealCuts(pre.matrix, pre.constant, *box, k.left, k.right, y, z, self.rounds))
        return block.unit(y)
