"""Bounds and names of a linopy model's variables, by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.errors import WrongModel
from nnembed.hosts.linopy_pieces import axes_of, place


def variable_bounds(model: Any, labels: Index) -> tuple[Array, Array]:
    """Return the bounds of variables as the model has them now; a semi-continuous variable may also be zero."""
    lower, upper = np.full(len(labels), np.nan), np.full(len(labels), np.nan)
    for variable in model.variables.data.values():
        start, end = variable.range
        mine = (labels >= start) & (labels < end)
        if not mine.any():
            continue
        cells = labels[mine] - start
        low, high = (np.asarray(b.values).reshape(-1)[cells] for b in (variable.lower, variable.upper))
        lower[mine], upper[mine] = integral_bounds(variable.attrs, low, high)
    if np.isnan(lower).any() or np.isnan(upper).any():
        raise WrongModel("an input variable of the network is no longer in the model, or its bounds are not numbers")
    return lower, upper


def change_bounds(model: Any, labels: Index, old: tuple[Array, Array], new: tuple[Array, Array]) -> None:
    """Give variables the bounds `new` where the model still has the bounds `old`; pairs of arrays over `labels`."""
    for variable in model.variables.data.values():
        start, end = variable.range
        mine = (labels >= start) & (labels < end)
        if not mine.any():
            continue
        cells = labels[mine] - start
        for side, before, after in zip(("lower", "upper"), old, new, strict=True):
            bound = getattr(variable, side)
            values = np.array(bound.values, dtype=float)
            flat = values.reshape(-1)
            flat[cells] = np.where(flat[cells] == before[mine], after[mine], flat[cells])
            variable.data[side] = (bound.dims, values)


def integral_bounds(attrs: Mapping[str, Any], low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds narrowed (binary, integer) or widened (semi-continuous) by what the variable's type says."""
    if attrs.get("binary"):
        low, high = np.maximum(low, 0.0), np.minimum(high, 1.0)
    if attrs.get("binary") or attrs.get("integer"):
        # solvers take integers within a tolerance, so a bound of 2.0000001 still allows 2
        low, high = np.ceil(low - 1e-6), np.floor(high + 1e-6)
    if attrs.get("semi_continuous"):
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return low, high


def variable_name(model: Any, label: int) -> str:
    """Return a variable in the user's words, for example ``price[store=Rome, product=A]``."""
    for name, variable in model.variables.data.items():
        start, end = variable.range
        if start <= label < end:
            axes = axes_of(variable.labels, name)
            return f"{name}{place(axes, label - start)}" if axes else str(name)
    return f"variable {label}"
