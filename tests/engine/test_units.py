"""Objectives and rows of tiny numbers: the same answers as in units that solvers like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.engine.recover import better_of
from nnembed.engine.units import InUnits, loaded, objective_size
from nnembed.heuristics.scene import Point
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Solution
from nnembed.testing import enumerate_optimum
from nnembed.testing.networks import random_network

INF = np.inf


def solvers():
    known = registry().parts("backend")
    return [n for n in ("highs", "scip") if n in known and known[n].available()]


def shrunk(network: Network, factor: float) -> Network:
    """Return the network with its last layer multiplied by a power of two."""
    *first, last = network.nodes
    smaller = tuple(Dense(factor * o.rows(np.arange(len(last.bias)))) for o in last.operators)
    return replace(network, nodes=(*first, replace(last, operators=smaller, bias=factor * last.bias)))


@pytest.mark.parametrize("backend", solvers())
@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(seed=st.integers(0, 10_000), power=st.integers(0, 45), rows=st.booleans())
def test_outputs_may_be_as_small_as_they_like(backend, seed, power, rows):
    network = random_network(seed, inputs=3, width=3)
    factor = 2.0**-power
    only = np.eye(network.output_size)[0]
    constraints = (np.ones((1, 3)), -INF, 0.5) if rows else None
    small = nn.maximize(
        shrunk(network, factor), (-1, 1), only, constraints, backend=backend, heuristics="none", gap=1e-6
    )
    if rows:
        true = nn.maximize(network, (-1, 1), only, constraints, gap=1e-7).objective
    else:
        true = enumerate_optimum(network, -np.ones(3), np.ones(3), only)
    assert small.status == "optimal" and small.certificate.ok
    assert small.objective / factor == pytest.approx(true, abs=1e-5)
    assert small.bound / factor >= true - 1e-5


def lp(cost, scale=1.0):
    matrix = sp.csr_array(scale * np.array([[1.0, 2.0], [3.0, 1.0]]))
    sides = -INF * np.ones(2), scale * np.array([4.0, 6.0])
    cost = np.asarray(cost, float)
    return Problem(matrix, *sides, np.zeros(2), 10 * np.ones(2), np.zeros(2, bool), cost, maximize=True)


def solved(session):
    with session:
        return session.solve(lambda event: None, lambda: False)


def test_duals_are_the_users():
    problem = lp([1e-7, 1e-7], scale=1e-5)
    session = loaded(Highs(), problem, Options())
    assert isinstance(session, InUnits)
    found, plain = solved(session), solved(Highs().load(lp([1.0, 1.0]), Options()))
    assert found.x == pytest.approx(plain.x)
    assert found.objective == pytest.approx(1e-7 * plain.objective, rel=1e-9)
    assert found.bound == pytest.approx(1e-7 * plain.bound, rel=1e-9)
    assert found.duals == pytest.approx(1e-2 * plain.duals, rel=1e-9)


def test_points_cuts_and_bounds_are_the_users():
    problem = replace(lp([1.0, 1.0]), upper=np.array([1e-9, 1.0]), integer=np.array([False, True]))
    with loaded(Highs(), problem, Options()) as session:
        assert isinstance(session, InUnits)
        session.set_start(np.arange(2), np.array([1e-9, 1.0]))
        session.add_rows(sp.csr_array(np.array([[2.0, 0.0]])), np.array([-INF]), np.array([1e-9]))
        heard = []
        found = session.solve(heard.append, lambda: False)
    assert found.x == pytest.approx([5e-10, 1.0], rel=1e-9)
    points = [e.x for e in heard if getattr(e, "x", None) is not None]
    assert all(x[0] <= 1.0001e-9 for x in points)


def test_usual_numbers_are_left_alone():
    assert not isinstance(loaded(Highs(), lp([1.0, 1.0]), Options()), InUnits)
    assert objective_size(lp([1.0, 1.0])) == 1.0
    assert objective_size(lp([1e-7, 0.0])) == pytest.approx(1e-6)
    endless = replace(lp([1e-7, 0.0]), upper=np.array([INF, 1.0]))
    assert objective_size(endless) == 1.0


def test_a_changed_objective_is_changed_in_the_same_units():
    with loaded(Highs(), lp([1e-7, 1e-7]), Options()) as session:
        session.set_cost(np.array([0, 1]), np.array([0.0, 1e-7]))
        assert session.solve(lambda event: None, lambda: False).objective == pytest.approx(2e-7, rel=1e-9)


def test_a_point_that_beats_a_proof_refutes_it():
    problem = lp([1.0, 1.0])
    known = Point(np.arange(2), np.array([1.6, 1.2]), 2.8, 0.0, True, np.zeros(0, int))
    wrong = Solution("optimal", np.zeros(2), 0.0, 1.0)
    kept = better_of(problem, wrong, known)
    assert (kept.status, kept.objective, kept.bound) == ("feasible", pytest.approx(2.8), None)
    right = Solution("optimal", np.array([1.6, 1.2]), 2.8, 2.8)
    assert better_of(problem, right, known) is right
