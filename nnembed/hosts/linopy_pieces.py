"""What users pass as network inputs, read into affine rows with named (or anonymous) axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import linopy
import numpy as np
import pandas as pd
import scipy.sparse as sp
import xarray as xr
from linopy.expressions import ScalarLinearExpression
from linopy.variables import ScalarVariable

from nnembed.aliases import Array, Index
from nnembed.errors import InputError, WrongModel
from nnembed.hosts.linopy_csr import sparse_parts
from nnembed.matrices import stack

_SCALARS = (Real, np.number, ScalarVariable, ScalarLinearExpression)


@dataclass(frozen=True)
class Axis:
    """An axis of a piece or of the batch; `name` is None where the user's array had no names."""

    name: str | None
    size: int
    index: pd.Index | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """An array of affine expressions: row i of ``matrix`` (columns are labels) and `constant` is cell i, row-major."""

    axes: tuple[Axis, ...]
    matrix: sp.csr_array
    constant: Array
    text: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(a.size for a in self.axes)


def read_pieces(model: Any, x: Any) -> list[Piece]:
    """Return the pieces of `x`; a list of scalars is one piece, a list of arrays one piece each."""
    if isinstance(x, list | tuple) and not _all_scalars(x):
        return [piece for item in x for piece in read_pieces(model, item)]
    return [_piece(model, x)]


def _all_scalars(x: Any) -> bool:
    if isinstance(x, list | tuple):
        return all(_all_scalars(item) for item in x)
    return isinstance(x, _SCALARS) or (_is_symbol(x) and not x.coord_dims)


def _is_symbol(x: Any) -> bool:
    return isinstance(x, linopy.Variable | linopy.LinearExpression)


def _piece(model: Any, x: Any) -> Piece:
    if isinstance(x, linopy.Variable):
        return _variable(model, x)
    if isinstance(x, linopy.QuadraticExpression):
        raise InputError("a quadratic expression cannot be a network input; tie a variable to it and pass the variable")
    if isinstance(x, linopy.LinearExpression):
        return _expression(model, x)
    if isinstance(x, xr.DataArray | pd.Series | pd.DataFrame | pd.Index):
        return _labelled(x if isinstance(x, xr.DataArray) else _from_pandas(x))
    if isinstance(x, np.ndarray | list | tuple | ScalarVariable | ScalarLinearExpression | Real | np.number):
        return _array(model, x)
    raise InputError(
        f"cannot read {type(x).__name__} as a network input; pass linopy variables or linear expressions, xarray, "
        "pandas or numpy arrays, numbers, or a list of them"
    )


def _variable(model: Any, x: Any) -> Piece:
    text = f"variable {x.name!r} over ({', '.join(map(str, x.dims))})"
    _check_model(model, x.model, text)
    labels = np.asarray(x.labels.values).reshape(-1)
    axes = axes_of(x.labels, text)
    if (labels < 0).any():
        where = place(axes, int(np.flatnonzero(labels < 0)[0]))
        raise InputError(f"{text} is masked at {where}; a network needs every input: select the points that exist")
    n = len(labels)
    return Piece(axes, _csr(np.ones(n), labels, np.arange(n + 1)), np.zeros(n), text)


def _expression(model: Any, x: Any) -> Piece:
    text = f"the expression over ({', '.join(map(str, x.coord_dims))})"
    _check_model(model, x.model, text)
    if (stored := sparse_parts(x)) is not None:
        matrix, constant, indexes = stored
        axes = tuple(Axis(name, len(index), index) for name, index in indexes.items())
        _refuse_absent(axes, np.isnan(constant), text)
        return Piece(axes, sp.csr_array(matrix), np.asarray(constant, float), text)
    data = x.data
    dims = [d for d in data.vars.dims if d != "_term"]
    axes = axes_of(data.const.transpose(*dims), text)
    n = int(np.prod([a.size for a in axes], dtype=np.int64))
    labels = data.vars.transpose(*dims, "_term").values.reshape(n, -1)
    terms = data.coeffs.transpose(*dims, "_term").values.reshape(n, -1)
    constant = data.const.transpose(*dims).values.reshape(n).astype(float)
    live = labels >= 0
    # A cell of nothing but masked variables: legacy linopy would count it as zero.
    masked = ~live.any(axis=1) & (constant == 0) & ((labels < 0) & (np.nan_to_num(terms) != 0)).any(axis=1)
    _refuse_absent(axes, np.isnan(constant) | masked, text)
    indptr = np.concatenate([[0], np.cumsum(live.sum(axis=1))])
    return Piece(axes, _csr(terms[live], labels[live], indptr), constant, text)


def _refuse_absent(axes: tuple[Axis, ...], absent: Any, text: str) -> None:
    if absent.any():
        where = place(axes, int(np.flatnonzero(absent)[0]))
        raise InputError(
            f"{text} is absent (masked or not a number) at {where}; a network needs every input: select the points "
            "that exist or fill the others with .fillna(...)"
        )


def _from_pandas(x: Any) -> xr.DataArray:
    return x.to_series().to_xarray() if isinstance(x, pd.Index) else xr.DataArray(x)


def _labelled(x: xr.DataArray) -> Piece:
    text = f"the array over ({', '.join(map(str, x.dims))})"
    values = _numbers(x.values, text)
    # pandas names an index nobody named dim_0, dim_1, ...: not a name to match by
    axes = tuple(replace(a, name=None) if a.name == f"dim_{i}" else a for i, a in enumerate(axes_of(x, text)))
    return Piece(axes, _nothing(values.size), values.reshape(-1), text)


def _array(model: Any, x: Any) -> Piece:
    """Read numbers, scalars and nested lists or object arrays of them; the axes have no names."""
    array = x if isinstance(x, np.ndarray) else _object_array(x)
    text = f"the array of shape {array.shape}" if array.ndim else "the number"
    axes = tuple(Axis(None, n) for n in array.shape)
    if array.dtype != object or all(isinstance(v, Real | np.number) for v in array.reshape(-1)):
        values = _numbers(array, text)
        return Piece(axes, _nothing(values.size), values.reshape(-1), text)
    cells = [_cell(model, v) for v in array.reshape(-1)]
    matrix = stack([c.matrix for c in cells], max(c.matrix.shape[1] for c in cells))
    return Piece(axes, matrix, np.concatenate([c.constant for c in cells]), text)


def _object_array(x: Any) -> Any:
    if not isinstance(x, list | tuple):
        array: Any = np.empty((), dtype=object)
        array[()] = x
        return array
    parts = [_object_array(item) for item in x]
    if len({p.shape for p in parts}) > 1:
        raise InputError("a nested list has rows of different lengths; give every batch point the same features")
    array = np.empty((len(parts), *(parts[0].shape if parts else ())), dtype=object)
    for i, part in enumerate(parts):
        array[i] = part if part.ndim else part[()]
    return array


def _cell(model: Any, x: Any) -> Piece:
    if isinstance(x, ScalarVariable):
        _check_model(model, x.model, "a scalar variable of the list")
        if x.label < 0:
            raise InputError("a scalar variable of the list is masked; a network needs every input")
        return Piece((), _csr(np.ones(1), np.array([x.label]), np.array([0, 1])), np.zeros(1), "a scalar variable")
    if isinstance(x, ScalarLinearExpression):
        _check_model(model, x.model, "a scalar expression of the list")
        if min(x.vars, default=0) < 0:
            raise InputError("a scalar expression of the list holds a masked variable; a network needs every input")
        k = len(x.vars)
        terms = _csr(np.array(x.coeffs, float), np.array(x.vars, dtype=int), np.array([0, k]))
        return Piece((), terms, np.zeros(1), "a scalar expression")
    if _is_symbol(x) and not x.coord_dims:
        return _piece(model, x)
    if isinstance(x, Real | np.number):
        return Piece((), _nothing(1), np.array([float(x)]), "a number")
    raise InputError(f"an array of network inputs holds {type(x).__name__}; it can hold scalar variables and numbers")


def _numbers(values: Any, text: str) -> Array:
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{text} does not hold numbers") from None
    if not np.isfinite(numbers).all():
        raise InputError(f"{text} holds NaN or infinite numbers; a network needs finite inputs")
    return numbers


def _check_model(model: Any, owner: Any, text: str) -> None:
    if owner is not model:
        raise WrongModel(f"{text} belongs to another model; pass variables of the model the network is embedded in")


def axes_of(array: xr.DataArray, text: str) -> tuple[Axis, ...]:
    """Return the axes of a labelled array; `text` says in messages what it is."""
    names = [str(d) for d in array.dims]
    if len(set(names)) < len(names):
        raise InputError(f"{text} has the same dimension twice; rename one of them")
    indexes = [array.get_index(d) if d in array.indexes else None for d in array.dims]
    return tuple(Axis(d, n, i) for d, n, i in zip(names, array.shape, indexes, strict=True))


def _csr(data: Array, labels: Index, indptr: Any) -> sp.csr_array:
    width = int(labels.max()) + 1 if len(labels) else 1
    return sp.csr_array((data.astype(float), labels.astype(np.int32), indptr), shape=(len(indptr) - 1, width))


def _nothing(rows: int) -> sp.csr_array:
    return sp.csr_array((rows, 1))


def place(axes: tuple[Axis, ...], flat: int) -> str:
    """Return a cell in the user's words, for example ``[store=Rome, product=A]``."""
    where = np.unravel_index(flat, [a.size for a in axes]) if axes else ()
    return "[" + ", ".join(f"{a.name or 'axis'}={_label(a, int(i))}" for a, i in zip(axes, where, strict=True)) + "]"


def _label(axis: Axis, i: int) -> Any:
    return i if axis.index is None else axis.index[i]
