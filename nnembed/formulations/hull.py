r"""Projected hull: the triangle relaxation and the cuts of each neuron's convex hull over its inputs; no binary.

For an open ReLU ``y = max(g, 0)``, ``g = w x + b`` over the box of its columns, the three rows of *triangle* and

    y <= sum_{i in I} w_i (x_i - wl_i) + l(I) (x_h - wl_h) / (wu_h - wl_h),      l(I) >= 0 > l(I + h)
    l(I) = sum_{i in I} w_i wl_i + sum_{i not in I} w_i wu_i + b

with ``wl_i, wu_i`` the values of x_i where ``w_i x_i`` is smallest and largest. The most violated of these rows is
found in O(n log n) per neuron, by the relative position of x_i between wl_i and wu_i. Together they are the convex hull
of the neuron, which the triangle is over ``(g, y)`` only.

A relaxation, as *triangle* is: an optimum over it is a bound. Assumes finite proven bounds. Source: Tjandraatmadja,
Anderson, Huchette, Ma, Patel and Vielma, NeurIPS 2020.

>>> from nnembed.formulations.show import show
>>> print(show(Hull(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.post[0] >= 0
-0.666667 input.in[0] +1 relu.post[0] <= 0.666667
-1 relu.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.formulations.bigm import ALL_KINDS
from nnembed.formulations.disjunctive import column_box
from nnembed.formulations.ideal_cuts import HullCuts
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Kinks
from nnembed.formulations.triangle import sum_bound, triangle, two_chords
from nnembed.ir.nodes import Node


@dataclass(frozen=True)
class Hull:
    """The triangle with projected hull cuts.

    Parameters
    ----------
    rounds : int
        Largest number of rounds of cuts; 0 leaves the triangle as it is.
    """

    rounds: int = 30

    name: ClassVar[str] = "hull"
    summary: ClassVar[str] = "LP relaxation with cuts of each neuron's hull: bounds, not answers"
    emits: ClassVar[Feature] = Feature.LINEAR
    handles: ClassVar[frozenset[type[Node]]] = ALL_KINDS
    exact: ClassVar[bool] = False
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a negative number of rounds."""
        if self.rounds < 0:
            raise InputError(f"Hull(rounds={self.rounds}): give 0 or more")

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer; clips with two open ends, maxima and steps as in *triangle*."""
        if bounds.open(node).any():
            block.exact = False
        emit_layer(node, bounds, block, self._kinks, two_chords, sum_bound, integer=False)

    def _kinks(self, k: Kinks, block: BlockBuilder) -> Rows:
        pre = block.unfolded(k.pre)
        box = column_box(pre, block)
        rows = triangle(k, block)
        y = rows.matrix.indices.astype(np.intp)
        none = np.zeros(0, dtype=np.intp)
        block.separate(HullCuts(pre.matrix, pre.constant, *box, k.left, k.right, y, none, self.rounds))
        return rows
