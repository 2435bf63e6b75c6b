"""Problem: the user's own rows and the blocks of embedded networks, as arrays; and how they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Block, Indicators, content
from nnembed.errors import WrongModel
from nnembed.features import Feature
from nnembed.matrices import canonical, relabel, stack, widen_square


@dataclass(frozen=True, eq=False)
class InputMap:
    """What the user passed as network inputs: an affine map of variables of the model.

    Attributes
    ----------
    labels : int array (k,)
        The model's own numbers of the variables that occur, without repetition.
    matrix : CSR array (n, k)
        Coefficients; one row per input entry in the order of the block's input columns.
    constant : array (n,)
        Constant part.
    lead : tuple of int
        Sizes of the batch axes.
    axes : object
        Whatever the host needs to give the outputs the same batch axes (dimension names, coordinates).
    """

    labels: Index
    matrix: sp.csr_array
    constant: Array
    lead: tuple[int, ...] = ()
    axes: Any = None

    @property
    def batch(self) -> int:
        """Number of points."""
        return int(np.prod(self.lead, dtype=np.int64))

    @property
    def is_constant(self) -> np.ndarray:
        """Mask of the entries that are plain numbers."""
        return np.diff(self.matrix.indptr) == 0

    @property
    def direct(self) -> Index:
        """The variable's label where an entry is just that variable, else -1."""
        single = (np.diff(self.matrix.indptr) == 1) & (self.constant == 0)
        out = np.full(len(self.constant), -1, dtype=np.intp)
        first = self.matrix.indptr[:-1][single]
        ones = self.matrix.data[first] == 1.0
        out[np.flatnonzero(single)[ones]] = self.labels[self.matrix.indices[first[ones]]]
        return out

    def box(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return bounds of the entries for bounds of the variables `labels` (both (k,))."""
        positive, negative = self.matrix.maximum(0), self.matrix.minimum(0)
        with np.errstate(invalid="ignore"):
            low = positive @ lower + negative @ upper + self.constant
            high = positive @ upper + negative @ lower + self.constant
        plain = (self.direct >= 0) | self.is_constant
        pad = np.where(plain, 0.0, 1e-12 * (1 + np.maximum(np.abs(low), np.abs(high))))
        return low - pad, high + pad


@dataclass(frozen=True, eq=False)
class Binding:
    """Where the columns of a block go in a model.

    Attributes
    ----------
    labels : int array (block columns,)
        The model's label of columns that already exist there, -1 for columns to be added.
    equal : int array (m,)
        Block columns that must equal an affine expression of the model's variables.
    matrix : CSR array (m, k), rhs : array (m,)
        ``column - matrix @ variables == rhs`` over ``InputMap.labels``.
    """

    labels: Index
    equal: Index
    matrix: sp.csr_array
    rhs: Array


def bind(block: Block, inputs: InputMap, outputs: Index | None = None) -> Binding:
    """Decide which columns of `block` are new, shared or tied by an equality.

    Parameters
    ----------
    block : Block
    inputs : InputMap
        Variables, numbers and expressions; numbers need no row, their columns are fixed by the box.
    outputs : int array or None
        Labels of output variables that the model has already.
    """
    labels = np.full(block.n_columns, -1, dtype=np.intp)
    labels[: block.n_inputs] = inputs.direct
    tied = np.flatnonzero((inputs.direct < 0) & ~inputs.is_constant)
    equal, matrices, rhs = [tied], [inputs.matrix[tied]], [inputs.constant[tied]]
    if outputs is not None:
        # An output that is an input column, or that is asked for twice, keeps its own column and is tied to it.
        first = np.zeros(len(outputs), dtype=bool)
        first[np.unique(block.outputs, return_index=True)[1]] = True
        free = first & (labels[block.outputs] < 0) & (block.outputs >= block.n_inputs)
        labels[block.outputs[free]] = outputs[free]
        if not free.all():
            raise ValueError("a block that is bound to given outputs must have an own column for each of them")
    matrix = sp.csr_array(sp.vstack(matrices, format="csr"))
    return Binding(labels, np.concatenate(equal), matrix, np.concatenate(rhs))


@dataclass(frozen=True, eq=False)
class Placement:
    """A block inside a problem.

    Attributes
    ----------
    embedding : Embedding
    block : Block
    columns : int array (block columns,)
        The problem column of each block column.
    drivers : int array (k,)
        Problem columns of the user's variables that the inputs depend on.
    matrix : CSR array (inputs, k), constant : array (inputs,)
        The inputs as affine functions of the drivers.
    """

    embedding: Any
    block: Block
    columns: Index
    drivers: Index
    matrix: sp.csr_array
    constant: Array


@dataclass(frozen=True, eq=False)
class Problem:
    """A mixed-integer linear (or convex quadratic) problem as arrays.

    ``min or max  cost @ x + x Q x / 2 + offset``
    ``row_lower <= matrix @ x <= row_upper, lower <= x <= upper, x[integer] integral``

    Attributes
    ----------
    labels : int array (n_host,)
        The user's own number of each of the first columns; columns added by blocks come behind.
    placements : tuple of Placement
        The embedded networks.
    row_groups, column_groups : tuple of (name, start, stop)
        Names for messages, in the user's words.
    sos1 : tuple of int arrays (sets, members)
        Columns of which at most one is nonzero.
    indicators : tuple of Indicators
        Rows that hold where a binary column has a value.
    complementarities : tuple of int arrays (pairs, 2)
        Columns, both at least zero, of which one is zero.
    relus : tuple of int arrays (k, 2)
        Columns (y, g) with ``y == max(g, 0)``.
    """

    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: np.ndarray
    cost: Array
    offset: float = 0.0
    maximize: bool = False
    quadratic: sp.csr_array | None = None
    labels: Index = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    placements: tuple[Placement, ...] = ()
    row_groups: tuple[tuple[str, int, int], ...] = ()
    column_groups: tuple[tuple[str, int, int], ...] = ()
    sos1: tuple[Index, ...] = ()
    indicators: tuple[Indicators, ...] = ()
    complementarities: tuple[Index, ...] = ()
    relus: tuple[Index, ...] = ()

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.lower)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.matrix.shape[0]

    @property
    def needs(self) -> Feature:
        """What a solver must accept."""
        needs = content(self.integer, self.sos1, self.indicators, self.complementarities, self.relus)
        if self.quadratic is None:
            return needs
        return needs | Feature.QUADRATIC_OBJECTIVE | (Feature.NONE if self.is_convex else Feature.NONCONVEX)

    @property
    def is_discrete(self) -> bool:
        """Whether it has integers, sets, indicator rows or complementary pairs."""
        return content(self.integer, self.sos1, self.indicators, self.complementarities, self.relus) != Feature.LINEAR

    @cached_property
    def is_convex(self) -> bool:
        """Whether the problem is one of continuous columns with a quadratic objective of the right curvature."""
        if self.quadratic is None or self.is_discrete:
            return self.quadratic is None
        used = np.unique(self.quadratic.nonzero()[0])
        if len(used) > 2000:
            return False  # not decided; products handle it either way
        part = self.quadratic[used][:, used].toarray()
        curvature = np.linalg.eigvalsh(-part if self.maximize else part)
        return bool(curvature.min(initial=0.0) >= -1e-9 * np.abs(curvature).max(initial=0.0))

    def objective(self, x: Array) -> float:
        """Return the objective at `x`."""
        value = float(self.cost @ x) + self.offset
        return value + 0.5 * float(x @ (self.quadratic @ x)) if self.quadratic is not None else value

    def condition_residual(self, x: Array) -> float:
        """Return the largest violation of sets, pairs and indicator rows at `x`, relative to 1 + size."""
        worst = 0.0
        for sets in (*self.sos1, *self.complementarities):
            if sets.shape[1] < 2:
                continue
            second = np.partition(np.abs(x[sets]), -2, axis=1)[:, -2]
            worst = max(worst, float(second.max(initial=0.0)))
        for pairs in self.relus:
            result, argument = x[pairs[:, 0]], x[pairs[:, 1]]
            excess = np.abs(result - np.maximum(argument, 0.0)) / (1 + np.abs(argument))
            worst = max(worst, float(excess.max(initial=0.0)))
        for rule in self.indicators:
            value = rule.matrix @ x
            size = 1 + abs(rule.matrix) @ np.abs(x)
            excess = np.maximum(np.maximum(rule.row_lower - value, value - rule.row_upper), 0.0) / size
            on = np.abs(x[rule.binary] - rule.value) < 0.5
            worst = max(worst, float(excess[on].max(initial=0.0)))
        return worst

    def idle(self, x: Array) -> Index:
        """Return the columns that share a set or a complementary pair with a larger one at `x`."""
        found = [np.zeros(0, dtype=np.intp)]
        for sets in (*self.sos1, *self.complementarities):
            rest = np.ones(sets.shape, dtype=bool)
            np.put_along_axis(rest, np.abs(x[sets]).argmax(axis=1)[:, None], False, axis=1)
            found.append(sets[rest])
        columns = np.unique(np.concatenate(found))
        return columns[~self.integer[columns]]

    def position(self, labels: Index) -> Index:
        """Return the columns of host labels.

        Raises
        ------
        WrongModel
            If a label is no column of this problem.
        """
        order = np.argsort(self.labels, kind="stable")
        found = np.searchsorted(self.labels, labels, sorter=order)
        where = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros(len(labels), dtype=np.intp)
        if len(labels) and (not len(order) or (self.labels[where] != labels).any()):
            raise WrongModel(
                "a variable that a network reads or writes is not in the model any more; call remove() on the "
                "embedding and embed again"
            )
        return where

    def row_name(self, row: int) -> str:
        """Return the group a row belongs to, with its place in it."""
        return _name(self.row_groups, row, "row")

    def column_name(self, column: int) -> str:
        """Return the group a column belongs to, with its place in it."""
        return _name(self.column_groups, column, "column")


def _name(groups: Sequence[tuple[str, int, int]], place: int, kind: str) -> str:
    for name, start, stop in groups:
        if start <= place < stop:
            return f"{name}[{place - start}]" if stop - start > 1 else name
    return f"{kind} {place}"


@dataclass(frozen=True, eq=False)
class Overlay:
    """A block to be laid over a host problem: its inputs, and its outputs where the host has columns for them."""

    embedding: Any
    name: str
    block: Block
    inputs: InputMap
    outputs: Index | None = None


def overlay(host: Problem, layers: Sequence[Overlay]) -> Problem:
    """Stack blocks below the rows of a host problem; shared columns are joined, the others appended."""
    matrices: list[sp.csr_array] = [canonical(host.matrix)]
    lower, upper, integer = [host.lower], [host.upper], [host.integer]
    row_lower, row_upper = [host.row_lower], [host.row_upper]
    rows, columns = list(host.row_groups), list(host.column_groups)
    width, height = host.n_columns, host.n_rows
    placements = list(host.placements)
    sos1, pairs, relus = list(host.sos1), list(host.complementarities), list(host.relus)
    indicators = list(host.indicators)
    for layer in layers:
        block, binding = layer.block, bind(layer.block, layer.inputs, layer.outputs)
        own = binding.labels < 0
        place = np.empty(block.n_columns, dtype=np.intp)
        place[~own] = host.position(binding.labels[~own])
        place[own] = width + np.arange(int(own.sum()))
        lower.append(block.lower[own])
        upper.append(block.upper[own])
        integer.append(block.integer[own])
        columns.append((layer.name, width, width + int(own.sum())))
        width += int(own.sum())
        parts = [relabel(block.matrix, place, width)]
        row_lower.append(block.row_lower)
        row_upper.append(block.row_upper)
        if len(binding.equal):
            parts.append(_ties(binding, place, host.position(layer.inputs.labels), width))
            row_lower.append(binding.rhs)
            row_upper.append(binding.rhs)
        matrices += parts
        grown = sum(p.shape[0] for p in parts)
        rows.append((layer.name, height, height + grown))
        height += grown
        sos1 += [place[s.columns] for s in block.sos1]
        pairs += [place[p] for p in block.complementarities]
        relus += [place[p] for p in block.relus]
        moved = [(place[i.binary], relabel(i.matrix, place, width)) for i in block.indicators]
        indicators += [replace(i, binary=z, matrix=m) for i, (z, m) in zip(block.indicators, moved, strict=True)]
        placements.append(placed(layer.embedding, block, place, layer.inputs, host))
    return replace(
        host,
        matrix=stack(matrices, width),
        row_lower=np.concatenate(row_lower),
        row_upper=np.concatenate(row_upper),
        lower=np.concatenate(lower),
        upper=np.concatenate(upper),
        integer=np.concatenate(integer),
        cost=np.pad(host.cost, (0, width - host.n_columns)),
        quadratic=None if host.quadratic is None else widen_square(host.quadratic, width),
        placements=tuple(placements),
        row_groups=tuple(rows),
        column_groups=tuple(columns),
        sos1=tuple(sos1),
        indicators=tuple(replace(i, matrix=widen(i.matrix, width)) for i in indicators),
        complementarities=tuple(pairs),
        relus=tuple(relus),
    )


def placed(embedding: Any, block: Block, columns: Index, inputs: InputMap, host: Problem) -> Placement:
    """Return the placement of a block whose columns are known."""
    return Placement(embedding, block, columns, host.position(inputs.labels), inputs.matrix, inputs.constant)


def _ties(binding: Binding, place: Index, variables: Index, width: int) -> sp.csr_array:
    """Return the rows ``column - expression`` over problem columns."""
    m = len(binding.equal)
    own = sp.csr_array((np.ones(m), place[binding.equal], np.arange(m + 1)), shape=(m, width))
    return sp.csr_array(own - relabel(binding.matrix, variables, width))


def widen(matrix: sp.csr_array, width: int) -> sp.csr_array:
    """Return `matrix` with `width` columns, the new ones empty."""
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], width))
