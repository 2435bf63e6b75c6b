"""Checks of solver backends: what sessions offer beyond solving - cuts, conflicts - is there when it is claimed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.errors import UnsupportedFeature
from nnembed.features import Capability, Feature, missing
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Conflict, Session
from nnembed.testing.backends import can, right, run, usable
from nnembed.testing.blocks import optimum_point, violation
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.problems import INF, Known, by_feature, hopeless, linear, make

_OPTIONAL = {"separate": Capability.CUTS, "conflict": Capability.CONFLICT}


@since("0.1")
def check_claims_have_methods(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: CUTS and CONFLICT come with their methods and only then; what no session could do is not claimed."""
    assert not Feature.QUADRATIC_ROWS & backend.accepts, (
        "QUADRATIC_ROWS is claimed, but a Problem cannot hold such rows"
    )
    assert not can(backend, Capability.LAZY_ROWS), "LAZY_ROWS is claimed, but no method of a session takes such rows"
    usable(backend)
    with backend.load(linear()[0].problem, Options()) as session:
        for name, capability in _OPTIONAL.items():
            method = getattr(session, name, None)
            if can(backend, capability):
                assert callable(method), f"{capability.name} is claimed, but sessions have no {name}()"
            elif method is not None:
                _refuses(session, name, str(capability.name))


def _refuses(session: Session, name: str, capability: str) -> None:
    try:
        getattr(session, name)(*([_Covers(linear()[0].problem)] if name == "separate" else []))
    except UnsupportedFeature:
        return
    raise AssertionError(f"{name}() must raise UnsupportedFeature or not be there, because {capability} is not claimed")


# ---- cuts -------------------------------------------------------------------------------------------


def _knapsacks(n: int = 16, rows: int = 5, seed: int = 2) -> Known:
    """Return a problem in binaries that is not decided before the search, its optimum found by trying all points."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(10, 100, (rows, n)).astype(float)
    cost, room = weights.mean(axis=0) + rng.integers(0, 30, n), weights.sum(axis=1) // 2
    points = np.array(list(product((0.0, 1.0), repeat=n)))
    best = (points @ cost)[(points @ weights.T <= room).all(axis=1)].max()
    problem = make(weights, [-INF] * rows, room, [0] * n, [1] * n, cost, [1] * n, maximize=True)
    return Known("knapsacks", problem, objective=float(best))


class _Covers:
    """Cover inequalities: of columns that do not fit together, one stays away. Looked for greedily at each point."""

    def __init__(self, problem: Problem):
        self.problem, self.points, self.found = problem, list[Array](), 0

    def __call__(self, x: Array) -> tuple[sp.csr_array, Array, Array]:
        """Return the violated ones, at most one per row of the problem."""
        self.points.append(x.copy())
        weights = self.problem.matrix.toarray()
        rows, sides = [np.zeros((0, len(x)))], []
        for weight, room in zip(weights, self.problem.row_upper.tolist(), strict=True):
            order = np.argsort((1 - x) / np.maximum(weight, 1e-9))
            cover = order[: int(np.searchsorted(np.cumsum(weight[order]), room, side="right")) + 1]
            if weight[cover].sum() > room and (1 - x[cover]).sum() < 1 - 1e-6:
                row = np.zeros(len(x))
                row[cover] = 1.0
                rows.append(row[None])
                sides.append(len(cover) - 1.0)
        self.found += len(sides)
        return sp.csr_array(np.concatenate(rows)), np.full(len(sides), -INF), np.array(sides)


@since("0.1")
def check_cuts(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: cuts are asked for at points of the relaxation, change no optimum, and their errors are heard."""
    usable(backend, Feature.INTEGER)
    if not can(backend, Capability.CUTS):
        raise Unmet(f"{backend.name} does not claim CUTS")
    known = _knapsacks()
    covers = _Covers(known.problem)
    with backend.load(known.problem, Options(gap=0.0)) as session:
        session.separate(covers)  # type: ignore[attr-defined]
        right(known, run(session), config, f"{known.name} with cuts")
    assert covers.points, "CUTS is claimed, but no cuts were asked for"
    assert covers.found, "cuts were only asked for at points that no cover inequality cuts off"
    loose = replace(known.problem, integer=np.zeros(known.problem.n_columns, dtype=bool))
    for x in covers.points:
        assert x.shape == known.problem.lower.shape, f"cuts are asked for at a point of shape {x.shape}"
        worst, what = violation(loose, x)
        assert worst <= 1e-5, f"cuts are asked for at a point that is none of the relaxation: it violates {what}"
    _cuts_are_used(backend, known, config)
    _cuts_can_fail(backend, known)
    with backend.load(linear()[0].problem, Options(gap=0.0)) as session:
        session.separate(_Covers(linear()[0].problem))  # type: ignore[attr-defined]
        right(linear()[0], run(session), config, "a linear problem with cuts")


def _cuts_are_used(backend: Backend, known: Known, config: Config) -> None:
    """Check that the relaxation follows: the cut says what the optimum is, so its points cannot stay beyond it."""
    best, cost, values = known.objective, known.problem.cost, list[float]()
    assert best is not None

    def limit(x: Array) -> tuple[sp.csr_array, Array, Array]:
        values.append(float(cost @ x))
        k = int(values[-1] > best + 1e-6)
        return sp.csr_array(cost[None])[:k], np.full(k, -INF), np.full(k, best)

    with backend.load(known.problem, Options(gap=0.0)) as session:
        session.separate(limit)  # type: ignore[attr-defined]
        right(known, run(session), config, f"{known.name} with the optimum as a cut")
    used = len(values) < 10 or min(values) <= best + 1e-3
    assert used, f"cuts are asked for {len(values)} times, but what is returned cuts nothing off"


def _cuts_can_fail(backend: Backend, known: Known) -> None:
    """Check that an error of the function is raised by `solve`."""

    def fails(x: Array) -> tuple[sp.csr_array, Array, Array]:
        raise ZeroDivisionError("cuts")

    with backend.load(known.problem, Options(gap=0.0)) as session:
        session.separate(fails)  # type: ignore[attr-defined]
        try:
            run(session)
        except ZeroDivisionError:
            return
    raise AssertionError("what the function of the cuts raises is lost; solve() must raise it")


# ---- conflicts --------------------------------------------------------------------------------------


def _contradictory(seed: int) -> Known:
    """Return a random problem in continuous columns of which some rows exclude each other."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-3, 4, (5, 4)).astype(float)
    weights = rng.integers(0, 3, 5).astype(float)
    weights[rng.integers(5)] = 1.0
    sides = rng.integers(-2, 3, 5).astype(float)
    rows = np.vstack([rows, weights @ rows])  # at least the sum of the others' sides, so more than that is too little
    upper = np.append(np.full(5, INF), weights @ sides - 1.0)
    lower = np.append(sides, -INF)
    bound = np.where(rng.random(4) < 0.5, 9.0, INF)
    return Known(f"contradiction {seed}", make(rows, lower, upper, -bound, bound, np.ones(4)), "infeasible")


def _infeasible(backend: Backend) -> Iterator[Known]:
    """Yield infeasible problems the backend takes."""
    special = [k for problems in by_feature().values() for k in problems]
    for known in [*hopeless(), *(_contradictory(seed) for seed in range(8)), *special]:
        if known.status == "infeasible" and not missing(known.problem.needs, backend.accepts):
            yield known


@since("0.1")
def check_conflict(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: the rows and bounds of a conflict exclude each other, and none of them can be left out."""
    usable(backend)
    if not can(backend, Capability.CONFLICT):
        raise Unmet(f"{backend.name} does not claim CONFLICT")
    for known in _infeasible(backend):
        with backend.load(known.problem, Options(gap=0.0)) as session:
            status = run(session).status
            assert status == "infeasible", f"{known.name}: status {status!r}, it is infeasible"
            found = session.conflict()  # type: ignore[attr-defined]
        if found is None:
            assert known.problem.is_discrete, f"{known.name}: no conflict found in a linear problem"
            continue
        _irreducible(known, found)


def _irreducible(known: Known, found: Conflict) -> None:
    problem, named = known.problem, f"rows {found.rows.tolist()} and bounds of columns {found.columns.tolist()}"
    for what, members, size in (("row", found.rows, problem.n_rows), ("column", found.columns, problem.n_columns)):
        inside = len(np.unique(members)) == len(members) and bool(((members >= 0) & (members < size)).all())
        assert inside, f"{known.name}: {members.tolist()} are no {what} numbers"
    assert not _has_point(problem, found), f"{known.name}: {named} have a point, they are no conflict"
    for k in range(len(found.rows)):
        rest = replace(found, rows=np.delete(found.rows, k))
        assert _has_point(problem, rest), f"{known.name}: {named}: row {found.rows[k]} can be left out"
    for k in range(len(found.columns)):
        rest = replace(found, columns=np.delete(found.columns, k))
        assert _has_point(problem, rest), f"{known.name}: {named}: column {found.columns[k]} can be left out"


def _has_point(problem: Problem, part: Conflict) -> bool:
    """Return whether some rows and bounds, with integrality and conditions, have a common point."""
    lower, upper = np.full(problem.n_columns, -INF), np.full(problem.n_columns, INF)
    lower[part.columns], upper[part.columns] = problem.lower[part.columns], problem.upper[part.columns]
    matrix = problem.matrix[part.rows]
    sides = problem.row_lower[part.rows], problem.row_upper[part.rows]
    alone = replace(problem, matrix=matrix, row_lower=sides[0], row_upper=sides[1], lower=lower, upper=upper)
    return optimum_point(alone, np.zeros(problem.n_columns))[0] is not None


@since("0.1")
def check_no_conflict(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: there is no conflict in a problem that has a point."""
    usable(backend)
    if not can(backend, Capability.CONFLICT):
        raise Unmet(f"{backend.name} does not claim CONFLICT")
    for known in linear():
        with backend.load(known.problem, Options(gap=0.0)) as session:
            run(session)
            found = session.conflict()  # type: ignore[attr-defined]
        assert found is None, f"{known.name}: a conflict is named, but the problem has a point"
