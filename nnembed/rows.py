"""Affine rows over columns: what a tensor is until it needs columns of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.matrices import canonical, relabel, stack


@dataclass(frozen=True, eq=False)
class Rows:
    """Affine functions of the columns: ``matrix @ columns + constant``, one per row."""

    matrix: sp.csr_array
    constant: Array

    def __len__(self) -> int:
        return len(self.constant)

    def take(self, index: Index) -> Rows:
        """Return some of the rows."""
        return Rows(self.matrix[index], self.constant[index])

    def scaled(self, factor: Array) -> Rows:
        """Return row i times ``factor[i]``."""
        return Rows(scale_rows(self.matrix, factor), self.constant * factor)


@dataclass(frozen=True, eq=False)
class Piece:
    """The rows of some elements of a tensor; `elements` are flat positions."""

    elements: Index
    rows: Rows


def joined(pieces: Sequence[Piece], size: int, width: int) -> Rows:
    """Return rows in the order of their elements; those in no piece are zero."""
    pieces = [p for p in pieces if len(p.elements)]
    rest = np.ones(size, dtype=bool)
    for piece in pieces:
        rest[piece.elements] = False
    zeros = np.flatnonzero(rest)
    matrix = stack([*(p.rows.matrix for p in pieces), sp.csr_array((len(zeros), width))], width)
    constant = np.concatenate([*(p.rows.constant for p in pieces), np.zeros(len(zeros))])
    order = np.empty(size, dtype=np.intp)
    order[np.concatenate([*(p.elements for p in pieces), zeros])] = np.arange(size)
    sorted_already = (order == np.arange(size)).all()
    return Rows(matrix, constant) if sorted_already else Rows(matrix[order], constant[order])


def substitute(matrix: sp.csr_array, rows: sp.csr_array) -> sp.csr_array:
    """Return ``matrix @ rows``; where every row is one column, columns are only renumbered."""
    if rows.nnz == rows.shape[0] and (np.diff(rows.indptr) == 1).all() and (rows.data == 1.0).all():
        return relabel(matrix, rows.indices, rows.shape[1])
    return canonical(sp.csr_array(matrix @ rows))


def scale_rows(matrix: sp.csr_array, factor: Array) -> sp.csr_array:
    """Return the matrix with row i multiplied by ``factor[i]``."""
    data = matrix.data * np.repeat(factor, np.diff(matrix.indptr))
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
