"""Why there is no answer: the user's rows, the network or a bound, by name, whatever the solver offers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.engine.explain import conflict_of, own_part
from nnembed.engine.solve import Run
from nnembed.features import Capability
from nnembed.options import Options
from nnembed.testing import chain

TOP = 20.0  # more than the network can reach


class NoConflict(Highs):
    """HiGHS without its irreducible infeasible subsets."""

    capabilities = Highs.capabilities & ~Capability.CONFLICT


@pytest.fixture(scope="module")
def net():
    return chain([(6, "relu"), (5, "relu"), (1, "none")], 2, np.random.default_rng(0))


@pytest.fixture
def model(net):
    m = nn.Model()
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(2, name="f")], name="price")
    y = m.embed(net, x, name="demand")
    m.add_constraints(x.sum("f") <= 5, name="harmless")
    m.add_objective(x.sum(), sense="min")
    return m, x, y


def message(m, backend="highs"):
    result = m.solve(backend=backend)
    assert result.status == "infeasible" and result.x is None
    assert "harmless" not in result.message
    return result.message


BOTH = pytest.mark.parametrize("backend", [Highs(), NoConflict()], ids=["conflict", "elastic"])


@BOTH
def test_own_rows_that_exclude_each_other(model, backend):
    m, x, _ = model
    m.add_constraints(x.sum() >= 1, name="floor")
    m.add_constraints(x.sum() <= 0.5, name="cap")
    said = message(m, backend)
    assert said.startswith("the model's own rows have no solution, whatever the network(s) 'demand' say")
    assert ("floor and cap exclude each other" in said) == bool(Capability.CONFLICT & backend.capabilities)
    assert "relax floor by 0.5" in said or "relax cap by 0.5" in said


@BOTH
def test_a_row_and_the_bounds_of_variables(model, backend):
    m, x, _ = model
    m.add_constraints(x.sum() >= 3, name="floor")
    said = message(m, backend)
    assert "own rows have no solution" in said and "relax floor by 1" in said
    if Capability.CONFLICT & backend.capabilities:
        assert "floor and the bounds of price (2 columns) exclude each other" in said


@BOTH
def test_a_requirement_beyond_the_network(model, backend):
    m, _, y = model
    m.add_constraints(y.sum() >= TOP, name="target")
    said = message(m, backend)
    assert said.startswith("the model has no solution together with the network(s) 'demand'; without them it has")
    assert "relax target by" in said
    if Capability.CONFLICT & backend.capabilities:
        assert "target and the network 'demand' exclude each other" in said


@BOTH
def test_a_bound_on_an_output_beyond_the_network(model, backend):
    m, _, y = model
    y.lower.values[:] = TOP
    said = message(m, backend)
    assert "together with the network(s) 'demand'; without them it has" in said
    assert "relax the bound on demand by" in said
    if Capability.CONFLICT & backend.capabilities:
        assert "the bounds of demand and the network 'demand' exclude each other" in said


def test_a_requirement_that_only_integers_exclude_is_left_to_the_elastic_relaxation(model, net):
    best = nn.maximize(net, (-np.ones(2), np.ones(2)), gap=1e-7).objective
    m, _, y = model
    m.add_constraints(y.sum() >= best + 0.01, name="target")
    said = message(m)
    assert "exclude each other" not in said and "relax target by 0.0" in said


def test_a_model_without_networks():
    m = nn.Model()
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(3, name="f")], name="x")
    m.add_constraints(x >= 4, name="rows")
    m.add_objective(x.sum())
    said = nn.solve(m).message
    assert said.startswith("the model has no solution: rows[") and "the bounds of x[" in said


def test_long_conflicts_are_cut():
    n = 8
    m = nn.ArrayModel(np.zeros(n), np.full(n, np.inf), cost=np.ones(n))
    m.add_rows(np.eye(n), np.ones(n), np.inf)
    m.add_rows(np.ones((1, n)), -np.inf, n - 1.0)
    said = nn.solve(m).message
    assert "row (9 rows) cannot hold" in said


def test_a_solver_that_does_not_know_is_not_believed(model):
    class Silent(Highs):
        def load(self, problem, options):
            session = super().load(problem, options)
            session.conflict = lambda: None
            return session

    m, _, y = model
    m.add_constraints(y.sum() >= TOP, name="target")
    said = message(m, Silent())
    assert "exclude" not in said and "relax target by" in said


def test_the_conflict_is_one_and_irreducible(model):
    m, _, y = model
    m.add_constraints(y.sum() >= TOP, name="target")
    problem = Run(m, Options())._problem()[0]
    found = conflict_of(problem, Highs(), Options())
    assert "target" in [problem.row_name(int(r)) for r in found.rows]
    assert conflict_of(replace(problem, row_lower=np.full(problem.n_rows, -np.inf)), Highs(), Options()) is None
    alone, rows = own_part(problem)
    assert len(rows) == alone.n_rows == 2 and alone.n_columns == len(problem.labels)
    assert not np.isfinite(alone.upper[problem.placements[0].columns[problem.placements[0].block.outputs]]).any()
