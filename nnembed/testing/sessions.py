"""Checks of solver backends: features and capabilities are what they claim to be, sessions can be changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import scipy.sparse as sp

from nnembed.errors import UnsupportedFeature
from nnembed.events import Event, Incumbent
from nnembed.features import Capability, Feature, missing
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Session
from nnembed.testing.backends import can, honest_events, never, right, run, sane, solved, usable
from nnembed.testing.kit import DEFAULT, Config, since
from nnembed.testing.problems import INF, Known, by_feature, endless, hard, integral, make

# ---- honesty ----------------------------------------------------------------------------------------


@since("0.1")
def check_features(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: what `accepts` claims is solved right; what it does not claim is refused by `load`, never dropped."""
    usable(backend)
    for problems in by_feature().values():
        for known in problems:
            if not missing(known.problem.needs, backend.accepts):
                right(known, solved(backend, known.problem), config)
                continue
            lacking = ", ".join(missing(known.problem.needs, backend.accepts))
            try:
                solved(backend, known.problem)
            except UnsupportedFeature:
                continue
            raise AssertionError(f"{known.name}: needs {lacking}; load must raise UnsupportedFeature, it took it")


@since("0.1")
def check_products(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: a product of two continuous columns is solved to a proven gap where NONCONVEX is claimed."""
    usable(backend, Feature.QUADRATIC_OBJECTIVE | Feature.NONCONVEX)
    product = sp.csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    problem = make([[1, 2]], [-INF], [4], [-1, 0], [3, 3], [0, 0], quadratic=product, maximize=True)
    found = solved(backend, problem, gap=1e-4)
    sane(problem, found, "x y with x + 2 y <= 4", 2.0, config)
    assert found.status == "optimal" and found.objective is not None, f"status {found.status!r} ({found.message})"
    assert abs(found.objective - 2.0) <= 1e-3, f"x y with x + 2 y <= 4 is at most 2, not {found.objective:.9g}"
    assert found.bound is not None and found.bound <= 2.01, f"a gap of 1e-4, and a bound of {found.bound}"


@since("0.1")
def check_duals(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: row duals are the change of the objective per unit of a row's side, in the problem's own sense."""
    usable(backend)
    rows = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    sides = (np.array([-2.0, 0.5, 5.0]), np.array([1.0, INF, 5.0]))  # the first row has two sides, one active
    for maximize in (False, True):
        cost = np.array([1.0, 3.0, 4.0]) * (-1 if maximize else 1)
        problem = make(rows, *sides, [0] * 3, [9] * 3, cost, maximize=maximize)
        found = solved(backend, problem)
        if not can(backend, Capability.DUALS):
            assert found.duals is None, "duals are returned but Capability.DUALS is not claimed"
            continue
        assert found.duals is not None and found.duals.shape == (3,), "no duals of an LP, though DUALS is claimed"
        for row in range(3):
            step = np.eye(3)[row] * 1e-3
            ends = [
                solved(backend, replace(problem, row_lower=sides[0] + s, row_upper=sides[1] + s)).objective
                for s in (-step, step)
            ]
            assert ends[0] is not None and ends[1] is not None
            slope = (ends[1] - ends[0]) / 2e-3
            good = abs(found.duals[row] - slope) <= 1e-4
            assert good, (
                f"row {row}, maximize={maximize}: dual {found.duals[row]:.6g}, "
                f"the objective changes by {slope:.6g} per unit"
            )
    if can(backend, Capability.DUALS) and Feature.INTEGER in backend.accepts:
        assert solved(backend, integral()[0].problem).duals is None, "duals of a problem with integers mean nothing"


@since("0.1")
def check_start(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: a good start is kept, a partial or wrong one does no harm; where none is taken, the call says so."""
    usable(backend, Feature.INTEGER)
    known = integral()[3]
    n, optimum = known.problem.n_columns, solved(backend, known.problem).x
    assert optimum is not None
    every = np.arange(n)
    starts = {"good": (every, optimum), "partial": (every[:2], optimum[:2]), "wrong": (every, np.full(n, 77.0))}
    for name, (columns, values) in starts.items():
        with backend.load(known.problem, Options(gap=0.0)) as session:
            if not can(backend, Capability.MIP_START):
                _refuses(partial(session.set_start, columns, values), "set_start", "MIP_START")
                continue
            session.set_start(columns, values, strong=name == "good")
            right(known, run(session), config, f"{known.name} with a {name} start")
    if can(backend, Capability.MIP_START):
        _start_is_kept(backend, config)


def _start_is_kept(backend: Backend, config: Config) -> None:
    """Check that what is returned after a short time is no worse than a feasible start."""
    problem = endless()
    room, order = problem.row_upper.copy(), np.argsort(-problem.cost)
    x, dense = np.zeros(problem.n_columns), problem.matrix.toarray()
    for j in order:
        if (dense[:, j] <= room).all():
            x[j], room = 1.0, room - dense[:, j]
    with backend.load(problem, Options(time_limit=0.5)) as session:
        session.set_start(np.arange(problem.n_columns), x)
        found = run(session)
    value = problem.objective(x)
    assert found.objective is not None, "a feasible start was given, and no point came back"
    assert found.objective >= value - config.close(value), (
        f"a start of {value:.9g} was given, {found.objective:.9g} came back"
    )


@since("0.1")
def check_injection(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: points offered while the solver runs do no harm; where they are not taken, the call says so."""
    usable(backend, Feature.INTEGER)
    known = integral()[3]
    with backend.load(known.problem, Options(gap=0.0)) as session:
        point = np.zeros(known.problem.n_columns)
        if not can(backend, Capability.INJECT_POINT):
            _refuses(lambda: session.inject(point), "inject", "INJECT_POINT")
            return
        session.inject(point)
        session.inject(np.full(known.problem.n_columns, 55.0))
        right(known, run(session), config, f"{known.name} with injected points")


@since("0.1")
def check_events(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: events tell of incumbents that exist and of bounds on the right side."""
    usable(backend, Feature.INTEGER)
    for known in (*integral()[3:], hard(30)):
        heard: list[Event] = []
        found = solved(backend, known.problem, heard, time_limit=5.0)
        honest_events(known, heard, config)
    if not can(backend, Capability.INCUMBENT_EVENT):
        return
    told = [e for e in heard if isinstance(e, Incumbent) and e.objective is not None]
    assert told or found.x is None, "INCUMBENT_EVENT is claimed, but no incumbent of a long search was told"


@since("0.1")
def check_interrupt(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: `should_stop` and `interrupt` stop the solver soon; where they cannot, `interrupt` says so."""
    usable(backend, Feature.INTEGER)
    if not can(backend, Capability.INTERRUPT):
        with backend.load(integral()[0].problem, Options()) as session:
            _refuses(session.interrupt, "interrupt", "INTERRUPT")
        return
    problem, limit = endless(), 0.4 + config.grace
    for how in ("should_stop", "interrupt"):
        with backend.load(problem, Options(time_limit=60.0)) as session:
            began = time.perf_counter()
            timer = threading.Timer(0.4, session.interrupt)
            if how == "interrupt":
                timer.start()
            stop = (lambda began=began: time.perf_counter() - began > 0.4) if how == "should_stop" else never
            found = run(session, None, stop)
            timer.cancel()
            spent = time.perf_counter() - began
        assert spent <= limit, f"{how}: the solver went on for {spent:.1f} s"
        sane(problem, found, how, None, config)
        assert found.status == "interrupted", f"{how}: status {found.status!r} after an interruption"


def _refuses(call: Callable[[], None], method: str, capability: str) -> None:
    """Check that what is not claimed is refused."""
    try:
        call()
    except UnsupportedFeature:
        return
    raise AssertionError(f"{method}() must raise UnsupportedFeature, because {capability} is not claimed")


# ---- sessions ---------------------------------------------------------------------------------------


@since("0.1")
def check_session_reuse(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: after changed bounds, costs and rows a session answers the changed problem, there and back."""
    usable(backend)
    for integer in ([0, 0], [1, 1]):
        base = make([[2, 3]], [-INF], [12.5], [0, 0], [5, 5], [1, 1.4], integer, maximize=True, offset=1.0)
        if missing(base.needs, backend.accepts):
            continue
        with backend.load(base, Options(gap=0.0)) as session:
            for step, (what, now) in enumerate(_changes(session, base)):
                fresh = solved(backend, now)
                known = Known("", now, fresh.status, fresh.objective)
                right(known, run(session), config, f"step {step}, {what}, integers {bool(integer[0])}")


def _changes(session: Session, problem: Problem) -> Iterable[tuple[str, Problem]]:
    """Change a session step by step; yield what was done and the problem as it is then."""
    yield "as loaded", problem
    yield "again", problem
    session.set_bounds(np.array([0]), np.array([0.0]), np.array([1.5]))
    problem = replace(problem, upper=np.array([1.5, 5.0]))
    yield "set_bounds", problem
    session.set_cost(np.array([1]), np.array([0.1]))
    problem = replace(problem, cost=np.array([1.0, 0.1]))
    yield "set_cost", problem
    extra = np.array([[1.0, 1.0]])
    session.add_rows(sp.csr_array(extra), np.array([-INF]), np.array([3.5]))
    rows = sp.csr_array(np.vstack([problem.matrix.toarray(), extra]))
    problem = replace(problem, matrix=rows, row_lower=np.array([-INF, -INF]), row_upper=np.array([12.5, 3.5]))
    yield "add_rows", problem
    session.set_bounds(np.array([0, 1]), np.array([4.0, 4.0]), np.array([5.0, 5.0]))
    yield "bounds that cannot hold", replace(problem, lower=np.array([4.0, 4.0]), upper=np.array([5.0, 5.0]))
    session.set_bounds(np.array([0, 1]), np.array([0.0, 0.0]), np.array([5.0, 5.0]))
    problem = replace(problem, lower=np.zeros(2), upper=np.full(2, 5.0))
    yield "bounds back", problem
    session.set_cost(np.array([0, 1]), np.array([-1.0, -2.0]))
    yield "costs turned round", replace(problem, cost=np.array([-1.0, -2.0]))


@since("0.1")
def check_two_sessions(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: two sessions at once, with different numbers of threads, do not disturb each other."""
    usable(backend, Feature.INTEGER)
    one, two = integral()[3], integral()[4]
    with (
        backend.load(one.problem, Options(gap=0.0)) as first,
        backend.load(two.problem, Options(gap=0.0, threads=2)) as second,
    ):
        right(one, run(first), config, "first of two sessions")
        right(two, run(second), config, "second of two sessions, two threads")
        first.set_bounds(np.arange(5), np.full(5, -1.0), np.full(5, 3.0))
        right(one, run(first), config, "first of two sessions, again")
