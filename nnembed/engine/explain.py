"""Why there is no answer, in the user's names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Solution


def explain(problem: Problem, solution: Solution, backend: Backend, options: Options) -> str:
    """Return a sentence for statuses that need one, in the user's names."""
    names = ", ".join(repr(p.embedding.name) for p in problem.placements)
    if solution.status == "infeasible" and names:
        if own_rows_infeasible(problem, backend, options):
            return f"the model's own rows have no solution, whatever the network(s) {names} say"
        return f"the model has no solution together with the network(s) {names}; without them it has"
    if solution.status == "infeasible":
        return "the model has no solution"
    if solution.status == "unbounded":
        more = f"; the network(s) {names} bound their own outputs only" if names else ""
        return f"the objective is unbounded: a variable of the model needs a bound{more}"
    return solution.message


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
