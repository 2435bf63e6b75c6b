"""Take a nearly separable problem apart: small components and the rows that couple them.

A batch of networks falls apart into one component per point; a few rows of the user (stock, a budget) hold them
together. Rows with hidden columns of networks only restate the networks, which the components evaluate themselves, and
are left out. See `nnembed.engine.dual` for what is done with the components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from nnembed.aliases import Array, Index
from nnembed.engine.parts import Part, Port
from nnembed.problem import Placement, Problem

_MOST_COLUMNS = 40  # free columns of one component; boxes in more dimensions do not pay
_MOST_JOINED = 12  # free columns of a component that a row over decisions may make


@dataclass(frozen=True, eq=False)
class Components:
    """A problem taken apart.

    Attributes
    ----------
    parts : tuple of Part
        In minimisation form.
    rows : int array
        Problem rows that couple parts (or hold outputs), with prices.
    shares : tuple of arrays (rows, part columns)
        These rows over the columns (v, y) of each part.
    row_lower, row_upper : arrays
    offset : float
    """

    parts: tuple[Part, ...]
    rows: Index
    shares: tuple[Array, ...]
    row_lower: Array
    row_upper: Array
    offset: float


def take_apart(problem: Problem) -> Components | None:
    """Return the components, None where boxes over the decisions cannot be expected to give a bound."""
    written = np.zeros(problem.n_columns, dtype=bool)
    read, hidden = written.copy(), written.copy()
    for placement in problem.placements:
        if not placement.block.exact or written[placement.columns[placement.block.outputs]].any():
            return None
        written[placement.columns[placement.block.outputs]] = True
        read[placement.drivers] = True
        hidden[placement.columns] = True
    hidden &= ~(read | written)
    if (written & read).any() or not problem.placements:
        return None
    matrix = sp.csr_array(problem.matrix)
    rows = _own_rows(problem, matrix, hidden)
    if (problem.cost[hidden] != 0).any() or not np.isfinite(_ends(problem, ~hidden & ~written)).all():
        return None
    labels, coupling = _labels(problem, matrix, rows, (written, hidden))
    free = np.bincount(labels[~hidden & ~written], minlength=labels.max() + 1)
    if free.max(initial=0) > _MOST_COLUMNS:
        return None
    return _components(problem, matrix, (rows, coupling), labels, (written, hidden))


def _own_rows(problem: Problem, matrix: sp.csr_array, hidden: np.ndarray) -> Index:
    """Return the user's rows that can be violated: no hidden columns, outside the blocks laid over the model."""
    kept = np.asarray((abs(matrix) @ hidden.astype(float)) == 0) & (np.diff(matrix.indptr) > 0)
    last = {name: (start, stop) for name, start, stop in problem.row_groups}
    for placement in problem.placements:
        start, stop = last.get(placement.embedding.name, (0, 0))
        kept[start:stop] = False
    kept[kept] = ~_always(problem, sp.csr_array(matrix[np.flatnonzero(kept)]), kept)
    return np.flatnonzero(kept)


def _always(problem: Problem, matrix: sp.csr_array, which: np.ndarray) -> np.ndarray:
    """Return which rows the columns' bounds alone keep; `which` are they in the problem."""
    positive, negative = matrix.maximum(0), matrix.minimum(0)
    used = np.zeros(problem.n_columns, dtype=bool)
    used[matrix.indices] = True
    lower, upper = np.where(used, problem.lower, 0.0), np.where(used, problem.upper, 0.0)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return np.zeros(matrix.shape[0], dtype=bool)
    least, most = positive @ lower + negative @ upper, positive @ upper + negative @ lower
    size = 1e-12 * (1 + abs(matrix) @ np.maximum(np.abs(lower), np.abs(upper)))
    return np.asarray((least - size >= problem.row_lower[which]) & (most + size <= problem.row_upper[which]))


def _ends(problem: Problem, some: np.ndarray) -> Array:
    return np.concatenate([problem.lower[some], problem.upper[some]])


def _labels(
    problem: Problem, matrix: sp.csr_array, rows: Index, kinds: tuple[np.ndarray, np.ndarray]
) -> tuple[Index, np.ndarray]:
    """Return the component of every column (-1: hidden) and which of `rows` couple components.

    Networks and products tie columns together; a row over decisions does so while only one network is involved.
    """
    written, hidden = kinds
    n = problem.n_columns
    graph = sp.coo_array((n, n)) if problem.quadratic is None else abs(sp.coo_array(problem.quadratic))
    pairs = [np.stack(graph.coords)] if graph.nnz else []
    for placement in problem.placements:
        for columns, outputs in _points(placement):
            tied = np.concatenate([columns, outputs])
            pairs.append(np.stack([tied, np.full(len(tied), tied[0])]))
    edges = np.concatenate(pairs, axis=1)
    links = sp.coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(n, n))
    _, labels = connected_components(links, directed=False)
    labels = labels.astype(np.intp)
    decisions = np.bincount(labels[~hidden & ~written], minlength=labels.max() + 1)
    networks = np.zeros(labels.max() + 1, dtype=bool)
    networks[labels[written]] = True
    coupling = np.zeros(len(rows), dtype=bool)
    members = [np.unique(labels[matrix.indices[matrix.indptr[r] : matrix.indptr[r + 1]]]) for r in rows]
    for i in sorted(range(len(rows)), key=lambda i: (len(members[i]), i)):
        columns = matrix.indices[matrix.indptr[rows[i]] : matrix.indptr[rows[i] + 1]]
        found = np.unique(labels[columns])
        if len(found) > 1 and networks[found].sum() <= 1 and decisions[found].sum() <= _MOST_JOINED:
            labels[np.isin(labels, found)] = found[0]
            decisions[found[0]], networks[found[0]] = decisions[found].sum(), networks[found].any()
            found = found[:1]
        coupling[i] = len(found) > 1 or written[columns].any()
    labels[hidden] = -1
    return labels, coupling


def _points(placement: Placement) -> list[tuple[Index, Index]]:
    """Return (drivers, output columns) of every batch point."""
    columns = placement.columns[placement.block.outputs]
    matrix = sp.csr_array(placement.matrix)
    found = []
    for rows, places in _layout(placement):
        used = np.unique(matrix[rows].indices)
        found.append((placement.drivers[used], columns[places]))
    return found


def _layout(placement: Placement) -> list[tuple[Index, Index]]:
    """Return (input rows, places among the outputs) of every batch point."""
    network, batch = placement.embedding.network, placement.block.batch

    def places(specs: tuple[object, ...], point: int) -> Index:
        start, parts = 0, []
        for spec in specs:
            size = spec.size  # type: ignore[attr-defined]
            parts.append(start + point * size + np.arange(size))
            start += batch * size
        return np.concatenate(parts)

    return [(places(network.inputs, p), places(network.outputs, p)) for p in range(batch)]


def _components(
    problem: Problem,
    matrix: sp.csr_array,
    rows: tuple[Index, np.ndarray],
    labels: Index,
    kinds: tuple[np.ndarray, np.ndarray],
) -> Components:
    written, hidden = kinds
    sign = -1.0 if problem.maximize else 1.0
    own, shared = rows[0][~rows[1]], rows[0][rows[1]]
    home = labels[matrix.indices[matrix.indptr[own]]]
    ports: dict[int, list[tuple[Placement, Index, Index, Index]]] = {}
    for placement in problem.placements:
        for (inputs, places), (drivers, outputs) in zip(_layout(placement), _points(placement), strict=True):
            label = int(labels[outputs[0]])
            ports.setdefault(label, []).append(
                (placement, inputs, drivers, placement.columns[placement.block.outputs[places]])
            )
    quadratic = sp.csr_array((problem.n_columns, problem.n_columns)) if problem.quadratic is None else problem.quadratic
    quadratic = sp.csr_array(0.5 * (quadratic + quadratic.T))
    by_row = sp.csc_array(matrix[shared])
    parts, shares = [], []
    for label in np.unique(labels[~hidden]).tolist():
        v, y = np.flatnonzero((labels == label) & ~written), np.flatnonzero((labels == label) & written)
        x = np.concatenate([v, y])
        mine = own[home == label]
        parts.append(
            Part(
                v,
                y,
                tuple(_port(p, v, y) for p in ports.get(label, ())),
                problem.lower[v],
                problem.upper[v],
                problem.integer[v],
                sign * problem.cost[x],
                sign * quadratic[x][:, x].toarray(),
                matrix[mine][:, v].toarray(),
                problem.row_lower[mine],
                problem.row_upper[mine],
            )
        )
        shares.append(by_row[:, x].toarray())
    sides = problem.row_lower[shared], problem.row_upper[shared]
    return Components(tuple(parts), shared, tuple(shares), *sides, sign * problem.offset)


def _port(found: tuple[Placement, Index, Index, Index], v: Index, y: Index) -> Port:
    placement, inputs, _, outputs = found
    wide = sp.csr_array(placement.matrix)[inputs].toarray()
    used = np.isin(placement.drivers, v)
    matrix = np.zeros((len(inputs), len(v)))
    matrix[:, np.searchsorted(v, placement.drivers[used])] = wide[:, used]
    return Port(placement.embedding.network, matrix, placement.constant[inputs], np.searchsorted(y, outputs))
