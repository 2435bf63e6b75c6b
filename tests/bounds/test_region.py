"""Bounds that use the rows of a model: no feasible point is ever outside, and no optimum is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.backward import Crown
from nnembed.bounds.box import Region, input_bounds
from nnembed.bounds.interval import Interval
from nnembed.bounds.ladder import climb
from nnembed.bounds.propagate import Fbbt, preimage
from nnembed.bounds.propagate_rows import settle, system
from nnembed.engine.region import region_from
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Clip, Max, absolute, leaky_relu, relu
from nnembed.options import Budget
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]
TINY = 1e-9  # rows are met by at least this much, so that rounding decides nothing


def feasible_points(net, low, high, rows, count=5_000, seed=0):
    """Return inputs of the box whose rows (A, lower, upper) over inputs and outputs hold."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(low, high, (count, len(low)))
    points[:100] = np.where(rng.uniform(size=(100, len(low))) < 0.5, low, high)
    a, lower, upper = rows
    value = np.hstack([points, net(points)]) @ a.T
    return points[((value >= lower + TINY) & (value <= upper - TINY)).all(axis=1)]


def random_rows(net, low, high, rng, share=0.1):
    """Return rows over inputs and outputs that a share of the box meets, or nearly so."""
    points = rng.uniform(low, high, (4000, len(low)))
    joined = np.hstack([points, net(points)])
    a = rng.normal(size=(3, joined.shape[1])) * (rng.uniform(size=(3, joined.shape[1])) < 0.6)
    a[0, len(low) :] = 0.0
    a[1, : len(low)] = 0.0
    value = joined @ a.T
    lower = np.quantile(value, 1 - share ** (1 / 3), axis=0)
    upper = np.where(rng.uniform(size=3) < 0.5, np.inf, np.quantile(value, 0.99, axis=0))
    return a, lower, np.maximum(upper, lower)


def assert_inside(net, bounds, points, box=0):
    for name, value in net.forward({net.inputs[0].name: points}).items():
        pad = 1e-12 * (1 + np.abs(value))
        assert (value >= bounds.low[name][box] - pad).all(), name
        assert (value <= bounds.high[name][box] + pad).all(), name


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(KINDS), st.booleans(), st.floats(0.01, 2.0))
@settings(max_examples=50, deadline=None)
def test_feasible_points_stay_inside(seed, first, second, skip, radius):
    rng = np.random.default_rng(seed)
    net = chain([(8, first), (7, second), (6, "relu"), (2, "none")], 4, rng, skip=skip)
    centre = rng.normal(size=4)
    low, high = centre - radius, centre + radius * rng.uniform(size=4)
    rows = random_rows(net, low, high, rng)
    points = feasible_points(net, low, high, rows)
    assume(len(points))
    plain = nn.tighten(net, (low, high))
    for methods in ("auto", "fbbt", ("interval", "fbbt"), ("fbbt", "crown")):
        bounds = nn.tighten(net, (low, high), methods, constraints=rows)
        assert_inside(net, bounds, points)
    bounds = nn.tighten(net, (low, high), constraints=rows)
    for name in plain.low:  # CROWN on a smaller box may choose other lines, so single bounds may differ
        assert bounds.low[name].shape == plain.low[name].shape


@given(st.integers(0, 10**6), st.sampled_from(KINDS))
@settings(max_examples=30, deadline=None)
def test_a_batch_has_rows_for_each_point(seed, kind):
    rng = np.random.default_rng(seed)
    net = chain([(6, kind), (6, "relu"), (2, "none")], 3, rng)
    low = rng.normal(size=(3, 3))
    high = low + 1.0
    low[2], high[2] = low[0], high[0]
    rows = random_rows(net, low[0], high[0], rng, 0.3)
    together = nn.tighten(net, (low, high), constraints=rows)
    for k in range(3):
        points = feasible_points(net, low[k], high[k], rows)
        if len(points):
            assert_inside(net, together, points, k)


def test_a_row_that_joins_points():
    """x0 + x1 >= 1.8 over two points of one input each, in [0, 1]: each is at least 0.8."""

    net = chain([(5, "relu"), (1, "none")], 1, np.random.default_rng(0))
    start = input_bounds(net, (np.zeros((2, 1)), np.ones((2, 1))))
    one = np.array([1.8])
    none = np.array([-1, -1])
    region = Region(
        sp.csr_array(np.ones((1, 2))), one, np.array([np.inf]), np.zeros(2), np.ones(2), sp.csr_array(sp.eye_array(2)),
        np.zeros(2), none,
    )  # fmt: skip
    found = climb(replace(start, region=region), [Fbbt(), Crown()], Budget())
    assert found.low["x"] == pytest.approx(np.full((2, 1), 0.8))
    alone = nn.tighten(net, (0.8, 1.0))
    assert found.low[net.outputs[0].name][0] == pytest.approx(alone.low[net.outputs[0].name][0])
    assert found.region is region


def test_points_with_one_box_but_different_rows_are_not_merged():
    """What a row proves of the first point must not be taken over by the second, whose box is the same."""

    rng = np.random.default_rng(3)
    net = chain([(6, "relu"), (5, "relu"), (1, "none")], 2, rng)
    out = net.outputs[0].name
    start = input_bounds(net, (-np.ones((2, 2)), np.ones((2, 2))))
    most = float(nn.tighten(net, (-1.0, 1.0)).high[out][0, 0])
    region = Region(
        sp.csr_array((0, 6)), np.zeros(0), np.zeros(0), np.r_[-np.ones(4), -np.inf, -np.inf],
        np.r_[np.ones(4), most - 0.2, np.inf], sp.csr_array(sp.eye_array(4, 6)), np.zeros(4), np.array([4, 5]),
    )  # fmt: skip
    found = climb(replace(start, region=region), [Fbbt(), Crown()], Budget())
    points = rng.uniform(-1, 1, (20_000, 2))
    assert found.high[out][0, 0] <= most - 0.2 + 1e-9
    assert_inside(net, found, points, 1)
    assert_inside(net, found, points[net(points)[:, 0] <= most - 0.2 - TINY], 0)


def test_rows_without_a_point_leave_the_bounds():
    net = chain([(6, "relu"), (2, "none")], 2, np.random.default_rng(1))
    plain = nn.tighten(net, (-1.0, 1.0), "interval")
    for a in (np.eye(1, 2), np.eye(1, 4, 2)):
        found = nn.tighten(net, (-1.0, 1.0), "fbbt", constraints=(a, 1e6, np.inf))
        for name in plain.low:
            assert np.array_equal(plain.low[name], found.low[name])


def test_rows_narrow_more_than_the_box_can():
    """A requirement on an output decides neurons: of y = relu(x) + relu(x - 3) on [-5, 5], y >= 4 leaves x >= 3.5."""
    tensors = {n: TensorSpec(n, (s,)) for n, s in (("x", 1), ("a", 2), ("b", 2), ("y", 1))}
    nodes = (
        Affine("in", ("x",), "a", (Dense(np.ones((2, 1))),), np.array([0.0, -3.0])),
        relu("r", "a", "b", 2),
        Affine("out", ("b",), "y", (Dense(np.ones((1, 2))),), np.zeros(1)),
    )
    net = Network((tensors["x"],), (tensors["y"],), nodes, tensors)
    found = nn.tighten(net, (-5.0, 5.0), constraints=(np.array([[0.0, 1.0]]), 4.0, np.inf))
    assert found.unstable < nn.tighten(net, (-5.0, 5.0)).unstable
    assert 2.0 <= found.low["x"][0, 0] <= 3.5 + 1e-9


def test_bounds_with_constraints_are_not_passed_on_to_a_model():
    net = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    found = nn.tighten(net, (-1.0, 1.0), constraints=(np.ones((1, 2)), 0.0, 1.0))
    with pytest.raises(nn.InputError, match="only for the constraints"):
        nn.maximize(net, (-1.0, 1.0), bounds=found)


def test_constraints_that_do_not_fit_are_refused():
    net = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    with pytest.raises(nn.InputError, match="columns"):
        nn.tighten(net, (-1.0, 1.0), constraints=(np.ones((1, 5)), 0.0, 1.0))
    with pytest.raises(nn.InputError, match="NaN"):
        nn.tighten(net, (-1.0, 1.0), constraints=(np.ones((1, 2)), np.nan, 1.0))


# ---- the parts ----------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_row_propagation_keeps_every_point(seed):
    rng = np.random.default_rng(seed)
    n, m = 5, 4
    a = rng.normal(size=(m, n)) * (rng.uniform(size=(m, n)) < 0.7)
    low, high = rng.normal(size=n) - 1, rng.normal(size=n) + 2
    low, high = np.minimum(low, high), np.maximum(low, high)
    points = rng.uniform(low, high, (3000, n))
    value = points @ a.T
    lower = np.where(rng.uniform(size=m) < 0.3, -np.inf, np.quantile(value, 0.3, axis=0))
    upper = np.where(rng.uniform(size=m) < 0.3, np.inf, np.quantile(value, 0.8, axis=0))
    open_low = np.where(rng.uniform(size=n) < 0.2, -np.inf, low)
    open_high = np.where(rng.uniform(size=n) < 0.2, np.inf, high)
    found = settle(system(sp.csr_array(a), lower, upper), open_low, open_high)
    good = points[((value >= lower + TINY) & (value <= upper - TINY)).all(axis=1)]
    if len(good):
        assert found is not None
        assert (good >= found[0]).all() and (good <= found[1]).all()


def test_an_unbounded_column_is_bounded_by_its_row_and_two_are_not():
    rows = system(
        sp.csr_array(np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])), np.array([0.0, 0.0]), np.array([4.0, 4.0])
    )
    low, high = rows.narrow(np.array([0.0, -np.inf, -np.inf]), np.array([1.0, np.inf, np.inf]))
    assert low == pytest.approx([0.0, -0.5, -np.inf])
    assert high == pytest.approx([1.0, 2.0, np.inf])


def test_rows_that_overflow_say_nothing():
    rows = system(sp.csr_array(np.array([[1e300, 1.0]])), np.array([-np.inf]), np.array([1.0]))
    low, high = rows.narrow(np.array([1e10, 0.0]), np.array([1e12, 5.0]))
    assert high[1] >= 0.0
    assert (low <= np.array([1e10, 0.0])).all()


@given(st.integers(0, 10**6), st.sampled_from(["relu", "leaky", "negative", "abs", "clip", "max"]))
@settings(max_examples=100, deadline=None)
def test_preimages_keep_every_argument(seed, kind):
    rng = np.random.default_rng(seed)
    n = 6
    nodes = {
        "relu": relu("f", "g", "y", n),
        "leaky": leaky_relu("f", "g", "y", rng.uniform(0, 2, n)),
        "negative": leaky_relu("f", "g", "y", -rng.uniform(0, 2, n)),
        "abs": absolute("f", "g", "y", n),
        "clip": Clip("f", ("g",), "y", -rng.uniform(0, 1, n), rng.uniform(0, 1, n)),
        "max": Max("f", ("g",), "y", rng.integers(0, n, (4, 3))),
    }
    node = nodes[kind]
    below, above = -rng.uniform(0, 2, (2, n)), rng.uniform(-0.5, 2, (2, n))
    below, above = np.minimum(below, above), np.maximum(below, above)
    points = rng.uniform(below, above, (2000, 2, n))
    value = node.evaluate(points)
    low = np.quantile(value, 0.2, axis=0)
    high = np.quantile(value, 0.7, axis=0)
    new_low, new_high = preimage(node, low, high, below, above)
    meets = (value >= low) & (value <= high)
    if kind == "max":
        kept = meets.all(axis=-1)
        for p in range(2):
            good = points[kept[:, p], p]
            assert (good >= new_low[p]).all() and (good <= new_high[p]).all()
    else:
        assert ((points >= new_low) | ~meets).all()
        assert ((points <= new_high) | ~meets).all()


def test_without_a_region_it_is_interval_arithmetic():
    net = chain([(6, "relu"), (5, "abs"), (2, "none")], 3, np.random.default_rng(1))
    one, other = nn.tighten(net, (-1.0, 1.0), "fbbt"), nn.tighten(net, (-1.0, 1.0), Interval())
    assert all(np.array_equal(one.low[t], other.low[t]) for t in one.low)


def test_regions_of_constraints_have_the_order_of_blocks():
    net = chain([(4, "relu"), (2, "none")], 2, np.random.default_rng(0))
    start = input_bounds(net, (np.zeros((3, 2)), np.ones((3, 2))))
    region = region_from((np.array([[1.0, 2.0, 3.0, 4.0]]), 0.0, 1.0), start)
    assert region.matrix.shape == (3, 12)
    dense = region.matrix.toarray()
    assert dense[1].tolist() == [0, 0, 1, 2, 0, 0, 0, 0, 3, 4, 0, 0]
    assert region.outputs.tolist() == list(range(6, 12))


# ---- models -------------------------------------------------------------------------------------


def array_model(net, low, high, rows, weights, *, attach=False):
    n = len(low)
    model = nn.ArrayModel(low, high, maximize=True)
    emb = nn.embed(model, net, np.arange(n), attach=attach)
    columns = np.concatenate([np.arange(n), model.positions(emb.outputs)])
    a, lower, upper = rows
    wide = np.zeros((len(a), model.n_columns))
    wide[:, columns] = a
    model.add_rows(wide, lower, upper)
    model.cost = np.zeros(model.n_columns)
    model.cost[columns[n:]] = weights
    return model, emb


def linopy_model(net, low, high, rows, weights):
    import linopy
    import xarray as xr

    model = linopy.Model()
    dims = [np.arange(len(low))]
    x = model.add_variables(xr.DataArray(low, dims=["i"]), xr.DataArray(high, dims=["i"]), coords=[("i", dims[0])])
    emb = nn.embed(model, net, x, attach=False)
    a, lower, upper = rows
    n = len(low)
    y = emb.outputs
    out = y.dims[-1]
    for k in range(len(a)):
        total = (x * xr.DataArray(a[k, :n], dims=["i"])).sum() + (y * xr.DataArray(a[k, n:], dims=[out])).sum()
        if np.isfinite(lower[k]):
            model.add_constraints(total >= lower[k])
        if np.isfinite(upper[k]):
            model.add_constraints(total <= upper[k])
    model.add_objective((y * xr.DataArray(weights, dims=[out])).sum(), sense="max")
    return model, emb


def pyomo_model(net, low, high, rows, weights):
    pyo = pytest.importorskip("pyomo.environ")
    model = pyo.ConcreteModel()
    n = len(low)
    model.x = pyo.Var(range(n), bounds=lambda m, i: (float(low[i]), float(high[i])))
    emb = nn.embed(model, net, [model.x[i] for i in range(n)], attach=False)
    y = [emb.outputs[j] for j in emb.outputs]
    a, lower, upper = rows
    columns = [*(model.x[i] for i in range(n)), *y]
    model.rows = pyo.ConstraintList()
    for k in range(len(a)):
        total = sum(float(c) * v for c, v in zip(a[k], columns, strict=True))
        if np.isfinite(lower[k]):
            model.rows.add(total >= float(lower[k]))
        if np.isfinite(upper[k]):
            model.rows.add(total <= float(upper[k]))
    model.goal = pyo.Objective(expr=sum(float(w) * v for w, v in zip(weights, y, strict=True)), sense=pyo.maximize)
    return model, emb


def case(seed, kind="relu", radius=0.6):
    rng = np.random.default_rng(seed)
    net = chain([(4, kind), (3, "relu"), (2, "none")], 3, rng)
    centre = rng.normal(size=3)
    low, high = centre - radius, centre + radius
    return net, low, high, random_rows(net, low, high, rng, 0.05), rng.normal(size=2)


@given(st.integers(0, 10**6), st.sampled_from(KINDS))
@settings(max_examples=25, deadline=None)
def test_the_optimum_is_that_of_box_bounds(seed, kind):
    net, low, high, rows, weights = case(seed, kind)
    model, _ = array_model(net, low, high, rows, weights)
    ours = nn.solve(model, gap=1e-7, heuristics="none")
    plain = nn.solve(model, gap=1e-7, bounds="crown", heuristics="none")
    assert ours.status == plain.status
    if plain.objective is not None:
        assert ours.objective == pytest.approx(plain.objective, rel=1e-5, abs=1e-5)
        assert ours.certificate.ok


@pytest.mark.parametrize("build", [array_model, linopy_model, pyomo_model])
@pytest.mark.parametrize("seed", [1, 2, 5])
def test_all_hosts_agree_with_enumeration(build, seed):
    net, low, high, rows, weights = case(seed)
    found = nn.solve(build(net, low, high, rows, weights)[0], gap=1e-7)
    attached, _ = array_model(net, low, high, rows, weights, attach=True)
    box = nn.solve(attached, gap=1e-7)
    assert found.status == box.status
    if box.objective is not None:
        assert found.objective == pytest.approx(box.objective, rel=1e-5, abs=1e-5)
        assert found.certificate.ok
    points = feasible_points(net, low, high, rows)
    if len(points):
        assert found.objective >= (net(points) @ weights).max() - 1e-6
    assert found.objective is None or found.objective <= enumerate_optimum(net, low, high, weights) + 1e-6


def tight_case():
    """Return a model whose rows decide neurons: shown by fewer open ones in the plan."""
    for seed in range(100):
        net, low, high, rows, weights = case(seed)
        model, emb = array_model(net, low, high, rows, weights)
        result = nn.solve(model, gap=1e-7)
        if result.status == "optimal" and sum(p.open for p in result.plan[0].lines) < emb.bounds.unstable:
            return net, low, high, rows, weights, model, emb, result
    raise AssertionError("no case found")


def test_bounds_from_rows_live_for_one_solve_only():
    net, _, _, _, weights, model, emb, first = tight_case()
    before = emb.bounds, emb.block
    assert "fbbt" in str(first.certificate)
    assert sum(p.open for p in emb.plan.lines) == emb.bounds.unstable
    model.row_lower[:], model.row_upper[:] = -np.inf, np.inf  # the rows are gone: what they proved must be, too
    free = nn.solve(model, gap=1e-7)
    assert (emb.bounds, emb.block) == before
    assert free.objective == pytest.approx(
        enumerate_optimum(net, model.lower[:3], model.upper[:3], weights), rel=1e-5, abs=1e-5
    )
    assert free.objective >= first.objective - 1e-6


def test_a_row_added_later_counts_at_the_next_solve():
    net, low, high, _, weights = case(2)
    none = np.zeros((0, 5)), np.zeros(0), np.zeros(0)
    model, _ = array_model(net, low, high, none, weights)
    free = nn.solve(model, gap=1e-7)
    model.maximize = False
    least = nn.solve(model, gap=1e-7).objective
    model.maximize = True
    target = 0.5 * (free.objective + least)
    model.add_rows(np.concatenate([np.zeros(3), weights])[None], -np.inf, target)
    cut = nn.solve(model, gap=1e-7)
    assert cut.status == "optimal"
    assert cut.objective == pytest.approx(target, abs=1e-5)


def test_attached_networks_keep_to_the_box():
    net, low, high, rows, weights = case(3)
    model, emb = array_model(net, low, high, rows, weights, attach=True)
    result = nn.solve(model)
    assert "fbbt" not in [p.method for p in emb.bounds.history]
    assert result.plan[0] is emb.plan


def test_why_there_is_no_answer_is_asked_without_the_rows():
    """The smallest change must be found on the network as it is on its box, not where impossible rows have put it."""
    net, low, high, _, weights = case(2)
    best = enumerate_optimum(net, low, high, weights)
    row = np.concatenate([np.zeros(3), weights])[None]
    model, _ = array_model(net, low, high, (row, np.array([best + 0.5]), np.array([np.inf])), weights)
    result = nn.solve(model)
    assert result.status == "infeasible"
    assert "row by 0.5" in result.message or "row by 0.50" in result.message, result.message


def test_methods_that_know_no_rows_are_taken_at_their_word():
    _, _, _, _, _, model, emb, first = tight_case()
    result = nn.solve(model, bounds="crown", gap=1e-7)
    assert "fbbt" not in str(result.certificate)
    assert sum(p.open for p in result.plan[0].lines) == emb.bounds.unstable
    assert result.objective == pytest.approx(first.objective, rel=1e-5, abs=1e-5)
