"""Models without a point that no solver is asked about: what is proved, and what is only not known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.engine.embed import embed
from nnembed.errors import BoxError, InputError
from nnembed.heuristics.endless import endless_column
from nnembed.hosts.arrays import ArrayModel
from nnembed.matrices import canonical
from nnembed.problem import Problem
from nnembed.testing.networks import chain, random_network


def with_columns(lower, upper, cost, integer=False):
    """Three inputs of a network, then columns of the user's own, then its output."""
    k = len(lower)
    whole = np.r_[np.zeros(3, bool), np.full(k, integer)]
    model = ArrayModel(np.r_[-np.ones(3), lower], np.r_[np.ones(3), upper], integer=whole, maximize=True)
    embed(model, chain([(8, "relu"), (1, "none")], 3, np.random.default_rng(0)), np.arange(3), name="net", attach=False)
    model.cost = np.r_[np.zeros(3), cost, 1.0]
    return model


ALONE = [("forward", None), ("none", None), ("auto", None), ("forward", np.zeros(4)), ("none", np.zeros(4))]


@pytest.mark.parametrize(("heuristics", "start"), ALONE)
def test_the_variable_that_grows_for_ever_is_named(heuristics, start):
    model = with_columns([0.0], [np.inf], [1.0])
    start = None if start is None else np.zeros(5)
    with pytest.raises(BoxError, match=r"variable x\[3\] may grow for ever; give it bounds or a row"):
        nn.solve(model, backend="none", heuristics=heuristics, start=start, time_limit=20)


def test_the_one_that_grows_among_several_is_named():
    model = with_columns([0.0, 0.0], [np.inf, np.inf], [5.0, 1.0])
    model.add_rows(np.array([[1.0, 0, 0, 1.0, 0, 0]]), -np.inf, 3.0)
    with pytest.raises(BoxError, match=r"variable x\[4\] may grow"):
        nn.solve(model, backend="none", heuristics="forward", time_limit=20)


def test_a_column_that_a_row_or_its_price_holds_is_no_error():
    held = with_columns([0.0], [np.inf], [1.0])
    held.add_rows(np.array([[0, 0, 0, 1.0, -1.0]]), -np.inf, 0.0)
    for model in (held, with_columns([0.0], [np.inf], [-1.0])):
        found = nn.solve(model, backend="none", heuristics="forward", time_limit=20)
        exact = nn.solve(model, backend="highs")
        assert exact.status == "optimal" and found.status in ("feasible", "optimal")
        assert found.objective <= exact.objective + 1e-6


def test_no_time_is_no_error():
    assert nn.solve(with_columns([0.0], [np.inf], [1.0]), backend="none", time_limit=0).status == "time_limit"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_columns_are_endless_where_a_solver_says_unbounded(seed, maximize):
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(0, 5))
    matrix = rng.integers(-2, 3, (m, n)) * rng.choice([1.0, 1e-6, 1e4], (m, 1))
    low = np.where(rng.random(m) < 0.5, -np.inf, -1.0)
    lower, upper = (np.where(rng.random(n) < 0.4, s * np.inf, s * 2.0) for s in (-1.0, 1.0))
    cost = rng.integers(-2, 3, n).astype(float)
    # Zero is a point: the program is unbounded or has an optimum, and 'infeasible' (2) stands for the first.
    problem = Problem(
        canonical(sp.csr_array(matrix)), low, np.ones(m), lower, upper, np.zeros(n, bool), cost, maximize=maximize
    )
    wide = np.vstack([matrix, -matrix[np.isfinite(low)]])
    found = linprog(
        -cost if maximize else cost, wide, np.ones(len(wide)), bounds=list(zip(lower, upper, strict=True)),
    )  # fmt: skip
    column = endless_column(problem, None)
    assert (column is not None) == (found.status in (2, 3))
    if column is not None:
        assert cost[column] != 0 and not (np.isfinite(lower[column]) and np.isfinite(upper[column]))


def test_a_tiny_coefficient_still_holds_a_column():
    row = canonical(sp.csr_array(np.array([[1.0, 1e-9], [1e-9, 0.0]])))
    every = np.zeros(2), np.full(2, np.inf)
    problem = Problem(row, np.full(2, -np.inf), np.ones(2), *every, np.zeros(2, bool), np.ones(2), maximize=True)
    assert endless_column(problem, None) is None


# ---- rows that exclude each other --------------------------------------------------------------------


@pytest.mark.parametrize(("heuristics", "start"), ALONE)
def test_rows_without_a_point_are_infeasible_and_named(heuristics, start):
    model = with_columns([], [], [])
    model.add_rows(np.array([[1.0, 1.0, 1.0, 0.0]]), 9.0, np.inf)
    began = time.perf_counter()
    found = nn.solve(model, backend="none", heuristics=heuristics, start=start, time_limit=60)
    other = nn.solve(model, backend="highs")
    assert found.status == other.status == "infeasible" and found.message == other.message
    assert "own rows have no solution" in found.message and "by 6" in found.message
    assert found.bound is None and time.perf_counter() - began < 20


def test_rows_that_the_network_alone_excludes():
    network = random_network(1, inputs=3)
    top = nn.tighten(network, (-1, 1)).upper
    row = np.r_[np.zeros(3), np.ones(1)][None], float(next(iter(top.values())).max()) + 1.0, np.inf
    found = nn.maximize(network, (-1, 1), constraints=row, backend="none", heuristics="forward", time_limit=20)
    assert found.status == "infeasible" and "without them it has" in found.message


def test_no_program_is_solved_where_the_middle_is_a_point(monkeypatch):
    import nnembed.engine.unasked as unasked

    def fail(*_):
        raise AssertionError("a linear program of the whole model")

    monkeypatch.setattr(unasked, "is_empty", fail)
    found = nn.maximize(random_network(1, inputs=3), (-1, 1), backend="none", heuristics="none")
    assert found.objective is None and found.bound is not None and "no solver was asked" in found.message


def test_what_only_whole_numbers_exclude_is_not_known():
    model = with_columns([0.0], [1.0], [0.0], integer=True)
    model.add_rows(np.array([[0, 0, 0, 1.0, 0]]), 0.4, 0.6)
    assert nn.solve(model, backend="highs").status == "infeasible"
    found = nn.solve(model, backend="none", heuristics="forward", time_limit=5)
    assert found.status == "time_limit" and found.objective is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_infeasible_without_a_solver_only_where_a_solver_says_so(seed):
    rng = np.random.default_rng(seed)
    network = random_network(int(rng.integers(20)), inputs=3)
    k = 3 + network.output_size
    rows = rng.normal(size=(2, k)), rng.normal(1.0, 1.5, 2), np.full(2, np.inf)
    alone = nn.maximize(
        network, (-1, 1), np.ones(network.output_size), constraints=rows, backend="none", heuristics="forward"
    )
    exact = nn.maximize(network, (-1, 1), np.ones(network.output_size), constraints=rows, backend="highs")
    if alone.status == "infeasible":
        assert exact.status == "infeasible"
    if exact.status == "infeasible":
        assert alone.objective is None


# ---- starts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [lambda x: x, object(), [1, [2, 3], 4], ["a", "b", "c"], {"x": len}, {1, 2}])
@pytest.mark.parametrize("search", [nn.maximize, nn.minimize])
def test_a_start_that_is_no_numbers_is_refused(search, start):
    with pytest.raises(InputError, match=r"start= is a .*; pass a Result, or numbers"):
        search(chain([(1, "none")], 3, np.random.default_rng(0)), (-1, 1), start=start)


@pytest.mark.parametrize(("start", "said"), [(np.zeros(4), "expects shape"), (np.zeros((2, 3)), "batch axes")])
def test_starts_of_a_wrong_shape_keep_their_message(start, said):
    with pytest.raises(InputError, match=said):
        nn.maximize(chain([(1, "none")], 3, np.random.default_rng(0)), (-1, 1), start=start)
