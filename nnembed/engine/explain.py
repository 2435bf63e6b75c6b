"""Why there is no answer, in the user's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.engine.start import helper
from nnembed.features import Capability
from nnembed.matrices import canonical
from nnembed.options import Options
from nnembed.problem import Placement, Problem
from nnembed.protocols import Backend, Conflict, Solution

_MOST = 5  # names in a message
_CHECK, _NAMES, _HINT = 10.0, 2.0, 3.0  # seconds: a message must not take as long as the answer


def explain(problem: Problem, solution: Solution, backend: Backend, options: Options) -> str:
    """Return a sentence for statuses that need one, in the user's names."""
    names = ", ".join(repr(p.embedding.name) for p in problem.placements)
    if solution.status == "infeasible":
        return _infeasible(problem, names, helper(backend), options)
    if solution.status == "unbounded":
        more = f"; the network(s) {names} bound their own outputs only" if names else ""
        return f"the objective is unbounded: a variable of the model needs a bound{more}"
    return solution.message


def _infeasible(problem: Problem, names: str, backend: Backend, options: Options) -> str:
    every = np.arange(problem.n_rows)
    if not names:
        return "the model has no solution" + _who(problem, problem, every, backend, options)
    alone, rows = own_part(problem)
    if is_infeasible(alone, backend, options):
        cause = f"the model's own rows have no solution, whatever the network(s) {names} say"
        return cause + _who(problem, alone, rows, backend, options)
    cause = f"the model has no solution together with the network(s) {names}; without them it has"
    return cause + _who(problem, problem, every, backend, options)


def _who(problem: Problem, part: Problem, rows: Index, backend: Backend, options: Options) -> str:
    """Return words for what stands in the way in a part of the problem, and for what would make room."""
    found = conflict_of(part, backend, options)
    members = [] if found is None else _members(problem, replace(found, rows=rows[found.rows]), part.placements)
    if len(members) > _MOST:
        members = [*members[:_MOST], f"{len(members) - _MOST} more"]
    told = f": {', '.join(members[:-1])} and {members[-1]} exclude each other" if len(members) > 1 else ""
    told = f": {members[0]} cannot hold" if len(members) == 1 else told
    return told + smallest_change(problem, backend, options, _HINT if told else _CHECK)


def conflict_of(problem: Problem, backend: Backend, options: Options) -> Conflict | None:
    """Return the solver's own answer to what cannot hold together; None where it has none or finds none in time."""
    if not Capability.CONFLICT & backend.capabilities:
        return None
    quick = _quick(options, _NAMES)
    bare = replace(problem, cost=np.zeros(problem.n_columns), quadratic=None, maximize=False)
    with backend.load(bare, quick) as session:
        if session.solve(lambda event: None, lambda: False).status != "infeasible":
            return None
        found: Conflict | None = session.conflict()  # type: ignore[attr-defined]
    return found


def _quick(options: Options, seconds: float) -> Options:
    """Return options for a helper problem, which never gets more time than the whole call had."""
    limit = seconds if options.time_limit is None else min(seconds, options.time_limit)
    return replace(options, time_limit=limit, solver_options={})


def _members(problem: Problem, found: Conflict, networks: Sequence[Placement]) -> list[str]:
    """Return the user's rows of a conflict, the bounds of the user's variables in it, and the `networks` in it."""
    mine = _users(problem)
    names = _grouped(problem.row_groups, found.rows[mine[found.rows]], "row")
    outputs, _, _ = _tightened_outputs(problem)
    given = [p.columns[p.block.outputs] for p in problem.placements]
    loose = np.setdiff1d(np.concatenate([*given, np.zeros(0, dtype=np.intp)]), outputs)
    own = np.setdiff1d(found.columns[found.columns < len(problem.labels)], loose)
    names += [f"the bounds of {name}" for name in _grouped(problem.column_groups, own, "column")]
    # A bound on an output excludes the other one only because the network has it so.
    rest = found.rows[~mine[found.rows]], np.union1d(np.setdiff1d(found.columns, own), np.intersect1d(own, outputs))
    for placement in networks:
        name = placement.embedding.name
        its = [(a, b) for group, a, b in problem.row_groups if group == name or group.startswith(f"{name}.")]
        inside = any(((rest[0] >= a) & (rest[0] < b)).any() for a, b in its)
        if inside or np.isin(rest[1], placement.columns).any():
            names.append(f"the network {name!r}")
    return names


def _grouped(groups: Sequence[tuple[str, int, int]], places: Index, kind: str) -> list[str]:
    """Return one name per group: of a single member with its place, of several with their number."""
    words, left = [], np.ones(len(places), dtype=bool)
    for name, start, stop in groups:
        inside = places[left & (places >= start) & (places < stop)]
        left &= (places < start) | (places >= stop)
        if len(inside) > 1:
            words.append(f"{name} ({len(inside)} {kind}s)")
        elif len(inside):
            words.append(f"{name}[{inside[0] - start}]" if stop - start > 1 else name)
    return words + [f"{kind} {place}" for place in places[left].tolist()]


def smallest_change(problem: Problem, backend: Backend, options: Options, seconds: float = _CHECK) -> str:
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
    with backend.load(elastic, replace(_quick(options, seconds), gap=1e-3)) as session:
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
        below, above = _tighter(problem, p)
        tight = below | above
        columns.append(where[tight])
        lower.append(own[0][tight])
        upper.append(own[1][tight])
    if not columns:
        return np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0)
    return np.concatenate(columns), np.concatenate(lower), np.concatenate(upper)


def _tighter(problem: Problem, p: Placement) -> tuple[Mask, Mask]:
    """Return on which outputs the lower and the upper bound are tighter than the network's own."""
    where, low, high = p.columns[p.block.outputs], p.block.lower[p.block.outputs], p.block.upper[p.block.outputs]
    pad = 1e-9 * (1 + np.abs(low) + np.abs(high))
    return problem.lower[where] > low + pad, problem.upper[where] < high - pad


def _with(values: Array, where: Index, new: Array) -> Array:
    changed = values.copy()
    changed[where] = new
    return changed


def own_part(problem: Problem) -> tuple[Problem, Index]:
    """Return the user's rows alone, outputs within the user's bounds, and which rows of the problem these are."""
    n, m = len(problem.labels), _own_rows(problem)
    rows = np.flatnonzero(np.diff(problem.matrix[:m][:, n:].indptr) == 0)  # the others belong to lowered sets
    lower, upper = problem.lower.copy(), problem.upper.copy()
    for p in problem.placements:  # a bound that is the network's own says nothing about the user's rows
        where, tight = p.columns[p.block.outputs], _tighter(problem, p)
        if not p.embedding.is_attached:
            lower[where[~tight[0]]], upper[where[~tight[1]]] = -np.inf, np.inf
    alone = replace(
        problem,
        matrix=problem.matrix[rows][:, :n],
        row_lower=problem.row_lower[rows],
        row_upper=problem.row_upper[rows],
        lower=lower[:n],
        upper=upper[:n],
        integer=problem.integer[:n],
        cost=np.zeros(n),
        quadratic=None,
        placements=(),
        sos1=(),
        indicators=(),
        complementarities=(),
        relus=(),
    )
    return alone, rows


def is_infeasible(problem: Problem, backend: Backend, options: Options) -> bool:
    """Return whether the solver finds a problem infeasible; False when not decided in time."""
    with backend.load(problem, _quick(options, _CHECK)) as session:
        return session.solve(lambda event: None, lambda: False).status == "infeasible"


def _own_rows(problem: Problem) -> int:
    """Return how many of the first rows belong to the user."""
    names = {p.embedding.name for p in problem.placements if not p.embedding.is_attached}
    starts = [start for name, start, _ in problem.row_groups if name in names]
    return min(starts, default=problem.n_rows)
