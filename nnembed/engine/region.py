"""The rows of the user's model that the inputs and outputs of a network meet, as a region for bound tighteners.

Sides of the model's rows and columns are loosened by what solvers let pass: a point that a solver or a heuristic calls
feasible is then inside, and a network that is written for the region is exact there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.bounds.box import Bounds, Region
from nnembed.bounds.propagate_rows import system, worth
from nnembed.errors import InputError
from nnembed.ir.network import Network
from nnembed.matrices import relabel
from nnembed.problem import InputMap, Problem

_DEPTH = 6  # rows that touch inputs or outputs, rows that touch a column of those, ...
_MOST_ENTRIES = 50_000  # nonzeros of a region; more would take longer than it saves
_TOLERANCE = 1e-6  # by which solvers and `recover.feasible` let rows be broken, relative to 1 + size


def region_of(problem: Problem, inputs: InputMap, outputs: Index, bounds: Bounds) -> Region | None:
    """Return the rows of a model that are linked with a network's inputs and outputs; None where there are none.

    Parameters
    ----------
    problem : Problem
        The user's model without the network.
    inputs : InputMap
    outputs : int array
        Labels of the output variables.
    bounds : Bounds
        What is known of the network on its box; a bound on an output that is tighter counts as a row.
    """
    drivers, places = problem.position(inputs.labels), problem.position(outputs)
    rows = linked(problem, np.concatenate([drivers, places]))
    known = (
        np.concatenate([bounds.low[s.name].ravel() for s in bounds.network.outputs]),
        np.concatenate([bounds.high[s.name].ravel() for s in bounds.network.outputs]),
    )
    if not len(rows):
        low, high = np.maximum(known[0], problem.lower[places]), np.minimum(known[1], problem.upper[places])
        if not worth(*known, low, high).any():
            return None
    part = sp.csr_array(problem.matrix[rows])
    columns = np.unique(np.concatenate([drivers, places, part.indices]))
    where = np.zeros(problem.n_columns, dtype=np.intp)
    where[columns] = np.arange(len(columns))
    lower, upper = problem.lower[columns], problem.upper[columns]
    loose = np.ones(len(columns), dtype=bool)
    loose[where[drivers]] = False  # decisions are always clipped to their box
    return Region(
        matrix=relabel(part, where, len(columns)),
        row_lower=_loosened(problem.row_lower[rows], -1.0),
        row_upper=_loosened(problem.row_upper[rows], 1.0),
        lower=np.where(loose, _loosened(lower, -1.0), lower),
        upper=np.where(loose, _loosened(upper, 1.0), upper),
        inputs=relabel(inputs.matrix, where[drivers], len(columns)),
        constant=inputs.constant,
        outputs=where[places],
    )


def linked(problem: Problem, seeds: Index) -> Index:
    """Return the rows that are linked with some columns and that the column bounds do not already imply."""
    matrix = sp.csr_array(problem.matrix)
    length = np.diff(matrix.indptr)
    left = (length > 0) & (np.isfinite(problem.row_lower) | np.isfinite(problem.row_upper))
    pattern = sp.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
    reached = np.zeros(problem.n_columns, dtype=bool)
    reached[seeds] = True
    kept: list[Index] = []
    room = _MOST_ENTRIES
    for _ in range(_DEPTH):
        inside = pattern @ reached.astype(float)
        new = np.flatnonzero(left & (inside > 0))
        new = new[np.lexsort((new, (length - inside)[new]))]  # those that bring in the fewest columns first
        new = new[np.cumsum(length[new]) <= room]
        if not len(new):
            break
        kept.append(new)
        room -= int(length[new].sum())
        left[new] = False
        reached[matrix[new].indices] = True
    rows = np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.intp)
    if not len(rows):
        return rows
    lower, upper = problem.row_lower[rows], problem.row_upper[rows]
    own = system(sp.csr_array(matrix[rows]), np.full(len(rows), -np.inf), np.full(len(rows), 0.0))
    least, most = own.activity(problem.lower, problem.upper)
    return rows[(least < lower) | (most > upper)]


def _loosened(side: Array, sign: float) -> Array:
    """Return a side moved outward by what solvers let pass; infinite ones stay."""
    finite = np.where(np.isfinite(side), side, 0.0)
    return side + sign * _TOLERANCE * (1 + np.abs(finite))


# ---- rows given by hand ---------------------------------------------------------------------------


def region_from(constraints: Any, start: Bounds) -> Region | None:
    """Return constraints as a region over a network's inputs and outputs, each box meeting all of them by itself.

    Raises
    ------
    InputError
        If one has the wrong form or size.
    """
    network, batch = start.network, start.batch
    n, m = network.input_size, network.output_size
    parts = read_constraints(constraints, network)
    if not parts:
        return None
    wide = [sp.csr_array((a.data, a.indices, a.indptr), shape=(a.shape[0], n + m)) for a, _, _ in parts]
    one = sp.csr_array(sp.vstack(wide))
    places = np.concatenate([_places(network.inputs, batch), batch * n + _places(network.outputs, batch)], axis=1)
    width = batch * (n + m)
    rows = sp.vstack([relabel(one, places[p], width) for p in range(batch)])
    lower, upper = (np.tile(np.concatenate([part[side] for part in parts]), batch) for side in (1, 2))
    if np.isnan(lower).any() or np.isnan(upper).any() or not np.isfinite(one.data).all():
        raise InputError("a constraint has a coefficient or side that is NaN or an infinite coefficient")
    free = np.full(batch * m, np.inf)
    low, high = (np.concatenate([side[s.name].ravel() for s in network.inputs]) for side in (start.low, start.high))
    return Region(
        matrix=sp.csr_array(rows),
        row_lower=lower,
        row_upper=upper,
        lower=np.concatenate([low, -free]),
        upper=np.concatenate([high, free]),
        inputs=sp.csr_array(sp.eye_array(batch * n, width)),
        constant=np.zeros(batch * n),
        outputs=batch * n + np.arange(batch * m),
    )


def _places(specs: Sequence[Any], batch: int) -> Index:
    """Return (batch, entries): where each entry of each point stands in block order."""
    found, start = [], 0
    for spec in specs:
        found.append(start + np.arange(batch * spec.size).reshape(batch, spec.size))
        start += batch * spec.size
    return np.concatenate(found, axis=1)


def read_constraints(constraints: Any, network: Network) -> list[tuple[sp.csr_array, Array, Array]]:
    """Return constraints as (matrix over inputs and outputs, lower, upper).

    Raises
    ------
    InputError
        If one has the wrong form or size.
    """
    if constraints is None:
        return []
    single = hasattr(constraints, "A") or (isinstance(constraints, tuple) and len(constraints) == 3)
    listed: Sequence[Any] = [constraints] if single else list(constraints)
    n, m = network.input_size, network.output_size
    result = []
    for k, item in enumerate(listed):
        if hasattr(item, "A"):
            item = (item.A, item.lb, item.ub)  # noqa: PLW2901 - one form from here on
        if not (isinstance(item, Sequence) and len(item) == 3):
            raise InputError(f"constraint {k} is no (A, lower, upper) and has no A, lb, ub")
        matrix = sp.csr_array(item[0] if sp.issparse(item[0]) else np.atleast_2d(np.asarray(item[0], float)))
        if matrix.shape[1] not in (n, n + m):
            raise InputError(
                f"constraint {k} has {matrix.shape[1]} columns; give {n} (inputs) or {n + m} (inputs, then outputs)"
            )
        rows = matrix.shape[0]
        lower, upper = (np.broadcast_to(np.asarray(side, float), (rows,)) for side in item[1:])
        result.append((matrix, lower, upper))
    return result
