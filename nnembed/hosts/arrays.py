"""Raw arrays as a host: for people without a modelling layer, and for `maximize` and `minimize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.errors import InputError, WrongModel
from nnembed.features import Feature
from nnembed.hosts.shapes import (
    Spec,
    by_input,
    by_output,
    entry_name,
    expected,
    feature_axes,
    input_map,
    refuse_features,
)
from nnembed.matrices import relabel, stack
from nnembed.problem import InputMap, Problem, bind
from nnembed.protocols import Attached

if TYPE_CHECKING:
    from nnembed.block import Block
    from nnembed.protocols import Solution


@dataclass(eq=False)
class ArrayModel:
    """``min or max cost @ x + offset`` over ``row_lower <= matrix @ x <= row_upper``, ``lower <= x <= upper``.

    Parameters
    ----------
    lower, upper : arrays (columns,)
    cost : array (columns,) or number
    matrix : dense or sparse array (rows, columns), or None without rows
    row_lower, row_upper : arrays (rows,) or numbers
    integer : bool array (columns,) or bool
    offset : float
    maximize : bool

    Attributes
    ----------
    labels : int array (columns,)
        Column numbers; they stay valid when a network is removed.
    values : array (columns,) or None
        The last solution.
    """

    lower: Array
    upper: Array
    cost: Any = 0.0
    matrix: Any = None
    row_lower: Any = -np.inf
    row_upper: Any = np.inf
    integer: Any = False
    offset: float = 0.0
    maximize: bool = False
    labels: Index = field(init=False)
    values: Array | None = field(init=False, default=None)
    _row_owner: Index = field(init=False, repr=False)
    _names: dict[str, int] = field(init=False, repr=False, default_factory=dict)
    _guards: set[str] = field(init=False, repr=False, default_factory=set)
    _next: tuple[int, int] = field(init=False, repr=False, default=(0, 1))

    def __post_init__(self) -> None:
        """Bring everything to arrays of the same length."""
        lower, upper = np.broadcast_arrays(np.atleast_1d(self.lower), np.atleast_1d(self.upper))
        n = len(lower)
        self.lower, self.upper = lower.astype(float), upper.astype(float)
        self.cost = _spread(self.cost, n, "cost")
        self.integer = _spread(self.integer, n, "integer").astype(bool)
        matrix = sp.csr_array((0, n)) if self.matrix is None else _csr(self.matrix)
        if matrix.shape[1] != n:
            raise InputError(f"the matrix has {matrix.shape[1]} columns, the bounds are for {n}")
        self.matrix, rows = matrix, matrix.shape[0]
        self.row_lower = _spread(self.row_lower, rows, "row_lower")
        self.row_upper = _spread(self.row_upper, rows, "row_upper")
        self.labels, self._row_owner = np.arange(n), np.zeros(rows, dtype=np.intp)
        self._next = (n, 1)

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.labels)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.matrix.shape[0])

    def add_columns(self, lower: Array, upper: Array, *, integer: Any = False) -> Index:
        """Append columns without cost and return their numbers."""
        lower, upper = np.asarray(lower, float), np.asarray(upper, float)
        k, (label, owner) = len(lower), self._next
        self.lower, self.upper = np.concatenate([self.lower, lower]), np.concatenate([self.upper, upper])
        self.cost = np.concatenate([self.cost, np.zeros(k)])
        self.integer = np.concatenate([self.integer, _spread(integer, k, "integer").astype(bool)])
        self.matrix = _widened(self.matrix, self.n_columns + k)
        new = np.arange(label, label + k)
        self.labels, self._next = np.concatenate([self.labels, new]), (label + k, owner)
        return new

    def add_rows(self, matrix: Any, lower: Any, upper: Any) -> None:
        """Append rows over the present columns."""
        self._append(_csr(matrix), lower, upper, 0)

    def positions(self, labels: Index) -> Index:
        """Return where columns are now."""
        where = np.searchsorted(self.labels, labels)
        found = where < self.n_columns
        if not found.all() or (self.labels[where] != labels).any():
            raise WrongModel("a column of the network is not, or no longer, in this model")
        return where

    def arrays(self) -> Problem:
        """Return the model as arrays for a solver of one's own.

        Raises
        ------
        InputError
            If a network is declared but not attached: the arrays would lack it.
        """
        if self._guards:
            names = ", ".join(map(repr, sorted(self._guards)))
            raise InputError(
                f"network(s) {names} are not in these arrays; use nnembed.solve, or embed with attach=True"
            )
        return self._problem(np.ones(self.n_rows, dtype=bool))

    def _problem(self, rows: Mask) -> Problem:
        self._check()
        every = bool(rows.all())
        return Problem(
            matrix=self.matrix if every else self.matrix[rows],
            row_lower=self.row_lower[rows],
            row_upper=self.row_upper[rows],
            lower=self.lower.copy(),
            upper=self.upper.copy(),
            integer=self.integer.copy(),
            cost=np.array(self.cost, dtype=float),
            offset=float(self.offset),
            maximize=bool(self.maximize),
            labels=self.labels,
            row_groups=(("row", 0, int(rows.sum())),),
            column_groups=(("x", 0, self.n_columns),),
        )

    def _check(self) -> None:
        if not isinstance(self.matrix, sp.csr_array):
            self.matrix = _csr(self.matrix)
        n, m = self.n_columns, len(self._row_owner)
        sizes = {len(self.lower), len(self.upper), len(self.cost), len(self.integer), self.matrix.shape[1]}
        if sizes != {n} or {self.matrix.shape[0], len(self.row_lower), len(self.row_upper)} != {m}:
            raise InputError("the arrays of the model have different lengths; add with add_columns and add_rows")
        numbers = (self.lower, self.upper, self.row_lower, self.row_upper, self.matrix.data, self.cost)
        finite = np.isfinite(self.matrix.data).all() and np.isfinite(self.cost).all()
        if not finite or any(np.isnan(v).any() for v in numbers):
            raise InputError("the arrays of the model hold NaN, or an infinite cost or coefficient")

    def _append(self, matrix: sp.csr_array, lower: Any, upper: Any, owner: int) -> None:
        k = matrix.shape[0]
        if matrix.shape[1] != self.n_columns:
            raise InputError(f"the rows have {matrix.shape[1]} columns, the model has {self.n_columns}")
        self.matrix = stack([self.matrix, matrix], self.n_columns)
        self.row_lower = np.concatenate([self.row_lower, _spread(lower, k, "lower")])
        self.row_upper = np.concatenate([self.row_upper, _spread(upper, k, "upper")])
        self._row_owner = np.concatenate([self._row_owner, np.full(k, owner, dtype=np.intp)])

    def _enter(self, name: str) -> int:
        if name in self._names:
            raise InputError(f"the model already has a network {name!r}; choose another name")
        label, owner = self._next
        self._next, self._names[name] = (label, owner + 1), owner
        return owner

    def _leave(self, name: str, owner: int, columns: Index) -> None:
        """Take a network out again; a second call does nothing."""
        if self._names.get(name) != owner:
            return
        rows = self._row_owner != owner
        keep = ~np.isin(self.labels, columns)
        rest = self.matrix[rows]
        if rest[:, np.flatnonzero(~keep)].nnz:
            raise InputError(f"rows of the model still use columns of the network {name!r}; remove them first")
        self.matrix = sp.csr_array(rest[:, np.flatnonzero(keep)])
        self.row_lower, self.row_upper = self.row_lower[rows], self.row_upper[rows]
        self.lower, self.upper, self.cost = self.lower[keep], self.upper[keep], self.cost[keep]
        self.integer, self.labels, self._row_owner = self.integer[keep], self.labels[keep], self._row_owner[rows]
        self._guards.discard(name)
        del self._names[name]


@dataclass(frozen=True)
class ArrayHost:
    """Puts networks into an `ArrayModel`."""

    name = "arrays"
    summary = "raw arrays (nnembed.ArrayModel): cost, bounds and rows without a modelling layer"
    accepts = Feature.LINEAR | Feature.INTEGER

    def owns(self, model: object) -> bool:
        """Return whether `model` is an `ArrayModel`."""
        return isinstance(model, ArrayModel)

    def parse(self, model: ArrayModel, specs: Sequence[Spec], x: Any) -> InputMap:
        """Return the user's `x` as an affine map of the columns.

        Parameters
        ----------
        model : ArrayModel
        specs : sequence of TensorSpec
        x : int array of column numbers, or pair (matrix, constant), or dict of them by input name
            Column numbers have the input's own shape or are flat; axes before are batch. A pair stands for the
            entries ``matrix @ columns + constant``, one matrix row per entry of `constant`, row-major.
        """
        values = [_part(model, spec, v) for spec, v in zip(specs, by_input(specs, x), strict=True)]
        lead = _common([lead for _, _, lead in values])
        parts = [_tiled(m, c, own, lead) for m, c, own in values]
        return input_map(parts, lead, None, model._next[0])

    def input_box(self, model: ArrayModel, inputs: InputMap) -> tuple[Array, Array]:
        """Return lower and upper bounds of the input entries, from the bounds as they are now."""
        where = model.positions(inputs.labels)
        low, high, whole = model.lower[where], model.upper[where], model.integer[where]
        low, high = np.where(whole, np.ceil(low - 1e-6), low), np.where(whole, np.floor(high + 1e-6), high)
        return inputs.box(low, high)

    def describe_entry(self, model: ArrayModel, inputs: InputMap, i: int) -> str:
        """Return words for an input entry, for example ``column 3``."""
        return entry_name(inputs, i, lambda label: f"column {label}")

    def attach(self, model: ArrayModel, block: Block, inputs: InputMap, outputs: Sequence[Spec], name: str) -> Attached:
        """Append the block's columns and rows; `outputs` are arrays of column numbers."""
        refuse_features(block.needs, self.accepts, "an ArrayModel")
        by_output(outputs, inputs.batch, block.outputs)
        variables, binding = model.positions(inputs.labels), bind(block, inputs)
        owner = model._enter(name)
        labels, own = binding.labels.copy(), binding.labels < 0
        new = model.add_columns(block.lower[own], block.upper[own], integer=block.integer[own])
        labels[own] = new
        where, m, n = model.positions(labels), len(binding.equal), model.n_columns
        model._append(relabel(block.matrix, where, n), block.row_lower, block.row_upper, owner)
        unit = sp.csr_array((np.ones(m), where[binding.equal].astype(np.int32), np.arange(m + 1)), shape=(m, n))
        model._append(sp.csr_array(unit - relabel(binding.matrix, variables, n)), binding.rhs, binding.rhs, owner)
        found = labels[block.outputs]
        return Attached(_shaped(found, inputs, outputs), found, labels, lambda: model._leave(name, owner, new))

    def declare(
        self, model: ArrayModel, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[Spec], name: str
    ) -> Attached:
        """Append the output columns only, and a row that no point fulfils as long as the network is missing."""
        by_output(outputs, inputs.batch, bounds[0])
        owner = model._enter(name)
        new = model.add_columns(*bounds)
        model._append(sp.csr_array((1, model.n_columns)), 1.0, np.inf, owner)
        model._guards.add(name)
        return Attached(_shaped(new, inputs, outputs), new, None, lambda: model._leave(name, owner, new))

    def rebound(
        self, model: ArrayModel, attached: Attached, old: tuple[Array, Array], new: tuple[Array, Array]
    ) -> None:
        """Give declared outputs new bounds where the model still has the old ones."""
        where = model.positions(attached.output_labels)
        model.lower[where] = np.where(model.lower[where] == old[0], new[0], model.lower[where])
        model.upper[where] = np.where(model.upper[where] == old[1], new[1], model.upper[where])

    def compile(self, model: ArrayModel) -> Problem:
        """Return the model's rows, guards of declared networks left out."""
        guards = [model._names[name] for name in model._guards]
        return model._problem(~np.isin(model._row_owner, guards) if guards else np.ones(model.n_rows, dtype=bool))

    def load(self, model: ArrayModel, problem: Problem, solution: Solution) -> Array | None:
        """Store the values of the model's columns as ``model.values`` and return them; None without a point."""
        model.values = None if solution.x is None else solution.x[: len(problem.labels)].copy()
        return model.values

    def solution_of(self, model: ArrayModel, inputs: InputMap, attached: Attached) -> tuple[Array, Array]:
        """Return inputs and outputs of a network at the last solution, flat in block order.

        Raises
        ------
        InputError
            If the model has no solution.
        """
        if model.values is None or len(model.values) != model.n_columns:
            raise InputError("the model has no solution yet; solve it first")
        x = model.values[model.positions(inputs.labels)]
        return inputs.matrix @ x + inputs.constant, model.values[model.positions(attached.output_labels)]


def _spread(value: Any, n: int, what: str) -> Any:
    array = np.asarray(value)
    array = array if array.dtype == bool else array.astype(float)
    if array.ndim == 0:
        return np.full(n, array)
    if array.shape != (n,):
        raise InputError(f"{what} has shape {array.shape}; give a number or {n} numbers")
    return array.copy()


def _csr(matrix: Any) -> sp.csr_array:
    source: Any = matrix if sp.issparse(matrix) else np.atleast_2d(np.asarray(matrix, float))
    made = sp.csr_array(source, dtype=float, copy=True)
    made.sum_duplicates()
    return made


def _widened(matrix: sp.csr_array, width: int) -> sp.csr_array:
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], width))


def _part(model: ArrayModel, spec: Spec, x: Any) -> tuple[sp.csr_array, Array, tuple[int, ...]]:
    if isinstance(x, tuple) and len(x) == 2 and (sp.issparse(x[0]) or np.ndim(x[0]) == 2):
        constant = np.asarray(x[1], float)
        matrix = _csr(x[0])
        if matrix.shape != (constant.size, model.n_columns):
            raise InputError(
                f"input {spec.name!r}: the matrix has shape {matrix.shape}, {constant.size} constants and "
                f"{model.n_columns} columns of the model need ({constant.size}, {model.n_columns})"
            )
        labelled = relabel(matrix, model.labels, model._next[0])
        return labelled, constant.reshape(-1), _lead(constant.shape, spec)
    numbers = np.asarray(x)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(
            f"input {spec.name!r}: give integer column numbers; numbers and expressions go in as a pair "
            "(matrix, constant)"
        )
    flat = numbers.reshape(-1).astype(np.intp)
    model.positions(flat)
    k = len(flat)
    matrix = sp.csr_array((np.ones(k), flat.astype(np.int32), np.arange(k + 1)), shape=(k, model._next[0]))
    return matrix, np.zeros(k), _lead(numbers.shape, spec)


def _lead(shape: tuple[int, ...], spec: Spec) -> tuple[int, ...]:
    rank = feature_axes(shape, spec)
    if rank is None or 0 in shape:
        raise InputError(f"input {spec.name!r} expects {expected(spec)}; got {shape}")
    return shape[: len(shape) - rank]


def _common(leads: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*leads)
    except ValueError:
        raise InputError(f"the batch axes {list(leads)} of the inputs do not fit together") from None


def _tiled(
    matrix: sp.csr_array, constant: Array, own: tuple[int, ...], lead: tuple[int, ...]
) -> tuple[sp.csr_array, Array]:
    if own == lead:
        return matrix, constant
    size = len(constant) // int(np.prod(own, dtype=np.int64))
    cells = np.arange(len(constant)).reshape(*own, size)
    order = np.broadcast_to(cells, (*lead, size)).reshape(-1)
    return sp.csr_array(matrix[order]), constant[order]


def _shaped(labels: Index, inputs: InputMap, outputs: Sequence[Spec]) -> Any:
    parts = by_output(outputs, inputs.batch, labels)
    shaped = {s.name: p.reshape((*inputs.lead, *s.shape)) for s, p in zip(outputs, parts, strict=True)}
    return next(iter(shaped.values())) if len(shaped) == 1 else shaped
