"""Separators: families of rows of single neurons, of which the most violated one per neuron is looked for.

All neurons of a layer are separated at once. A cut bounds ``r = max(g, 0)`` from above by an affine function of the
columns and the binary; for a kink with other slopes it is a bound on ``y = left g + (right - left) r``, from above or
below. A step is cut where no point with its sign is left. The cuts themselves, rounded outward, come from
``nnembed.bounds.hull``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Separator
from nnembed.bounds.hull import RANGE, ideal_cut, projected_cut, simplex_cut
from nnembed.bounds.interval import gamma
from nnembed.builder import scale_rows
from nnembed.matrices import stack

#: violation, coefficients on the columns (CSR), on z, constant
Cut = tuple[Array, sp.csr_array, Array, Array]


@dataclass(frozen=True, eq=False)
class NeuronCuts(Separator):
    """Cuts of k kinks with the breakpoint at zero.

    Attributes
    ----------
    matrix : CSR array (k, columns), constant : array (k,)
        Their pre-activations g over the columns there were when they were written.
    low, high : arrays (columns,)
        Box of these columns.
    left, right : arrays (k,)
        Slopes.
    y : int array (k,)
        Columns of ``y - value``.
    z : int array (k,)
        Columns of the binaries; empty for a relaxation without.
    rounds : int
    """

    matrix: sp.csr_array
    constant: Array
    low: Array
    high: Array
    left: Array
    right: Array
    y: Index
    z: Index
    rounds: int = 3

    @abstractmethod
    def most_violated(self, x: Array, r: Array, z: Array) -> Cut:
        """Return the tightest bound on r of the family, per neuron, at a point of the columns, r and z (k,)."""

    def violated(self, x: Array, tolerance: float) -> tuple[sp.csr_array, Array, Array]:
        """See `Separator`."""
        jump = self.right - self.left
        z = np.clip(x[self.z], 0.0, 1.0) if len(self.z) else np.zeros(len(self.y))
        point = np.clip(x[: len(self.low)], self.low, self.high)
        r = (x[self.y] - self.left * (self.matrix @ point + self.constant)) / jump
        violation, on_x, on_z, constant = self.most_violated(point, r, z)
        which = np.flatnonzero(violation > 0)
        # sign (y - left g - jump r) <= 0, the bound put in for r
        sign, size = np.sign(jump), np.abs(jump)
        body = scale_rows(on_x, -size) - scale_rows(self.matrix, sign * self.left)
        upper = sign * self.left * self.constant + size * constant
        upper = upper + gamma(2 * len(self.low)) * (np.abs(upper) + self._size(sp.csr_array(body)))
        parts = [sp.csr_array(body)[which], _column(self.y[which], sign[which])]
        if len(self.z):
            parts.append(_column(self.z[which], (-size * on_z)[which]))
        return _scaled(_sum(parts), upper[which], (size * violation)[which], tolerance)

    def _size(self, body: sp.csr_array) -> Array:
        """Return per row what the rounding errors of its coefficients are relative to."""
        reach = np.maximum(np.abs(self.low), np.abs(self.high))
        return abs(body) @ reach[: body.shape[1]] + (np.abs(self.left) > 0) * (abs(self.matrix) @ reach)


@dataclass(frozen=True, eq=False)
class IdealCuts(NeuronCuts):
    """``r <= sum_I w_i (x_i - wl_i (1 - z)) + (b + sum_{not I} w_i wu_i) z`` for every set I of terms."""

    def most_violated(self, x: Array, r: Array, z: Array) -> Cut:
        """Take each term as it is smaller: O(n) per neuron."""
        return ideal_cut(self.matrix, self.constant, self.low, self.high, x, r, z)


@dataclass(frozen=True, eq=False)
class HullCuts(NeuronCuts):
    """``r <= sum_I w_i (x_i - wl_i) + l(I) (x_h - wl_h) / (wu_h - wl_h)``, without z."""

    def most_violated(self, x: Array, r: Array, z: Array) -> Cut:
        """Take terms by their place between wl and wu: O(n log n) per neuron."""
        violation, on_x, constant = projected_cut(self.matrix, self.constant, self.low, self.high, x, r)
        return violation, on_x, np.zeros(len(r)), constant


@dataclass(frozen=True, eq=False)
class SimplexCuts(NeuronCuts):
    """``r <= b z + sum_B [t_B z + sum_{j in B} max(0, w_j - t_B) x_j]`` with any t_B, and ideal cuts' terms elsewhere.

    Attributes
    ----------
    used : int array (n,)
        The columns that occur in the rows.
    blocks : int array (n,)
        The block each of them is in, -1 for none.
    """

    used: Index | None = None
    blocks: Index | None = None

    def most_violated(self, x: Array, r: Array, z: Array) -> Cut:
        """Fill the mass z by descending weight in every block: O(n log n) per neuron."""
        used, blocks = self.used, self.blocks
        assert used is not None and blocks is not None
        weights = self.matrix[:, used].toarray()
        box = self.low[used], self.high[used]
        violation, on_x, on_z, constant = simplex_cut(weights, self.constant, *box, blocks, x[used], r, z)
        entry = sp.csr_array(on_x)
        wide = (entry.data, used[entry.indices], entry.indptr)
        return violation, sp.csr_array(wide, shape=self.matrix.shape), on_z, constant


@dataclass(frozen=True, eq=False)
class StepCuts(Separator):
    """Cuts of k steps: the hull of ``z = 1, g >= 0`` and ``z = 0, g <= -margin`` over the box of the columns.

    For every set I of terms ``sum_I w_i (x_i - wl_i (1 - z)) + (b + sum_{not I} w_i wu_i) z >= 0``, and the same for
    ``-g - margin`` with z and 1 - z exchanged: what `IdealCuts` are for r = 0.

    Attributes
    ----------
    matrix, constant, low, high, z : as in `NeuronCuts`
    margin : array (k,)
    rounds : int
    """

    matrix: sp.csr_array
    constant: Array
    low: Array
    high: Array
    z: Index
    margin: Array
    rounds: int = 3

    def violated(self, x: Array, tolerance: float) -> tuple[sp.csr_array, Array, Array]:
        """See `Separator`."""
        z = np.clip(x[self.z], 0.0, 1.0)
        point, zero = np.clip(x[: len(self.low)], self.low, self.high), np.zeros(len(z))
        box = self.low, self.high, point, zero
        on = ideal_cut(self.matrix, self.constant, *box, z)
        off = ideal_cut(-self.matrix, -self.constant - self.margin, *box, 1.0 - z)
        rise = off[3] + off[2] + gamma(4) * (np.abs(off[3]) + np.abs(off[2]))
        found = [self._rows(*on[:3], on[3], tolerance), self._rows(off[0], off[1], -off[2], rise, tolerance)]
        width = max(rows[0].shape[1] for rows in found)
        lower, upper = (np.concatenate([rows[i] for rows in found]) for i in (1, 2))
        return stack([rows[0] for rows in found], width), lower, upper

    def _rows(
        self, violation: Array, on_x: sp.csr_array, on_z: Array, constant: Array, tolerance: float
    ) -> tuple[sp.csr_array, Array, Array]:
        """Return the violated ones of the rows ``on_x x + on_z z + constant >= 0``."""
        rows = _sum([-on_x, _column(self.z, -on_z)])
        which = np.flatnonzero((violation > 0) & (np.diff(rows.indptr) > 0))
        return _scaled(sp.csr_array(rows[which]), constant[which], violation[which], tolerance)


def _column(columns: Index, values: Array) -> sp.csr_array:
    k = len(columns)
    return sp.csr_array((values, columns, np.arange(k + 1)), shape=(k, int(columns.max(initial=0)) + 1))


def _sum(parts: Sequence[sp.csr_array]) -> sp.csr_array:
    """Return the sum of matrices of different width, without zeros."""
    width = max(p.shape[1] for p in parts)
    total: Any = sp.csr_array((parts[0].shape[0], width))
    for part in parts:
        total = total + sp.csr_array((part.data, part.indices, part.indptr), shape=(part.shape[0], width))
    total.eliminate_zeros()
    return sp.csr_array(total)


def _scaled(matrix: sp.csr_array, upper: Array, excess: Array, tolerance: float) -> tuple[sp.csr_array, Array, Array]:
    """Return the rows, largest coefficient one, that are violated by more than `tolerance` and well scaled."""
    size = np.abs(matrix.data)
    if not len(upper):
        return matrix, np.zeros(0), np.zeros(0)
    largest = np.maximum.reduceat(size, matrix.indptr[:-1])  # y is in every row, so none is empty
    smallest = np.minimum.reduceat(size, matrix.indptr[:-1])
    good = np.flatnonzero((excess > tolerance * largest) & (largest <= RANGE * smallest))
    # A power of two, so that scaling rounds nothing.
    scale = np.exp2(-np.ceil(np.log2(largest[good])))
    return scale_rows(sp.csr_array(matrix[good]), scale), np.full(len(good), -np.inf), upper[good] * scale
