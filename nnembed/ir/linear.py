"""Linear operators that keep their structure: dense, sparse, selection, convolution.

Every operator is a matrix ``M`` of shape (n_out, n_in) that acts on the last axis of an array.
`absolute` gives ``|M|``; rounding-error bounds need it and the largest number of terms in a row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index

_SMALL = 65536  # numbers that may be kept twice for speed


class LinearOperator(ABC):
    """A real matrix of shape `shape`, immutable."""

    shape: tuple[int, int]

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """Return ``x @ M.T``: (..., n_in) -> (..., n_out)."""

    @abstractmethod
    def pull(self, a: Array) -> Array:
        """Return ``a @ M``: (..., n_out) -> (..., n_in), the backward direction."""

    @abstractmethod
    def csr(self, rows: Index | None = None) -> sp.csr_array:
        """Return the chosen rows (all by default) as a CSR matrix without stored zeros."""

    def rows(self, index: Index) -> Array:
        """Return the chosen rows as a full array (k, n_in)."""
        return np.asarray(self.csr(index).toarray())

    @abstractmethod
    def map(self, function: Callable[[Array], Array]) -> LinearOperator:
        """Return the operator with `function` applied to the entries; it must keep zero."""

    @cached_property
    def absolute(self) -> LinearOperator:
        """The operator with the absolute values of the entries."""
        return self.map(np.abs)

    def signs(self) -> tuple[LinearOperator, LinearOperator]:
        """Return the positive and the negative part, which sum to the operator; kept only where they are small."""
        return self._small_signs if self.parameters <= _SMALL else self._split()

    @cached_property
    def _small_signs(self) -> tuple[LinearOperator, LinearOperator]:
        return self._split()

    def _split(self) -> tuple[LinearOperator, LinearOperator]:
        return self.map(lambda m: np.maximum(m, 0.0)), self.map(lambda m: np.minimum(m, 0.0))

    @property
    @abstractmethod
    def terms(self) -> int:
        """The largest number of products summed in `apply` or `pull`."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Numbers stored."""


@dataclass(frozen=True, eq=False)
class Dense(LinearOperator):
    """A full matrix `weight` of shape (n_out, n_in)."""

    weight: Array

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """(n_out, n_in)."""
        return self.weight.shape[0], self.weight.shape[1]

    def apply(self, x: Array) -> Array:
        """See `LinearOperator.apply`."""
        return x @ self.weight.T

    def pull(self, a: Array) -> Array:
        """See `LinearOperator.pull`."""
        return a @ self.weight

    def csr(self, rows: Index | None = None) -> sp.csr_array:
        """See `LinearOperator.csr`."""
        return dense_to_csr(self.weight if rows is None else self.weight[rows])

    def rows(self, index: Index) -> Array:
        """See `LinearOperator.rows`."""
        return self.weight[index]

    def map(self, function: Callable[[Array], Array]) -> LinearOperator:
        """See `LinearOperator.map`."""
        return Dense(function(self.weight))

    @property
    def terms(self) -> int:
        """See `LinearOperator.terms`."""
        return max(self.shape)

    @property
    def parameters(self) -> int:
        """See `LinearOperator.parameters`."""
        return self.weight.size


@dataclass(frozen=True, eq=False)
class Sparse(LinearOperator):
    """A CSR matrix."""

    matrix: sp.csr_array

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """(n_out, n_in)."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @cached_property
    def _transposed(self) -> sp.csr_array:
        return sp.csr_array(self.matrix.T)

    def apply(self, x: Array) -> Array:
        """See `LinearOperator.apply`."""
        return _sparse_times(self.matrix, x)

    def pull(self, a: Array) -> Array:
        """See `LinearOperator.pull`."""
        return _sparse_times(self._transposed, a)

    def csr(self, rows: Index | None = None) -> sp.csr_array:
        """See `LinearOperator.csr`."""
        return self.matrix if rows is None else self.matrix[rows]

    def map(self, function: Callable[[Array], Array]) -> LinearOperator:
        """See `LinearOperator.map`."""
        m = self.matrix
        return Sparse(sp.csr_array((function(m.data), m.indices, m.indptr), shape=m.shape))

    @cached_property
    def terms(self) -> int:
        """See `LinearOperator.terms`."""
        by_row = np.diff(self.matrix.indptr).max(initial=0)
        by_column = np.bincount(self.matrix.indices, minlength=1).max(initial=0)
        return int(max(by_row, by_column))

    @property
    def parameters(self) -> int:
        """See `LinearOperator.parameters`."""
        return int(self.matrix.nnz)


@dataclass(frozen=True, eq=False)
class Selection(LinearOperator):
    """Output i is input ``index[i]``, or zero where the index is -1."""

    index: Index
    n_in: int

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """(n_out, n_in)."""
        return len(self.index), self.n_in

    @cached_property
    def is_identity(self) -> bool:
        """Whether nothing is moved or dropped."""
        return len(self.index) == self.n_in and bool((self.index == np.arange(self.n_in)).all())

    def apply(self, x: Array) -> Array:
        """See `LinearOperator.apply`."""
        if not self.n_in:
            return np.zeros((*x.shape[:-1], len(self.index)))
        out: Array = x[..., self.index]
        if (self.index < 0).any():
            out[..., self.index < 0] = 0.0
        return out

    def pull(self, a: Array) -> Array:
        """See `LinearOperator.pull`."""
        return _sparse_times(self._transposed, a)

    @cached_property
    def _transposed(self) -> sp.csr_array:
        return sp.csr_array(self.csr().T)

    def csr(self, rows: Index | None = None) -> sp.csr_array:
        """See `LinearOperator.csr`."""
        index = self.index if rows is None else self.index[rows]
        kept = index >= 0
        indptr = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
        data = np.ones(int(indptr[-1]))
        return sp.csr_array((data, index[kept].astype(np.int32), indptr), shape=(len(index), self.n_in))

    def map(self, function: Callable[[Array], Array]) -> LinearOperator:
        """See `LinearOperator.map`."""
        one = float(function(np.ones(1))[0])
        if one == 1.0:
            return self
        return Selection(np.full(len(self.index), -1), self.n_in) if one == 0.0 else Sparse(self.csr() * one)

    @cached_property
    def terms(self) -> int:
        """See `LinearOperator.terms`."""
        used = self.index[self.index >= 0]
        return int(np.bincount(used, minlength=1).max(initial=1))

    @property
    def parameters(self) -> int:
        """See `LinearOperator.parameters`."""
        return 0


@dataclass(frozen=True, eq=False)
class Convolution(LinearOperator):
    """A convolution in any number of spatial dimensions, as ONNX ``Conv`` defines it.

    Parameters
    ----------
    kernel : array of shape (c_out, c_in / groups, *k)
        Weights.
    size : tuple of int
        Spatial sizes of the input; the input has shape (c_in, *size), flattened row-major.
    strides, dilations : tuple of int
        One entry per spatial dimension.
    pads : tuple of (before, after)
        Zeros added per spatial dimension.
    groups : int
        Channel groups.
    """

    kernel: Array
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    groups: int = 1

    @cached_property
    def out_size(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.size, self.pads, self.dilations, self.kernel.shape[2:], self.strides, strict=True
            )
        )

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """(n_out, n_in)."""
        c_in = self.kernel.shape[1] * self.groups
        return self.kernel.shape[0] * int(np.prod(self.out_size)), c_in * int(np.prod(self.size))

    def _window(self, offset: tuple[int, ...], leading: int) -> tuple[slice, ...]:
        """Return slices of the padded input that meet kernel position `offset`, after `leading` whole axes."""
        return (slice(None),) * leading + tuple(
            slice(o * d, o * d + s * (n - 1) + 1, s)
            for o, d, s, n in zip(offset, self.dilations, self.strides, self.out_size, strict=True)
        )

    def apply(self, x: Array) -> Array:
        """See `LinearOperator.apply`; one matrix product per kernel position."""
        if self._full is not None:
            return x @ self._full.T
        lead, g = x.shape[:-1], self.groups
        c_out, c_in = self.kernel.shape[:2]
        padded = np.pad(x.reshape(math.prod(lead), g, c_in, *self.size), [(0, 0)] * 3 + list(self.pads))
        out = np.zeros((padded.shape[0], g, c_out // g, int(np.prod(self.out_size))))
        kernel = self.kernel.reshape(g, c_out // g, c_in, *self.kernel.shape[2:])
        for offset in np.ndindex(*self.kernel.shape[2:]):
            part = padded[self._window(offset, 3)].reshape(*padded.shape[:3], out.shape[-1])
            out += kernel[(slice(None),) * 3 + offset] @ part
        return out.reshape(*lead, self.shape[0])

    def pull(self, a: Array) -> Array:
        """See `LinearOperator.pull`; the transposed convolution."""
        if self._full is not None:
            return a @ self._full
        lead, g = a.shape[:-1], self.groups
        c_out, c_in = self.kernel.shape[:2]
        flat = a.reshape(math.prod(lead), g, c_out // g, int(np.prod(self.out_size)))
        full = [n + sum(p) for n, p in zip(self.size, self.pads, strict=True)]
        out = np.zeros((flat.shape[0], g, c_in, *full))
        kernel = self.kernel.reshape(g, c_out // g, c_in, *self.kernel.shape[2:])
        for offset in np.ndindex(*self.kernel.shape[2:]):
            part = kernel[(slice(None),) * 3 + offset].swapaxes(-1, -2) @ flat
            out[self._window(offset, 3)] += part.reshape(*flat.shape[:2], c_in, *self.out_size)
        inner = tuple(slice(p[0], p[0] + n) for n, p in zip(self.size, self.pads, strict=True))
        return out[(slice(None),) * 3 + inner].reshape(*lead, self.shape[1])

    @cached_property
    def _full(self) -> Array | None:
        """The full matrix of a small convolution, where one product beats one per kernel position."""
        n_out, n_in = self.shape
        return np.asarray(self._matrix.toarray()) if n_out * n_in <= _SMALL else None

    @cached_property
    def _matrix(self) -> sp.csr_array:
        """The convolution as a sparse matrix: one entry per kernel tap that meets a pixel."""
        g = self.groups
        c_out, c_in = self.kernel.shape[:2]
        pixel = np.full([n + sum(p) for n, p in zip(self.size, self.pads, strict=True)], -1)
        inner = tuple(slice(p[0], p[0] + n) for n, p in zip(self.size, self.pads, strict=True))
        n_in, n_out = int(np.prod(self.size)), int(np.prod(self.out_size))
        pixel[inner] = np.arange(n_in).reshape(self.size)
        taps = np.stack([pixel[self._window(o, 0)].ravel() for o in np.ndindex(*self.kernel.shape[2:])], axis=-1)
        channel = (np.arange(c_out) // (c_out // g))[:, None] * c_in + np.arange(c_in)
        columns = channel[:, None, :, None] * n_in + taps[None, :, None, :]
        weights = np.broadcast_to(self.kernel.reshape(c_out, 1, c_in, -1), columns.shape)
        kept = np.broadcast_to(taps[None, :, None, :] >= 0, columns.shape) & (weights != 0)
        counts = kept.reshape(c_out * n_out, -1).sum(axis=1)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return sp.csr_array((weights[kept], columns[kept].astype(np.int32), indptr), shape=self.shape)

    def csr(self, rows: Index | None = None) -> sp.csr_array:
        """See `LinearOperator.csr`."""
        return self._matrix if rows is None else self._matrix[rows]

    def map(self, function: Callable[[Array], Array]) -> LinearOperator:
        """See `LinearOperator.map`."""
        return replace(self, kernel=function(self.kernel))

    @property
    def terms(self) -> int:
        """See `LinearOperator.terms`."""
        taps = int(np.prod(self.kernel.shape[2:]))
        return taps * max(self.kernel.shape[1], self.kernel.shape[0] // self.groups)

    @property
    def parameters(self) -> int:
        """See `LinearOperator.parameters`."""
        return self.kernel.size


def identity(n: int) -> Selection:
    """Return the identity on `n` numbers."""
    return Selection(np.arange(n), n)


def diagonal(scale: Array) -> Sparse:
    """Return the operator that multiplies entry i by ``scale[i]``."""
    n = len(scale)
    used = np.flatnonzero(scale)
    indptr = np.concatenate([[0], np.cumsum(scale != 0)]).astype(np.int32)
    return Sparse(sp.csr_array((scale[used], used.astype(np.int32), indptr), shape=(n, n)))


def dense_to_csr(weight: Array) -> sp.csr_array:
    """Return a full matrix as CSR without stored zeros; one pass when no entry is zero."""
    n_out, n_in = weight.shape
    if weight.size and weight.all():
        indices = np.tile(np.arange(n_in, dtype=np.int32), n_out)
        indptr = np.arange(0, weight.size + 1, n_in, dtype=np.int32)
        return sp.csr_array((weight.ravel(), indices, indptr), shape=weight.shape)
    return sp.csr_array(weight)


def _sparse_times(matrix: sp.csr_array, x: Array) -> Array:
    """Return ``x @ matrix.T`` for an array with any leading axes."""
    lead = x.shape[:-1]
    out = (matrix @ x.reshape(-1, x.shape[-1]).T).T
    return np.ascontiguousarray(out).reshape(*lead, matrix.shape[0])
