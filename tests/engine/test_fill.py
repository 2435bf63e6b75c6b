"""The first plan: feasible for the user's own rows where forward passes alone are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.engine.fill import first_plan
from nnembed.engine.recover import feasible
from nnembed.engine.solve import Run
from nnembed.options import Options
from nnembed.testing import chain


def rationed(seed, count=6):
    """`count` points of one network; a shared budget on inputs, at most two changed points, a floor on one output."""
    rng = np.random.default_rng(seed)
    net = chain([(6, "relu"), (5, "relu"), (1, "none")], 2, rng)
    m = nn.Model()
    points, features = pd.RangeIndex(count, name="point"), pd.RangeIndex(2, name="f")
    x = m.add_variables(-1, 1, coords=[points, features], name="x")
    on = m.add_variables(binary=True, coords=[points], name="on")
    y = m.embed(net, x, name="demand")
    m.add_constraints(x.sum() <= 0.5, name="budget")
    m.add_constraints(x.sum("f") - 2 * on <= 0, name="changed")
    m.add_constraints(on.sum() <= 2, name="few")
    m.add_objective(y.sum() - 0.1 * on.sum(), sense="max")
    return m


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_plans_are_feasible(seed):
    m = rationed(seed)
    problem = Run(m, Options())._problem()[0]
    plan = first_plan(problem, Highs(), Options(), 10.0, lambda: False)
    if plan is not None:
        assert plan.complete and feasible(problem, plan.values)
        assert problem.objective(plan.values) == pytest.approx(plan.objective)


def test_a_plan_is_there_before_the_solver_runs():
    result = rationed(0).solve(time_limit=30)
    assert result.status == "optimal" and result.certificate.ok
    assert result.history[0].source in ("forward", "first plan")
    assert result.history[0].objective is not None


def test_no_time_and_no_heuristics():
    m = rationed(1)
    assert m.solve(time_limit=0).status in ("time_limit", "feasible")
    quiet = m.solve(heuristics="none", time_limit=30)
    assert quiet.status == "optimal"
    assert not [h for h in quiet.history if h.source == "first plan"]
