"""Ledger: the columns, rows, sets and conditions that a block is made of, as they come in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import ColumnGroup, Indicators, Role, Separator, Sos1
from nnembed.fills import Fill
from nnembed.ir.network import Network
from nnembed.rows import Rows


class Ledger:
    """Collects columns and rows; sparse matrices may be narrower than the columns there are now.

    Parameters
    ----------
    network : Network
        Whose tensors columns stand for.
    """

    def __init__(self, network: Network):
        self.network = network
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
        self._doubtful: list[str] = []
        self.width = 0

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
        tensor, fill = self._known(tensor, fill)
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

    def doubt(self, layer: str) -> None:
        """Say that a solver's tolerances hide outputs of a layer, so that nothing it proves counts."""
        self._doubtful.append(layer)

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

    def box(self) -> tuple[Array, Array]:
        """Return lower and upper bounds of the columns so far."""
        return joined_arrays(self._lower), joined_arrays(self._upper)

    @property
    def groups(self) -> tuple[ColumnGroup, ...]:
        """The column groups so far."""
        return tuple(self._groups)

    def entries(self, column: int) -> int:
        """Return how many rows and indicator rows a column is in so far."""
        matrices = [*self._rows, *(rule.matrix for rule in self._indicators)]
        return int(sum(np.count_nonzero(m.data[m.indices == column]) for m in matrices))

    def _known(self, tensor: str, fill: Fill) -> tuple[str, Fill]:
        """Return the tensor of the network that a name stands for, and the rule in terms of such tensors."""
        return tensor, fill

    def _sum(self, terms: Sequence[sp.csr_array]) -> sp.csr_array:
        small_first = sorted(terms, key=lambda term: term.nnz)  # the long one is then gone through once
        total = self._wide(small_first[0])
        for term in small_first[1:]:
            total = total + self._wide(term)
        return sp.csr_array(total)

    def _wide(self, matrix: sp.csr_array) -> sp.csr_array:
        """Return the matrix with as many columns as there are now, without copying entries."""
        if matrix.shape[1] == self.width:
            return matrix
        return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], self.width))


def joined_arrays(parts: Sequence[Array]) -> Array:
    """Return the parts in one array; none make an empty one."""
    return np.concatenate(parts) if parts else np.zeros(0)
