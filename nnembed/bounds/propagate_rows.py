"""Interval propagation over linear rows, rounded outward.

For a row ``lower <= sum_j a_j z_j <= upper`` every term is bounded by the sides less what the other terms can be at
least and at most. One round does that for all entries of a sparse matrix at once. Infinite bounds are counted apart,
so a row with one unbounded column still bounds that column. Sums of n terms are off by at most ``gamma_n`` times the
sum of their sizes (see `nnembed.bounds.interval`), which is given away on both sides.

Source: Savelsbergh, ORSA Journal on Computing 6 (1994), section 1.2; Achterberg et al., INFORMS JoC 32 (2020), 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.interval import UNIT, gamma
from nnembed.matrices import canonical

_ROUNDS = 20
_WORTH = 1e-3  # a round goes on where a range has lost more than this part of itself
_HAIR = 1e-9  # ranges that cross by less, relative to 1 + size, are not called empty


@dataclass(frozen=True, eq=False)
class RowSystem:
    """Rows ``lower <= matrix @ z <= upper`` in the form that propagation wants.

    Attributes
    ----------
    matrix : CSR array (rows, n)
        Without stored zeros or repeated entries.
    lower, upper : arrays (rows,)
        May be infinite.
    """

    matrix: sp.csr_array
    lower: Array
    upper: Array

    @cached_property
    def owner(self) -> Index:
        """The row of each entry."""
        return np.repeat(np.arange(self.matrix.shape[0]), np.diff(self.matrix.indptr))

    @cached_property
    def by_column(self) -> tuple[Index, Index, Index]:
        """Entries sorted by column, where each used column begins among them, and the used columns."""
        order = np.argsort(self.matrix.indices, kind="stable")
        columns, first = np.unique(self.matrix.indices[order], return_index=True)
        return order, first, columns

    @cached_property
    def slack(self) -> Array:
        """The relative error of a sum over each row, with room for the operations around it."""
        return gamma(4) + 1.01 * UNIT * np.diff(self.matrix.indptr)

    def activity(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return outward-rounded bounds of ``matrix @ z``."""
        least, most = self._terms(low, high)
        size = self._sum(np.maximum(_finite(np.abs(least)), _finite(np.abs(most)))) * self.slack
        return self._sum(least) - size, self._sum(most) + size

    def narrow(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the bounds of z after one round; they cross where no point is left."""
        if not self.matrix.nnz:
            return low, high
        a, owner = self.matrix.data, self.owner
        least, most = self._terms(low, high)
        size = self._sum(np.maximum(_finite(np.abs(least)), _finite(np.abs(most))))
        with np.errstate(over="ignore", invalid="ignore"):
            room_up = self.upper[owner] - self._others(least, -np.inf)
            room_down = self.lower[owner] - self._others(most, np.inf)
            room_up += (self.slack * (size + _finite(np.abs(self.upper))))[owner]
            room_down -= (self.slack * (size + _finite(np.abs(self.lower))))[owner]
            up, down = room_up / a, room_down / a
        top, bottom = np.where(a > 0, up, down), np.where(a > 0, down, up)
        top += 4 * UNIT * _finite(np.abs(top))
        bottom -= 4 * UNIT * _finite(np.abs(bottom))
        order, first, columns = self.by_column
        new_low, new_high = low.copy(), high.copy()
        new_low[columns] = np.maximum(low[columns], np.maximum.reduceat(bottom[order], first))
        new_high[columns] = np.minimum(high[columns], np.minimum.reduceat(top[order], first))
        return new_low, new_high

    def _terms(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the least and the largest value of each entry's term; what overflows says nothing."""
        a, columns = self.matrix.data, self.matrix.indices
        with np.errstate(over="ignore"):
            one, other = a * low[columns], a * high[columns]
        least, most = np.where(a > 0, one, other), np.where(a > 0, other, one)
        least[np.isposinf(least)], most[np.isneginf(most)] = -np.inf, np.inf
        return least, most

    def _others(self, terms: Array, none: float) -> Array:
        """Return for each entry the sum of the other terms of its row, `none` where one of them is infinite."""
        endless = np.isinf(terms)
        kept = np.where(endless, 0.0, terms)
        rest = self._sum(kept)[self.owner] - kept
        if not endless.any():
            return rest
        elsewhere = self._sum(endless.astype(float))[self.owner] - endless
        return np.where(elsewhere > 0, none, rest)

    def _sum(self, terms: Array) -> Array:
        return np.bincount(self.owner, terms, minlength=self.matrix.shape[0]).astype(float)


def system(matrix: sp.csr_array, lower: Array, upper: Array) -> RowSystem:
    """Return rows ready for propagation; rows without a finite side are left out."""
    used = np.isfinite(lower) | np.isfinite(upper)
    if not used.all():
        matrix, lower, upper = sp.csr_array(matrix[used]), lower[used], upper[used]
    clean = canonical(matrix)
    if (clean.data == 0).any():
        clean = clean.copy()
        clean.eliminate_zeros()
    return RowSystem(clean, np.asarray(lower, float), np.asarray(upper, float))


def settle(rows: RowSystem, low: Array, high: Array) -> tuple[Array, Array] | None:
    """Return the bounds where propagation over the rows settles; None where it proves that no point is left."""
    for _ in range(_ROUNDS):
        new = uncrossed(low, high, *rows.narrow(low, high))
        if new is None:
            return None
        if not worth(low, high, *new).any():
            return new
        low, high = new
    return low, high


def uncrossed(low: Array, high: Array, new_low: Array, new_high: Array) -> tuple[Array, Array] | None:
    """Return the new bounds, the old ones where those cross by a hair; None where they are empty."""
    crossed = new_low > new_high
    if not crossed.any():
        return new_low, new_high
    gap = (new_low - new_high)[crossed]
    size = 1 + np.minimum(np.abs(new_low[crossed]), np.abs(new_high[crossed]))
    if (gap > _HAIR * size).any():
        return None
    return np.where(crossed, low, new_low), np.where(crossed, high, new_high)


def worth(low: Array, high: Array, new_low: Array, new_high: Array, part: float = _WORTH) -> Mask:
    """Return the mask of ranges that have become narrower by more than a part of themselves, or finite."""
    with np.errstate(invalid="ignore"):
        gain = np.where(new_low > low, new_low - low, 0.0) + np.where(new_high < high, high - new_high, 0.0)
        return gain > part * np.where(np.isfinite(high - low), high - low, 1.0) + 1e-9 * (
            1 + np.minimum(_finite(np.abs(new_low)), _finite(np.abs(new_high)))
        )


def _finite(size: Array) -> Array:
    """Return sizes with the infinite ones left out."""
    return np.where(np.isfinite(size), size, 0.0)
