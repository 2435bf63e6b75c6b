"""A linopy model as arrays, and a solution back into it.

The arrays are taken in the user's units, whatever scaling the model carries for its own solvers, and from stored
labels only, so they are the same under both of linopy's semantics.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.block import Indicators
from nnembed.errors import InputError, UnsupportedFeature
from nnembed.hosts.linopy_attach import INTERNAL, Guard
from nnembed.hosts.linopy_bounds import integral_bounds
from nnembed.hosts.linopy_product import refuse_stale
from nnembed.hosts.linopy_special import read_indicators
from nnembed.matrices import relabel, stack
from nnembed.problem import Problem
from nnembed.protocols import Solution

Groups = tuple[tuple[str, int, int], ...]


def compile_model(model: Any) -> Problem:
    """Return the user's own model as arrays; see `Host.compile`."""
    refuse_stale(model)
    guards = set(Guard.names(model))
    labels, lower, upper, integer, columns = _columns(model, guards)
    matrix, row_lower, row_upper, rows, indicators = _rows(model, guards, labels)
    cost, quadratic, offset = _objective(model, labels)
    return Problem(
        matrix=matrix,
        row_lower=row_lower,
        row_upper=row_upper,
        lower=lower,
        upper=upper,
        integer=integer,
        cost=cost,
        offset=offset,
        maximize=model.objective.sense == "max",
        quadratic=quadratic,
        labels=labels,
        row_groups=rows,
        column_groups=columns,
        sos1=_sos1(model, labels),
        indicators=indicators,
    )


def _columns(model: Any, guards: set[str]) -> tuple[Index, Array, Array, Mask, Groups]:
    labels, lower, upper, integer, groups = [], [], [], [], []
    width = 0
    for name, variable in model.variables.items():
        if name in guards:
            continue
        if variable.attrs.get("semi_continuous"):
            raise UnsupportedFeature(
                f"variable {name!r} is semi-continuous, which nnembed.solve cannot pass on; write it with a binary "
                "variable, or attach the network (attach=True) and use model.solve"
            )
        own = np.asarray(variable.labels.values, dtype=np.intp).reshape(-1)
        low, high = (np.asarray(b.values, float).reshape(-1)[own >= 0] for b in (variable.lower, variable.upper))
        if np.isnan(low).any() or np.isnan(high).any():
            raise InputError(f"a bound of variable {name!r} is NaN; give numbers or mask the variable there")
        low, high = integral_bounds(variable.attrs, low, high)
        labels.append(own[own >= 0])
        lower.append(low)
        upper.append(high)
        whole = bool(variable.attrs.get("binary") or variable.attrs.get("integer"))
        integer.append(np.full(len(low), whole))
        groups.append((name, width, width + len(low)))
        width += len(low)
    join = np.concatenate
    if not labels:
        return np.zeros(0, np.intp), np.zeros(0), np.zeros(0), np.zeros(0, bool), ()
    return join(labels), join(lower), join(upper), join(integer), tuple(groups)


def _rows(
    model: Any, guards: set[str], labels: Index
) -> tuple[sp.csr_array, Array, Array, Groups, tuple[Indicators, ...]]:
    index = model.variables.label_index
    place = np.full(index.n_active_vars, -1, dtype=np.intp)
    place[index.label_to_pos[labels]] = np.arange(len(labels))
    matrices, lower, upper, groups = [sp.csr_array((0, len(labels)))], [np.zeros(0)], [np.zeros(0)], []
    height, indicators = 0, []
    for name, constraint in model.constraints.items():
        if name in guards:
            continue
        if constraint.is_indicator:
            rule = read_indicators(constraint, index)
            _refuse_nan(name, rule.matrix, np.where(np.isfinite(rule.row_lower), rule.row_lower, rule.row_upper))
            moved = relabel(rule.matrix, place, len(labels))
            indicators.append(replace(rule, binary=place[rule.binary], matrix=moved))
            continue
        matrix, _, rhs, sense = constraint.to_matrix_with_rhs(index)
        _refuse_nan(name, matrix, rhs)
        if len(guards) and (place[matrix.indices] < 0).any():
            raise InputError(f"constraint {name!r} uses the guard of a declared network; remove that constraint")
        matrices.append(relabel(matrix, place, len(labels)))
        rhs = np.asarray(rhs, float)
        lower.append(np.where(sense == "<", -np.inf, rhs))
        upper.append(np.where(sense == ">", np.inf, rhs))
        groups.append((name, height, height + len(rhs)))
        height += len(rhs)
    total = stack(matrices, len(labels))
    if not total.has_canonical_format:
        total.sum_duplicates()
    total.eliminate_zeros()
    return total, np.concatenate(lower), np.concatenate(upper), tuple(groups), tuple(indicators)


def _refuse_nan(name: str, matrix: sp.csr_array, rhs: Array) -> None:
    if not np.isfinite(matrix.data).all() or np.isnan(rhs).any():
        raise InputError(f"constraint {name!r} has a coefficient or right-hand side that is NaN or infinite")


def _objective(model: Any, labels: Index) -> tuple[Array, sp.csr_array | None, float]:
    position = np.full(model.shape[1], -1, dtype=np.intp)
    position[labels] = np.arange(len(labels))
    used, coefficients = model.objective.linear_terms()
    where = position[used]
    if (where < 0).any() or not np.isfinite(coefficients).all():
        raise InputError("the objective uses removed variables or coefficients that are NaN or infinite")
    cost = np.bincount(where, weights=coefficients, minlength=len(labels)).astype(float)
    constant = float(model.objective.expression.const)
    offset = constant if np.isfinite(constant) else 0.0
    if not model.objective.is_quadratic:
        return cost, None, offset
    square = sp.csr_array(model.objective.expression.to_matrix())[labels][:, labels]
    square.sum_duplicates()
    square.eliminate_zeros()
    if not np.isfinite(square.data).all():
        raise InputError("the objective has quadratic coefficients that are NaN or infinite")
    return cost, (square if square.nnz else None), offset


def _sos1(model: Any, labels: Index) -> tuple[Index, ...]:
    position = np.full(model.shape[1] + 1, -1, dtype=np.intp)
    position[labels] = np.arange(len(labels))
    sets: list[Index] = []
    for name, variable in model.variables.sos.items():
        if variable.attrs["sos_type"] != 1:
            raise UnsupportedFeature(
                f"variable {name!r} carries an SOS2 constraint, which nnembed.solve cannot pass on; call "
                "model.apply_sos_reformulation() first, or attach the network and use model.solve"
            )
        members = np.asarray(variable.labels.transpose(..., variable.attrs["sos_dim"]).values, dtype=np.intp)
        members = position[members.reshape(-1, members.shape[-1])]
        full = (members >= 0).all(axis=1)
        if full.any():
            sets.append(members[full])
        sets += [row[row >= 0][None, :] for row in members[~full] if (row >= 0).sum() > 1]
    return tuple(sets)


# ---- the way back ------------------------------------------------------------------------------------

_CONDITION = {
    "optimal": ("ok", "optimal"),
    "feasible": ("ok", "suboptimal"),
    "infeasible": ("warning", "infeasible"),
    "unbounded": ("warning", "unbounded"),
    "time_limit": ("warning", "time_limit"),
    "interrupted": ("aborted", "user_interrupt"),
    "error": ("error", "error"),
}


def load_solution(model: Any, problem: Problem, solution: Solution) -> Any:
    """Put values and duals into the model as linopy's own solve would; see `Host.load`.

    Returns
    -------
    xarray.Dataset or None
        Values of all variables but the inner ones of attached networks; None without a point.
    """
    import xarray as xr

    model.reset_solution()
    status, condition = _CONDITION.get(solution.status, ("unknown", "unknown"))
    model.status = "ok" if solution.x is not None else status
    model.termination_condition = condition
    if solution.x is None:
        model.objective.set_value(np.nan)
        return None
    x = np.full(model.shape[1] + 1, np.nan)
    x[problem.labels] = solution.x[: len(problem.labels)]
    model.objective.set_value(problem.objective(solution.x))
    guards = set(Guard.names(model))
    shown = []
    for name, variable in model.variables.items():
        labels = np.asarray(variable.labels.values)
        values = np.zeros(labels.shape) if name in guards else x[labels]
        variable.solution = xr.DataArray(values, variable.coords, dims=variable.dims)
        if name not in guards and not variable.attrs.get(INTERNAL):
            shown.append(name)
    if solution.duals is not None:
        _load_duals(model, guards, solution.duals)
    return model.variables[shown].solution if shown else xr.Dataset()


def _load_duals(model: Any, guards: set[str], duals: Array) -> None:
    import xarray as xr

    start = 0
    for name, constraint in model.constraints.items():
        if name in guards or constraint.is_indicator:
            continue
        active, (first, _) = constraint.active_labels(), constraint.range
        full = np.full(constraint.labels.shape, np.nan)
        full.reshape(-1)[active - first] = duals[start : start + len(active)]
        coords = {d: constraint.coords[d] for d in constraint.coord_dims}
        constraint.dual = xr.DataArray(full, coords, dims=constraint.coord_dims)
        start += len(active)


def solution_at(model: Any, labels: Index) -> Array:
    """Return the model's present values of variables.

    Raises
    ------
    InputError
        If the model has no solution.
    """
    if model.status != "ok" or any("solution" not in v.data for v in model.variables.data.values()):
        raise InputError("the model has no solution yet; solve it first")
    values = np.full(model.shape[1], np.nan)
    for variable in model.variables.data.values():
        own = np.asarray(variable.labels.values).reshape(-1)
        values[own[own >= 0]] = np.asarray(variable.solution.values).reshape(-1)[own >= 0]
    return values[labels]
