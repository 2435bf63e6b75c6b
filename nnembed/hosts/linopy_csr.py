"""Rows into a linopy model: the only place that touches linopy's semi-private CSR classes (linopy >= 0.10, < 0.11).

linopy has no public way to add ``A x <= b`` for a sparse ``A``. `add_frozen` hands over the CSR arrays as they are;
`add_padded` uses public calls only and pads rows of similar length to a common width. Both add the same rows.
"""

from __future__ import annotations

import inspect
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

    lengths = np.diff(matrix.indptr)
    names = []
    size = np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)
    for bin_ in np.unique(size):
        rows = np.flatnonzero(size == bin_)
        columns, coefficients = _padded(matrix, rows, int(lengths[rows].max()))
        dim = f"{name}.row{bin_}"
        terms = {"vars": ((dim, "_term"), columns), "coeffs": ((dim, "_term"), coefficients)}
        left = linopy.LinearExpression(xr.Dataset(terms, coords={dim: rows}), model)
        sides = [xr.DataArray(v[rows], dims=dim, coords={dim: rows}) for v in (sign, rhs)]
        names.append(f"{name}.{bin_}")
        model.add_constraints(left, *sides, name=names[-1])
    return names


def _padded(matrix: sp.csr_array, rows: Index, width: int) -> tuple[NDArray[Any], Array]:
    lengths = np.diff(matrix.indptr)[rows]
    columns = np.full((len(rows), width), -1, dtype=np.int64)
    coefficients = np.full((len(rows), width), np.nan)
    place = np.arange(width) < lengths[:, None]
    chosen = matrix[rows]
    columns[place], coefficients[place] = chosen.indices, chosen.data
    return columns, coefficients


def sparse_parts(expression: Any) -> tuple[sp.csr_array, Array, dict[str, Any]] | None:
    """Return (matrix over labels, constant, index per dimension) of a CSR-backed expression, else None."""
    stored = getattr(expression, "_csr", None)
    return None if stored is None else (stored.csr, stored.const, dict(stored.grid.indexes))
