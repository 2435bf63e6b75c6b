r"""Ideal cuts over one-hot inputs: blocks of inputs that are at least zero and sum to one.

Over the box such inputs may all be large at once, so bounds and cuts that know the box only are weak. For an open ReLU
``y = max(g, 0)``, ``g = w x + b``, whose inputs lie in simplices B, every vector t gives the valid row

    y <= b z + sum_B [ t_B z + sum_{j in B} max(0, w_j - t_B) x_j ]

(inputs in no block enter as in *ideal*). The tightest t_B is the weight at which the mass z is used up when x_B is
taken by descending weight: O(n log n). Together with big-M these rows are the convex hull of the neuron over
continuous simplices, not over their integer points.

Blocks are found among the user's rows where the bounds know them, or stated by the caller; stated blocks are written as
rows ``sum_B x = 1``, so that the model says what the cuts assume. Layers that read no block have the cuts of *ideal*;
other kinks, clips and maxima are written as there.

Assumes finite proven bounds. Source: Anderson, Huchette, Ma, Tjandraatmadja and Vielma, Mathematical Programming 183
(2020), Corollary 5.

>>> from nnembed.formulations.show import show
>>> print(show(OneHot(), low=-1.0, high=2.0))
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

import numpy as np

from nnembed.aliases import Index
from nnembed.bounds.box import Bounds, Region
from nnembed.builder import BlockBuilder, Rows
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.formulations.bigm import ALL_KINDS, one_hot, ordered_pair, two_row_columns
from nnembed.formulations.disjunctive import column_box
from nnembed.formulations.ideal_cuts import IdealCuts, SimplexCuts
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Kinks
from nnembed.ir.network import Network
from nnembed.ir.nodes import Node


@dataclass(frozen=True)
class OneHot:
    """Big-M with cuts that know one-hot inputs.

    Parameters
    ----------
    blocks : tuple of tuples of int
        Entries of the network's inputs, all inputs joined, that sum to one; the same for every point of a batch.
    rounds : int
        Rounds of cuts before the search, for solvers that take none on the way.
    """

    blocks: tuple[tuple[int, ...], ...] = ()
    rounds: int = 3

    name: ClassVar[str] = "onehot"
    summary: ClassVar[str] = "big-M and hull cuts over inputs that are one-hot"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = ALL_KINDS
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse blocks that share an entry."""
        members = [m for block in self.blocks for m in block]
        if len(members) != len(set(members)):
            raise InputError("OneHot(blocks=...): an input entry is in two blocks; give blocks without common entries")
        if self.rounds < 0:
            raise InputError(f"OneHot(rounds={self.rounds}): give 0 or more")

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, self._kinks, ordered_pair, one_hot)

    def emit_network(self, network: Network, bounds: Bounds, block: BlockBuilder) -> None:
        """Write the rows of the stated blocks."""
        for columns in _stated(self.blocks, network, block):
            k, size = columns.shape
            block.add([block.sums(columns.ravel(), np.repeat(np.arange(k), size), k)], 1.0, 1.0)

    def _kinks(self, k: Kinks, block: BlockBuilder) -> Rows:
        pre = block.unfolded(k.pre)
        box = column_box(pre, block)
        y, z = two_row_columns(k, block)
        number, point = _numbered(self.blocks, block)
        for i in _by_point(pre, point):
            matrix = pre.matrix[i]
            shared = (matrix, pre.constant[i], *box, k.left[i], k.right[i], y[i], z[i], self.rounds)
            own = np.unique(matrix.indices)
            touched = np.unique(number[own])
            members = np.flatnonzero(np.isin(number, touched[touched >= 0]))
            if len(members):
                used = np.union1d(own, members).astype(np.intp)
                block.separate(SimplexCuts(*shared, used, number[used]))
            else:
                block.separate(IdealCuts(*shared))
        return block.unit(y)


def _by_point(rows: Rows, point: Index) -> list[Index]:
    """Return the rows that read inputs of the same point of the batch, and those that read none."""
    reads = np.full(len(rows), -1, dtype=np.intp)
    owner = np.repeat(np.arange(len(rows)), np.diff(rows.matrix.indptr))
    np.maximum.at(reads, owner, point[rows.matrix.indices])
    return [np.flatnonzero(reads == p) for p in np.unique(reads)]


def _numbered(blocks: tuple[tuple[int, ...], ...], block: BlockBuilder) -> tuple[Index, Index]:
    """Return for every column so far the number of its block and, for inputs, its point of the batch; -1 for none."""
    number, point = np.full(block.width, -1, dtype=np.intp), np.full(block.width, -1, dtype=np.intp)
    start = 0
    for spec in block.network.inputs:
        point[start : start + block.batch * spec.size] = np.repeat(np.arange(block.batch), spec.size)
        start += block.batch * spec.size
    rows = [row for columns in _stated(blocks, block.network, block, strict=False) for row in columns]
    region = block.bounds.region
    rows += [] if region is None else _found(region, block.box()[0])
    count = 0
    for row in rows:
        if (number[row] < 0).all():
            number[row] = count
            count += 1
    return number, point


def _stated(
    blocks: tuple[tuple[int, ...], ...], network: Network, block: BlockBuilder, *, strict: bool = True
) -> list[Index]:
    """Return the input columns of each stated block, (batch, members); not `strict`, those of the blocks that fit.

    Raises
    ------
    InputError
        If an entry does not exist, or may be negative.
    """
    place = []
    start = 0
    for spec in network.inputs:
        place.append(start + np.arange(block.batch * spec.size).reshape(block.batch, spec.size))
        start += block.batch * spec.size
    columns = np.concatenate(place, axis=1)
    low = block.box()[0]
    found = []
    for members in blocks:
        index = np.asarray(members, dtype=np.intp)
        there = len(index) > 0 and index.min() >= 0 and index.max() < columns.shape[1]
        if not strict and not (there and (low[columns[:, index]] >= 0).all()):
            continue
        if not there:
            raise InputError(f"OneHot(blocks=...): {members} are no input entries, which are 0..{columns.shape[1] - 1}")
        if (low[columns[:, index]] < 0).any():
            raise InputError(f"OneHot(blocks=...): an input of block {members} may be negative; give it lower bound 0")
        found.append(columns[:, index])
    return found


def _found(region: Region, low: np.ndarray) -> list[Index]:
    """Return the input columns of the user's rows ``sum x = 1`` over inputs that are at least zero."""
    single = np.flatnonzero((np.diff(region.inputs.indptr) == 1) & (region.constant == 0))
    first = region.inputs.indptr[single]
    plain = (region.inputs.data[first] == 1.0) & (low[single] >= 0)
    entry = np.full(region.inputs.shape[1], -1, dtype=np.intp)
    entry[region.inputs.indices[first[plain]]] = single[plain]
    matrix = region.matrix
    found = []
    for row in np.flatnonzero((region.row_lower == region.row_upper) & (np.diff(matrix.indptr) > 1)):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns = entry[matrix.indices[part]]
        if (columns >= 0).all() and region.row_upper[row] != 0 and (matrix.data[part] == region.row_upper[row]).all():
            found.append(columns)
    return found
