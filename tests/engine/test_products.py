"""Products in the objective: proven optima on HiGHS, which takes none."""

from __future__ import annotations

import linopy
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.engine.products import find_terms, first_pieces, relax
from nnembed.hosts.linopy import LinopyHost
from nnembed.testing import chain


def grid(low, high, n=401):
    axes = [np.linspace(a, b, n) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(low))


def revenue_model(seed, low=-1.0, high=1.0, kinds=("relu", "relu")):
    net = chain([(5, kind) for kind in kinds] + [(1, "none")], 2, np.random.default_rng(seed))
    m = nn.Model()
    x = m.add_variables(low, high, coords=[pd.RangeIndex(2, name="f")], name="x")
    y = m.embed(net, x, name="demand")
    return net, m, x, y.sel(output=0, drop=True)


@pytest.mark.parametrize("sense", ["max", "min"])
@pytest.mark.parametrize("seed", range(4))
def test_price_times_demand_equals_the_grid(seed, sense):
    net, m, x, y = revenue_model(seed)
    m.add_objective(x.sel(f=0, drop=True) * y + 0.1 * x.sel(f=1, drop=True), sense=sense)
    result = m.solve(gap=1e-3, time_limit=60)
    points = grid([-1, -1], [1, 1])
    values = points[:, 0] * net(points)[:, 0] + 0.1 * points[:, 1]
    best = values.max() if sense == "max" else values.min()
    sign = 1 if sense == "max" else -1
    assert result.status == "optimal"
    assert sign * result.objective >= sign * best - 2e-3 * (1 + abs(best))
    assert sign * result.bound >= sign * best - 1e-9
    assert result.certificate.ok
    assert m.objective.value == pytest.approx(result.objective, abs=1e-6)


@pytest.mark.parametrize("sense", ["max", "min"])
def test_squares_of_predictions(sense):
    net, m, _, y = revenue_model(7)
    m.add_objective(y * y, sense=sense)
    result = m.solve(gap=1e-3, time_limit=60)
    values = net(grid([-1, -1], [1, 1]))[:, 0] ** 2
    best = values.max() if sense == "max" else values.min()
    assert result.objective == pytest.approx(best, abs=2e-3)
    assert result.certificate.ok


def test_a_binary_factor_is_exact_at_once():
    net = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    m = nn.Model()
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(2, name="f")], name="x")
    on = m.add_variables(binary=True, name="on")
    y = m.embed(net, x, name="demand").sel(output=0, drop=True)
    m.add_objective(on * y - 0.2 * on, sense="max")
    result = m.solve(gap=1e-6)
    best = max(0.0, nn.maximize(net, (-1.0, 1.0), gap=1e-6).objective - 0.2)
    assert result.objective == pytest.approx(best, abs=1e-5)


def test_integers_with_many_values():
    net = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(3))
    m = nn.Model()
    k = m.add_variables(0, 40, integer=True, name="k")
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(2, name="f")], name="x")
    y = m.embed(net, x, name="demand").sel(output=0, drop=True)
    m.add_constraints(k + 10 * x.sum("f") <= 25, name="budget")
    m.add_objective(k * y, sense="max")
    result = m.solve(gap=1e-3, time_limit=60)
    points = grid([-1, -1], [1, 1], 201)
    most = np.clip(np.floor(25 - 10 * points.sum(1)), 0, 40)
    assert result.objective >= (most * net(points)[:, 0]).max() - 1e-2
    assert result.bound >= (most * net(points)[:, 0]).max() - 1e-6
    assert abs(float(m.solution["k"]) - round(float(m.solution["k"]))) < 1e-6


def test_products_of_own_variables_without_a_network():
    m = linopy.Model()
    a, b = m.add_variables(0, 3, name="a"), m.add_variables(0, 3, name="b")
    m.add_constraints(a + b <= 4, name="sum")
    m.add_objective(a * b, sense="max")
    result = nn.solve(m, gap=1e-5)
    assert result.objective == pytest.approx(4.0, abs=1e-3)
    assert result.bound >= 4.0 - 1e-6


def test_an_open_factor_is_named():
    m = linopy.Model()
    a, b = m.add_variables(0, name="price"), m.add_variables(0, 3, name="b")
    m.add_objective(a * b, sense="max")
    with pytest.raises(nn.BoxError, match="multiplies price, which has no finite bounds"):
        nn.solve(m)


def test_infeasible_and_no_time():
    _, m, x, y = revenue_model(1)
    m.add_objective(x.sel(f=0, drop=True) * y, sense="max")
    early = m.solve(time_limit=0)
    assert early.status in ("time_limit", "feasible")
    m.add_constraints(x.sum("f") >= 3, name="impossible")
    assert m.solve().status == "infeasible"


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_the_relaxation_contains_every_point(seed, cuts):
    """True points, lifted, satisfy every row of the relaxation, and the true objective is its objective."""
    from nnembed.heuristics.scene import Scene

    _, m, x, y = revenue_model(seed % 50, kinds=("relu", "abs"))
    m.add_objective(x.sel(f=0, drop=True) * y - x.sel(f=1, drop=True) * y + y * y, sense="max")
    embedding = next(iter(m.embeddings.values()))
    from nnembed.problem import Overlay, overlay

    layer = Overlay(embedding, embedding.name, embedding.block, embedding.inputs, embedding.attached.output_labels)
    problem = overlay(LinopyHost().compile(m), [layer])
    terms = find_terms(problem)
    relaxation = relax(problem, terms, first_pieces(problem, terms, cuts))
    scene = Scene(problem)
    rng = np.random.default_rng(seed)
    for drivers in rng.uniform(-1, 1, (20, 2)):
        point = np.empty(problem.n_columns)
        start = scene.point(drivers)
        point[start.columns] = start.values
        lifted = relaxation.lift(point)
        value = relaxation.problem.matrix @ lifted
        assert (value >= relaxation.problem.row_lower - 1e-7).all()
        assert (value <= relaxation.problem.row_upper + 1e-7).all()
        assert (lifted >= relaxation.problem.lower - 1e-7).all()
        assert (lifted <= relaxation.problem.upper + 1e-7).all()
        assert relaxation.problem.objective(lifted) == pytest.approx(problem.objective(point), abs=1e-7)
