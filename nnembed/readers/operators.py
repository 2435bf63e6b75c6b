"""Structured matrices out of index arrays; the helpers every operator reader builds on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from nnembed.aliases import Array
from nnembed.ir.linear import Dense, LinearOperator, Selection, Sparse
from nnembed.readers.tensors import check_count

Positions = NDArray[np.intp]


def weighted_rows(columns: Positions, weights: ArrayLike, n_in: int) -> LinearOperator:
    """Return the operator whose row i sums ``weights[i, j] * x[columns[i, j]]`` over j.

    Parameters
    ----------
    columns : int array of shape (n_out, k)
        Flat positions in the input, each at most once per row; -1 stands for nothing.
    weights : array, broadcast to the shape of `columns`
    n_in : int
        Entries of the input.
    """
    weights = np.broadcast_to(np.asarray(weights, float), columns.shape)
    if columns.shape[1] == 1 and (weights == 1.0).all():
        return Selection(np.ascontiguousarray(columns[:, 0]), n_in)
    kept = (columns >= 0) & (weights != 0)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    shape = (len(columns), n_in)
    matrix = sp.csr_array((weights[kept], columns[kept].astype(np.int32), indptr), shape=shape)
    matrix.sort_indices()
    return Sparse(matrix)


def scaled(index: Positions, scale: ArrayLike, n_in: int) -> LinearOperator:
    """Return the operator with output i equal to ``scale[i] * x[index[i]]``, any shape of `index`."""
    factor = np.broadcast_to(np.asarray(scale, float), index.shape)
    return weighted_rows(index.reshape(-1, 1), factor.reshape(-1, 1), n_in)


def contraction(columns: Positions, weights: ArrayLike, n_in: int, what: str) -> LinearOperator:
    """Return the operator of a batched matrix product.

    Output entry (b, i, j) is ``sum_l weights[b, i, j, l] * x[columns[b, i, j, l]]``; both arrays broadcast to the
    common shape (..., m, n, k), which is never a full matrix unless the product itself is one.

    Raises
    ------
    ModelFileError
        If the product has more terms than anybody embeds.
    """
    weights = np.asarray(weights, float)
    shape = np.broadcast_shapes(columns.shape, weights.shape)
    check_count(math.prod(shape), f"the terms of {what}")
    factor = np.broadcast_to(weights, shape).reshape(-1, shape[-1])
    if columns.size == columns.shape[-1] == n_in and (columns.ravel() == np.arange(n_in)).all():
        return Dense(np.array(factor))  # every output sees the whole input in order
    return weighted_rows(np.broadcast_to(columns, shape).reshape(-1, shape[-1]), factor, n_in)


def zero(n_out: int, n_in: int) -> LinearOperator:
    """Return the operator that ignores its input."""
    return Sparse(sp.csr_array((n_out, n_in), dtype=float))


def is_finite(operator: LinearOperator) -> bool:
    """Return whether all numbers stored in the operator are finite."""
    if isinstance(operator, Sparse):
        return bool(np.isfinite(operator.matrix.data).all())
    arrays: list[Any] = [v for v in vars(operator).values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    return all(bool(np.isfinite(a).all()) for a in arrays)


def repeated(operator: LinearOperator, count: int) -> LinearOperator:
    """Return the operator applied to `count` images one after another."""
    if count == 1:
        return operator
    return Sparse(sp.csr_array(sp.kron(sp.eye_array(count), operator.csr(), format="csr")))


def broadcast_positions(shape: tuple[int, ...], target: tuple[int, ...]) -> Positions:
    """Return, in the shape `target`, the flat positions of a tensor of `shape` broadcast to it."""
    return np.broadcast_to(positions(shape), target)


def positions(shape: tuple[int, ...]) -> Positions:
    """Return the flat positions of a tensor, in its own shape."""
    return np.arange(math.prod(shape)).reshape(shape)


def as_bias(value: Array | float, shape: tuple[int, ...]) -> Array:
    """Return a flat float64 vector of the entries of `value` broadcast to `shape`."""
    return np.array(np.broadcast_to(np.asarray(value, float), shape).ravel())
