"""Sparse matrices put together without sharing memory they could be sorted in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Index


def relabel(matrix: sp.csr_array, columns: Index, width: int) -> sp.csr_array:
    """Return `matrix` with column j moved to ``columns[j]`` of a matrix of `width` columns; nothing is shared."""
    moved = columns.astype(np.int32)[matrix.indices]
    return canonical(sp.csr_array((matrix.data, moved, matrix.indptr), shape=(matrix.shape[0], width)))


def canonical(matrix: sp.csr_array) -> sp.csr_array:
    """Return the matrix with sorted columns and no repetitions, in memory of its own unless it was so already.

    scipy sorts in place when it needs to (in ``abs``, for one). Arrays that two matrices share would then be right for
    one of them only, so every matrix of a block or a problem is brought into this form when it is made.
    """
    if matrix.has_canonical_format:
        return matrix
    own = matrix.copy()
    own.sum_duplicates()
    return own


def stack(matrices: Sequence[sp.csr_array], width: int) -> sp.csr_array:
    """Return CSR matrices of at most `width` columns below each other; one that is alone is not copied."""
    filled = [m for m in matrices if m.shape[0]]
    if len(filled) == 1:
        only = filled[0]
        return sp.csr_array((only.data, only.indices, only.indptr), shape=(only.shape[0], width))
    starts = np.cumsum([0, *(m.indptr[-1] for m in matrices)])
    small = max(int(starts[-1]), width) <= np.iinfo(np.int32).max
    kind = np.dtype(np.int32 if small else np.int64)  # mixed kinds would make scipy copy the long array of columns
    indptr = [np.zeros(1, dtype=kind)]
    indptr += [m.indptr[1:].astype(kind, copy=False) + kind.type(s) for m, s in zip(matrices, starts[:-1], strict=True)]
    return sp.csr_array(
        (
            np.concatenate([m.data for m in matrices]),
            np.concatenate([m.indices for m in matrices], dtype=kind, casting="same_kind"),
            np.concatenate(indptr),
        ),
        shape=(sum(m.shape[0] for m in matrices), width),
    )


def widen_square(matrix: sp.csr_array, width: int) -> sp.csr_array:
    """Return a square matrix padded with zeros to `width`."""
    extra = width - matrix.shape[0]
    indptr = np.concatenate([matrix.indptr, np.full(extra, matrix.indptr[-1])])
    return sp.csr_array((matrix.data, matrix.indices, indptr), shape=(width, width))
