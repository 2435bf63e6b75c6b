"""Block: a network as columns and sparse rows, the narrow waist between networks and models.

The input columns come first, in the order (batch point, input entry); an adapter needs no more than
"my columns for the first `n_inputs`". Columns come in groups that know their role, their tensor and how a
forward pass fills them, so one rule serves start vectors, recovery and names.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.features import Feature
from nnembed.fills import Fill


class Role(enum.Enum):
    """What a column stands for."""

    INPUT = "in"
    OUTPUT = "out"
    PRE = "pre"  # pre-activation
    POST = "post"  # activation
    SLACK = "slack"  # negative part of a pre-activation
    INDICATOR = "on"  # binary: which piece is active
    STABLE = "stable"  # a stably active neuron, or the share of such neurons in a row
    LEVEL = "level"  # integer: which stair of a rounding
    PART = "part"  # what a binary lets through of other columns


@dataclass(frozen=True, eq=False)
class ColumnGroup:
    """Neighbouring columns ``start .. start + len(elements)`` of one role.

    `elements` are flat positions (batch point times tensor size plus entry) in `tensor`; names of columns are
    made from layer, role, batch point and entry, so they are the same on every host and every run.
    """

    layer: str
    role: Role
    start: int
    tensor: str
    tensor_size: int
    elements: Index
    fill: Fill

    @property
    def columns(self) -> slice:
        """Where the group sits."""
        return slice(self.start, self.start + len(self.elements))

    def names(self, prefix: str, batch: int) -> list[str]:
        """Return one readable name per column; an element that comes again is numbered."""
        point, entry = np.divmod(self.elements, max(self.tensor_size, 1))
        head = f"{prefix}.{self.layer}.{self.role.value}"
        again = _occurrence(self.elements)
        tail = [f"]_{k + 1}" if k else "]" for k in again.tolist()]
        if batch == 1:
            return [f"{head}[{e}{t}" for e, t in zip(entry.tolist(), tail, strict=True)]
        return [f"{head}[{p},{e}{t}" for p, e, t in zip(point.tolist(), entry.tolist(), tail, strict=True)]


@dataclass(frozen=True, eq=False)
class Sos1:
    """Sets of columns of which at most one is nonzero; shape (sets, members)."""

    columns: Index


@dataclass(frozen=True, eq=False)
class Indicators:
    """``binary == value  =>  row_lower <= A x <= row_upper``, one row each; `value` is 0 or 1."""

    binary: Index
    value: Array
    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array

    def __len__(self) -> int:
        return len(self.binary)


class Separator(ABC):
    """Rows of a block that are too many to write down: valid everywhere, looked for where a relaxation violates them.

    A plain object with arrays (it travels to other processes); columns are those of its block. `rounds` says how often
    rows are looked for before the search where the solver takes none on the way.
    """

    rounds: int = 3

    @abstractmethod
    def violated(self, x: Array, tolerance: float) -> tuple[sp.csr_array, Array, Array]:
        """Return rows ``lower <= matrix @ columns <= upper`` that `x` (block columns,) violates by more than this."""


@dataclass(frozen=True)
class Presolved:
    """What was done with the stably active neurons of one layer.

    `choice` is "substituted", "kept" or "folded", `columns` the columns that it took, `costs` the nonzeros of each way.
    """

    layer: str
    neurons: int
    choice: str
    columns: int
    costs: Mapping[str, int]

    def __str__(self) -> str:
        """Say what and why."""
        into = f" into {self.columns} columns" if self.choice == "folded" else ""
        other = ", ".join(f"{name} {cost}" for name, cost in self.costs.items() if name != self.choice)
        return f"{self.neurons} stable {self.choice}{into}: {self.costs[self.choice]} nonzeros ({other})"


@dataclass(frozen=True, eq=False)
class Block:
    """Columns and rows that state ``outputs = network(inputs)`` for a batch of points.

    Attributes
    ----------
    matrix : CSR array (rows, columns)
    row_lower, row_upper : arrays (rows,)
    lower, upper : arrays (columns,)
    integer : bool array (columns,)
    n_inputs : int
        The first `n_inputs` columns are the inputs, (batch, input entry) row-major.
    outputs : int array (batch * output size,)
        Columns of the outputs, (batch, output entry) row-major.
    groups : tuple of ColumnGroup
        Every column belongs to exactly one group.
    batch : int
        Number of points.
    exact : bool
        False when a relaxation was emitted.
    sos1 : tuple of Sos1
    indicators : tuple of Indicators
    complementarities : tuple of int arrays (pairs, 2)
        Pairs of columns, both at least zero, of which one is zero.
    relus : tuple of int arrays (k, 2)
        Columns (y, g) with ``y == max(g, 0)``.
    separators : tuple of Separator
        Further valid rows, found where they are violated; solvers that take no cuts may do without.
    presolved : tuple of Presolved
        What was done with stably active neurons, for layers where there was a choice.
    doubtful : tuple of str
        Layers whose numbers are so far apart that a solver's tolerances hide some outputs: its proofs do not count.
    """

    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: np.ndarray
    n_inputs: int
    outputs: Index
    groups: tuple[ColumnGroup, ...]
    batch: int = 1
    exact: bool = True
    sos1: tuple[Sos1, ...] = ()
    indicators: tuple[Indicators, ...] = ()
    complementarities: tuple[Index, ...] = ()
    relus: tuple[Index, ...] = ()
    separators: tuple[Separator, ...] = ()
    presolved: tuple[Presolved, ...] = ()
    doubtful: tuple[str, ...] = ()

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.lower)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.matrix.shape[0]

    @property
    def binaries(self) -> int:
        """Number of integer columns."""
        return int(self.integer.sum())

    @property
    def needs(self) -> Feature:
        """What a solver must accept, computed from the content."""
        return content(self.integer, self.sos1, self.indicators, self.complementarities, self.relus)

    def fill(self, state: Mapping[str, Array]) -> Array:
        """Return the complete column vector of a forward pass.

        Parameters
        ----------
        state : mapping tensor -> array (batch, n)
            As `Network.forward` returns it.
        """
        x = np.empty(self.n_columns)
        for group in self.groups:
            x[group.columns] = group.fill(state)
        return x

    def names(self, prefix: str) -> list[str]:
        """Return one stable, readable name per column."""
        return [name for group in self.groups for name in group.names(prefix, self.batch)]

    def to_text(self) -> str:
        """Return columns and rows as readable lines, for small blocks and tests."""
        names = [name.removeprefix(".") for name in self.names("")]
        lines = [
            f"{name} {_kind_text(low, high, whole)}"
            for name, low, high, whole in zip(names, self.lower, self.upper, self.integer, strict=True)
        ]
        lines += _row_texts(self.matrix, self.row_lower, self.row_upper, names)
        for rule in self.indicators:
            rows = _row_texts(rule.matrix, rule.row_lower, rule.row_upper, names)
            heads = zip(rule.binary.tolist(), rule.value.tolist(), rows, strict=True)
            lines += [f"{names[z]} == {value:g} => {row}" for z, value, row in heads]
        lines += [f"sos1 {', '.join(names[c] for c in row)}" for s in self.sos1 for row in s.columns.tolist()]
        for pairs in self.complementarities:
            lines += [f"{names[a]} * {names[b]} == 0" for a, b in pairs.tolist()]
        for pairs in self.relus:
            lines += [f"{names[y]} == max({names[g]}, 0)" for y, g in pairs.tolist()]
        return "\n".join(lines)

    @property
    def largest(self) -> float:
        """The largest absolute coefficient, without a copy of them."""
        data = self.matrix.data
        return max(float(data.max()), -float(data.min())) if len(data) else 0.0

    def coefficient_range(self) -> tuple[float, float]:
        """Return the smallest and largest absolute coefficient."""
        size = np.abs(self.matrix.data)
        return (float(size.min()), float(size.max())) if len(size) else (0.0, 0.0)


def content(
    integer: np.ndarray,
    sos1: tuple[Any, ...],
    indicators: tuple[Any, ...],
    complementarities: tuple[Any, ...],
    relus: tuple[Any, ...],
) -> Feature:
    """Return the features that columns, sets, indicator rows, complementary pairs and ReLU pairs make up."""
    needs = Feature.LINEAR
    needs |= Feature.INTEGER if integer.any() else Feature.NONE
    needs |= Feature.SOS1 if sos1 else Feature.NONE
    needs |= Feature.INDICATOR if indicators else Feature.NONE
    needs |= Feature.RELU if relus else Feature.NONE
    return needs | (Feature.COMPLEMENTARITY if complementarities else Feature.NONE)


def _occurrence(values: Index) -> Index:
    """Return for every value how often it came before."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]][: len(values)]
    start = np.maximum.accumulate(np.where(first, np.arange(len(values)), 0))
    count = np.empty(len(values), dtype=np.intp)
    count[order] = np.arange(len(values)) - start
    return count


def _kind_text(low: float, high: float, whole: bool) -> str:
    if whole and {low, high} <= {0.0, 1.0}:
        return "binary"
    return f"{'integer ' if whole else ''}in [{low:g}, {high:g}]"


def _row_texts(matrix: sp.csr_array, lower: Array, upper: Array, names: list[str]) -> list[str]:
    lines = []
    for i in range(matrix.shape[0]):
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        terms = sorted(zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True))
        body = " ".join(f"{value:+g} {names[column]}" for column, value in terms if value) or "0"
        low, high = lower[i] + 0.0, upper[i] + 0.0
        side = f"== {low:g}" if low == high else f"<= {high:g}" if low == -np.inf else f">= {low:g}"
        ranged = low != high and np.isfinite(low) and np.isfinite(high)
        lines.append(f"{body} in [{low:g}, {high:g}]" if ranged else f"{body} {side}")
    return lines
