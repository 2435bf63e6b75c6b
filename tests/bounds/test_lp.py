"""Bounds from linear programs: proofs, at least as narrow as a plain full pass, and stopped and continued at will."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.box import Region, input_bounds
from nnembed.bounds.lp import Lp
from nnembed.bounds.lp_pieces import emit
from nnembed.bounds.lp_relaxation import Program, Relaxation
from nnembed.bounds.lp_solver import HotProgram
from nnembed.bounds.safe_dual import SafeDual
from nnembed.ir.gradient import gradient
from nnembed.ir.linear import Convolution, Dense, Selection
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Max, relu
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]
DATA = Path(os.environ.get("NNEMBED_DATA", Path(__file__).parents[3] / "shared" / "data"))
NETS = DATA.parent / "bench" / "nets"


def crown(net, low, high):
    return nn.tighten(net, (low, high), ("interval", "crown"))


def assert_inside(net, bounds, points):
    state = net.forward(points)
    for name, low in bounds.low.items():
        assert (state[name] >= low[0]).all(), name
        assert (state[name] <= bounds.high[name][0]).all(), name


def searched(net, low, high, rng, count):
    """Samples, corners and points that sign-gradient steps on every entry of every tensor lead to."""
    share = rng.uniform(size=(count, len(low)))
    share[: count // 3] = np.round(share[: count // 3])
    found = [low + share * (high - low)]
    name = net.inputs[0].name
    for node in net.nodes:
        n = net.tensors[node.output].size
        for sign in (-1.0, 1.0):
            weights = np.repeat(sign * np.eye(n), 4, axis=0)
            x = low + rng.uniform(size=(4 * n, len(low))) * (high - low)
            for _ in range(3):
                slope = gradient(net, net.forward({name: x}), {node.output: weights})[name]
                x = np.where(slope > 0, high, np.where(slope < 0, low, x))
                found.append(x)
    return {name: np.clip(np.concatenate(found), low, high)}


def conv_net(rng):
    """4x4 images, a convolution, a max pool over overlapping windows, a residual sum, a deeper end."""
    conv = Convolution(rng.normal(size=(2, 1, 2, 2)), (4, 4), (1, 1), (1, 1), ((1, 0), (0, 1)))
    n = conv.shape[0]
    grid = np.arange(n).reshape(2, 4, 4)
    windows = np.stack([grid[:, i : i + 3, j : j + 3].ravel() for i in (0, 1) for j in (0, 1)], axis=1)
    k = len(windows)
    sizes = {"x": 16, "c": n, "r": n, "p": k, "s": k, "q": k, "t": 6, "v": 6, "y": 2}
    tensors = {name: TensorSpec(name, (size,)) for name, size in sizes.items()}
    picks = Selection(rng.permutation(n)[:k], n)
    nodes = (
        Affine("conv", ("x",), "c", (conv,), rng.normal(size=n)),
        relu("relu", "c", "r", n),
        Max("pool", ("r",), "p", windows),
        Affine("sum", ("p", "r"), "s", (Selection(np.arange(k), k), picks), rng.normal(size=k) - 1),
        relu("relu2", "s", "q", k),
        Affine("dense", ("q",), "t", (Dense(rng.normal(size=(6, k))),), rng.normal(size=6)),
        relu("relu3", "t", "v", 6),
        Affine("out", ("v",), "y", (Dense(rng.normal(size=(2, 6))),), np.zeros(2)),
    )
    return Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="conv")


# ---- proofs -------------------------------------------------------------------------------------


@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.booleans(),
    st.floats(0.0, 5.0),
    st.sampled_from([0.0, -3.0, 4.0]),
)
@settings(max_examples=40, deadline=None)
def test_samples_and_searched_points_stay_inside(seed, first, second, skip, radius, decade):
    rng = np.random.default_rng(seed)
    net = chain([(7, first), (6, second), (5, "relu"), (2, "none")], 4, rng, skip=skip)
    centre = 10**decade * rng.normal(size=4)
    size = 10**decade * radius
    low, high = centre - size * rng.uniform(size=4), centre + size * rng.uniform(size=4)
    before = crown(net, low, high)
    after = Lp(gain=1e-3).tighten(net, before, nn.Budget())
    assert_inside(net, after, searched(net, low, high, rng, 1000))
    for name in before.low:
        assert (after.low[name] >= before.low[name]).all()
        assert (after.high[name] <= before.high[name]).all()


@pytest.mark.slow
def test_a_hundred_thousand_points_of_many_networks_stay_inside():
    seen = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        deep = chain([(8, KINDS[(seed + i) % 6]) for i in range(7)] + [(2, "none")], 3, rng, skip=seed % 2 == 0)
        wide = chain([(60, KINDS[seed % 6]), (50, "relu"), (3, "none")], 12, rng)
        for net in (deep, wide, conv_net(rng)):
            n = net.input_size
            low, high = -rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, n)
            bounds = Lp().tighten(net, crown(net, low, high), nn.Budget())
            points = searched(net, low, high, rng, 3000)
            seen += len(points["x"])
            assert_inside(net, bounds, points)
    assert seen > 100_000


def test_bounds_enclose_the_exact_range_and_gain_on_crown():
    net = chain([(4, "relu"), (4, "relu"), (1, "none")], 2, np.random.default_rng(11))
    low, high = -np.ones(2), np.ones(2)
    before = crown(net, low, high)
    after = Lp().tighten(net, before, nn.Budget())
    y = net.outputs[0].name
    assert after.low[y][0, 0] <= enumerate_optimum(net, low, high, np.ones(1), maximize=False)
    assert after.high[y][0, 0] >= enumerate_optimum(net, low, high, np.ones(1))
    assert after.high[y] - after.low[y] < before.high[y] - before.low[y]


@given(st.integers(0, 10**6), st.floats(-6, 6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_duals_give_a_bound(seed, decade, free):
    """Feasible points never beat the bound, whatever the duals and whatever their size."""
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    matrix = sp.csr_array(rng.normal(size=(m, n)) * 10.0 ** rng.integers(-3, 4, size=(m, n)))
    lower, upper = -rng.uniform(0, 2, n), rng.uniform(0, 2, n)
    x = rng.uniform(lower, upper)
    activity = matrix @ x
    spread = 1e-9 * (1 + np.abs(activity))
    row_lower = np.where(rng.uniform(size=m) < 0.3, -np.inf, activity - spread)
    row_upper = np.where(rng.uniform(size=m) < 0.3, np.inf, activity + spread)
    if free:
        upper[0], lower[-1] = np.inf, -np.inf
    safe = SafeDual(Program(matrix, row_lower, row_upper, lower, upper, np.zeros(n, bool)))
    cost = rng.normal(size=n)
    y = rng.normal(size=m) * 10.0**decade
    assert safe.bound(cost, y) <= cost @ x
    assert safe.bound(cost, np.full(m, np.nan)) <= cost @ x


@pytest.mark.parametrize("kind", KINDS)
def test_the_relaxation_holds_every_point_of_the_network(kind):
    """Columns filled from a forward pass meet all rows exactly: nothing is cut off, not even by rounding."""
    rng = np.random.default_rng(7)
    net = chain([(6, kind), (5, kind), (4, "relu"), (2, "none")], 3, rng, skip=True)
    low, high = -np.ones(3), np.ones(3)
    bounds = crown(net, low, high)
    lp = Relaxation(bounds)
    for node in net.nodes:
        emit(lp, node)
    value, program = lp.value(net.outputs[0].name), lp.program()
    for x in rng.uniform(low, high, (5, 3)):
        fixed = replace(program, lower=program.lower.copy(), upper=program.upper.copy())
        fixed.lower[lp.inputs[0]] = fixed.upper[lp.inputs[0]] = x
        solver = HotProgram(fixed)
        y = net.forward({"x": x[None]})[net.outputs[0].name][0]
        for i, row in enumerate(value.matrix.toarray()):
            least, most = (solver.minimise(sign * row) for sign in (1.0, -1.0))
            assert least.status == "optimal"
            assert value.constant[i] + least.bound - value.error[i] <= y[i] + 1e-12
            assert value.constant[i] - most.bound + value.error[i] >= y[i] - 1e-12


def test_a_zero_width_box_is_the_forward_pass():
    for kind in KINDS:
        rng = np.random.default_rng(5)
        net = chain([(6, kind), (6, kind), (2, "none")], 3, rng)
        x = rng.normal(size=3)
        bounds = nn.tighten(net, (x, x), ("interval", "lp"))
        for name, value in net.forward({"x": x[None]}).items():
            assert bounds.low[name] == pytest.approx(value, abs=1e-9)
            assert bounds.high[name] == pytest.approx(value, abs=1e-9)


def test_the_grid_rounds_outward():
    net = chain([(8, "relu"), (8, "relu"), (2, "none")], 3, np.random.default_rng(1))
    before = crown(net, -np.ones(3), np.ones(3))
    fine, coarse = (Lp(grid=g, gain=1e-9).tighten(net, before, nn.Budget()) for g in (None, 1e-2))
    y = net.outputs[0].name
    assert (coarse.low[y] <= fine.low[y]).all()
    assert (coarse.high[y] >= fine.high[y]).all()
    assert np.allclose(coarse.low[y] / 1e-2, np.round(coarse.low[y] / 1e-2))


# ---- the user's rows ----------------------------------------------------------------------------


def region(rows, sides, n, outputs, *, lower=-np.inf, upper=np.inf):
    """The inputs are the first n columns of u, the outputs the rest."""
    width = n + outputs
    inputs = sp.csr_array((np.ones(n), (np.arange(n), np.arange(n))), shape=(n, width))
    return Region(
        sp.csr_array(np.asarray(rows, float).reshape(-1, width)),
        np.asarray(sides[0], float),
        np.asarray(sides[1], float),
        np.full(width, lower),
        np.full(width, upper),
        inputs,
        np.zeros(n),
        np.arange(n, width),
    )


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_points_that_meet_the_rows_stay_inside(seed, kind, on_outputs, whole):
    rng = np.random.default_rng(seed)
    net = chain([(6, kind), (6, "relu"), (2, "none")], 3, rng)
    low, high = -np.ones(3), np.ones(3)
    points = rng.uniform(low, high, (4000, 3))
    y = net.forward({"x": points})[net.outputs[0].name]
    rows = np.concatenate([rng.normal(size=(2, 3)), rng.normal(size=(2, 2)) * on_outputs], axis=1)
    values = np.concatenate([points, y], axis=1) @ rows.T
    sides = np.quantile(values, 0.2, axis=0), np.array([np.inf, np.quantile(values[:, 1], 0.9)])
    good = ((values >= sides[0]) & (values <= sides[1])).all(axis=1)
    box = crown(net, low, high)
    start = replace(box, region=region(rows, sides, 3, 2))
    after = Lp(whole=whole).tighten(net, start, nn.Budget())
    if good.any():
        assert_inside(net, after, {"x": points[good]})
    plain = Lp().tighten(net, box, nn.Budget())
    y = net.outputs[0].name
    assert (after.high[y] - after.low[y]).sum() <= (plain.high[y] - plain.low[y]).sum() * 1.02


def test_a_required_output_narrows_the_inputs():
    """y = relu(x) + relu(2 x - 1) >= 2 means x >= 1, whatever the box says."""
    tensors = {n: TensorSpec(n, (s,)) for n, s in (("x", 1), ("g", 2), ("r", 2), ("y", 1))}
    nodes = (
        Affine("in", ("x",), "g", (Dense(np.array([[1.0], [2.0]])),), np.array([0.0, -1.0])),
        relu("relu", "g", "r", 2),
        Affine("out", ("r",), "y", (Dense(np.ones((1, 2))),), np.zeros(1)),
    )
    net = Network((tensors["x"],), (tensors["y"],), nodes, tensors)
    box = crown(net, np.array([-2.0]), np.array([2.0]))
    start = replace(box, region=region([[0.0, 1.0]], ([2.0], [np.inf]), 1, 1))
    bounds = start
    for _ in range(12):  # each pass narrows the triangles, and with them the next one
        bounds = replace(Lp(gain=1e-9).tighten(net, bounds, nn.Budget()), history=())
    assert bounds.low["x"][0, 0] == pytest.approx(1.0, abs=1e-6)
    assert bounds.low["x"][0, 0] <= 1.0


def test_rows_without_a_point_leave_the_bounds_alone():
    net = chain([(5, "relu"), (5, "relu"), (1, "none")], 2, np.random.default_rng(0))
    box = crown(net, -np.ones(2), np.ones(2))
    start = replace(box, region=region([[1.0, 1.0, 0.0]], ([5.0], [np.inf]), 2, 1))
    after = Lp().tighten(net, start, nn.Budget())
    for name in box.low:
        assert np.array_equal(after.low[name], box.low[name])
        assert np.array_equal(after.high[name], box.high[name])


def test_rows_join_the_points_of_a_batch():
    """Two points that sum to zero, the first at least a half: the second is at most minus a half."""
    net = chain([(5, "relu"), (5, "relu"), (1, "none")], 1, np.random.default_rng(4))
    box = crown(net, np.full((2, 1), -1.0), np.full((2, 1), 1.0))
    joined = Region(
        sp.csr_array(np.array([[1.0, 1.0], [1.0, 0.0]])),
        np.array([0.0, 0.5]),
        np.array([0.0, np.inf]),
        np.full(2, -np.inf),
        np.full(2, np.inf),
        sp.csr_array(np.eye(2)),
        np.zeros(2),
        np.full(2, -1),
    )
    after = Lp().tighten(net, replace(box, region=joined), nn.Budget())
    assert after.low["x"][:, 0] == pytest.approx([0.5, -1.0], abs=1e-9)
    assert after.high["x"][:, 0] == pytest.approx([1.0, -0.5], abs=1e-9)
    first = np.linspace(0.5, 1.0, 200)
    for k, x in enumerate((first, -first)):
        for name, value in net.forward({"x": x[:, None]}).items():
            assert (value >= after.low[name][k]).all()
            assert (value <= after.high[name][k]).all()


# ---- budgets, resumption, executors -------------------------------------------------------------


def hard():
    rng = np.random.default_rng(3)
    net = chain([(20, "relu"), (20, "relu"), (20, "relu"), (2, "none")], 4, rng)
    return net, crown(net, -np.ones(4), np.ones(4))


def test_a_stopped_pass_goes_on_and_repeats_no_program():
    net, box = hard()
    full = Lp().tighten(net, box, nn.Budget())
    assert full.history[-1].finished
    bounds, spent = box, []
    for _ in range(100):
        bounds = Lp().tighten(net, bounds, nn.Budget(lps=15))
        spent.append(bounds.history[-1].lps)
        if bounds.history[-1].finished:
            break
    assert bounds.history[-1].finished
    assert max(spent) <= 15
    assert bounds.unstable <= full.unstable
    again = Lp().tighten(net, bounds, nn.Budget())
    assert again.history[-1].lps == 0
    assert all(np.array_equal(again.low[t], bounds.low[t]) for t in bounds.low)


def test_other_bounds_or_settings_start_anew():
    net, box = hard()
    once = Lp(widths=False).tighten(net, box, nn.Budget())
    assert Lp().tighten(net, once, nn.Budget()).history[-1].lps > 0
    narrowed = replace(once, low={**once.low, "x": once.low["x"] + 0.5})
    assert Lp(widths=False).tighten(net, narrowed, nn.Budget()).history[-1].lps > 0


@pytest.mark.parametrize("budget", [nn.Budget(seconds=0), nn.Budget(lps=0), nn.Budget(layer_seconds=0.0)])
def test_nothing_to_spend_gives_what_was_known(budget):
    net, box = hard()
    after = Lp().tighten(net, box, budget)
    assert after.history[-1].lps == 0
    assert not after.history[-1].finished
    assert all((after.low[t] >= box.low[t]).all() for t in box.low)


def test_without_bounds_of_all_tensors_intervals_come_first():
    net, _ = hard()
    bounds = nn.tighten(net, (-1.0, 1.0), "lp")
    assert bounds.complete
    assert [p.method for p in bounds.history] == ["lp"]


def test_an_executor_gives_bounds_as_good():
    net, box = hard()
    alone = Lp(gain=1e-9).tighten(net, box, nn.Budget())
    with ThreadPoolExecutor(2) as pool:
        spread = Lp(gain=1e-9).tighten(net, box, nn.Budget(executor=pool))
    assert spread.unstable == alone.unstable
    for name in alone.low:
        assert spread.low[name] == pytest.approx(alone.low[name], abs=1e-6)
        assert spread.high[name] == pytest.approx(alone.high[name], abs=1e-6)


def test_two_runs_are_the_same():
    net, box = hard()
    first, second = (Lp().tighten(net, box, nn.Budget()) for _ in range(2))
    assert first.history[-1].lps == second.history[-1].lps
    assert all(np.array_equal(first.low[t], second.low[t]) for t in first.low)


def test_the_interior_point_method_proves_the_same_bounds():
    net, box = hard()
    lp = Relaxation(box)
    for node in net.nodes[:-1]:
        emit(lp, node)
    value = lp.value("pre_3")
    program = lp.program()
    simplex, interior = HotProgram(program), HotProgram(program)
    interior.interior = True
    for row in value.matrix.toarray():
        a, b = simplex.minimise(row), interior.minimise(row)
        assert interior.interior
        assert b.bound == pytest.approx(a.bound, abs=1e-5)
        assert b.bound <= a.bound + 1e-9


# ---- figures ------------------------------------------------------------------------------------


def task(name):
    if not (NETS / "tasks.json").exists():
        pytest.skip("the shared networks are not here")
    found = next(t for t in json.loads((NETS / "tasks.json").read_text()) if t["name"] == name)
    net = nn.load(NETS / f"{found['net']}.onnx")
    shape = net.inputs[0].shape
    return net, np.reshape(found["lb"], shape), np.reshape(found["ub"], shape)


def open_relus(bounds):
    return sum(int(bounds.open(n).sum()) for n in bounds.network.activations if n.kind == "Relu")


@pytest.mark.parametrize(
    ("name", "most", "width"),
    [
        ("peaks2_16x2", 22, 30.4),
        ("peaks2_32x3", 89, 25.4),
        ("ackley5_32x2", 63, 18.2),
        ("digits_2x50_i0_e0.1", 47, 18.8),
        ("digits_3x100_i0_e0.05", 72, 14.6),
        ("digits_3x100_i0_e0.1", 137, 34.2),
        ("digits_cnn_i0_e0.1", 38, 15.0),
    ],
)
def test_a_pass_reaches_a_plain_full_one(name, most, width):
    net, low, high = task(name)
    bounds = nn.tighten(net, (low, high), ("interval", "crown", "lp"))
    y = net.outputs[0].name
    assert open_relus(bounds) <= most
    assert (bounds.high[y] - bounds.low[y]).mean() <= width


def test_screening_needs_few_programs():
    net, low, high = task("digits_3x100_i0_e0.05")
    bounds = Lp(widths=False).tighten(net, crown(net, low, high), nn.Budget())
    assert bounds.unstable <= 72
    assert bounds.history[-1].lps <= 60


def test_batches_are_their_boxes():
    net = chain([(10, "relu"), (10, "relu"), (2, "none")], 3, np.random.default_rng(2))
    low = -np.random.default_rng(0).uniform(0.2, 1, (3, 3))
    start = crown(net, low, -low)
    whole = Lp().tighten(net, start, nn.Budget())
    for k in range(3):
        alone = Lp().tighten(net, start.repeat(np.array([k]), (1,)), nn.Budget())
        for name in alone.low:
            assert np.array_equal(whole.low[name][k], alone.low[name][0])
            assert np.array_equal(whole.high[name][k], alone.high[name][0])


def test_columns_without_bounds_do_no_harm():
    """A free column in a row leaves it without meaning; one that other rows bound is used."""
    net = chain([(5, "relu"), (5, "relu"), (1, "none")], 2, np.random.default_rng(0))
    box = crown(net, -np.ones(2), np.ones(2))
    inputs = sp.csr_array((np.ones(2), ([0, 1], [0, 1])), shape=(2, 4))
    rows = sp.csr_array(np.array([[1.0, 0, 1, 0], [0, 1.0, 0, 1], [0, 0, 0, 1.0], [0, 0, 0, 1.0]]))
    free = np.full(4, np.inf)
    sides = np.array([0.5, 0.5, -np.inf, 0.0]), np.array([0.5, 0.5, 0.25, np.inf])
    start = replace(box, region=Region(rows, *sides, -free, free, inputs, np.zeros(2), np.array([-1])))
    after = Lp().tighten(net, start, nn.Budget())
    assert after.low["x"][0] == pytest.approx([-1.0, 0.25], abs=1e-9)
    assert after.high["x"][0] == pytest.approx([1.0, 0.5], abs=1e-9)


def test_several_inputs_and_a_residual_sum():
    rng = np.random.default_rng(9)
    tensors = {
        n: TensorSpec(n, (s,)) for n, s in (("a", 2), ("b", 3), ("g", 6), ("r", 6), ("h", 6), ("q", 6), ("y", 1))
    }
    nodes = (
        Affine("in", ("a", "b"), "g", (Dense(rng.normal(size=(6, 2))), Dense(rng.normal(size=(6, 3)))), np.zeros(6)),
        relu("relu", "g", "r", 6),
        Affine("sum", ("r", "g"), "h", (Dense(rng.normal(size=(6, 6))), Selection(np.arange(6), 6)), np.zeros(6)),
        relu("relu2", "h", "q", 6),
        Affine("out", ("q", "b"), "y", (Dense(rng.normal(size=(1, 6))), Dense(rng.normal(size=(1, 3)))), np.zeros(1)),
    )
    net = Network((tensors["a"], tensors["b"]), (tensors["y"],), nodes, tensors)
    box = {"a": -np.ones(2), "b": -np.ones(3)}, {"a": np.ones(2), "b": np.ones(3)}
    bounds = nn.tighten(net, box, ("interval", "crown", "lp"))
    points = rng.uniform(-1, 1, (20000, 5))
    corners = np.array(list(product((-1.0, 1.0), repeat=5)))
    points = np.concatenate([points, corners])
    assert_inside(net, bounds, {"a": points[:, :2], "b": points[:, 2:]})
    assert input_bounds(net, box).batch == 1
