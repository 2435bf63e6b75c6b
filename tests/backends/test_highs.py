"""The HiGHS session on small problems with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from nnembed.backends.highs import Highs
from nnembed.errors import SolverError
from nnembed.options import Options
from nnembed.problem import Problem

INF = np.inf


def problem(matrix, row_lower, row_upper, lower, upper, cost, integer=None, **kw):
    n = len(lower)
    matrix = sp.csr_array(np.asarray(matrix, float).reshape(len(row_lower), n))
    arrays = [np.asarray(a, float) for a in (row_lower, row_upper, lower, upper)]
    whole = np.zeros(n, dtype=bool) if integer is None else np.asarray(integer, bool)
    return Problem(matrix, *arrays, whole, np.asarray(cost, float), labels=np.arange(n), **kw)


def solve(p, start=None, **options):
    with Highs().load(p, Options(**options)) as session:
        if start is not None:
            session.set_start(*start)
        return session.solve(lambda event: None, lambda: False)


def test_lp_with_duals():
    found = solve(problem([[1, 1]], [-INF], [4], [0, 0], [3, 3], [1, 2], maximize=True, offset=10.0))
    assert (found.status, found.objective, found.bound) == ("optimal", 17.0, 17.0)
    assert found.duals == pytest.approx([1.0])


def test_mip_and_bound():
    found = solve(problem([[2, 3]], [-INF], [4.5], [0, 0], [5, 5], [1, 1.4], [1, 1], maximize=True))
    assert found.status == "optimal"
    assert found.objective == pytest.approx(2.0) or found.objective == pytest.approx(2.4)
    assert found.bound >= found.objective - 1e-9


@pytest.mark.parametrize(
    ("rows", "upper", "cost", "status"),
    [([[1.0]], [1.0], [1.0], "infeasible"), ([[0.0]], [INF], [-1.0], "unbounded")],
)
def test_no_answer(rows, upper, cost, status):
    low = 2.0 if status == "infeasible" else -INF
    found = solve(problem(rows, [low], [INF], [0], upper, cost))
    assert found.status == status
    assert found.x is None


def test_integer_unbounded_is_told_from_infeasible():
    assert solve(problem(np.zeros((0, 1)), [], [], [0], [INF], [-1], [1])).status == "unbounded"
    assert solve(problem([[2.0]], [1], [1], [0], [5], [-1], [1])).status == "infeasible"


def test_empty_problem():
    found = solve(problem(np.zeros((0, 0)), [], [], [], [], []))
    assert found.status == "optimal" and len(found.x) == 0


def test_convex_quadratic_objective():
    q = sp.csr_array(np.array([[2.0, 0.5], [0.5, 1.0]]))
    found = solve(problem(np.zeros((0, 2)), [], [], [-5, -5], [5, 5], [-1, -1], quadratic=q))
    want = np.linalg.solve(q.toarray(), [1, 1])
    assert found.x == pytest.approx(want, abs=1e-5)
    assert found.objective == pytest.approx(-0.5 * want.sum(), abs=1e-6)


def test_session_is_reused_after_changes():
    p = problem([[1, 1]], [-INF], [4], [0, 0], [3, 3], [1, 2], maximize=True)
    with Highs().load(p, Options()) as session:
        first = session.solve(lambda e: None, lambda: False)
        session.set_bounds(np.array([1]), np.array([0.0]), np.array([1.0]))
        second = session.solve(lambda e: None, lambda: False)
        session.add_rows(sp.csr_array(np.array([[1.0, 0.0]])), np.array([-INF]), np.array([1.5]))
        third = session.solve(lambda e: None, lambda: False)
        session.set_cost(np.array([0, 1]), np.array([-1.0, -1.0]))
        fourth = session.solve(lambda e: None, lambda: False)
    assert first.x == pytest.approx([1, 3])
    assert second.x == pytest.approx([3, 1])
    assert third.x == pytest.approx([1.5, 1])
    assert fourth.x == pytest.approx([0, 0])


def test_a_wrong_start_does_no_harm():
    p = problem([[2, 3]], [-INF], [4.5], [0, 0], [5, 5], [1, 1.4], [1, 1], maximize=True)
    bad = solve(p, start=(np.array([0, 1]), np.array([5.0, 5.0])))
    assert bad.status == "optimal" and bad.objective == pytest.approx(solve(p).objective)


def test_injected_points_are_taken():
    rng = np.random.default_rng(0)
    n = 60
    a = rng.integers(1, 100, (5, n)).astype(float)
    p = problem(a, -INF * np.ones(5), a.sum(axis=1) // 2, np.zeros(n), np.ones(n), a[0], np.ones(n), maximize=True)
    events = []
    with Highs().load(p, Options(time_limit=5)) as session:
        session.inject(np.zeros(n))
        session.solve(events.append, lambda: False)
    assert events


def test_stopping():
    rng = np.random.default_rng(0)
    n = 80
    a = rng.integers(1, 100, (30, n)).astype(float)
    p = problem(
        a, -INF * np.ones(30), a.sum(axis=1) // 2, np.zeros(n), np.ones(n), a[0] + a[3], np.ones(n), maximize=True
    )
    with Highs().load(p, Options(time_limit=20)) as session:
        found = session.solve(lambda e: None, lambda: True)
    assert found.status == "interrupted"


def test_an_interrupted_session_solves_on():
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(rng.integers(1, 50, (20, 40)).astype(float))
    sides = np.full(20, -np.inf), matrix.sum(axis=1) * 0.4
    cost = rng.integers(1, 50, 40).astype(float)
    hard = Problem(matrix, *sides, np.zeros(40), np.ones(40), np.ones(40, bool), cost, maximize=True)
    with Highs().load(hard, Options(gap=0.0)) as session:
        stopped = session.solve(lambda event: None, lambda: True)
        again = session.solve(lambda event: None, lambda: False)
    assert stopped.status == "interrupted"
    assert again.status == "optimal"
    assert again.objective == pytest.approx(again.bound)


def test_a_feasible_problem_that_presolve_calls_infeasible_is_solved():
    """HiGHS 1.15.1 says "infeasible" to three rows over five columns, unless presolve is off."""
    rows = [
        [1.1826195002974313, 0, 0, 0],
        [0.5327571791374917, -1.2628954585106371, 1, 0],
        [0.04673645744332728, 0.03547121025246665, 0, 1],
    ]
    lower = [0.7257814821074909, 1.2246237814367436, -0.0059263290958871]
    upper = [INF, 1.2246237814367436, -0.0059263290958871]
    low = [0.5817297005875097, 0.1171407686010115, 1.0093639338901557, -0.04194308506742957]
    high = [0.6817297005875097, 0.1171407686010115, 1.0456044662084925, -0.03876386165619103]
    p = problem(rows, lower, upper, low, high, [0, 0, 2.2712564729611504, 0.3191344740854057], maximize=True)
    found = solve(p)
    assert found.status == "optimal"
    assert (p.matrix @ found.x >= p.row_lower - 1e-6).all()
    assert found.objective == pytest.approx(solve(p, solver_options={"presolve": "off"}).objective)


def test_infeasible_stays_infeasible_and_limits_of_the_user_hold():
    p = problem([[1, 1]], [3], [INF], [0, 0], [1, 1], [1, 1], [1, 0])
    for options in ({}, {"time_limit": 5.0}, {"solver_options": {"time_limit": 5.0}}):
        assert solve(p, **options).status == "infeasible"


def test_more_threads_than_processors_are_no_burden():
    assert solve(problem([[1, 1]], [-INF], [4], [0, 0], [3, 3], [1, 2], maximize=True), threads=10**6).objective == 7.0


def test_refused_coefficients_are_named():
    p = problem([[1e16, 1]], [-INF], [4], [0, 0], [3, 3], [1, 2])
    with pytest.raises(SolverError, match=r"1e15.*tighten the bounds"):
        solve(p)


def test_large_networks_keep_to_the_time_limit():
    """Rules of presolve, the search for symmetry and feasibility jump look at no limit: without care 20 s for this."""
    from time import process_time

    import nnembed as nn
    from nnembed.testing.networks import chain

    network = chain([(300, "relu"), (300, "relu"), (300, "relu"), (1, "none")], 200, np.random.default_rng(0))
    began = process_time()
    result = nn.maximize(network, (0, 1), time_limit=2.0)
    assert process_time() - began < 4.0
    assert result.objective is not None and result.certificate.ok
