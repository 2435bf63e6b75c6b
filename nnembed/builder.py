"""BlockBuilder: where formulations put columns and rows.

Tensors are affine rows over columns until they need their own.
A stable neuron therefore costs nothing: its output is the affine row of its pre-activation (or zero), and the next
layer is written in terms of that, or of a further column where that saves nonzeros (`presolve`). Everything works on
flat positions ``point * n + entry`` over a whole batch of points at once, so a batch is one set of sparse operations,
not a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.block import Block, Presolved, Role
from nnembed.bounds.box import Bounds
from nnembed.fills import Fill, Value
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine
from nnembed.ledger import Ledger, joined_arrays
from nnembed.matrices import canonical, stack
from nnembed.presolve import (
    LONG,
    Choice,
    Combination,
    Divided,
    InUnits,
    Use,
    batched,
    choose,
    only,
    ranges,
    row_weights,
    units,
)
from nnembed.rows import Piece, Rows, joined, scale_rows, substitute

__all__ = ["BlockBuilder", "Piece", "Rows", "scale_rows"]


@dataclass(frozen=True, eq=False)
class _Fold:
    """Rows of an affine node whose share of stable neurons has a column: `column` is -1 for other rows."""

    column: Index
    unit: Array
    stable: Mask


class BlockBuilder(Ledger):
    """Collects columns and rows of one embedding.

    Parameters
    ----------
    network : Network
    bounds : Bounds
        Complete and finite bounds; their batch is the batch of the block.
    times : callable or None
        Layer name -> how often its formulation writes the row of an open neuron; None means once.
    stable : "auto", "substituted" or "kept"
        What happens to stably active neurons; "auto" is what takes the fewest nonzeros.
    """

    def __init__(
        self, network: Network, bounds: Bounds, *, times: Callable[[str], float] | None = None, stable: str = "auto"
    ):
        super().__init__(network)
        self.bounds, self.batch = bounds, bounds.batch
        self.exact = True
        self._times, self._stable = times or (lambda layer: 1.0), stable
        self._weights: dict[str, Array] | None = None
        self._folds: dict[tuple[str, int], _Fold] = {}
        self._units: dict[str, tuple[str, Array]] = {}
        self._presolved: list[Presolved] = []
        self._ties: list[tuple[Index, Rows]] = []
        self._defined: dict[str, Rows] = {}
        for spec in network.inputs:
            every = np.arange(self.batch * spec.size)
            low, high = bounds.low[spec.name].ravel(), bounds.high[spec.name].ravel()
            columns = self.columns("input", Role.INPUT, spec.name, every, low, high, Value(spec.name, every))
            self._defined[spec.name] = self.unit(columns)
        self._n_inputs = self.width

    # ---- what formulations call ---------------------------------------------------------------

    def expression(self, tensor: str, elements: Index | None = None) -> Rows:
        """Return elements of a tensor as affine rows over the columns so far.

        Parameters
        ----------
        tensor : str
        elements : int array or None
            Flat positions over the batch; None means all.
        """
        if tensor in self._units:
            real, unit = self._units[tensor]
            every = np.arange(len(unit)) if elements is None else elements
            return self.expression(real, every).scaled(1.0 / unit[every])
        if tensor in self._defined:
            rows = self._defined[tensor]
            return rows if elements is None else rows.take(elements)
        node = self.network.producers[tensor]
        if not isinstance(node, Affine):
            raise ValueError(f"tensor {tensor!r} is used before the formulation of {node.name!r} defined it")
        return self._affine(node, elements)

    def define(self, tensor: str, pieces: Sequence[Piece]) -> None:
        """Say what the elements of a tensor are; elements in no piece are zero."""
        rows = joined(pieces, self.batch * self.network.tensors[tensor].size, max(self.width, 1))
        long = np.diff(rows.matrix.indptr) >= LONG
        self._defined[tensor] = rows
        if self._stable == "substituted" or not long.any():
            return
        if self._weights is None:
            self._weights = row_weights(self.network, self.bounds, self._times)
        choice = choose(tensor, rows.matrix, self.network, self._weights, self.batch)
        if not len(choice.elements):
            return
        before = self.width
        name = "kept" if self._stable == "kept" else choice.name
        if name == "kept":
            self._keep(tensor, rows, choice)
        elif name == "folded":
            for use in choice.uses:
                self._fold(tensor, rows, long, use)
        layer = self.network.producers[tensor].name
        self._presolved.append(Presolved(layer, len(choice.elements), name, self.width - before, choice.costs))

    def materialise(self, layer: str, role: Role, tensor: str, elements: Index) -> Index:
        """Give elements of a tensor columns of their own, tied by equalities."""
        rows = self.expression(tensor, elements)
        real, unit = self._units.get(tensor, (tensor, None))
        low, high = self.bounds.low[real].ravel()[elements], self.bounds.high[real].ravel()[elements]
        if unit is not None:
            low, high = low / unit[elements], high / unit[elements]
        columns = self.columns(layer, role, tensor, elements, low, high, Value(tensor, elements))
        self.add([self.unit(columns).matrix, -rows.matrix], rows.constant, rows.constant)
        return columns

    def in_units(self, tensor: str, elements: Index, unit: Array) -> str:
        """Return a further name for a tensor whose `elements` are divided by `unit`; the tensor's own where all are 1.

        Column groups and fill rules may use that name like any other.
        """
        if (unit == 1.0).all():
            return tensor
        name = f"{tensor}/{len(self._units)}"
        while name in self.network.tensors:
            name += "/"
        whole = np.ones(self.batch * self.network.tensors[tensor].size)
        whole[elements] = unit
        self._units = {**self._units, name: (tensor, whole)}
        return name

    def unfolded(self, rows: Rows) -> Rows:
        """Return rows with the columns that stable neurons were given replaced by what they stand for."""
        matrix, constant = rows.matrix, rows.constant
        for columns, inner in reversed(self._ties):
            if not len(columns) or columns[0] >= matrix.shape[1]:
                continue
            there = (matrix.indices >= columns[0]) & (matrix.indices <= columns[-1])
            if there.any():
                part = sp.csr_array(only(matrix, there)[:, columns[0] : columns[-1] + 1])
                constant = constant + part @ inner.constant
                matrix = sp.csr_array(self._wide(only(matrix, ~there)) + self._wide(sp.csr_array(part @ inner.matrix)))
        return Rows(canonical(matrix), constant)

    def _known(self, tensor: str, fill: Fill) -> tuple[str, Fill]:
        """See `Ledger`: names in units stand for tensors too."""
        return (self._units.get(tensor, (tensor,))[0], InUnits(fill, self._units)) if self._units else (tensor, fill)

    # ---- the end ------------------------------------------------------------------------------

    def finish(self) -> Block:
        """Give the outputs columns of their own and return the block."""
        outputs = [self._output(spec) for spec in self.network.outputs]
        return Block(
            matrix=stack(self._rows, self.width) if self._rows else sp.csr_array((0, self.width)),
            row_lower=joined_arrays(self._row_lower),
            row_upper=joined_arrays(self._row_upper),
            lower=joined_arrays(self._lower),
            upper=joined_arrays(self._upper),
            integer=joined_arrays(self._integer).astype(bool),
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
            presolved=tuple(self._presolved),
            doubtful=tuple(dict.fromkeys(self._doubtful)),
        )

    def _output(self, spec: TensorSpec) -> Index:
        every = np.arange(self.batch * spec.size)
        return self.materialise(spec.name, Role.OUTPUT, spec.name, every)

    def _affine(self, node: Affine, elements: Index | None) -> Rows:
        n_out = len(node.bias)
        flat = np.arange(self.batch * n_out) if elements is None else elements
        constant = node.bias[flat % n_out]
        total: sp.csr_array | None = None
        for k, (operator, source) in enumerate(zip(node.operators, node.inputs, strict=True)):
            below = self.expression(source)
            matrix = batched(operator, flat, self.batch)
            fold = self._folds.get((node.output, k))
            share: sp.csr_array | None = None
            if fold is not None:
                matrix, share = self._without(matrix, flat, fold)
            constant = constant + matrix @ below.constant
            part = self._wide(substitute(matrix, below.matrix))
            part = part if share is None else sp.csr_array(part + share)
            total = part if total is None else sp.csr_array(total + part)
        assert total is not None
        return Rows(total, constant)

    # ---- stable neurons -----------------------------------------------------------------------

    def _keep(self, tensor: str, rows: Rows, choice: Choice) -> None:
        """Give the stable neurons that are read columns of their own."""
        i = choice.elements
        own = rows.take(i)
        low, high = self.bounds.low[tensor].ravel()[i], self.bounds.high[tensor].ravel()[i]
        columns, unit = self._tied(self.network.producers[tensor].name, tensor, i, own, low, high, Value(tensor, i))
        rest = np.ones(len(rows), dtype=bool)
        rest[i] = False
        others = np.flatnonzero(rest)
        pieces = [Piece(others, rows.take(others)), Piece(i, self.unit(columns, unit))]
        self._defined[tensor] = joined(pieces, len(rows), self.width)

    def _fold(self, tensor: str, rows: Rows, stable: Mask, use: Use) -> None:
        """Give the share of the stable neurons in rows of the next layer columns of their own."""
        into = use.rows[use.folded()]
        if not len(into):
            return
        matrix = batched(use.node.operators[use.operator], into, self.batch)
        matrix = only(matrix, stable[matrix.indices])
        share = Rows(self._wide(substitute(matrix, rows.matrix)), matrix @ rows.constant)
        low, high = ranges(matrix, self.bounds.low[tensor].ravel(), self.bounds.high[tensor].ravel())
        least, most = ranges(share.matrix, joined_arrays(self._lower), joined_arrays(self._upper))
        least, most = np.nextafter(least + share.constant, -np.inf), np.nextafter(most + share.constant, np.inf)
        layer = f"{use.node.name}.{use.operator}" if use.operator else use.node.name
        fill = Combination(tensor, matrix)
        apart = np.maximum(low, least) > np.minimum(high, most)  # by rounding only: both hold
        sides = np.where(apart, low, np.maximum(low, least)), np.where(apart, high, np.minimum(high, most))
        columns, unit = self._tied(layer, use.node.output, into, share, *sides, fill)
        column = np.full(self.batch * len(use.node.bias), -1)
        factor = np.ones(len(column))
        column[into], factor[into] = columns, unit
        self._folds[use.node.output, use.operator] = _Fold(column, factor, stable)

    def _tied(
        self, layer: str, tensor: str, elements: Index, rows: Rows, low: Array, high: Array, fill: Fill
    ) -> tuple[Index, Array]:
        """Add columns that equal `rows` in units of a sane size; return them and the units."""
        unit = units(low, high, rows.matrix)
        if (unit != 1.0).any():
            rows, low, high, fill = rows.scaled(1.0 / unit), low / unit, high / unit, Divided(fill, unit)
        columns = self.columns(layer, Role.STABLE, tensor, elements, low, high, fill)
        self.add([self.unit(columns).matrix, -rows.matrix], rows.constant, rows.constant)
        self._ties.append((columns, rows))
        return columns, unit

    def _without(self, matrix: sp.csr_array, flat: Index, fold: _Fold) -> tuple[sp.csr_array, sp.csr_array]:
        """Return rows without what a fold's columns stand for, and these columns."""
        column = fold.column[flat]
        hit = np.repeat(column >= 0, np.diff(matrix.indptr))
        matrix = only(matrix, ~(hit & fold.stable[matrix.indices]))
        inside = np.flatnonzero(column >= 0)
        indptr = np.concatenate([[0], np.cumsum(column >= 0)]).astype(np.int32)
        data, indices = fold.unit[flat[inside]], column[inside].astype(np.int32)
        return matrix, sp.csr_array((data, indices, indptr), shape=(len(flat), self.width))
