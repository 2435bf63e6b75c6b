"""Why there is no answer, in the user's names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.matrices import canonical
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Solution


def explain(problem: Problem, solution: Solution, backend: Backend, options: Options) -> str:
    """Return a sentence for statuses that need one, in the user's names."""
    names = ", ".join(repr(p.embedding.name) for p in problem.placements)
    if solution.status == "infeasible":
        if names and own_rows_infeasible(problem, backend, options):
            cause = f"the model's own rows have no solution, whatever the network(s) {names} say"
        elif names:
            cause = f"the model has no solution together with the network(s) {names}; without them it has"
        else:
            cause = "the model has no solution"
        return cause + smallest_change(problem, backend, options)
    if solution.status == "unbounded":
        more = f"; the network(s) {names} bound their own outputs only" if names else ""
        return f"the objective is unbounded: a variable of the model needs a bound{more}"
    return solution.message


def smallest_change(problem: Problem, backend: Backend, options: Options) -> str:
    """Return words for the least the user's rows and limits on outputs must give way; empty when not decided in time.

    An elastic relaxation: every row of the user's, and every bound on an output that is tighter than what the network
    can do, may be broken at a price relative to its size; the cheapest answer says which ones stand in the way.
    """
    rows = np.flatnonzero(_users(problem))
    outputs, lower, upper = _tightened_outputs(problem)
    n, k = problem.n_columns, len(rows) + len(outputs)
    if not k:
        return "; it is the bounds of its variables that leave no room"
    unit = np.arange(k, dtype=np.int32)
    place = np.concatenate([rows, problem.n_rows + np.arange(len(outputs))])
    shape = (problem.n_rows + len(outputs), k)
    give = sp.csr_array(sp.coo_array((np.ones(k), (place, unit)), shape=shape))
    asked = sp.csr_array(
        (np.ones(len(outputs)), outputs.astype(np.int32), np.arange(len(outputs) + 1)), shape=(len(outputs), n)
    )
    # Only the side that is tighter than the network's own is asked for: both could exclude each other.
    low = np.concatenate([problem.row_lower, np.where(problem.lower[outputs] > lower, problem.lower[outputs], -np.inf)])
    high = np.concatenate([problem.row_upper, np.where(problem.upper[outputs] < upper, problem.upper[outputs], np.inf)])
    matrix = sp.csr_array(sp.hstack([sp.vstack([problem.matrix, asked]), give, -give], format="csr"))
    sides = np.stack([low[place], high[place]])
    size = 1 + np.where(np.isfinite(sides), np.abs(sides), 0.0).max(axis=0)
    elastic = replace(
        problem,
        matrix=canonical(matrix),
        row_lower=low,
        row_upper=high,
        lower=np.concatenate([_with(problem.lower, outputs, lower), np.zeros(2 * k)]),
        upper=np.concatenate([_with(problem.upper, outputs, upper), np.full(2 * k, np.inf)]),
        integer=np.concatenate([problem.integer, np.zeros(2 * k, dtype=bool)]),
        cost=np.concatenate([np.zeros(n), 1 / size, 1 / size]),
        offset=0.0,
        maximize=False,
        quadratic=None,
        placements=(),
    )
    with backend.load(elastic, replace(options, time_limit=10.0, gap=1e-3, solver_options={})) as session:
        found = session.solve(lambda event: None, lambda: False)
    if found.status == "infeasible":
        return "; no row of its own is to blame, the bounds of its variables leave no room"
    if found.x is None:
        return ""
    return _words(problem, rows, outputs, found.x[n : n + k] - found.x[n + k :], size)


def _words(problem: Problem, rows: Index, outputs: Index, change: Array, size: Array) -> str:
    names = [problem.row_name(int(r)) for r in rows] + [f"the bound on {problem.column_name(int(c))}" for c in outputs]
    broken = np.flatnonzero(np.abs(change) > 1e-6 * size)
    worst = broken[np.argsort(-np.abs(change[broken]) / size[broken])][:5]
    parts = [f"{names[i]} by {abs(change[i]):.4g}" for i in worst]
    more = f" and {len(broken) - len(worst)} more" if len(broken) > len(worst) else ""
    return f"; the smallest change that gives it one: relax {', '.join(parts)}{more}" if parts else ""


def _users(problem: Problem) -> Mask:
    """Return the mask of rows that are the user's own, not a network's."""
    mine = np.ones(problem.n_rows, dtype=bool)
    names = [p.embedding.name for p in problem.placements]
    for group, start, stop in problem.row_groups:
        if any(group == name or group.startswith(f"{name}.") for name in names):
            mine[start:stop] = False
    return mine


def _tightened_outputs(problem: Problem) -> tuple[Index, Array, Array]:
    """Return output columns that the user bounds more tightly than the network does, and the network's bounds."""
    columns, lower, upper = [], [], []
    for p in problem.placements:
        own = p.block.lower[p.block.outputs], p.block.upper[p.block.outputs]
        where = p.columns[p.block.outputs]
        pad = 1e-9 * (1 + np.abs(own[0]) + np.abs(own[1]))
        tight = (problem.lower[where] > own[0] + pad) | (problem.upper[where] < own[1] - pad)
        columns.append(where[tight])
        lower.append(own[0][tight])
        upper.append(own[1][tight])
    if not columns:
        return np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0)
    return np.concatenate(columns), np.concatenate(lower), np.concatenate(upper)


def _with(values: Array, where: Index, new: Array) -> Array:
    changed = values.copy()
    changed[where] = new
    return changed


def own_rows_infeasible(problem: Problem, backend: Backend, options: Options) -> bool:
    """Return whether the user's rows alone have no solution (outputs within their bounds); False when not decided."""
    n, m = len(problem.labels), _own_rows(problem)
    rows = np.flatnonzero(np.diff(problem.matrix[:m][:, n:].indptr) == 0)  # the others belong to lowered sets
    alone = replace(
        problem,
        matrix=problem.matrix[rows][:, :n],
        row_lower=problem.row_lower[rows],
        row_upper=problem.row_upper[rows],
        lower=problem.lower[:n],
        upper=problem.upper[:n],
        integer=problem.integer[:n],
        cost=np.zeros(n),
        quadratic=None,
        placements=(),
        sos1=(),
        indicators=(),
        complementarities=(),
    )
    with backend.load(alone, replace(options, time_limit=10.0, solver_options={})) as session:
        return session.solve(lambda event: None, lambda: False).status == "infeasible"


def _own_rows(problem: Problem) -> int:
    """Return how many of the first rows belong to the user."""
    names = {p.embedding.name for p in problem.placements if not p.embedding.is_attached}
    starts = [start for name, start, _ in problem.row_groups if name in names]
    return min(starts, default=problem.n_rows)
