"""Products in linopy models: rows that make them exact where one factor takes few whole values, else quadratic terms.

A whole factor is ``least + sum 2^j bit_j``; a bit times an expression e in [low, high] is the column w with

    low bit <= w <= high bit,   e - high (1 - bit) <= w <= e - low (1 - bit).

The rows also keep e within [low, high], so a product can never be wrong; when variables are widened later the old range
would cut off answers, which `refuse_stale` detects.
"""

from __future__ import annotations

from typing import Any

import linopy
import numpy as np
import xarray as xr

from nnembed.aliases import Array
from nnembed.errors import BoxError, InputError, WrongModel
from nnembed.hosts.linopy_bounds import variable_bounds

FEW_VALUES = 16
_MARK = "nnembed_product"


def is_linopy(value: object) -> bool:
    """Return whether a value is a variable or a linear expression of linopy."""
    return isinstance(value, linopy.Variable | linopy.LinearExpression)


def product(x: Any, y: Any, name: str | None) -> Any:
    """Return x times y; see `nnembed.product`."""
    if not (is_linopy(x) and is_linopy(y)):
        return x * y
    model = x.model
    if y.model is not model:
        raise WrongModel("the factors of a product belong to two models; take both from one")
    left, right = (_expression(v) for v in (x, y))
    _same_coordinates(left, right)
    sizes = [_values(model, e) for e in (left, right)]
    if min(sizes) > FEW_VALUES:
        return x * y
    if sizes[1] < sizes[0]:
        left, right, x = right, left, y
    return _linearised(model, (x, left), right, _free_name(model, name))


def refuse_stale(model: Any) -> None:
    """Raise where a factor of a product has been widened since.

    Raises
    ------
    InputError
        Names the product.
    """
    for name, variable in model.variables.data.items():
        if not variable.attrs.get(_MARK):
            continue
        for ends in (("least", "most"), ("first", "last")):
            rows = [f"{name}.{end}" for end in ends]
            if all(r in model.constraints for r in rows):
                _refuse_wider(model, name, *(model.constraints[r] for r in rows))


def _refuse_wider(model: Any, name: str, least: Any, most: Any) -> None:
    low, high = _range(model, least.lhs)
    pad = 1e-9 * (1 + np.maximum(np.abs(low), np.abs(high)))
    if (low < least.rhs.values - pad).any() or (high > most.rhs.values + pad).any():
        raise InputError(
            f"a factor of the product {name!r} has wider bounds than when the product was made, its rows would cut "
            "off answers; set the bounds first and call nnembed.product afterwards"
        )


def _expression(value: Any) -> Any:
    if isinstance(value, linopy.Variable):
        if (value.labels.values < 0).any():
            raise InputError(f"variable {value.name!r} is masked in places; multiply only entries that exist")
        value = value.to_linexpr()
    if np.isnan(value.const.values).any() or np.isnan(value.coeffs.values[value.vars.values >= 0]).any():
        raise InputError("a factor of the product has absent or NaN entries; multiply only entries that exist")
    return value


def _same_coordinates(left: Any, right: Any) -> None:
    for d in set(left.coord_dims) & set(right.coord_dims):
        if not left.indexes[d].equals(right.indexes[d]):
            raise InputError(f"the factors of the product have different coordinates along {d!r}; select the same ones")


def _range(model: Any, expression: Any) -> tuple[Array, Array]:
    """Return bounds of an expression's entries, from the variables' bounds as they are now."""
    labels = np.asarray(expression.vars.values)
    axis = expression.vars.dims.index("_term")
    used = labels >= 0
    known, where = np.unique(labels[used], return_inverse=True)
    low, high = np.zeros(labels.shape), np.zeros(labels.shape)
    ends = variable_bounds(model, known.astype(np.intp))
    low[used], high[used] = ends[0][where], ends[1][where]
    c = np.where(used, np.nan_to_num(expression.coeffs.values), 0.0)
    low, high = np.where(c == 0, 0.0, low), np.where(c == 0, 0.0, high)
    const = np.asarray(expression.const.values) if "const" in expression.data else 0.0
    const = np.nan_to_num(const)
    return np.minimum(c * low, c * high).sum(axis) + const, np.maximum(c * low, c * high).sum(axis) + const


def _values(model: Any, expression: Any) -> float:
    """Return how many values an expression takes at most, infinite where it is not whole."""
    labels, c = np.asarray(expression.vars.values), np.nan_to_num(expression.coeffs.values)
    used = labels[(labels >= 0) & (c != 0)]
    whole = np.zeros(model.shape[1] + 1, dtype=bool)
    for variable in model.variables.data.values():
        if variable.attrs.get("binary") or variable.attrs.get("integer"):
            whole[np.asarray(variable.labels.values).reshape(-1)] = True
    whole[-1] = False
    exact = (np.rint(c) == c).all() and (np.rint(expression.const.values) == expression.const.values).all()
    if not (exact and whole[used].all()):
        return float("inf")
    low, high = _range(model, expression)
    return float((high - low).max(initial=0.0)) + 1


def _free_name(model: Any, name: str | None) -> str:
    if name is not None:
        if name in model.variables:
            raise InputError(f"the model has a variable {name!r} already; give the product another name=")
        return name
    names = ("product", *(f"product_{i}" for i in range(1, len(model.variables) + 2)))
    return next(n for n in names if n not in model.variables)


def _linearised(model: Any, whole: tuple[Any, Any], other: Any, name: str) -> Any:
    factor, expression = whole
    least, most = (np.rint(b) for b in _range(model, expression))
    low, high = (_array(b, other) for b in _range(model, other))
    if not (np.isfinite(low.values).all() and np.isfinite(high.values).all()):
        raise BoxError(
            f"a factor of the product {name!r} has no finite bounds; give its variables lower and upper bounds"
        )
    bits, places = _bits(model, factor, (expression, least, most), name)
    pad = 1e-9 * (1 + np.maximum(abs(low), abs(high)))
    low, high = low - pad, high + pad
    model.add_constraints(other >= low, name=f"{name}.least")
    model.add_constraints(other <= high, name=f"{name}.most")
    zero = xr.zeros_like(bits.labels, dtype=float) + xr.zeros_like(low)
    part = model.add_variables(np.minimum(low, 0) + zero, np.maximum(high, 0) + zero, name=name)
    part.attrs[_MARK] = True
    model.add_constraints(part - bits * low >= 0, name=f"{name}.on_least")
    model.add_constraints(part - bits * high <= 0, name=f"{name}.on_most")
    model.add_constraints(part - other - bits * low <= -low, name=f"{name}.off_least")
    model.add_constraints(part - other - bits * high >= -high, name=f"{name}.off_most")
    if places is None:
        return 1 * part
    return (part * places).sum(places.dims[0]) + other * _array(least, expression)


def _array(values: Array, expression: Any) -> xr.DataArray:
    dims = [d for d in expression.vars.dims if d != "_term"]
    coords = {d: expression.indexes[d] for d in dims if d in expression.indexes}
    return xr.DataArray(np.asarray(values, dtype=float), dims=dims, coords=coords)


def _bits(model: Any, factor: Any, whole: tuple[Any, Array, Array], name: str) -> tuple[Any, xr.DataArray | None]:
    """Return binaries and what each is worth (None: the factor is a binary itself)."""
    expression, least, most = whole
    if isinstance(factor, linopy.Variable) and factor.attrs.get("binary"):
        return factor, None
    count = max(1, int(np.ceil(np.log2((most - least).max(initial=0.0) + 1))))
    dim = f"{name}_bit"
    places = xr.DataArray(2.0 ** np.arange(count), dims=[dim], coords={dim: np.arange(count)})
    base = _array(least, expression)
    shape = xr.zeros_like(places) + xr.zeros_like(base)
    bits = model.add_variables(binary=True, coords=shape.coords, dims=shape.dims, name=f"{name}.bits")
    model.add_constraints(expression >= base, name=f"{name}.first")
    model.add_constraints(expression <= _array(most, expression), name=f"{name}.last")
    model.add_constraints((bits * places).sum(dim) - expression == -base, name=f"{name}.whole")
    return bits, places
