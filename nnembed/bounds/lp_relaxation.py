"""The linear relaxation of a network, layer by layer, with its rounding errors.

Tensors are affine rows over columns, as in a block: a stable neuron is its pre-activation's row or a constant, only
open neurons have columns. With every tensor goes a bound on how far its true values, and those that a forward pass in
float64 computes, may be from its row; rows of the program are loosened by it, so the program contains every point of
the network although its coefficients are rounded products of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.bounds.box import Bounds
from nnembed.bounds.interval import UNIT, gamma
from nnembed.ir.linear import LinearOperator, Selection
from nnembed.ir.nodes import Affine
from nnembed.matrices import canonical, relabel, stack


@dataclass(frozen=True, eq=False)
class Program:
    """Rows ``row_lower <= matrix @ columns <= row_upper`` over columns in ``[lower, upper]``; no objective.

    Every point of the network is among them, whatever was rounded. A plain object with arrays: it travels to other
    processes.
    """

    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: np.ndarray

    def with_rows(self, matrix: sp.csr_array, lower: Array, upper: Array) -> Program:
        """Return the program with further rows below."""
        width = len(self.lower)
        return replace(
            self,
            matrix=stack([self.matrix, canonical(widen(matrix, width))], width),
            row_lower=np.concatenate([self.row_lower, lower]),
            row_upper=np.concatenate([self.row_upper, upper]),
        )


@dataclass(frozen=True, eq=False)
class Affines:
    """A tensor as affine functions of the columns, flat over the batch.

    ``|value - (matrix @ columns + constant)| <= error`` for true and for computed values; `size` bounds
    ``|matrix| |columns| + |constant|`` and the values themselves.
    """

    matrix: sp.csr_array
    constant: Array
    error: Array
    size: Array

    def take(self, index: Index) -> Affines:
        """Return some of them."""
        return Affines(self.matrix[index], self.constant[index], self.error[index], self.size[index])


class Relaxation:
    """Collects the columns and rows of a network, from its inputs or from a later layer on.

    Parameters
    ----------
    bounds : Bounds
        Complete and finite. A batch is written as one program.
    start : int
        Position of the first node that is written; tensors from before it are columns in their bounds.
    binaries : set of str
        Outputs of the activations whose pieces are chosen by binaries; the others are relaxed.
    """

    def __init__(self, bounds: Bounds, start: int = 0, binaries: Set[str] = frozenset()):
        self.network, self.bounds, self.batch = bounds.network, bounds, bounds.batch
        self.binaries = binaries
        self.width = 0
        self.written = {node.output for node in self.network.nodes[start:]}
        self._known: dict[str, Affines] = {}
        self._sides: list[tuple[Array, Array, bool]] = []
        self._rows: list[sp.csr_array] = []
        self._row_sides: list[tuple[Array, Array]] = []
        self.inputs = [self._free(spec.name) for spec in self.network.inputs] if not start else []

    # ---- parts ---------------------------------------------------------------------------------

    def columns(self, lower: Array, upper: Array, *, integer: bool = False) -> Index:
        """Add columns and return their numbers."""
        self._sides.append((lower, upper, integer))
        self.width += len(lower)
        return np.arange(self.width - len(lower), self.width)

    def add(self, terms: Sequence[sp.csr_array], lower: Array, upper: Array) -> None:
        """Add the rows ``lower <= sum(terms) @ columns <= upper``, which must hold as they are."""
        total = widen(terms[0], self.width)
        for term in terms[1:]:
            total = total + widen(term, self.width)
        self._rows.append(canonical(sp.csr_array(total)))
        self._row_sides.append((lower, upper))

    def unit(self, columns: Index, factor: Array | float = 1.0) -> sp.csr_array:
        """Return the rows ``factor[i] * column[i]``."""
        k = len(columns)
        data = np.broadcast_to(np.asarray(factor, float), (k,)).copy()
        return sp.csr_array((data, columns.astype(np.int32), np.arange(k + 1, dtype=np.int32)), shape=(k, self.width))

    def program(self) -> Program:
        """Return what has been written so far."""
        empty = np.zeros(0)
        return Program(
            matrix=stack([widen(m, self.width) for m in self._rows], self.width)
            if self._rows
            else sp.csr_array((0, self.width)),
            row_lower=np.concatenate([empty, *(low for low, _ in self._row_sides)]),
            row_upper=np.concatenate([empty, *(high for _, high in self._row_sides)]),
            lower=np.concatenate([empty, *(low for low, _, _ in self._sides)]),
            upper=np.concatenate([empty, *(high for _, high, _ in self._sides)]),
            integer=np.concatenate([np.zeros(0, bool), *(np.full(len(low), z) for low, _, z in self._sides)]),
        )

    # ---- tensors -------------------------------------------------------------------------------

    def value(self, tensor: str) -> Affines:
        """Return a tensor as affine functions of the columns so far.

        Raises
        ------
        ValueError
            For the output of an activation that has not been written.
        """
        if tensor not in self._known:
            node = self.network.producers.get(tensor)
            if node is None or tensor not in self.written:
                self._free(tensor)
            elif isinstance(node, Affine):
                self._known[tensor] = self._affine(node)
            else:
                raise ValueError(f"activation {node.name!r} is read before it is written")
        return self._known[tensor]

    def _free(self, tensor: str) -> Index:
        low, high = self.range(tensor)
        columns = self.columns(low, high)
        self._known[tensor] = self._exact(columns, low, high)
        return columns

    def _exact(self, columns: Index, low: Array, high: Array) -> Affines:
        zero = np.zeros(len(columns))
        return Affines(self.unit(columns), zero, zero, np.maximum(np.abs(low), np.abs(high)))

    def range(self, tensor: str) -> tuple[Array, Array]:
        """Return the bounds of a tensor, flat over the batch."""
        return self.bounds.low[tensor].ravel(), self.bounds.high[tensor].ravel()

    def _affine(self, node: Affine) -> Affines:
        """Return the rows of an affine node; two roundings are paid for, of the products here and of a forward pass."""
        shape = (self.batch, len(node.bias))
        matrix: sp.csr_array | None = None
        constant = np.broadcast_to(node.bias, shape).ravel()
        size, error = np.broadcast_to(np.abs(node.bias), shape), np.zeros(shape)
        relative = 2 * gamma(sum(op.terms for op in node.operators) + len(node.operators) + 2)
        for operator, source in zip(node.operators, node.inputs, strict=True):
            below = self.value(source)
            part, shift = self._push(operator, below)
            matrix = part if matrix is None else sp.csr_array(widen(matrix, self.width) + widen(part, self.width))
            constant = constant + shift
            columns = np.stack([below.size, below.error]).reshape(2, self.batch, -1)
            grown = operator.absolute.apply(columns)
            size, error = size + grown[0], error + grown[1]
        assert matrix is not None
        return Affines(matrix, constant, ((error + relative * size) * (1 + relative)).ravel(), size.ravel())

    def _push(self, operator: LinearOperator, below: Affines) -> tuple[sp.csr_array, Array]:
        n_out, n_in = operator.shape
        shift = operator.apply(below.constant.reshape(self.batch, n_in)).ravel()
        rows = below.matrix
        if self.batch > 1 or isinstance(operator, Selection) or n_out * rows.shape[1] > 4_000_000:
            matrix = operator.csr()
            if self.batch > 1:
                matrix = sp.csr_array(sp.kron(sp.eye_array(self.batch), matrix, format="csr"))
            return canonical(sp.csr_array(matrix @ rows)), shift
        if (np.diff(rows.indptr) == 1).all() and (rows.data == 1.0).all():
            return relabel(operator.csr(), rows.indices, rows.shape[1]), shift
        return sp.csr_array(operator.apply(np.ascontiguousarray(rows.toarray().T)).T), shift

    def define(self, tensor: str, affines: Affines) -> None:
        """Say what the output of an activation is."""
        self._known[tensor] = affines

    def place(self, own: Sequence[tuple[Index, sp.csr_array]], n: int) -> sp.csr_array:
        """Return a matrix of n rows with the given rows at the given places."""
        where = np.concatenate([np.zeros(0, np.intp), *(i for i, _ in own)])
        rows = stack([sp.csr_array((0, self.width)), *(widen(m, self.width) for _, m in own)], self.width).tocoo()
        return sp.csr_array((rows.data, (where[rows.row], rows.col)), shape=(n, self.width))

    def at_most(self, terms: Sequence[tuple[Index, Array]], side: Array) -> None:
        """Add the rows ``sum factor * column <= side``."""
        self.add([self.unit(columns, factor) for columns, factor in terms], np.full(len(side), -np.inf), side)

    def tie(self, rows: Affines, threshold: Array, parts: Sequence[sp.csr_array]) -> None:
        """Add the rows ``sum(parts) == rows - threshold``, up to the error of the rows."""
        side = rows.constant - threshold
        slack = rows.error + 8 * UNIT * (np.abs(rows.constant) + np.abs(threshold) + rows.size)
        self.add([*parts, -widen(rows.matrix, self.width)], side - slack, side + slack)


def widen(matrix: sp.csr_array, width: int) -> sp.csr_array:
    """Return the matrix with `width` columns, without copying entries."""
    if matrix.shape[1] == width:
        return matrix
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], width))


def scale(matrix: sp.csr_array, factor: Array) -> sp.csr_array:
    """Return the matrix with row i times ``factor[i]``, in memory of its own."""
    data = matrix.data * np.repeat(factor, np.diff(matrix.indptr))
    return sp.csr_array((data, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
