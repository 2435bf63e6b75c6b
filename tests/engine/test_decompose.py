"""Nearly separable problems: components, bounds on boxes, prices; never a bound beyond a feasible value."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.engine.boxes import BoxBound, Boxes
from nnembed.engine.decompose import take_apart
from nnembed.engine.dual import Dual
from nnembed.engine.leaves import LeafChoice, share_of
from nnembed.engine.parts import Part, Port, tightened
from nnembed.engine.spatial import Tree
from nnembed.hosts.linopy import LinopyHost
from nnembed.options import Options
from nnembed.problem import Overlay, overlay
from nnembed.testing import chain


def problem_of(model):
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in model.embeddings.values()]
    return overlay(LinopyHost().compile(model), layers)


def random_part(seed, inputs=3, outputs=2, rows=1):
    rng = np.random.default_rng(seed)
    kinds = [("relu", "abs"), ("relu", "relu"), ("relu",)][seed % 3]
    net = chain([(6, kind) for kind in kinds] + [(outputs, "none")], inputs, rng)
    k = inputs + 1  # one free column that the network does not read, one input that is a sum
    matrix = np.eye(inputs, k)
    matrix[0, -1] = 0.5
    port = Port(net, matrix, rng.normal(size=inputs) * 0.1, np.arange(outputs))
    n = k + outputs
    square = rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.5)
    low = rng.uniform(-1.5, 0, k)
    high = low + rng.uniform(0.1, 2, k)
    integer = np.zeros(k, dtype=bool)
    integer[-1] = seed % 2
    a = rng.normal(size=(rows, k))
    middle = a @ (0.5 * (low + high))
    return Part(
        np.arange(k), np.arange(k, n), (port,), low, high, integer, rng.normal(size=n), 0.5 * (square + square.T),
        a, middle - rng.uniform(0, 1, rows), np.where(rng.random(rows) < 0.5, np.inf, middle + 0.2),
    )  # fmt: skip


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_box_bounds_hold_at_every_allowed_point(seed):
    part, rng = random_part(seed), np.random.default_rng(seed + 1)
    low, high = part.lower[None].repeat(8, 0), part.upper[None].repeat(8, 0)
    ends = np.sort(rng.uniform(low, high, (2, *low.shape)), axis=0)
    low, high = np.concatenate([low[:1], ends[0]]), np.concatenate([high[:1], ends[1]])
    price = rng.normal(size=part.cost.shape)
    found = BoxBound(Boxes(part, low, high), price)
    for i in range(len(low)):
        v = rng.uniform(low[i], high[i], (200, part.k))
        v[:100] = np.where(rng.random((100, part.k)) < 0.5, low[i], high[i])
        v = v[((v @ part.rows.T >= part.row_lower) & (v @ part.rows.T <= part.row_upper)).all(axis=1)]
        if len(v):
            assert part.value(part.evaluate(v), price).min() >= found.bound[i] - 1e-12


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_trees_meet_the_best_point(seed):
    part, rng = random_part(seed), np.random.default_rng(seed)
    price = 0.3 * rng.normal(size=part.cost.shape)
    tree = Tree(part)
    tree.price(price)
    for _ in range(25):
        if not tree.split(1e-3):
            break
    v = rng.uniform(part.lower, part.upper, (4000, part.k))
    v[:, part.integer] = np.rint(v[:, part.integer])
    inside = ((v >= part.lower) & (v <= part.upper)).all(axis=1) & part.allowed(v)
    if inside.any():
        best = part.value(part.evaluate(v[inside]), price).min()
        assert tree.lower <= best + 1e-9
        assert tree.value <= best + 0.3 * (1 + abs(best))
    if tree.best is not None:
        assert tree.value >= tree.lower - 1e-9
        assert part.value(tree.best[None], price)[0] == pytest.approx(tree.value)
        assert tree.best == pytest.approx(part.evaluate(tree.best[None, : part.k])[0])


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_tightening_keeps_every_allowed_point(seed):
    part, rng = random_part(seed, rows=3), np.random.default_rng(seed)
    low, high = tightened(part, part.lower[None], part.upper[None])
    v = rng.uniform(part.lower, part.upper, (500, part.k))
    v[:, part.integer] = np.rint(v[:, part.integer])
    v = v[((v >= part.lower) & (v <= part.upper)).all(axis=1)]
    v = v[((v @ part.rows.T >= part.row_lower) & (v @ part.rows.T <= part.row_upper)).all(axis=1)]
    assert ((v >= low) & (v <= high)).all()


def shops(seed, count, width=5, spread=1.0):
    """Return a net price -> units that mostly falls, a model of `count` shops, prices and units."""
    rng = np.random.default_rng(seed)
    net = chain([(width, "relu"), (width, "relu"), (1, "none")], 2, rng)
    m = nn.Model()
    index = pd.RangeIndex(count, name="shop")
    price = m.add_variables(-spread, spread, coords=[index], name="price")
    feature = xr.DataArray(rng.uniform(-1, 1, count), coords=[index])
    units = m.embed(net, [price, feature], name="demand").sel(output=0, drop=True)
    return net, m, price, units, feature.values


def curves(net, feature, spread=1.0, n=801):
    """Return prices (n,) and units (shops, n)."""
    p = np.linspace(-spread, spread, n)
    return p, np.stack([net(np.column_stack([p, np.full(n, f)]))[:, 0] for f in feature])


def test_a_batch_falls_apart_and_rows_over_decisions_stay_inside():
    _, m, price, units, _ = shops(0, 4)
    on = m.add_variables(binary=True, coords=[pd.RangeIndex(4, name="shop")], name="on")
    m.add_constraints(price - on <= 0, name="switch")
    m.add_constraints(on.sum() <= 2, name="few")
    m.add_constraints(units.sum() <= 1, name="stock")
    m.add_objective((price * units).sum(), sense="max")
    found = take_apart(problem_of(m))
    assert [(p.k, len(p.outputs), len(p.rows)) for p in found.parts] == [(2, 1, 1)] * 4
    assert len(found.rows) == 2
    assert all(s.shape == (2, 3) for s in found.shares)


def test_rows_that_the_bounds_keep_are_left_out():
    _, m, price, units, _ = shops(0, 3)
    m.add_constraints(units.sum() <= float(m.variables["demand"].upper.sum()) + 1e-6, name="plenty")
    m.add_constraints(units.sum() <= 0.5 * float(m.variables["demand"].upper.sum()), name="stock")
    m.add_objective((price * units).sum(), sense="max")
    assert len(take_apart(problem_of(m)).rows) == 1


def test_what_is_not_taken_apart():
    _, m, price, units, _ = shops(0, 44)
    m.add_objective((price.sum() * units.isel(shop=0, drop=True)), sense="max")
    assert take_apart(problem_of(m)) is None  # one component of 44 decisions
    _, m, price, units, _ = shops(0, 2)
    m.add_variables(0, name="open")
    m.add_objective((price * units).sum(), sense="max")
    assert take_apart(problem_of(m)) is None


@pytest.mark.parametrize("sense", ["max", "min"])
@pytest.mark.parametrize("seed", range(3))
def test_separable_shops_equal_the_grid(seed, sense):
    net, m, price, units, feature = shops(seed, 30)
    m.add_objective((price * units).sum(), sense=sense)
    result = m.solve(gap=1e-3, time_limit=30)
    p, u = curves(net, feature)
    best = (p * u).max(axis=1).sum() if sense == "max" else (p * u).min(axis=1).sum()
    sign = 1 if sense == "max" else -1
    assert result.status == "optimal"
    assert result.certificate.ok
    assert sign * result.bound >= sign * best - 1e-9
    assert result.objective == pytest.approx(best, rel=2e-3, abs=1e-3)


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_coupled_shops_never_bound_below_a_feasible_value(seed):
    net, m, price, units, feature = shops(seed % 997, 2)
    p, u = curves(net, feature, n=201)
    limit = float(np.quantile(u[0] + u[1], 0.3 + 0.4 * (seed % 2)))
    m.add_constraints(units.sum() <= limit, name="stock")
    m.add_constraints(price.sum() >= -0.4, name="floor")
    m.add_objective((price * units).sum(), sense="max")
    result = m.solve(gap=1e-2, time_limit=10)
    total = u[0][:, None] + u[1][None]
    worth = (p * u[0])[:, None] + (p * u[1])[None]
    allowed = (total <= limit) & (p[:, None] + p[None] >= -0.4)
    if not allowed.any():
        return
    assert result.bound >= worth[allowed].max() - 1e-6
    assert result.objective is not None
    assert result.objective <= result.bound + 1e-6 * (1 + abs(result.bound))
    assert result.certificate.ok


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_any_prices_give_a_bound(seed):
    """At random prices of any sign the dual bound stays below every feasible value (minimisation form)."""
    net, m, price, units, feature = shops(seed % 991, 3)
    m.add_constraints(units.sum() <= 0.5, name="stock")
    m.add_constraints(units.sum() >= -6, name="least")
    m.add_constraints(price.sum() == 0.2, name="mean")
    m.add_objective((price * units).sum() - price.sum(), sense="max")
    problem = problem_of(m)
    dual = Dual(take_apart(problem), lambda: False, 1e-3)
    rng = np.random.default_rng(seed)
    v = rng.uniform(-1, 1, (3000, 3))
    v[:, 2] = 0.2 - v[:, 0] - v[:, 1]
    y = np.stack([net(np.column_stack([v[:, i], np.full(len(v), feature[i])]))[:, 0] for i in range(3)], axis=1)
    good = (np.abs(v) <= 1).all(axis=1) & (y.sum(axis=1) <= 0.5) & (y.sum(axis=1) >= -6)
    worth = (v * y).sum(axis=1) - v.sum(axis=1)
    for _ in range(4):
        dual.set_prices(rng.normal(size=len(dual.prices)) * 2)
        for _ in range(5):
            dual.grow()
    if good.any():
        assert dual.bound <= (-worth[good]).min() + 1e-9


def test_switches_and_a_budget_of_changes():
    """At most two of six shops may leave price 0."""
    net, m, price, units, feature = shops(5, 6)
    on = m.add_variables(binary=True, coords=[price.indexes["shop"]], name="on")
    m.add_constraints(price - on <= 0, name="up")
    m.add_constraints(price + on >= 0, name="down")
    m.add_constraints(on.sum() <= 2, name="few")
    m.add_objective((price * units).sum(), sense="max")
    result = m.solve(gap=1e-2, time_limit=30)
    p, u = curves(net, feature)
    best = np.sort(np.maximum((p * u).max(axis=1), 0))[-2:].sum()
    assert result.status == "optimal"
    assert result.objective == pytest.approx(best, rel=1.5e-2)
    assert result.bound >= best - 1e-6
    assert result.certificate.ok


@pytest.mark.parametrize("seed", range(3))
def test_prices_may_change_on_a_grown_tree(seed):
    """After any change of prices the bounds of all leaves, old and new, hold."""
    part, rng = random_part(seed), np.random.default_rng(seed)
    tree = Tree(part)
    v = rng.uniform(part.lower, part.upper, (3000, part.k))
    v[:, part.integer] = np.rint(v[:, part.integer])
    x = part.evaluate(v[part.allowed(v)])
    for _ in range(6):
        price = rng.normal(size=part.cost.shape)
        tree.price(price)
        assert not len(x) or tree.lower <= part.value(x, price).min() + 1e-9
        for _ in range(3):
            tree.split(1e-3)
        assert not len(x) or tree.lower <= part.value(x, price).min() + 1e-9


@pytest.mark.slow
def test_sixty_shops_with_stock_close_a_percent():
    _, m, price, units, _ = shops(3, 60, width=12)
    m.add_constraints(units.sum() <= 0.0, name="stock")
    m.add_objective((price * units).sum(), sense="max")
    result = m.solve(gap=1e-2, time_limit=60)
    assert result.objective is None or result.objective <= result.bound + 1e-6
    assert result.status in ("optimal", "infeasible") or result.gap < 0.05


def test_time_is_kept_and_nothing_is_lost_when_it_is_short():
    _, m, price, units, _ = shops(2, 40, width=12, spread=3.0)
    m.add_constraints(units.sum() <= 1, name="stock")
    m.add_objective((price * units).sum(), sense="max")
    for limit in (0.0, 0.2):
        result = m.solve(gap=1e-9, time_limit=limit)
        assert result.seconds <= limit + 2
        assert result.status in ("feasible", "time_limit")


# ---- choosing boxes ------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_point_of_a_box_meets_the_rows_of_the_choice(seed):
    """Any allowed point, with its true use and objective, satisfies the relaxation of its component."""
    part, rng = random_part(seed), np.random.default_rng(seed + 7)
    tree = Tree(part)
    for _ in range(int(rng.integers(0, 5))):
        tree.divide(np.flatnonzero((tree.high > tree.low).any(axis=1)))
    couple = rng.normal(size=(2, len(part.cost))) * (rng.random((2, len(part.cost))) < 0.6)
    prices = rng.normal(size=2) * (seed % 3)
    if not len(tree.bound):
        return  # no box is left: the rows exclude every point
    scale = float(rng.uniform(0.01, 2))
    share = share_of(tree, np.arange(len(tree.bound)), couple, prices, scale)
    matrix, low, high = share.rows
    v = rng.uniform(part.lower, part.upper, (300, part.k))
    v[:, part.integer] = np.rint(v[:, part.integer])
    v = v[((v >= part.lower) & (v <= part.upper)).all(axis=1)]
    v = v[((v @ part.rows.T >= part.row_lower) & (v @ part.rows.T <= part.row_upper)).all(axis=1)]
    if not len(v):
        return
    x = part.evaluate(v)
    worth = part.value(x, np.zeros(x.shape[1]))
    for point, full, value in zip(v[:60], x, worth, strict=False):
        leaf = int(np.flatnonzero(((tree.low <= point) & (point <= tree.high)).all(axis=1))[0])
        lifted = np.zeros(share.worth + 1)
        lifted[share.z[leaf]] = 1.0
        lifted[share.d[leaf]] = point - 0.5 * (tree.low[leaf] + tree.high[leaf])
        lifted[share.use], lifted[share.worth] = couple @ full, value / scale
        lifted[share.use[-1] + 1 : share.worth] = point[part.integer]
        row = matrix @ lifted
        pad = 1e-11 * (1 + abs(matrix) @ np.abs(lifted))
        assert (row >= low - pad).all()
        assert (row <= high + pad).all()
        assert (lifted >= share.lower - 1e-12).all()
        assert (lifted <= share.upper + 1e-12).all()


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_choices_never_bound_beyond_a_feasible_value(seed):
    """Whatever the prices and however coarse the boxes, the bound of a choice holds at every sampled point."""
    net, m, price, units, feature = shops(seed % 983, 3)
    rng = np.random.default_rng(seed)
    v = rng.uniform(-1, 1, (3000, 3))
    y = np.stack([net(np.column_stack([v[:, i], np.full(len(v), feature[i])]))[:, 0] for i in range(3)], axis=1)
    most, least = np.quantile(y.sum(axis=1), [0.5, 0.1])
    m.add_constraints(units.sum() <= most, name="stock")
    m.add_constraints(units.sum() >= least, name="promised")
    m.add_objective((price * units).sum() - price.sum(), sense="max")
    dual = Dual(take_apart(problem_of(m)), lambda: False, 1e-3)
    dual.set_prices(rng.normal(size=len(dual.prices)) * 2)
    for _ in range(seed % 4):
        dual.grow()
    good = (y.sum(axis=1) <= most) & (y.sum(axis=1) >= least)
    best = (-((v * y).sum(axis=1) - v.sum(axis=1)))[good].min()
    heard = []
    rounds = iter(range(3))

    def stopped():
        return False

    def offer(points):
        if next(rounds, None) is None:
            dual.bound = np.inf  # ends the search

    search = LeafChoice(dual, Highs(), Options(gap=1e-3), stopped, offer, lambda: float(best), heard.append)
    search.run()
    assert not search.infeasible
    assert all(b <= best + 1e-6 * (1 + abs(best)) for b in heard)


def switched(seed, count, share):
    """Return a model of few shops that are open or closed, with one tight stock, and its optimum on a grid."""
    net, m, price, units, feature = shops(seed, count)
    on = m.add_variables(binary=True, coords=[price.indexes["shop"]], name="on")
    m.add_constraints(price - on <= 0, name="up")
    m.add_constraints(price + on >= 0, name="down")
    p, u = curves(net, feature, n=401 if count == 2 else 61)
    limit = float(np.quantile(u.sum(axis=0), share))
    m.add_constraints(units.sum() <= limit, name="stock")
    m.add_objective((price * units).sum() - 0.1 * on.sum(), sense="max")
    worth = p * u - 0.1 * (np.abs(p) > 0)
    total, use = worth[0], u[0]
    for i in range(1, count):
        total, use = (total[:, None] + worth[i]).ravel(), (use[:, None] + u[i]).ravel()
    inside = use <= limit
    return m, float(total[inside].max()) if inside.any() else None


@pytest.mark.parametrize("seed", range(8))
def test_few_shops_with_a_tight_stock_close(seed):
    m, best = switched(seed, 2, 0.15 + 0.1 * (seed % 4))
    result = m.solve(gap=1e-4, time_limit=60)
    if result.status == "infeasible":
        assert best is None
        return
    assert result.status == "optimal"
    assert result.gap <= 1e-4
    assert result.certificate.ok
    assert best is None or result.bound >= best - 1e-9
    assert best is None or result.objective == pytest.approx(best, abs=0.02)


def test_coupled_rows_that_cannot_hold_are_infeasible_at_once():
    _, m, price, units, _ = shops(3, 6, width=8)
    m.add_constraints(units.sum() >= 0.98 * float(m.variables["demand"].upper.sum()), name="promised")
    m.add_objective((price * units).sum(), sense="max")
    result = m.solve(time_limit=60)
    assert result.status == "infeasible"
    assert result.seconds < 10


def test_runs_repeat():
    results = [switched(2, 3, 0.2)[0].solve(gap=1e-3) for _ in range(2)]
    assert results[0].objective == results[1].objective
    assert results[0].bound == results[1].bound
    assert results[0].nodes == results[1].nodes
