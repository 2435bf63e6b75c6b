r"""Exact presolve of the network on its box: which affine expressions get columns of their own.

The stably active neurons S of a layer are affine, ``h_S = E columns``. A row r of the next layer needs
``v_r = W_rS h_S`` and is written ``t_r`` times by its formulation. With ``nnz`` counted on the sparsity patterns, the
choices cost

* substituted:  ``sum_r t_r nnz(v_r)``                          no column: a bypass around the neurons
* kept:         ``sum_s (nnz(E_s) + 1) + sum_r t_r nnz(W_rS)``  one column per stable neuron
* folded:       ``sum_r nnz(v_r) + 1 + t_r``                    one column per row of the next layer, holding v_r

All are exact: a column that equals an affine expression changes nothing. Folding is decided row by row, the rest per
layer. A row that is stably active itself is passed on to the layer after it, so its share ``t_r`` is what its nonzeros
will cost there: at most one (keep it), and less where fewer rows than neurons wait behind it.

Constant neurons never get here: they are numbers in the rows' sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.box import Bounds, contenders
from nnembed.fills import Fill
from nnembed.ir.linear import Dense, LinearOperator
from nnembed.ir.network import Network
from nnembed.ir.nodes import Activation, Affine, Max, Winner

LONG = 3  # rows with fewer terms than this are as good as a column
_SAVING = 0.9  # another column must save a tenth of the nonzeros: solvers like substituted rows better
_PRODUCTS = 20_000_000  # a pattern that takes more multiplications is bounded instead of counted
_SANE = 1e-4, 1e4  # sizes of neurons that are left as they are
_FULL = 0.95  # a matrix with this share of nonzeros is counted as full


@dataclass(frozen=True, eq=False)
class Combination(Fill):
    """``matrix @ tensor``: affine combinations of a tensor's entries (flat over the batch)."""

    tensor: str
    matrix: sp.csr_array

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return np.asarray(self.matrix @ state[self.tensor].reshape(-1))


@dataclass(frozen=True, eq=False)
class Divided(Fill):
    """Another rule's values divided by `factor`, for columns in other units."""

    rule: Fill
    factor: Array

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return self.rule(state) / self.factor


@dataclass(frozen=True, eq=False)
class InUnits(Fill):
    """A rule that reads tensors in other units: name -> (tensor, what its entries are divided by)."""

    rule: Fill
    units: Mapping[str, tuple[str, Array]]

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return self.rule(_View(state, self.units))


class _View(Mapping[str, Array]):
    """Tensors of a forward pass, and the same ones in other units under further names."""

    def __init__(self, state: Mapping[str, Array], units: Mapping[str, tuple[str, Array]]):
        self._state, self._units = state, units

    def __getitem__(self, name: str) -> Array:
        if name not in self._units:
            return self._state[name]
        real, unit = self._units[name]
        return self._state[real] / unit.reshape(self._state[real].shape)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._state, *self._units))

    def __len__(self) -> int:
        return len(self._state) + len(self._units)


# ---- what a nonzero costs --------------------------------------------------------------------------


def row_weights(network: Network, bounds: Bounds, times: Callable[[str], float]) -> dict[str, Array]:
    """Return per tensor and element (flat over the batch) what a nonzero in its row costs; zero: no row is needed.

    Parameters
    ----------
    times : callable
        Layer name -> how often its formulation writes the row of an open neuron.
    """
    weight: dict[str, Array] = {spec.name: np.ones(bounds.batch * spec.size) for spec in network.outputs}
    waiting: dict[str, float] = {name: float(w.sum()) for name, w in weight.items()}  # rows behind a tensor

    def need(tensor: str, rows: Array) -> None:
        weight[tensor] = weight.get(tensor, 0.0) + rows
        waiting[tensor] = waiting.get(tensor, 0.0) + float(np.minimum(rows, 1.0).sum())

    for node in reversed(network.nodes):
        behind = waiting.get(node.output, 0.0)
        if isinstance(node, Affine):
            for source in node.inputs:
                above = network.producers.get(source)
                if isinstance(above, Affine):
                    size = bounds.batch * network.tensors[source].size
                    need(source, np.full(size, min(1.0, behind / max(size, 1))))
                else:
                    waiting[source] = waiting.get(source, 0.0) + behind
        elif isinstance(node, Activation):
            opened = bounds.open(node).ravel()
            moving = ~opened & (bounds.low[node.output] < bounds.high[node.output]).ravel()
            share = min(1.0, behind / max(int(moving.sum()), 1))
            need(node.input, (times(node.name) if opened.any() else 0.0) * opened + share * moving)
        elif isinstance(node, Max | Winner):
            need(node.input, _members(node, bounds))
    return weight


def _members(node: Max | Winner, bounds: Bounds) -> Array:
    """Return 1 for members of a maximum that may be the largest."""
    low, high = bounds.low[node.input], bounds.high[node.input]
    alive = contenders(node, low, high)
    found = np.zeros(low.shape)
    point, group, member = np.nonzero(alive)
    found[point, node.groups[group, member]] = 1.0
    return found.ravel()


# ---- counting --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Use:
    """Rows of an affine node that read a tensor with long rows.

    `rows` are flat elements of the node's output, `weights` what a nonzero in them costs, `direct` how many stable
    neurons each reads, `through` how many columns it reads after substitution, `read` the elements that any row reads.
    """

    node: Affine
    operator: int
    rows: Index
    weights: Array
    direct: Array
    through: Array
    read: Mask

    @property
    def substituted(self) -> float:
        """Nonzeros without further columns."""
        return float(self.weights @ self.through)

    def folded(self) -> Mask:
        """Return the rows whose share of stable neurons saves nonzeros as a column."""
        return self.through + 1 + self.weights < _SAVING * self.weights * self.through

    @property
    def with_folds(self) -> float:
        """Nonzeros where folding is used for the rows that gain."""
        once = np.where(self.folded(), self.through + 1 + self.weights, self.weights * self.through)
        return float(once.sum())


def batched(operator: LinearOperator, flat: Index, batch: int) -> sp.csr_array:
    """Return rows `flat` (positions over the batch) of an operator that acts on every point of a batch."""
    point, entry = np.divmod(flat, operator.shape[0])
    whole = batch == 1 and len(flat) == operator.shape[0] and bool((flat == np.arange(len(flat))).all())
    matrix = operator.csr() if whole else operator.csr(entry)
    if batch == 1:
        return matrix
    shift = np.repeat(point * operator.shape[1], np.diff(matrix.indptr)).astype(np.int32)
    shape = (len(flat), batch * operator.shape[1])
    return sp.csr_array((matrix.data, matrix.indices + shift, matrix.indptr), shape=shape)


def only(matrix: sp.csr_array, keep: Mask) -> sp.csr_array:
    """Return the matrix with the entries where `keep` (one per stored entry) is false left out."""
    counts = np.concatenate([[0], np.cumsum(keep)])
    indptr = counts[matrix.indptr].astype(matrix.indptr.dtype)
    return sp.csr_array((matrix.data[keep], matrix.indices[keep], indptr), shape=matrix.shape)


def use_of(node: Affine, k: int, weight: Array, rows: sp.csr_array, long: Mask, batch: int) -> Use:
    """Count what the rows of an affine node read of a tensor whose elements `long` have long rows."""
    wanted = np.flatnonzero(weight)
    operator = node.operators[k]
    if isinstance(operator, Dense) and np.count_nonzero(operator.weight) >= _FULL * operator.weight.size:
        point = wanted // operator.shape[0]
        stable = long.reshape(batch, -1)
        read = stable & (np.bincount(point, minlength=batch) > 0)[:, None]
        direct, through = stable.sum(axis=1)[point].astype(float), _spans(rows, long, batch)[point]
        return Use(node, k, wanted, weight[wanted], direct, through, read.ravel())
    matrix = batched(operator, wanted, batch)
    matrix = only(matrix, long[matrix.indices])
    read = np.zeros(len(long), dtype=bool)
    read[matrix.indices] = True
    return Use(node, k, wanted, weight[wanted], np.diff(matrix.indptr).astype(float), _reached(matrix, rows), read)


def _spans(rows: sp.csr_array, long: Mask, batch: int) -> Array:
    """Return how many columns the long rows of each point reach together."""
    n = len(long) // batch
    entry_row = np.repeat(np.arange(len(long)), np.diff(rows.indptr))
    inside = long[entry_row]
    owner = np.full(rows.shape[1], -1)
    owner[rows.indices[inside]] = entry_row[inside] // n  # a column belongs to one point
    return np.bincount(owner[owner >= 0], minlength=batch).astype(float)


def _reached(matrix: sp.csr_array, rows: sp.csr_array) -> Array:
    """Return the number of columns in every row of ``matrix @ rows``, by patterns."""
    length = np.diff(rows.indptr)
    products = np.concatenate([[0], np.cumsum(length[matrix.indices])])
    total = np.diff(products[matrix.indptr])
    if total.sum() > _PRODUCTS:
        return np.minimum(total, np.count_nonzero(np.bincount(rows.indices, minlength=1))).astype(float)
    ones = [sp.csr_array((np.ones(m.nnz, np.float32), m.indices, m.indptr), shape=m.shape) for m in (matrix, rows)]
    return np.diff((ones[0] @ ones[1]).indptr).astype(float)


@dataclass(frozen=True, eq=False)
class Choice:
    """What is done with the long rows of a tensor.

    `name` is "substituted", "kept" or "folded", `costs` the nonzeros of each, `elements` the rows that are read.
    """

    name: str
    costs: Mapping[str, int]
    elements: Index
    uses: tuple[Use, ...]


def choose(tensor: str, rows: sp.csr_array, network: Network, weights: Mapping[str, Array], batch: int) -> Choice:
    """Count what each way with the long rows of a tensor costs and return the cheapest.

    Parameters
    ----------
    rows : CSR array (batch * n, columns)
        The tensor as affine rows over columns.
    weights : mapping
        From `row_weights`.
    """
    length = np.diff(rows.indptr)
    long = length >= LONG
    uses = tuple(
        use_of(node, k, weights[node.output], rows, long, batch)
        for node in network.nodes
        if isinstance(node, Affine) and node.output in weights
        for k, source in enumerate(node.inputs)
        if source == tensor
    )
    own = weights.get(tensor, np.zeros(len(long))) * long  # rows that are the tensor's own elements
    read = np.logical_or.reduce([own > 0, *(use.read for use in uses)])
    direct = float(own @ length)
    define = float((length[read] + 1).sum())
    costs = {
        "substituted": direct + sum(use.substituted for use in uses),
        "folded": direct + sum(use.with_folds for use in uses),
        "kept": define + float(own.sum()) + sum(float(use.weights @ use.direct) for use in uses),
    }
    best = min(costs, key=lambda name: costs[name] * (_SAVING if name == "substituted" else 1.0))
    return Choice(best, {name: round(cost) for name, cost in costs.items()}, np.flatnonzero(read), uses)


# ---- numbers ---------------------------------------------------------------------------------------


def units(low: Array, high: Array, matrix: sp.csr_array) -> Array:
    """Return per row of `matrix` the power of two that brings it to a sane size, 1 where it has one.

    A row with range [low, high] is wild where ``max(|low|, |high|)`` is outside [1e-4, 1e4]. Dividing by the unit
    brings that near one, as far as the largest coefficient of the row stays within [2^-10, 2^10]. A row that would stay
    below 1e-4 even so is left alone: half way it would be as large as the tolerances of solvers, which is worst.
    """
    size = np.maximum(np.abs(low), np.abs(high))
    outside = np.isfinite(size) & (size > 0) & ((size > _SANE[1]) | (size < _SANE[0]))
    wild = np.flatnonzero(outside & (np.diff(matrix.indptr) > 0))
    unit = np.ones(len(size))
    if len(wild):
        middle = np.round(np.log2(np.maximum(_largest(matrix)[wild], np.finfo(float).tiny)))
        unit[wild] = np.exp2(np.clip(np.round(np.log2(size[wild])), middle - 10, middle + 10))
        unit[wild[size[wild] / unit[wild] < _SANE[0]]] = 1.0
    return unit


def visible(unit: Array, size: Array, extent: Array) -> Array:
    """Return smaller units where an output would drown in a solver's tolerances in units of its input.

    A neuron with inputs up to 1e7 and outputs up to 5 has, in units of 1e7, outputs below 1e-6: solvers take them for
    zero. The output is kept at 2^-7, as far as the input then stays below 2^16.

    Parameters
    ----------
    unit : array
        As from `units`.
    size, extent : arrays
        Largest absolute value of the pre-activation, and by how much the output may move.
    """
    told = (unit != 1.0) & np.isfinite(extent) & (extent > 0) & np.isfinite(size)
    most = np.maximum(np.log2(np.where(told, extent, 1.0)) + 7, np.log2(np.where(told, size, 1.0)) - 16)
    return np.where(told, np.minimum(unit, np.exp2(np.round(most))), unit)


def drowned(unit: Array, extent: Array) -> Mask:
    """Return which outputs of ordinary extent come out below 1e-4 in their units, where solvers mistake them."""
    found: Mask = (extent >= _SANE[0]) & (extent / unit < _SANE[0])
    return found


def _largest(matrix: sp.csr_array) -> Array:
    """Return the largest absolute entry of each row."""
    found = np.zeros(matrix.shape[0])
    np.maximum.at(found, np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), np.abs(matrix.data))
    return found


def ranges(matrix: sp.csr_array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return interval bounds of ``matrix @ x`` for ``low <= x <= high``, rounded outward; infinite sides stay so."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    a, lo, hi = matrix.data, low[matrix.indices], high[matrix.indices]
    with np.errstate(invalid="ignore"):
        ends = np.where(a == 0, 0.0, a * lo), np.where(a == 0, 0.0, a * hi)
    k = matrix.shape[0]
    least = np.bincount(row, weights=np.minimum(*ends), minlength=k)
    most = np.bincount(row, weights=np.maximum(*ends), minlength=k)
    size = np.bincount(row, weights=np.maximum(np.abs(ends[0]), np.abs(ends[1])), minlength=k)
    pad = size * (np.diff(matrix.indptr) + 4) * np.finfo(float).eps + np.finfo(float).tiny
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(least), least - pad, -np.inf), np.where(np.isfinite(most), most + pad, np.inf)
