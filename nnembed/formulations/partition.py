r"""Partition: the terms of a neuron in P groups, one copy of each group's sum; between big-M and the hull.

For an open ReLU ``y = max(g, 0)``, ``g = sum_k s_k + b`` with ``s_k = sum_{i in S_k} w_i x_i`` in ``[l_k, u_k]``

    z l_k <= p_k <= z u_k,   (1 - z) l_k <= s_k - p_k <= (1 - z) u_k,   y = sum_k p_k + b z >= 0,   y >= g

``P = 1`` has the LP relaxation of big-M, one group per term that of the convex hull over the box (*extended*). One
binary, P columns and 4P + 3 rows per neuron. Where the proven bounds L, U are tighter than what the box of the columns
implies, ``y <= U z`` and ``y <= g - L (1 - z)`` join.

Groups are formed per neuron: *size* cuts the terms, sorted by weight, into P groups of the same size; *range* cuts the
range of weights between their 5 % and 95 % quantiles into P - 2 equal pieces and keeps the tails as groups of their
own. Few groups (2 to 4) are what pays. Kinks other than ReLU are combinations of their positive and negative part;
clips with two open ends and maxima are written as in *two_row*.

Assumes finite proven bounds. Source: Tsay, Kronqvist, Thebelt and Misener, NeurIPS 2021.

>>> from nnembed.formulations.show import show
>>> print(show(Partition(parts=1), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.on[0] binary
relu.part[0] in [-1, 2]
y.out[0] in [0, 2]
-2 relu.on[0] +1 relu.part[0] <= 0
+1 relu.on[0] +1 relu.part[0] >= 0
+1 input.in[0] +2 relu.on[0] -1 relu.part[0] <= 2
+1 input.in[0] -1 relu.on[0] -1 relu.part[0] >= -1
+1 relu.post[0] -1 relu.part[0] == 0
-1 input.in[0] +1 relu.post[0] >= 0
-1 relu.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows, scale_rows
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.fills import Above
from nnembed.formulations.bigm import ALL_KINDS, one_hot, ordered_pair
from nnembed.formulations.disjunctive import Switched, Terms, combined, part_sums, positive_part, terms_of
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Kinks
from nnembed.ir.nodes import Node

_STRATEGIES = ("size", "range")


@dataclass(frozen=True)
class Partition:
    """The partition-based formulation.

    Parameters
    ----------
    parts : int
        Groups per neuron, at least one; neurons with fewer terms have one group per term.
    strategy : str
        ``"size"`` (groups of the same size) or ``"range"`` (equal pieces of the range of weights; at least 3 parts).
    """

    parts: int = 2
    strategy: str = "size"

    name: ClassVar[str] = "partition"
    summary: ClassVar[str] = "terms in a few groups, a copy of each group's sum: between big-M and the hull"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = ALL_KINDS
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no partition."""
        if self.parts < 1:
            raise InputError(f"Partition(parts={self.parts}): give at least one part")
        if self.strategy not in _STRATEGIES:
            raise InputError(f"Partition(strategy={self.strategy!r}): give one of {', '.join(_STRATEGIES)}")
        if self.strategy == "range" and self.parts < 3:
            raise InputError(
                f"Partition(parts={self.parts}, strategy='range'): the tails are two parts, give 3 or more"
            )

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, self._kinks, ordered_pair, one_hot)

    def _kinks(self, k: Kinks, block: BlockBuilder) -> Rows:
        k = replace(k, pre=block.unfolded(k.pre))
        terms = terms_of(k.pre, block)
        grouping = equal_size if self.strategy == "size" else equal_range
        return disjunction(k, block, terms, grouping(terms, self.parts))


def equal_size(terms: Terms, parts: int) -> Index:
    """Return for every term the group (from 0) of its row: the row's terms sorted by weight in groups of equal size."""
    order = np.lexsort((terms.weight, terms.owner))
    start, count = _extent(terms)
    rank = np.empty(len(terms), dtype=np.intp)
    rank[order] = np.arange(len(terms)) - start[terms.owner[order]]
    group: Index = rank * parts // count[terms.owner]
    return group


def equal_range(terms: Terms, parts: int) -> Index:
    """Return for every term the group of its row: tails beyond the 5 % and 95 % quantiles, equal pieces between."""
    weight = terms.weight[np.lexsort((terms.weight, terms.owner))]
    start, count = _extent(terms)
    filled = count > 0
    ends = []
    for q in (0.05, 0.95):
        place = start[filled] + q * (count[filled] - 1)
        below = np.floor(place).astype(np.intp)
        above = np.minimum(below + 1, start[filled] + count[filled] - 1)
        full = np.zeros(len(count))
        full[filled] = weight[below] + (place - below) * (weight[above] - weight[below])
        ends.append(full[terms.owner])
    low, high = ends
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = np.where(high > low, np.floor((parts - 2) * (terms.weight - low) / (high - low)), 0.0)
    middle = 1 + np.clip(np.nan_to_num(inner), 0, parts - 3).astype(np.intp)
    group: Index = np.where(terms.weight < low, 0, np.where(terms.weight > high, parts - 1, middle))
    return group


def _extent(terms: Terms) -> tuple[Index, Index]:
    """Return where the terms of each row start, and how many there are."""
    count = np.bincount(terms.owner, minlength=len(terms.constant))
    return np.cumsum(count) - count, count


def disjunction(k: Kinks, block: BlockBuilder, terms: Terms, group: Index) -> Rows:
    """Return ``y - value`` after writing the disjunction of both sides of each kink over copies of groups of terms."""
    r, rows = positive_part(k, block)
    z = block.binaries(k.layer, k.tensor, k.elements, k.above())
    home, part = _numbered(terms, group)
    sums, low, high = part_sums(terms, part, len(home), block.width)
    gate = Above(k.tensor, k.elements[home], k.threshold[home])
    sides = np.minimum(low, 0.0), np.maximum(high, 0.0)
    p = block.columns(k.layer, Role.PART, k.tensor, k.elements[home], *sides, Switched(combined(block, sums), gate))
    own, on = block.unit(p).matrix, block.unit(z[home]).matrix
    block.add([own, scale_rows(on, -high)], -np.inf, 0.0)
    block.add([own, scale_rows(on, -low)], 0.0, np.inf)
    block.add([sums, -own, scale_rows(on, high)], -np.inf, high)
    block.add([sums, -own, scale_rows(on, low)], low, np.inf)
    gathered = block.sums(p, home, len(r))
    constant = block.unit(z, -k.pre.constant).matrix
    constant.eliminate_zeros()
    block.add([block.unit(r).matrix, -gathered, constant], 0.0, 0.0)
    block.add([block.unit(r).matrix, -k.pre.matrix], k.pre.constant, np.inf)
    _tighter(k, block, (r, z), (terms.total(terms.weight * terms.least), terms.total(terms.weight * terms.most)))
    return rows


def _numbered(terms: Terms, group: Index) -> tuple[Index, Index]:
    """Return the row of every part, parts numbered in the order of rows and groups, and the part of every term."""
    wide = int(group.max(initial=0)) + 1
    known, part = np.unique(terms.owner * wide + group, return_inverse=True)
    return known // wide, np.asarray(part, dtype=np.intp)


def _tighter(k: Kinks, block: BlockBuilder, columns: tuple[Index, Index], implied: tuple[Array, Array]) -> None:
    """Add the big-M rows whose proven bounds are tighter than those that the box of the columns implies."""
    r, z = columns
    low, high = implied[0] + k.pre.constant, implied[1] + k.pre.constant
    pad = 1e-9 * (1 + np.abs(low) + np.abs(high))
    i = np.flatnonzero(k.high < high - pad)
    if len(i):
        block.add([block.unit(r[i]).matrix, block.unit(z[i], -k.high[i]).matrix], -np.inf, 0.0)
    i = np.flatnonzero(k.low > low + pad)
    if len(i):
        terms = [block.unit(r[i]).matrix, -k.pre.matrix[i], block.unit(z[i], -k.low[i]).matrix]
        block.add(terms, -np.inf, (k.pre.constant - k.low)[i])
