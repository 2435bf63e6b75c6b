"""Products and sums of linear operators that keep their structure; None where the result would grow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.ir.linear import Convolution, Dense, LinearOperator, Selection, Sparse

_GROWTH = 1.5  # a sparse product may have this many times the numbers of its factors


def compose(outer: LinearOperator, inner: LinearOperator) -> LinearOperator | None:
    """Return ``outer @ inner``, or None where two operators are smaller than one.

    Parameters
    ----------
    outer, inner : LinearOperator
        Of shapes (l, m) and (m, n).

    Returns
    -------
    LinearOperator of shape (l, n), or None
    """
    if isinstance(inner, Selection) and inner.is_identity:
        return outer
    if isinstance(outer, Selection) and outer.is_identity:
        return inner
    if isinstance(outer, Selection) and isinstance(inner, Selection):
        index = np.full(len(outer.index), -1)
        kept = outer.index >= 0
        index[kept] = inner.index[outer.index[kept]]
        return Selection(index, inner.n_in)
    if isinstance(outer, Dense) or isinstance(inner, Dense):
        return _with_dense(outer, inner)
    if isinstance(outer, Convolution) or isinstance(inner, Convolution):
        return _with_convolution(outer, inner)
    return _sparse_product(outer, inner)


def add(first: LinearOperator, second: LinearOperator) -> LinearOperator | None:
    """Return the sum of two operators of one shape, or None where it would be larger than both."""
    if isinstance(first, Selection) and isinstance(second, Selection):
        if not ((first.index >= 0) & (second.index >= 0)).any():
            return Selection(np.where(first.index >= 0, first.index, second.index), first.n_in)
        return _tidy(first.csr() + second.csr())
    if isinstance(first, Convolution) or isinstance(second, Convolution):
        return _sum_of_convolutions(first, second)
    if isinstance(first, Dense) and isinstance(second, Dense):
        return Dense(first.weight + second.weight)
    if isinstance(first, Dense):
        return Dense(first.weight + second.csr().toarray())
    if isinstance(second, Dense):
        return Dense(first.csr().toarray() + second.weight)
    return _tidy(first.csr() + second.csr())


def is_cheap(operators: Iterable[LinearOperator]) -> bool:
    """Return whether the operators only move or scale entries, so that several readers may each repeat them."""
    return all(isinstance(m, Selection) or (isinstance(m, Sparse) and is_scaling(m.matrix)) for m in operators)


def is_scaling(matrix: sp.csr_array) -> bool:
    """Return whether every row has at most one entry."""
    return bool((np.diff(matrix.indptr) <= 1).all())


def _numbers(operator: LinearOperator) -> int:
    return operator.shape[0] if isinstance(operator, Selection) else operator.parameters


def _tidy(matrix: sp.csr_array) -> LinearOperator:
    """Return a CSR matrix as the simplest operator."""
    matrix = sp.csr_array(matrix)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    counts = np.diff(matrix.indptr)
    if (counts <= 1).all() and (matrix.data == 1.0).all():
        index = np.full(matrix.shape[0], -1)
        index[counts == 1] = matrix.indices
        return Selection(index, matrix.shape[1])
    return Sparse(matrix)


def _with_dense(outer: LinearOperator, inner: LinearOperator) -> LinearOperator | None:
    """Return the product as a full matrix if that is no larger than the factors, else as a sparse one."""
    size = outer.shape[0] * inner.shape[1]
    both = isinstance(outer, Dense) and isinstance(inner, Dense)
    if size <= (1 if both else 2) * (_numbers(outer) + _numbers(inner)):
        if isinstance(outer, Dense):
            return Dense(inner.pull(outer.weight))
        assert isinstance(inner, Dense)
        return Dense(np.ascontiguousarray(outer.apply(inner.weight.T).T))
    if both or isinstance(outer, Convolution) or isinstance(inner, Convolution):
        return None
    return _sparse_product(outer, inner)


def _sparse_product(outer: LinearOperator, inner: LinearOperator) -> LinearOperator | None:
    a, b = outer.csr(), inner.csr()
    limit = _GROWTH * (a.nnz + b.nnz)
    if np.diff(b.indptr)[a.indices].sum() > 4 * limit:  # work of the product, known before it is done
        return None
    product = _tidy(a @ b)
    return product if _numbers(product) <= max(limit, product.shape[0]) else None


# ---- convolutions ---------------------------------------------------------------------------------


def _with_convolution(outer: LinearOperator, inner: LinearOperator) -> LinearOperator | None:
    """Scale the kernel by one factor per channel, or move zero padding into the convolution."""
    if isinstance(inner, Convolution):
        scale = _channel_scale(outer, inner.kernel.shape[0])
        if scale is None:
            return None
        return replace(inner, kernel=inner.kernel * scale.reshape(-1, *(1,) * (inner.kernel.ndim - 1)))
    assert isinstance(outer, Convolution)
    c_out, c_in = outer.kernel.shape[:2]
    scale = _channel_scale(inner, c_in * outer.groups)
    if scale is None:
        return _padded(outer, inner)
    by_output = np.repeat(scale.reshape(outer.groups, c_in), c_out // outer.groups, axis=0)
    return replace(outer, kernel=outer.kernel * by_output.reshape(c_out, c_in, *(1,) * (outer.kernel.ndim - 2)))


def _channel_scale(operator: LinearOperator, channels: int) -> Array | None:
    """Return the factor per channel if `operator` is diagonal and constant on channels."""
    if not isinstance(operator, Sparse) or operator.shape[0] != operator.shape[1]:
        return None
    scale = operator.matrix.diagonal()
    if operator.matrix.count_nonzero() != np.count_nonzero(scale):
        return None
    by_channel = scale.reshape(channels, -1)
    return by_channel[:, 0].copy() if (by_channel == by_channel[:, :1]).all() else None


def _padded(outer: Convolution, inner: LinearOperator) -> Convolution | None:
    """Return the convolution of a smaller image if `inner` only surrounds it by zeros."""
    if not isinstance(inner, Selection) or not (inner.index >= 0).any():
        return None
    channels = outer.kernel.shape[1] * outer.groups
    image = inner.index.reshape(channels, *outer.size)
    filled = np.argwhere(image >= 0)
    first, last = filled.min(axis=0), filled.max(axis=0) + 1
    size = tuple(int(n) for n in (last - first)[1:])
    inside = image[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    if inside.size != inner.n_in or not (inside.ravel() == np.arange(inner.n_in)).all() or len(inside) != channels:
        return None
    edges = zip(outer.pads, first[1:], np.array(outer.size) - last[1:], strict=True)
    pads = tuple((before + int(a), after + int(b)) for (before, after), a, b in edges)
    return replace(outer, size=size, pads=pads)


def _sum_of_convolutions(first: LinearOperator, second: LinearOperator) -> Convolution | None:
    if not isinstance(first, Convolution) or not isinstance(second, Convolution):
        return None
    same = all(getattr(first, k) == getattr(second, k) for k in ("size", "strides", "dilations", "pads", "groups"))
    if not same or first.kernel.shape != second.kernel.shape:
        return None
    return replace(first, kernel=first.kernel + second.kernel)
