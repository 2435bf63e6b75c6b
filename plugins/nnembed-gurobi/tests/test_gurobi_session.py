"""Gurobi on small problems with known answers."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from nnembed.block import Indicators
from nnembed.engine.interrupt import stop_on_interrupt
from nnembed.errors import InputError, UnknownName
from nnembed.events import Incumbent
from nnembed.features import Feature
from nnembed.options import Options
from nnembed.problem import Problem

INF = np.inf


def problem(matrix, row_lower, row_upper, lower, upper, cost, integer=None, **kw):
    n = len(lower)
    matrix = sp.csr_array(np.asarray(matrix, float).reshape(len(row_lower), n))
    arrays = [np.asarray(a, float) for a in (row_lower, row_upper, lower, upper)]
    whole = np.zeros(n, dtype=bool) if integer is None else np.asarray(integer, bool)
    return Problem(matrix, *arrays, whole, np.asarray(cost, float), labels=np.arange(n), **kw)


def knapsack(n=60, rows=5, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.integers(1, 100, (rows, n)).astype(float)
    cost = rng.integers(1, 100, n) + a.mean(axis=0)
    low, high = np.full(rows, -INF), a.sum(axis=1) // 2
    return problem(a, low, high, np.zeros(n), np.ones(n), cost, np.ones(n), maximize=True)


def solve(backend, p, start=None, **options):
    with backend.load(p, Options(**options)) as session:
        if start is not None:
            session.set_start(*start)
        return run(session)


def run(session):
    return session.solve(lambda event: None, lambda: False)


# ---- linear problems ------------------------------------------------------------------------------


def test_lp_with_duals(backend):
    found = solve(backend, problem([[1, 1]], [-INF], [4], [0, 0], [3, 3], [1, 2], maximize=True, offset=10.0))
    assert (found.status, found.objective, found.bound) == ("optimal", 17.0, 17.0)
    assert found.duals == pytest.approx([1.0])


@pytest.mark.parametrize("maximize", [False, True])
def test_duals_have_the_signs_of_highs(backend, maximize):
    from nnembed.backends.highs import Highs

    rng = np.random.default_rng(3)
    a = rng.normal(size=(6, 4))
    value = a @ rng.uniform(-1, 1, 4)
    low = value - np.array([0, 0.1, INF, 0.2, 0.3, INF])
    high = value + np.array([0, INF, 0.1, 0.2, 0.4, INF])
    cost = rng.normal(size=4)
    p = problem(a, low, high, -2 * np.ones(4), 2 * np.ones(4), cost, maximize=maximize)
    ours, theirs = solve(backend, p), solve(Highs(), p)
    assert ours.objective == pytest.approx(theirs.objective)
    assert ours.duals == pytest.approx(theirs.duals, abs=1e-7)
    assert np.abs(theirs.duals).max() > 0.01


def test_lp_session_is_reused_after_changes(backend):
    p = problem([[1, 1]], [-INF], [4], [0, 0], [3, 3], [1, 2], maximize=True, offset=1.0)
    with backend.load(p, Options()) as session:
        first = run(session)
        session.set_bounds(np.array([1]), np.array([0.0]), np.array([1.0]))
        second = run(session)
        session.add_rows(sp.csr_array(np.array([[1.0, 0.0]])), np.array([-INF]), np.array([1.5]))
        third = run(session)
        session.set_cost(np.array([0, 1]), np.array([-1.0, -1.0]))
        fourth = run(session)
        session.set_bounds(np.array([0]), np.array([2.0]), np.array([2.0]))
        fifth = run(session)
    assert first.x == pytest.approx([1, 3])
    assert second.x == pytest.approx([3, 1])
    assert third.x == pytest.approx([1.5, 1]) and len(third.duals) == 2
    assert fourth.x == pytest.approx([0, 0]) and fourth.objective == pytest.approx(1.0)
    assert fifth.status == "infeasible"


@pytest.mark.parametrize("integer", [0, 1])
@pytest.mark.parametrize(
    ("rows", "low", "upper", "cost", "status"),
    [
        ([[1.0]], 2.0, 1.0, 1.0, "infeasible"),
        ([[0.0]], -INF, INF, -1.0, "unbounded"),
        ([[0.0]], 1.0, INF, -1.0, "infeasible"),  # and the ray is there all the same
    ],
)
def test_no_answer(backend, integer, rows, low, upper, cost, status):
    found = solve(backend, problem(rows, [low], [INF], [0], [upper], [cost], [integer]))
    assert (found.status, found.x, found.bound) == (status, None, None)


def test_a_ray_without_a_point_is_infeasible(backend):
    rows = [[1.0, -1.0, 0.0], [1.0, -1.0, 0.0]]
    for integer in ([0, 0, 0], [1, 1, 0]):
        p = problem(rows, [2.0, -INF], [INF, 1.0], [0, 0, 0], [INF, INF, INF], [-1, -1, -1], integer)
        assert solve(backend, p).status == "infeasible"


def test_crossed_bounds_and_sides(backend):
    for integer in ([0], [1]):
        assert solve(backend, problem([[1.0]], [-INF], [9], [2], [1], [1], integer)).status == "infeasible"
        assert solve(backend, problem([[1.0]], [3], [2], [0], [5], [1], integer)).status == "infeasible"


def test_empty_problem(backend):
    found = solve(backend, problem(np.zeros((0, 0)), [], [], [], [], [], offset=2.0))
    assert found.status == "optimal" and len(found.x) == 0 and found.objective == 2.0


def test_free_columns_ranges_and_rows_that_say_nothing(backend):
    rows = [[1.0, 1.0], [1.0, -1.0], [5.0, 7.0]]
    for integer in ([0, 0], [1, 1]):
        p = problem(rows, [-2, 1, -INF], [3, 1, INF], [-INF, -INF], [INF, INF], [1, 1], integer, maximize=True)
        found = solve(backend, p)
        assert found.status == "optimal" and found.x == pytest.approx([2, 1])


@pytest.mark.parametrize("integer", [0, 1])
def test_repeated_entries_add_up(backend, integer):
    matrix = sp.csr_array((np.array([1.0, 0.0, 1.0, 2.0]), np.array([1, 1, 0, 0]), np.array([0, 4])), shape=(1, 2))
    p = problem([[0, 0]], [-INF], [6], [0, 0], [9, 1], [1, 1], [integer, integer], maximize=True)
    assert solve(backend, replace(p, matrix=matrix)).objective == pytest.approx(2 if integer else 1 + 5 / 3)


# ---- problems with integers, sets and switches ----------------------------------------------------


def test_mip_and_bound(backend):
    found = solve(backend, problem([[2, 3]], [-INF], [4.5], [0, 0], [5, 5], [1, 1.4], [1, 1], maximize=True))
    assert found.status == "optimal"
    assert found.objective == pytest.approx(2.0)
    assert found.bound >= found.objective - 1e-9


def test_integers_beyond_zero_and_one(backend):
    p = problem([[2.0, 1.0]], [-INF], [5], [-3, 0.3], [7.5, 0.8], [1, 0], [1, 0], maximize=True)
    assert solve(backend, p).x[0] == pytest.approx(2)
    assert solve(backend, problem([[1.0]], [-INF], [9], [0.3], [0.7], [1], [1])).status == "infeasible"


def test_mip_session_is_reused_after_changes(backend):
    p = problem([[2, 3]], [-INF], [4.5], [0, 0], [5, 5], [1, 1.4], [1, 1], maximize=True, offset=1.0)
    with backend.load(p, Options()) as session:
        first = run(session)
        session.set_bounds(np.array([0]), np.array([0.0]), np.array([1.0]))
        second = run(session)
        session.set_cost(np.array([1]), np.array([0.5]))
        third = run(session)
        session.add_rows(sp.csr_array(np.array([[1.0, 1.0]])), np.array([-INF]), np.array([0.5]))
        fourth = run(session)
        session.set_bounds(np.array([0]), np.array([1.0]), np.array([1.0]))
        fifth = run(session)
        session.set_bounds(np.array([0]), np.array([0.0]), np.array([5.0]))
        session.set_cost(np.array([0, 1]), np.array([-1.0, -1.0]))
        sixth = run(session)
    values = [s.objective for s in (first, second, third, fourth, sixth)]
    assert values == pytest.approx([3.0, 2.4, 2.0, 1.0, 1.0])
    assert fifth.status == "infeasible"


def test_sos1(backend):
    def best(cost, sets):
        empty = np.zeros((0, 3))
        return solve(backend, problem(empty, [], [], [0] * 3, [2, 3, 4], cost, maximize=True, sos1=(np.array(sets),)))

    assert best([1, 1, 0.5], [[0, 1, 2]]).x == pytest.approx([0, 3, 0])
    assert best([1, 1, 1], [[0, 1], [1, 2]]).objective == pytest.approx(6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_indicator_rows_hold_where_the_binary_has_its_value(backend, value):
    row = sp.csr_array(np.array([[0.0, 1.0]]))
    rules = Indicators(np.array([0]), np.array([value]), row, np.array([2.0]), np.array([3.0]))

    def best(binary, maximize):
        p = problem(
            [[1, 0]], [binary], [binary], [0, 0], [1, 5], [0, 1], [1, 0], maximize=maximize, indicators=(rules,)
        )
        assert p.needs & Feature.INDICATOR
        return solve(backend, p).objective

    assert (best(value, True), best(value, False)) == pytest.approx((3, 2))
    assert (best(1 - value, True), best(1 - value, False)) == pytest.approx((5, 0))


# ---- quadratic objectives -------------------------------------------------------------------------


@pytest.mark.parametrize("maximize", [False, True])
def test_convex_quadratic_objective(backend, maximize):
    q = sp.csr_array(np.array([[2.0, 0.5], [0.5, 1.0]]))
    sign = -1.0 if maximize else 1.0
    sense = {"quadratic": sign * q, "maximize": maximize, "offset": 3}
    found = solve(backend, problem(np.zeros((0, 2)), [], [], [-5, -5], [5, 5], [-sign, -sign], **sense))
    want = np.linalg.solve(q.toarray(), [1, 1])
    assert found.objective == pytest.approx(3 - sign * 0.5 * want.sum(), abs=1e-4)
    assert found.x == pytest.approx(want, abs=1e-2)


def test_quadratic_objective_with_integers_start_and_changes(backend):
    q = sp.csr_array(np.array([[2.0, 0.0], [0.0, 2.0]]))
    p = problem([[1.0, 1.0]], [-INF], [3], [0, 0], [5, 5], [-5.2, -3], [1, 1], quadratic=q)
    with backend.load(p, Options()) as session:
        session.set_start(np.array([0, 1]), np.array([2.0, 1.0]))
        first = run(session)
        session.set_cost(np.array([0]), np.array([0.0]))
        second = run(session)
    assert first.objective == pytest.approx(p.objective(np.array([2.0, 1.0])), abs=1e-5)
    assert second.objective == pytest.approx(-2, abs=1e-5)


def test_a_product_is_solved_globally(backend):
    q = sp.csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    p = problem([[1.0, 2.0]], [-INF], [4], [-1, 0], [3, 3], [0, 0], quadratic=q, maximize=True)
    assert p.needs & Feature.NONCONVEX and not p.needs & ~backend.accepts
    found = solve(backend, p)
    assert found.status == "optimal" and found.objective == pytest.approx(2, rel=1e-3)
    assert found.bound >= 2 - 1e-6


# ---- starts, points, events, stopping -------------------------------------------------------------


def test_a_wrong_start_does_no_harm(backend):
    p = problem([[2, 3]], [-INF], [4.5], [0, 0], [5, 5], [1, 1.4], [1, 1], maximize=True)
    bad = solve(backend, p, start=(np.array([0, 1]), np.array([5.0, 5.0])))
    assert bad.status == "optimal" and bad.objective == pytest.approx(2.0)


@pytest.mark.parametrize("share", ["all", "most"])
def test_the_start_is_an_incumbent_at_once(backend, share):
    p = knapsack(100, 30)
    best = solve(backend, p, time_limit=1.0).x
    columns = np.arange(100) if share == "all" else np.arange(90)
    events = []
    with backend.load(p, Options(solver_options={"Presolve": 0})) as session:
        session.set_start(columns, np.rint(best[columns]), strong=share == "all")
        session.solve(events.append, lambda: bool(events))
    first = next(e for e in events if e.objective is not None)
    assert first.objective >= (p.objective(np.rint(best)) if share == "all" else 0) - 1e-6


def test_points_offered_while_it_runs_are_taken(backend):
    p = knapsack(100, 30)
    better = np.rint(solve(backend, p, time_limit=1.5).x)
    seen = []
    with backend.load(p, Options(time_limit=20, solver_options={"Presolve": 0})) as session:

        def on_event(event):
            if not seen:
                session.inject(better)
            seen.append(event)

        deadline = time.perf_counter() + 10
        found = session.solve(on_event, lambda: reached(seen, p.objective(better)) or time.perf_counter() > deadline)
    assert found.objective >= p.objective(better) - 1e-6


def reached(events, value):
    return any(e.objective is not None and e.objective >= value - 1e-6 for e in events)


def test_points_offered_before_are_taken(backend):
    p = knapsack()
    with backend.load(p, Options(time_limit=5)) as session:
        session.inject(np.zeros(60))
        assert run(session).status == "optimal"


def test_events_tell_incumbents_and_bounds_in_order(backend):
    p = knapsack(30, 10)
    events = []
    with backend.load(p, Options(time_limit=3)) as session:
        found = session.solve(events.append, lambda: False)
    assert all(isinstance(e, Incumbent) for e in events)
    values = [e.objective for e in events if e.objective is not None]
    bounds = [e.bound for e in events if e.bound is not None]
    assert values == sorted(values) and values[-1] == pytest.approx(found.objective)
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] >= found.objective - 1e-6
    assert [e.seconds for e in events] == sorted(e.seconds for e in events)


def test_an_observer_that_fails_stops_the_solver_and_is_heard(backend):
    def fails(event):
        raise ZeroDivisionError("observer")

    with backend.load(knapsack(100, 30), Options(time_limit=20)) as session:
        started = time.perf_counter()
        with pytest.raises(ZeroDivisionError, match="observer"):
            session.solve(fails, lambda: False)
        assert time.perf_counter() - started < 5


@pytest.mark.parametrize("p", [knapsack(100, 30), problem([[1.0]], [0], [1], [0], [1], [1])], ids=["mip", "lp"])
def test_should_stop(backend, p):
    with backend.load(p, Options(time_limit=20)) as session:
        assert session.solve(lambda e: None, lambda: True).status == "interrupted"
        stops = iter([False] * 10)
        found = session.solve(lambda e: None, lambda: next(stops, True))
    assert found.status in ("interrupted", "optimal")


def test_interrupt_from_another_thread_keeps_the_point(backend):
    p = knapsack(200, 40)
    with backend.load(p, Options(time_limit=30, gap=0.0)) as session:
        timer = threading.Timer(0.7, session.interrupt)
        timer.start()
        started = time.perf_counter()
        found = run(session)
        timer.join()
    assert time.perf_counter() - started < 10
    assert found.status == "interrupted" and found.x is not None
    assert found.objective == pytest.approx(p.objective(found.x)) and found.bound >= found.objective


def test_ctrl_c(backend):
    p = knapsack(200, 40)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    with backend.load(p, Options(time_limit=30, gap=0.0)) as session, stop_on_interrupt() as stopped:
        timer.start()
        started = time.perf_counter()
        found = session.solve(lambda event: None, stopped)
    assert time.perf_counter() - started < 10
    assert found.status == "interrupted" and found.x is not None


def test_time_limit(backend):
    p = knapsack(200, 40)
    found = solve(backend, p, time_limit=0.5, gap=0.0)
    assert found.status == "feasible" and found.bound >= found.objective
    assert solve(backend, p, time_limit=0.0).status == "time_limit"
    assert solve(backend, problem([[1.0]], [0], [1], [0], [1], [1]), time_limit=0.0).status == "time_limit"


def test_two_sessions_at_once(backend):
    first, second = knapsack(30, 3, seed=1), knapsack(30, 3, seed=2)
    want = [solve(backend, p).objective for p in (first, second)]
    with backend.load(first, Options()) as a, backend.load(second, Options()) as b:
        found = {}
        threads = [threading.Thread(target=lambda k=k, s=s: found.update({k: run(s)})) for k, s in ((0, a), (1, b))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert [found[k].objective for k in (0, 1)] == pytest.approx(want)


def test_same_seed_same_run(backend):
    p = knapsack(30, 10)
    runs = [solve(backend, p, seed=7) for _ in range(2)]
    assert runs[0].nodes == runs[1].nodes and (runs[0].x == runs[1].x).all()


# ---- options --------------------------------------------------------------------------------------


def test_a_binary_can_be_widened(backend):
    with backend.load(problem([[1.0]], [-INF], [9.5], [0], [1], [1], [1], maximize=True), Options()) as session:
        assert run(session).objective == pytest.approx(1)
        session.set_bounds(np.array([0]), np.array([-2.0]), np.array([12.0]))
        assert run(session).objective == pytest.approx(9)


def test_an_unknown_option_names_the_closest(backend):
    with pytest.raises(UnknownName, match="did you mean 'MIPGap'"):
        backend.load(knapsack(), Options(solver_options={"MIPGaps": 1}))


@pytest.mark.parametrize("value", [-3.5, "many"])
def test_a_refused_value_names_the_option(backend, value):
    with pytest.raises(InputError, match="Cuts"):
        backend.load(knapsack(), Options(solver_options={"Cuts": value}))


def test_user_options_win(backend):
    found = solve(backend, knapsack(200, 40), gap=0.0, solver_options={"NodeLimit": 1}, time_limit=30)
    assert found.status == "feasible" and found.nodes <= 2


def test_capabilities_are_honest(backend):
    with backend.load(knapsack(), Options()) as session:
        for method in ("solve", "set_start", "set_cost", "set_bounds", "add_rows", "inject", "interrupt", "close"):
            assert callable(getattr(session, method))
    assert not backend.accepts & (Feature.RELU | Feature.QUADRATIC_ROWS | Feature.COMPLEMENTARITY)
