"""Rows of a linear problem collected as (row, column, value) triples."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index

Entry = tuple[Index, Index, Array | float]  # row 0..k-1, column, value


class RowList:
    """Rows over `width` columns."""

    def __init__(self, width: int):
        self.width, self.height = width, 0
        self._triples: list[tuple[Index, Index, Array]] = []
        self._low: list[Array] = []
        self._high: list[Array] = []

    def add(self, k: int, entries: list[Entry], low: Array | float, high: Array | float) -> None:
        """Add k rows; entries are (row 0..k-1, column, value)."""
        for row, column, value in entries:
            self._triples.append((row + self.height, column, np.broadcast_to(np.asarray(value, float), row.shape)))
        self._low.append(np.broadcast_to(np.asarray(low, float), (k,)))
        self._high.append(np.broadcast_to(np.asarray(high, float), (k,)))
        self.height += k

    def result(self) -> tuple[sp.csr_array, Array, Array]:
        """Return the matrix and both sides."""
        if not self._triples:
            return sp.csr_array((0, self.width)), np.zeros(0), np.zeros(0)
        row, column, value = (np.concatenate([t[i] for t in self._triples]) for i in range(3))
        matrix = sp.csr_array(sp.coo_array((value, (row, column)), shape=(self.height, self.width)))
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix, np.concatenate(self._low), np.concatenate(self._high)
