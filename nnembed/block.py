"""Block: a network as columns and sparse rows, the narrow waist between networks and models.

The input columns come first, in the order (batch point, input entry); an adapter needs no more than
"my columns for the first `n_inputs`". Columns come in groups that know their role, their tensor and how a
forward pass fills them, so one rule serves start vectors, recovery and names.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.features import Feature


class Role(enum.Enum):
    """What a column stands for."""

    INPUT = "in"
    OUTPUT = "out"
    PRE = "pre"  # pre-activation
    POST = "post"  # activation
    SLACK = "slack"  # negative part of a pre-activation
    INDICATOR = "on"  # binary: which piece is active


class Fill:
    """How a forward pass determines the values of a column group."""

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """Return the values, shape (k,), from all tensors, (batch, n) each."""
        raise NotImplementedError  # pragma: no cover


@dataclass(frozen=True, eq=False)
class Value(Fill):
    """The entries `elements` (flat positions over batch and tensor) of a tensor, minus `origin`."""

    tensor: str
    elements: Index
    origin: Array | float = 0.0

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return state[self.tensor].reshape(-1)[self.elements] - self.origin


@dataclass(frozen=True, eq=False)
class Part(Fill):
    """``max(sign * (g - threshold), 0)``: positive or negative part of a pre-activation."""

    tensor: str
    elements: Index
    sign: float = 1.0
    threshold: Array | float = 0.0

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        g = state[self.tensor].reshape(-1)[self.elements]
        return np.maximum(self.sign * (g - self.threshold), 0.0)


@dataclass(frozen=True, eq=False)
class Above(Fill):
    """1 where ``g > threshold``, else 0."""

    tensor: str
    elements: Index
    threshold: Array | float = 0.0

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        g = state[self.tensor].reshape(-1)[self.elements]
        return (g > self.threshold).astype(float)


@dataclass(frozen=True, eq=False)
class Winner(Fill):
    """1 for the first largest member of each group, else 0; `owner` says which group a member belongs to."""

    tensor: str
    elements: Index
    owner: Index

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        g = state[self.tensor].reshape(-1)[self.elements]
        order = np.lexsort((np.arange(len(g)), -g, self.owner))
        first = np.ones(len(g), dtype=bool)
        first[1:] = self.owner[order][1:] != self.owner[order][:-1]
        out = np.zeros(len(g))
        out[order[first]] = 1.0
        return out


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
        """Return one readable name per column."""
        point, entry = np.divmod(self.elements, max(self.tensor_size, 1))
        head = f"{prefix}.{self.layer}.{self.role.value}"
        if batch == 1:
            return [f"{head}[{e}]" for e in entry.tolist()]
        return [f"{head}[{p},{e}]" for p, e in zip(point.tolist(), entry.tolist(), strict=True)]


@dataclass(frozen=True, eq=False)
class Sos1:
    """Sets of columns of which at most one is nonzero; shape (sets, members)."""

    columns: Index


@dataclass(frozen=True, eq=False)
class Indicators:
    """``binary == value  =>  row_lower <= A x <= row_upper``, one row each."""

    binary: Index
    value: Array
    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array


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
        needs = Feature.LINEAR
        needs |= Feature.INTEGER if self.integer.any() else Feature.NONE
        needs |= Feature.SOS1 if self.sos1 else Feature.NONE
        return needs | (Feature.INDICATOR if self.indicators else Feature.NONE)

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
            f"{name} {'binary' if whole else f'in [{low:g}, {high:g}]'}"
            for name, low, high, whole in zip(names, self.lower, self.upper, self.integer, strict=True)
        ]
        for i in range(self.n_rows):
            part = slice(self.matrix.indptr[i], self.matrix.indptr[i + 1])
            terms = sorted(zip(self.matrix.indices[part].tolist(), self.matrix.data[part].tolist(), strict=True))
            body = " ".join(f"{value:+g} {names[column]}" for column, value in terms if value) or "0"
            low, high = self.row_lower[i] + 0.0, self.row_upper[i] + 0.0
            side = f"== {low:g}" if low == high else f"<= {high:g}" if low == -np.inf else f">= {low:g}"
            lines.append(f"{body} {side}")
        return "\n".join(lines)

    def coefficient_range(self) -> tuple[float, float]:
        """Return the smallest and largest absolute coefficient."""
        size = np.abs(self.matrix.data)
        return (float(size.min()), float(size.max())) if len(size) else (0.0, 0.0)
