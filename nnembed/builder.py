"""BlockBuilder: where formulations put columns and rows.

Tensors are affine rows over columns until they need their own.
A stable neuron therefore costs nothing: its output is the affine row of its pre-activation (or zero), and the next
layer is written in terms of that. Everything works on flat positions ``point * n + entry`` over a whole batch of points
at once, so a batch is one set of sparse operations, not a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Block, ColumnGroup, Fill, Indicators, Role, Separator, Sos1, Value
from nnembed.bounds.box import Bounds
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine
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


class BlockBuilder:
    """Collects columns and rows of one embedding.

    Parameters
    ----------
    network : Network
    bounds : Bounds
        Complete and finite bounds; their batch is the batch of the block.
    """

    def __init__(self, network: Network, bounds: Bounds):
        self.network, self.bounds, self.batch = network, bounds, bounds.batch
        self.exact = True
        self._defined: dict[str, Rows] = {}
        self._groups: list[ColumnGroup] = []
        self._lower: list[Array] = []
        self._upper: list[Array] = []
        self._integer: list[np.ndarray] = []
        self._rows: list[sp.csr_array] = []
        self._row_lower: list[Array] = []
        self._row_upper: list[Array] = []
        self._sos1: list[Sos1] = []
        self._indicators: list[Indicators] = []
        self._complementarities: list[Index] = []
        self._relus: list[Index] = []
        self._separators: list[Separator] = []
        self.width = 0
        for spec in network.inputs:
            every = np.arange(self.batch * spec.size)
            low, high = bounds.low[spec.name].ravel(), bounds.high[spec.name].ravel()
            columns = self.columns("input", Role.INPUT, spec.name, every, low, high, Value(spec.name, every))
            self._defined[spec.name] = self.unit(columns)
        self._n_inputs = self.width

    # ---- what formulations call ---------------------------------------------------------------

    def columns(
        self,
        layer: str,
        role: Role,
        tensor: str,
        elements: Index,
        lower: Array | float,
        upper: Array | float,
        fill: Fill,
        *,
        integer: bool = False,
    ) -> Index:
        """Add one column per element and return their numbers.

        Parameters
        ----------
        layer : str
            Node name, used in column names.
        role : Role
        tensor : str
            Tensor the elements belong to.
        elements : int array (k,)
            Flat positions in the tensor over the batch.
        lower, upper : array (k,) or float
        fill : Fill
            How a forward pass determines the values.
        integer : bool
        """
        k = len(elements)
        size = self.network.tensors[tensor].size
        self._groups.append(ColumnGroup(layer, role, self.width, tensor, size, elements, fill))
        self._lower.append(np.broadcast_to(np.asarray(lower, float), (k,)))
        self._upper.append(np.broadcast_to(np.asarray(upper, float), (k,)))
        self._integer.append(np.full(k, integer))
        self.width += k
        return np.arange(self.width - k, self.width)

    def binaries(self, layer: str, tensor: str, elements: Index, fill: Fill) -> Index:
        """Add one binary column per element."""
        return self.columns(layer, Role.INDICATOR, tensor, elements, 0.0, 1.0, fill, integer=True)

    def add(self, terms: Sequence[sp.csr_array], lower: Array | float, upper: Array | float) -> None:
        """Add the rows ``lower <= sum(terms) @ columns <= upper``; constants belong on the sides."""
        total = self._sum(terms)
        k = total.shape[0]
        self._rows.append(total)
        self._row_lower.append(np.broadcast_to(np.asarray(lower, float), (k,)))
        self._row_upper.append(np.broadcast_to(np.asarray(upper, float), (k,)))

    def sos1(self, columns: Index) -> None:
        """Say that at most one column of each row of `columns`, shape (sets, members), is nonzero."""
        if len(columns):
            self._sos1.append(Sos1(np.asarray(columns, dtype=np.intp)))

    def indicators(
        self, binary: Index, value: int, terms: Sequence[sp.csr_array], lower: Array | float, upper: Array | float
    ) -> None:
        """Add the rows ``lower <= sum(terms) @ columns <= upper`` that hold where ``binary == value``.

        Parameters
        ----------
        binary : int array (k,)
            The binary column of each row.
        value : 0 or 1
        terms, lower, upper : as in `add`
        """
        if k := len(binary):
            sides = (np.broadcast_to(np.asarray(side, float), (k,)) for side in (lower, upper))
            self._indicators.append(Indicators(binary, np.full(k, float(value)), self._sum(terms), *sides))

    def complementary(self, first: Index, second: Index) -> None:
        """Say that ``first[i]`` or ``second[i]`` is zero; both columns must have lower bounds of at least zero."""
        if len(first):
            self._complementarities.append(np.stack([first, second], axis=1))

    def relu(self, result: Index, argument: Index) -> None:
        """Say that ``result[i] == max(argument[i], 0)`` for pairs of columns; solvers or lowerings do the rest."""
        if len(result):
            self._relus.append(np.stack([result, argument], axis=1))

    def separate(self, separator: Separator) -> None:
        """Add rows that are looked for where a relaxation violates them."""
        self._separators.append(separator)

    def unit(self, columns: Index, factor: Array | float = 1.0) -> Rows:
        """Return the rows ``factor[i] * column[i]``."""
        k = len(columns)
        data = np.broadcast_to(np.asarray(factor, float), (k,)).copy()
        matrix = sp.csr_array(
            (data, columns.astype(np.int32), np.arange(k + 1, dtype=np.int32)), shape=(k, max(self.width, 1))
        )
        return Rows(matrix, np.zeros(k))

    def sums(self, columns: Index, owner: Index, groups: int) -> sp.csr_array:
        """Return one row per group: the sum of the columns that `owner` (sorted) assigns to it."""
        indptr = np.searchsorted(owner, np.arange(groups + 1)).astype(np.int32)
        return sp.csr_array((np.ones(len(columns)), columns.astype(np.int32), indptr), shape=(groups, self.width))

    def expression(self, tensor: str, elements: Index | None = None) -> Rows:
        """Return elements of a tensor as affine rows over the columns so far.

        Parameters
        ----------
        tensor : str
        elements : int array or None
            Flat positions over the batch; None means all.
        """
        if tensor in self._defined:
            rows = self._defined[tensor]
            return rows if elements is None else rows.take(elements)
        node = self.network.producers[tensor]
        if not isinstance(node, Affine):
            raise ValueError(f"tensor {tensor!r} is used before the formulation of {node.name!r} defined it")
        return self._affine(node, elements)

    def define(self, tensor: str, pieces: Sequence[Piece]) -> None:
        """Say what the elements of a tensor are; elements in no piece are zero."""
        size = self.batch * self.network.tensors[tensor].size
        pieces = [p for p in pieces if len(p.elements)]
        rest = np.ones(size, dtype=bool)
        for piece in pieces:
            rest[piece.elements] = False
        zeros = np.flatnonzero(rest)
        empty = sp.csr_array((len(zeros), max(self.width, 1)))
        matrix = stack([*(p.rows.matrix for p in pieces), empty], max(self.width, 1))
        constant = np.concatenate([*(p.rows.constant for p in pieces), np.zeros(len(zeros))])
        order = np.empty(size, dtype=np.intp)
        order[np.concatenate([*(p.elements for p in pieces), zeros])] = np.arange(size)
        sorted_already = (order == np.arange(size)).all()
        self._defined[tensor] = Rows(matrix, constant) if sorted_already else Rows(matrix[order], constant[order])

    def materialise(self, layer: str, role: Role, tensor: str, elements: Index) -> Index:
        """Give elements of a tensor columns of their own, tied by equalities."""
        rows = self.expression(tensor, elements)
        low, high = self.bounds.low[tensor].ravel()[elements], self.bounds.high[tensor].ravel()[elements]
        columns = self.columns(layer, role, tensor, elements, low, high, Value(tensor, elements))
        self.add([self.unit(columns).matrix, -rows.matrix], rows.constant, rows.constant)
        return columns

    # ---- the end ------------------------------------------------------------------------------

    def finish(self) -> Block:
        """Give the outputs columns of their own and return the block."""
        outputs = [self._output(spec) for spec in self.network.outputs]
        return Block(
            matrix=stack(self._rows, self.width) if self._rows else sp.csr_array((0, self.width)),
            row_lower=_join(self._row_lower),
            row_upper=_join(self._row_upper),
            lower=_join(self._lower),
            upper=_join(self._upper),
            integer=_join(self._integer).astype(bool),
            n_inputs=self._n_inputs,
            outputs=np.concatenate(outputs),
            groups=tuple(self._groups),
            batch=self.batch,
            exact=self.exact,
            sos1=tuple(self._sos1),
            indicators=tuple(replace(i, matrix=self._wide(i.matrix)) for i in self._indicators),
            complementarities=tuple(self._complementarities),
            relus=tuple(self._relus),
            separators=tuple(self._separators),
        )

    def _output(self, spec: TensorSpec) -> Index:
        every = np.arange(self.batch * spec.size)
        return self.materialise(spec.name, Role.OUTPUT, spec.name, every)

    def _affine(self, node: Affine, elements: Index | None) -> Rows:
        n_out = len(node.bias)
        whole = elements is None
        flat = np.arange(self.batch * n_out) if elements is None else elements
        point, entry = np.divmod(flat, n_out)
        constant = node.bias[entry]
        total: sp.csr_array | None = None
        for operator, source in zip(node.operators, node.inputs, strict=True):
            below = self.expression(source)
            matrix = operator.csr() if whole and self.batch == 1 else operator.csr(entry)
            if self.batch > 1:
                shift = np.repeat(point * operator.shape[1], np.diff(matrix.indptr)).astype(np.int32)
                shape = (len(flat), self.batch * operator.shape[1])
                matrix = sp.csr_array((matrix.data, matrix.indices + shift, matrix.indptr), shape=shape)
            constant = constant + matrix @ below.constant
            part = self._wide(_substitute(matrix, below.matrix))
            total = part if total is None else sp.csr_array(total + part)
        assert total is not None
        return Rows(total, constant)

    def _sum(self, terms: Sequence[sp.csr_array]) -> sp.csr_array:
        total = self._wide(terms[0])
        for term in terms[1:]:
            total = total + self._wide(term)
        return sp.csr_array(total)

    def _wide(self, matrix: sp.csr_array) -> sp.csr_array:
        """Return the matrix with as many columns as there are now, without copying entries."""
        if matrix.shape[1] == self.width:
            return matrix
        return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], self.width))


def _substitute(matrix: sp.csr_array, rows: sp.csr_array) -> sp.csr_array:
    """Return ``matrix @ rows``; where every row is one column, columns are only renumbered."""
    if rows.nnz == rows.shape[0] and (np.diff(rows.indptr) == 1).all() and (rows.data == 1.0).all():
        return relabel(matrix, rows.indices, rows.shape[1])
    return canonical(sp.csr_array(matrix @ rows))


def scale_rows(matrix: sp.csr_array, factor: Array) -> sp.csr_array:
    """Return the matrix with row i multiplied by ``factor[i]``."""
    data = matrix.data * np.repeat(factor, np.diff(matrix.indptr))
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _join(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0)
