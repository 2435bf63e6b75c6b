"""Products in the objective: proven optima on HiGHS, which takes none."""

from __future__ import annotations

import itertools

import linopy
import numpy as np
import pandas as pd
import pytest
import xarray as xr
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


def test_an_optimum_of_zero_is_proved():
    net = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    m = nn.Model()
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(2, name="f")], name="x")
    on = m.add_variables(binary=True, name="on")
    y = m.embed(net, x, name="demand").sel(output=0, drop=True)
    m.add_objective(on * y - 2 * on, sense="max")
    result = m.solve(gap=1e-6, time_limit=60)
    assert result.status == "optimal"
    assert result.objective == pytest.approx(0.0, abs=1e-9)
    assert 0 <= result.bound <= 1e-8


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


# ---- nnembed.product -----------------------------------------------------------------------------------


def small_shop(seed, whole):
    """Return a net of one input, a model of three integer decisions and predictions, and a whole factor."""
    rng = np.random.default_rng(seed)
    net = chain([(4, "relu"), (1, "none")], 1, rng)
    m = nn.Model()
    index = pd.RangeIndex(3, name="s")
    x = m.add_variables(-2, 2, integer=True, coords=[index], name="x")
    y = m.embed(net, [x], name="demand").sel(output=0, drop=True)
    if whole == "binary":
        k, values = m.add_variables(binary=True, coords=[index], name="k"), (0, 1)
    else:
        k, values = m.add_variables(-1, 3, integer=True, coords=[index], name="k"), tuple(range(-1, 4))
    table = {v: float(net(np.array([[float(v)]]))[0, 0]) for v in range(-2, 3)}
    return m, k, x, y, [(a, b, a * table[b]) for a in values for b in range(-2, 3)], rng


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("whole", ["binary", "few"])
@pytest.mark.parametrize("seed", range(3))
def test_products_with_few_values_are_exact_in_rows(seed, whole, flipped):
    m, k, x, y, options, rng = small_shop(seed, whole)
    sold = nn.product(y, k) if flipped else nn.product(k, y, name="sold")
    assert isinstance(sold, linopy.LinearExpression)
    cap = 0.8
    m.add_constraints(sold.sum() <= cap, name="cap")
    weights = rng.normal(size=3)
    m.add_objective((sold * xr.DataArray(weights, dims="s")).sum() + 0.1 * x.sum() - 0.2 * k.sum(), sense="max")
    result = m.solve(gap=1e-9)
    best = max(
        sum(w * o[2] + 0.1 * o[1] - 0.2 * o[0] for w, o in zip(weights, chosen, strict=True))
        for chosen in itertools.product(options, repeat=3)
        if sum(o[2] for o in chosen) <= cap + 1e-9
    )
    assert result.status == "optimal"
    assert result.certificate.ok
    assert result.objective == pytest.approx(best, abs=1e-5)
    assert result.bound >= best - 1e-5


def test_expressions_of_whole_variables_are_linearised_too():
    m, k, _, y, _, _ = small_shop(1, "binary")
    closed = nn.product(1 - k, 2 * y + 1, name="closed")
    assert isinstance(closed, linopy.LinearExpression)
    m.add_constraints(k == xr.DataArray([0, 1, 0], dims="s"), name="fixed")
    m.add_objective(closed.sum(), sense="max")
    result = m.solve(gap=1e-9)
    most = 2 * float(nn.maximize(next(iter(m.embeddings.values())).network, (-2.0, 2.0), gap=1e-9).objective) + 1
    assert result.objective <= 2 * most + 1e-6
    values = result.values["demand"].values[:, 0]
    assert result.objective == pytest.approx(sum(2 * values[[0, 2]] + 1), abs=1e-5)


def test_factors_are_broadcast_by_name():
    m = linopy.Model()
    s, p = pd.RangeIndex(2, name="s"), pd.Index(list("abc"), name="p")
    on = m.add_variables(binary=True, coords=[s], name="on")
    y = m.add_variables(-1, 2, coords=[s, p], name="y")
    sold = nn.product(on, y, name="sold")
    m.add_constraints(sold.sum("p") == 3 * on, name="met")
    m.add_constraints(on.sum() == 1, name="one")
    m.add_objective(1 * y.sum(), sense="max")
    result = nn.solve(m)
    assert result.objective == pytest.approx(9.0)  # the open row is held at 3, the other at 6


def test_continuous_products_are_quadratic_and_for_the_objective():
    _, _, x, y = revenue_model(0)
    assert isinstance(nn.product(x.sel(f=0, drop=True), y), linopy.QuadraticExpression)
    assert isinstance(nn.product(2.0, y), linopy.LinearExpression)


def test_what_product_refuses():
    m, k, _, y, _, _ = small_shop(0, "binary")
    other = linopy.Model().add_variables(0, 1, name="z")
    with pytest.raises(nn.WrongModel, match="two models"):
        nn.product(k, other)
    with pytest.raises(nn.InputError, match="already"):
        nn.product(k, y, name="x")
    free = m.add_variables(coords=[pd.RangeIndex(3, name="s")], name="free")
    with pytest.raises(nn.BoxError, match="no finite bounds"):
        nn.product(k, free)
    with pytest.raises(nn.InputError, match="different coordinates"):
        nn.product(k, m.add_variables(0, 1, coords=[pd.RangeIndex(1, 4, name="s")], name="shifted"))
    with pytest.raises(nn.InputError, match="takes variables"):
        nn.product(1.0, 2.0)


def test_a_factor_widened_later_is_detected():
    m, k, x, y, _, _ = small_shop(0, "few")
    m.add_objective(nn.product(k, y, name="sold").sum(), sense="max")
    assert m.solve().status == "optimal"
    x.update(upper=3)
    with pytest.raises(nn.InputError, match="product 'sold' has wider bounds"):
        m.solve()
    m, k, x, y, _, _ = small_shop(0, "few")
    m.add_objective(nn.product(k, y, name="sold").sum(), sense="max")
    k.update(upper=9)
    with pytest.raises(nn.InputError, match="product 'sold' has wider bounds"):
        m.solve()


def test_pyomo_products_are_expressions():
    pyo = pytest.importorskip("pyomo.environ")
    m = pyo.ConcreteModel()
    m.x, m.y = pyo.Var(bounds=(0, 3)), pyo.Var(bounds=(0, 3))
    m.sum = pyo.Constraint(expr=m.x + m.y <= 4)
    m.worth = pyo.Objective(expr=nn.product(m.x, m.y), sense=pyo.maximize)
    assert nn.solve(m, gap=1e-4).objective == pytest.approx(4.0, abs=1e-3)


# ---- the partition of one factor ------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_pieces_alone_never_bound_beyond_a_point(seed):
    """With a chosen formulation nothing is split by boxes first; networks in a row have pieces only."""
    rng = np.random.default_rng(seed)
    first, second = (chain([(3, "relu"), (1, "none")], n, rng) for n in (2, 1))
    m = nn.Model()
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(2, name="f")], name="x")
    y = m.embed(first, x, name="first")
    z = m.embed(second, y, name="second").sel(output=0, drop=True)
    m.add_objective(x.sel(f=0, drop=True) * z - 0.3 * y.sum(), sense="max")
    result = m.solve(gap=1e-3, time_limit=20)
    points = grid([-1, -1], [1, 1], 101)
    middle = first(points)
    best = (points[:, 0] * second(middle)[:, 0] - 0.3 * middle[:, 0]).max()
    assert result.bound >= best - 1e-7 * (1 + abs(best))
    assert result.objective <= result.bound + 1e-6
    assert result.certificate.ok
