"""A problem as a SCIP model.

PySCIPOpt has no call that takes a matrix. Coefficients one by one through ``addCoefLinear`` are the fastest way in: on
1000 rows with 400 each, half the time of ``Expr`` objects made from dicts, a quarter of ``quicksum``, a fifth of an MPS
file written and read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array
from nnembed.problem import Problem
from pyscipopt import Expr, ExprCons, Model
from pyscipopt.scip import Term

from nnembed_scip.checks import canonical

#: SCIP takes numbers from here on for infinite.
INFINITY = 1e20
_ROW = "row_"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and its variables: `columns` in the order of the problem, `epigraph` holds a quadratic objective."""

    model: Any
    columns: list[Any]
    epigraph: Any | None


def load(model: Model, problem: Problem) -> Loaded:
    """Write a problem into an empty model."""
    columns = _add_columns(model, problem)
    if problem.maximize:
        model.setMaximize()
    else:
        model.setMinimize()
    model.addObjoffset(float(problem.offset))
    add_rows(model, columns, problem.matrix, problem.row_lower, problem.row_upper)
    for sets in problem.sos1:
        for members in np.atleast_2d(sets).tolist():
            model.addConsSOS1([columns[j] for j in members])
    for rows in problem.indicators:
        _add_indicators(model, columns, rows)
    epigraph = _add_quadratic(model, columns, problem) if problem.quadratic is not None else None
    return Loaded(model, columns, epigraph)


def _add_columns(model: Model, problem: Problem) -> list[Any]:
    upper = np.maximum(problem.lower, problem.upper)  # an empty range is found before solving; SCIP must not see it
    binary = problem.integer & (problem.lower >= 0) & (upper <= 1)
    kinds = np.where(binary, "B", np.where(problem.integer, "I", "C")).tolist()
    sides = zip(finite(problem.lower), finite(upper), problem.cost.tolist(), kinds, strict=True)
    return [model.addVar(lb=low, ub=high, obj=cost, vtype=kind) for low, high, cost, kind in sides]


def finite(values: Array) -> list[float | None]:
    """Return a list with None for infinite numbers."""
    return [v if abs(v) < INFINITY else None for v in values.tolist()]


def add_rows(
    model: Model, columns: list[Any], matrix: sp.csr_array, lower: Array, upper: Array, first: int = 0
) -> None:
    """Append rows, the first of them row `first` of the problem; those without a finite side say nothing: left out."""
    matrix = canonical(matrix)
    variables = np.array(columns, dtype=object)[matrix.indices].tolist() if matrix.nnz else []
    data, starts = matrix.data.tolist(), matrix.indptr.tolist()
    add = model.addCoefLinear
    for i, (low, high) in enumerate(zip(finite(lower), finite(np.maximum(lower, upper)), strict=True)):
        if low is None and high is None:
            continue
        row = model.addCons(ExprCons(Expr(), low, high), name=f"{_ROW}{first + i}")
        a, b = starts[i], starts[i + 1]
        for variable, value in zip(variables[a:b], data[a:b], strict=True):
            add(row, variable, value)


def row_number(name: str) -> int | None:
    """Return which row of the problem a constraint of SCIP is, None for conditions."""
    return int(name.removeprefix(_ROW)) if name.startswith(_ROW) else None


def _add_indicators(model: Model, columns: list[Any], rows: Any) -> None:
    """Add ``binary == value  =>  row_lower <= A x <= row_upper``, one SCIP row per finite side."""
    matrix = canonical(rows.matrix)
    for i, (low, high) in enumerate(zip(finite(rows.row_lower), finite(rows.row_upper), strict=True)):
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        terms = {
            Term(columns[j]): v for j, v in zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True)
        }
        switch = columns[int(rows.binary[i])]
        for side in ((low, None), (None, high)):
            if side != (None, None):
                row = ExprCons(Expr(dict(terms)), *side)
                model.addConsIndicator(row, switch, activeone=bool(rows.value[i]))


def _add_quadratic(model: Model, columns: list[Any], problem: Problem) -> Any:
    """Move ``x Q x / 2`` into a row: SCIP's own objectives are linear."""
    top = model.addVar(lb=None, ub=None, obj=1.0)
    whole = sp.coo_array(problem.quadratic)
    first, second = np.minimum(*whole.coords), np.maximum(*whole.coords)
    folded = sp.coo_array(sp.csr_array((0.5 * whole.data, (first, second)), shape=whole.shape))  # sums duplicates
    terms = {
        Term(columns[i], columns[j]): v
        for i, j, v in zip(*(c.tolist() for c in folded.coords), folded.data.tolist(), strict=True)
    }
    terms[Term(top)] = -1.0
    side = (0.0, None) if problem.maximize else (None, 0.0)
    model.addCons(ExprCons(Expr(terms), *side))
    return top
