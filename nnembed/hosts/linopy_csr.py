"""Rows into a linopy model: the only place that touches linopy's semi-private CSR classes (linopy >= 0.10, < 0.11).

linopy has no public way to add ``A x <= b`` for a sparse ``A``. `add_frozen` hands over the CSR arrays as they are;
`add_padded` uses public calls only and pads rows of similar length to a common width. Both add the same rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from nnembed.aliases import Array, Index

_NEEDED = {"csr", "active_positions", "rhs", "sign", "grid", "model"}


def frozen_possible(model: Any) -> bool:
    """Return whether the installed linopy has the classes `add_frozen` needs and `model` keeps its rows frozen."""
    try:
        from linopy import CSRConstraint
        from linopy.csr import Grid
    except ImportError:
        return False
    known = set(inspect.signature(CSRConstraint.__init__).parameters)
    return hasattr(Grid, "from_coords") and known >= _NEEDED and not model.chunk


def add_frozen(model: Any, name: str, matrix: sp.csr_array, sign: NDArray[np.str_], rhs: Array) -> list[str]:
    """Add rows over label columns as one frozen constraint; return its name in a list."""
    import pandas as pd
    from linopy import CSRConstraint
    from linopy.csr import Grid

    n = len(rhs)
    grid = Grid.from_coords([pd.RangeIndex(n, name=f"{name}.row")])
    rows = CSRConstraint(matrix, np.arange(n), rhs, sign.astype(object), grid=grid, model=model)
    model.add_constraints(rows, name=name, freeze=True)
    return [name]


def add_padded(model: Any, name: str, matrix: sp.csr_array, sign: NDArray[np.str_], rhs: Array) -> list[str]:
    """Add rows over label columns, those of similar length together (padding below 2x); return the names."""
    import linopy
    import xarray as xr

    names = []
    for bin_, rows in length_bins(matrix):
        columns, coefficients = padded(matrix[rows])
        dim = f"{name}.row{bin_}"
        terms = {"vars": ((dim, "_term"), columns), "coeffs": ((dim, "_term"), coefficients)}
        left = linopy.LinearExpression(xr.Dataset(terms, coords={dim: rows}), model)
        sides = [xr.DataArray(v[rows], dims=dim, coords={dim: rows}) for v in (sign, rhs)]
        names.append(f"{name}.{bin_}")
        model.add_constraints(left, *sides, name=names[-1])
    return names


def length_bins(matrix: sp.csr_array) -> Iterator[tuple[int, Index]]:
    """Yield groups of rows whose lengths differ by a factor of two at most: (number of the group, its rows)."""
    size = np.ceil(np.log2(np.maximum(np.diff(matrix.indptr), 1))).astype(int)
    for number in np.unique(size).tolist():
        yield number, np.flatnonzero(size == number)


def padded(matrix: sp.csr_array) -> tuple[NDArray[Any], Array]:
    """Return columns and coefficients as rectangular arrays, filled up with -1 and NaN."""
    lengths = np.diff(matrix.indptr)
    width = int(lengths.max(initial=0))
    columns = np.full((len(lengths), width), -1, dtype=np.int64)
    coefficients = np.full((len(lengths), width), np.nan)
    place = np.arange(width) < lengths[:, None]
    columns[place], coefficients[place] = matrix.indices, matrix.data
    return columns, coefficients


def indicator_parts(constraint: Any, index: Any) -> tuple[sp.csr_array, Array, NDArray[np.str_], Index, Array]:
    """Return (matrix over active variables, right-hand side, sense, binaries, values) of an indicator constraint."""
    frozen = constraint if hasattr(constraint, "_binvar_labels") else constraint.freeze()
    matrix, _, rhs, sense = frozen.to_matrix_with_rhs(index)
    value = np.broadcast_to(np.asarray(frozen._binval, float).reshape(-1), (len(rhs),))
    return matrix, np.asarray(rhs, float), sense, index.label_to_pos[frozen._binvar_labels], value


def sparse_parts(expression: Any) -> tuple[sp.csr_array, Array, dict[str, Any]] | None:
    """Return (matrix over labels, constant, index per dimension) of a CSR-backed expression, else None."""
    stored = getattr(expression, "_csr", None)
    return None if stored is None else (stored.csr, stored.const, dict(stored.grid.indexes))
