"""Sets and indicator rows in linopy models: which solvers get them, how they are written, and how they are read.

Measured on linopy 0.10: a set is one dimension of one array of variables, an indicator row a constraint with a binary
and its value; other solvers than those that linopy lists for them refuse the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import linopy
import numpy as np
import scipy.sparse as sp
import xarray as xr

from nnembed.aliases import Array, Index
from nnembed.block import Indicators
from nnembed.errors import UnknownName
from nnembed.features import Feature
from nnembed.hosts.linopy_csr import indicator_parts, length_bins, padded
from nnembed.hosts.shapes import numbered_one_sided
from nnembed.matrices import relabel


def passed_on(solver: str) -> Feature:
    """Return what linopy passes on to a solver.

    Raises
    ------
    UnknownName
        If linopy has no such solver.
    """
    from linopy.solver_capabilities import SOLVER_REGISTRY

    known = list(SOLVER_REGISTRY)
    if not isinstance(solver, str) or solver not in known:
        raise UnknownName("solver of linopy", str(solver), known)
    info, kinds = SOLVER_REGISTRY[solver], linopy.SolverFeature
    accepts = Feature.LINEAR | Feature.INTEGER
    accepts |= Feature.SOS1 if info.supports(kinds.SOS_CONSTRAINTS) else Feature.NONE
    return accepts | (Feature.INDICATOR if info.supports(kinds.INDICATOR_CONSTRAINTS) else Feature.NONE)


def mark_sets(model: Any, variable: Any, dimension: Any) -> None:
    """Say that along `dimension` at most one entry of `variable` is nonzero."""
    model.add_sos_constraints(variable, sos_type=1, sos_dim=dimension)


def add_indicators(model: Any, name: str, rules: Sequence[Indicators], labels: Index) -> None:
    """Add the indicator rows of a block; `labels` are those of its columns."""
    for number, rule in enumerate(rules):
        matrix, sign, rhs, row = numbered_one_sided(rule.matrix, rule.row_lower, rule.row_upper)
        matrix = relabel(matrix, labels, model.shape[1])
        binary, value = labels[rule.binary[row]], rule.value[row].astype(int)
        for wanted in np.unique(value).tolist():
            mine = np.flatnonzero(value == wanted)
            for bin_, rows in length_bins(matrix[mine]):
                chosen = mine[rows]
                part = matrix[chosen], sign[chosen], rhs[chosen], binary[chosen]
                _add(model, f"{name}.{number}.{wanted}.{bin_}", *part, wanted)


def _add(model: Any, name: str, matrix: sp.csr_array, sign: Any, rhs: Array, binary: Index, value: int) -> None:
    dim = f"{name}.row"
    columns, coefficients = padded(matrix)
    coords = {dim: np.arange(len(rhs))}
    terms = {"vars": ((dim, "_term"), columns), "coeffs": ((dim, "_term"), coefficients)}
    left = linopy.LinearExpression(xr.Dataset(terms, coords=coords), model)
    sides = [xr.DataArray(v, dims=dim, coords=coords) for v in (sign, rhs)]
    switch = {"labels": (dim, binary), "lower": (dim, np.zeros(len(rhs))), "upper": (dim, np.ones(len(rhs)))}
    data = xr.Dataset(switch, coords=coords, attrs={"binary": True})
    variable = linopy.Variable(data, model, f"{name}.switch", skip_broadcast=True)
    model.add_indicator_constraints(variable, value, left, *sides, name=name)


def read_indicators(constraint: Any, index: Any) -> Indicators:
    """Return an indicator constraint of a model over its active variables, in the user's units."""
    matrix, rhs, sense, binary, value = indicator_parts(constraint, index)
    lower, upper = np.where(sense == "<", -np.inf, rhs), np.where(sense == ">", np.inf, rhs)
    return Indicators(binary, value, matrix, lower, upper)
