r"""Dependency rows: what the state of one neuron of a layer proves about another one.

For two open neurons of a layer with pre-activations ``g_i, g_j`` over the box of their columns and binaries z

    max { g_j : g_i >= 0 } < 0   gives   z_i + z_j <= 1
    max { g_j : g_i <= 0 } < 0   gives   z_j <= z_i
    min { g_j : g_i <= 0 } > 0   gives   z_i + z_j >= 1

Each maximum is a linear program with one row over a box, a continuous knapsack: with ``x = m + h u``, ``|u| <= 1``, its
value is ``min over t >= 0`` of ``c_j + t c_i + sum |a_j + t a_i|``, found by a weighted median in O(n log n). Any t
gives a valid bound, so nothing depends on the median being exact, and a margin covers rounding. A neuron and its
negative (CReLU) are a case of the first kind.

The rows join those of *two_row*. Only pairs that point in similar or opposite directions can depend on each other, so
the `pairs` with the largest cosines are looked at. Worth it on first layers of few inputs, where neurons are nearly
parallel; the solver finds some of these rows itself by probing.

Assumes finite proven bounds. Sources: implications of this kind are used by Botoeva, Kouvaros, Kronqvist, Lomuscio and
Misener, AAAI 2020 (dependency analysis); the one-row linear program is Dantzig's knapsack bound.

>>> from nnembed.formulations.show import show
>>> print(show(Dependency(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.on[0] binary
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.post[0] >= 0
-1 input.in[0] +1 relu.post[0] +1 relu.on[0] <= 1
+1 relu.post[0] -2 relu.on[0] <= 0
-1 relu.post[0] +1 y.out[0] == 0

The neurons ``x - 0.5`` and ``x + 0.5`` on [-1, 1]: where the first is on, the second is.

>>> both, implied, one = dependencies(sp.csr_array([[1.0], [1.0]]), np.array([-0.5, 0.5]), -np.ones(1), np.ones(1), 9)
>>> print(both.tolist(), implied.tolist(), one.tolist())
[] [[0, 1]] []
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.formulations.bigm import ALL_KINDS, one_hot, ordered_pair, two_row_columns
from nnembed.formulations.disjunctive import column_box
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Kinks
from nnembed.ir.nodes import Node

_CHUNK = 2_000_000  # entries of the arrays that pairs are compared in


@dataclass(frozen=True)
class Dependency:
    """Big-M with rows between the binaries of a layer.

    Parameters
    ----------
    pairs : int
        How many pairs of neurons per layer are looked at, largest cosine first.
    """

    pairs: int = 20_000

    name: ClassVar[str] = "dependency"
    summary: ClassVar[str] = "big-M and implications between the neurons of a layer"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = ALL_KINDS
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a negative number of pairs."""
        if self.pairs < 0:
            raise InputError(f"Dependency(pairs={self.pairs}): give 0 or more")

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, self._kinks, ordered_pair, one_hot)

    def _kinks(self, k: Kinks, block: BlockBuilder) -> Rows:
        pre = block.unfolded(k.pre)
        box = column_box(pre, block)
        y, z = two_row_columns(k, block)
        both, implied, one = dependencies(pre.matrix, pre.constant, *box, self.pairs)
        for pairs, second, sides in (
            (both, 1.0, (-np.inf, 1.0)),
            (implied, -1.0, (-np.inf, 0.0)),
            (one, 1.0, (1.0, np.inf)),
        ):
            if len(pairs):
                block.add([block.unit(z[pairs[:, 0]]).matrix, block.unit(z[pairs[:, 1]], second).matrix], *sides)
        return block.unit(y)


def dependencies(
    matrix: sp.csr_array, constant: Array, low: Array, high: Array, pairs: int
) -> tuple[Index, Index, Index]:
    """Return the pairs of rows ``g = matrix x + constant`` that depend on each other over a box.

    Parameters
    ----------
    matrix : CSR array (k, n)
    constant : array (k,)
    low, high : arrays (n,)
        Finite.
    pairs : int
        How many pairs, those of the largest cosines, are looked at.

    Returns
    -------
    both, implied, one : int arrays (m, 2)
        Pairs (i, j) of which never both are at least zero; pairs with ``g_i >= 0  =>  g_j > 0``; pairs of which always
        one is above zero.
    """
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    centre = matrix @ middle + constant
    used = np.unique(matrix.indices[matrix.data != 0])
    slopes = sp.csr_array(matrix[:, used] * half[used][None])
    reach = np.abs(matrix) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(constant)
    i, j = _similar(slopes, pairs)
    found: tuple[list[Index], list[Index], list[Index]] = ([], [], [])
    step = max(1, _CHUNK // max(1, len(used)))
    for start in range(0, len(i), step):
        a, b = i[start : start + step], j[start : start + step]
        first, second = slopes[a].toarray(), slopes[b].toarray()
        margin = 1e-9 * (reach[a] + reach[b])
        for kind, x, y, signs in (
            (0, a, b, (1.0, 1.0)),  # max g_j with g_i >= 0
            (1, a, b, (1.0, -1.0)),  # max -g_j with g_i >= 0: then g_j > 0
            (1, b, a, (1.0, -1.0)),
            (2, a, b, (-1.0, -1.0)),  # max -g_j with -g_i >= 0
        ):
            own, other = (first, second) if x is a else (second, first)
            value = _largest(signs[1] * centre[y], signs[1] * other, signs[0] * centre[x], signs[0] * own)
            hit = value < -margin
            found[kind].append(np.stack([x[hit], y[hit]], axis=1))
    none = np.zeros((0, 2), dtype=np.intp)
    both, implied, one = (np.concatenate([none, *kind]) for kind in found)
    return both, implied, one


def _similar(slopes: sp.csr_array, pairs: int) -> tuple[Index, Index]:
    """Return pairs i < j of rows, largest absolute cosine first, at most `pairs`, not orthogonal."""
    norm = np.sqrt(np.asarray((slopes * slopes).sum(axis=1)).ravel())
    product = sp.coo_array(sp.triu(slopes @ slopes.T, k=1))
    i, j = (np.asarray(c, dtype=np.intp) for c in product.coords)
    size = norm[i] * norm[j]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(size > 0, np.abs(product.data) / size, 0.0)
    best = np.flatnonzero(cosine > 1e-6)
    best = best[np.argsort(-cosine[best], kind="stable")[:pairs]]
    return i[best], j[best]


def _largest(c: Array, a: Array, given: Array, slope: Array) -> Array:
    """Return bounds on ``max { c + a u : given + slope u >= 0, |u| <= 1 }`` for rows of `a` and `slope`, (k, n) each.

    The dual function ``c + t given + sum |a + t slope|`` is convex in t; its smallest value is where its slope, sorted
    over the breakpoints ``-a / slope``, turns positive.
    """
    weight = np.abs(slope)
    with np.errstate(invalid="ignore", divide="ignore"):
        turn = np.where(weight > 0, -a / slope, -np.inf)
    turn = np.nan_to_num(turn, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order = np.argsort(turn, axis=1)
    turn, weight = np.take_along_axis(turn, order, axis=1), np.take_along_axis(weight, order, axis=1)
    rate = (given - weight.sum(axis=1))[:, None] + 2 * np.cumsum(weight, axis=1)  # just after each breakpoint
    rising: Mask = rate >= 0
    place = np.where(rising.any(axis=1), rising.argmax(axis=1), turn.shape[1] - 1)
    t = np.take_along_axis(turn, place[:, None], axis=1)[:, 0]
    t = np.where(np.isfinite(t), np.maximum(t, 0.0), 0.0)
    out: Array = c + t * given + np.abs(a + t[:, None] * slope).sum(axis=1)
    # Rounding grows with t: what is far out is not trusted.
    return np.where(t > 1e6, np.inf, out + 1e-12 * t * (np.abs(given) + np.abs(slope).sum(axis=1)))
