"""A problem as a Gurobi model, by arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array, Index
from nnembed.problem import Problem


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, its variables, and its rows as pieces (rows of the problem, Gurobi's rows)."""

    model: Any
    columns: Any
    pieces: list[tuple[Index, Any]] = field(default_factory=list)

    def duals(self, rows: int) -> Array:
        """Return one dual per row of the problem; of a row with two sides the sum, of which one is zero."""
        total = np.zeros(rows)
        for place, part in self.pieces:
            total[place] += part.Pi
        return total

    def conflicting(self) -> Index:
        """Return the rows of the problem that are in Gurobi's irreducible infeasible subset."""
        found = [place[np.array(part.IISConstr, dtype=bool)] for place, part in self.pieces]
        return np.unique(np.concatenate([*found, np.zeros(0, dtype=np.intp)]))

    def set_objective(self, problem: Problem) -> None:
        """Set linear and quadratic part, offset and sense."""
        sense = -1 if problem.maximize else 1
        whole = None if problem.quadratic is None else sp.csr_matrix(0.5 * problem.quadratic)
        every = self.columns, self.columns, self.columns
        self.model.setMObjective(whole, problem.cost, float(problem.offset), *every, sense)


def load(api: Any, env: Any, problem: Problem) -> Loaded:
    """Write a problem into a new model."""
    model = api.Model(env=env)
    kinds = np.where(problem.integer, "I", "C")
    columns = model.addMVar(problem.n_columns, lb=problem.lower, ub=problem.upper, vtype=kinds)
    loaded = Loaded(model, columns)
    add_rows(loaded, problem.matrix, problem.row_lower, problem.row_upper, 0)
    for sets in problem.sos1:
        for members in np.atleast_2d(sets):
            model.addSOS(api.GRB.SOS_TYPE1, columns[members].tolist())
    for rules in problem.indicators:
        _add_indicators(api, loaded, rules)
    for pairs in problem.relus:
        for y, g in zip(columns[pairs[:, 0]].tolist(), columns[pairs[:, 1]].tolist(), strict=True):
            model.addGenConstrMax(y, [g], 0.0)
    loaded.set_objective(problem)
    model.update()
    return loaded


def add_rows(loaded: Loaded, matrix: sp.csr_array, lower: Array, upper: Array, first: int) -> None:
    """Append rows, the first of them row `first` of the problem; a row with two sides becomes two."""
    matrix = canonical(matrix)
    low, high = np.isfinite(lower), np.isfinite(upper)
    equal = low & (lower == upper)
    for chosen, sense, side in ((equal, "=", lower), (low & ~equal, ">", lower), (high & ~equal, "<", upper)):
        place = np.flatnonzero(chosen)
        if len(place):
            part = sp.csr_matrix(matrix[place]) if len(place) < matrix.shape[0] else sp.csr_matrix(matrix)
            rows = loaded.model.addMConstr(part, loaded.columns, sense, side[place])
            loaded.pieces.append((first + place, rows))


def canonical(matrix: sp.csr_array) -> sp.csr_array:
    """Return the matrix with repeated entries added up, which Gurobi refuses."""
    if matrix.has_canonical_format:
        return matrix
    summed = sp.csr_array(matrix, copy=True)
    summed.sum_duplicates()
    return summed


def _add_indicators(api: Any, loaded: Loaded, rules: Any) -> None:
    """Add ``binary == value  =>  row_lower <= A x <= row_upper``, one Gurobi row per finite side."""
    columns, matrix = loaded.columns.tolist(), canonical(rules.matrix)
    for i in range(matrix.shape[0]):
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        row = api.LinExpr(matrix.data[part].tolist(), [columns[j] for j in matrix.indices[part].tolist()])
        switch, value = columns[int(rules.binary[i])], bool(rules.value[i])
        for side, sense in ((float(rules.row_lower[i]), ">"), (float(rules.row_upper[i]), "<")):
            if np.isfinite(side):
                loaded.model.addGenConstrIndicator(switch, value, row, sense, side)
