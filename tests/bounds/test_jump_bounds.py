"""Bounds of networks with roundings and winners are proofs, with every method."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.alpha_lines import family
from nnembed.bounds.backward import Backward, rivals
from nnembed.bounds.box import contenders, input_bounds, levels
from nnembed.bounds.interval import node_interval
from nnembed.bounds.lines import lines
from nnembed.bounds.mip import Mip
from nnembed.bounds.propagate import preimage
from nnembed.bounds.stairs import Stairs
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Round, Winner
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "steep", "abs", "clip", "max", "step", "round", "winner"]
METHODS = ["interval", "crown", "alpha-crown", "fast-c2v", "opt-c2v", "lp", "rolling", "mip"]


def assert_inside(net, bounds, points):
    state = net.forward({"x": points})
    for tensor, low in bounds.low.items():
        assert (state[tensor] >= low[0]).all(), tensor
        assert (state[tensor] <= bounds.high[tensor][0]).all(), tensor


def samples(rng, low, high, count):
    corners = np.array(list(product(*zip(low, high, strict=True))))
    return np.vstack([rng.uniform(low, high, (count, len(low))), corners])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("jump", ["round", "winner"])
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.booleans(), st.booleans(), st.floats(0.01, 5.0))
@settings(max_examples=8, deadline=None)
def test_samples_and_corners_stay_inside(jump, method, seed, kind, first, skip, radius):
    rng = np.random.default_rng(seed)
    layers = [(6, jump), (5, kind)] if first else [(5, kind), (6, jump)]
    net = chain([*layers, (4, "relu"), (2, "none")], 3, rng, skip=skip)
    centre = rng.normal(size=3)
    low, high = centre - radius * rng.uniform(size=3), centre + radius * rng.uniform(size=3)
    bounds = nn.tighten(net, (low, high), ("interval", "crown", method))
    assert_inside(net, bounds, samples(rng, low, high, 2000))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("jump", ["round", "winner"])
@given(st.integers(0, 60), st.booleans())
@settings(max_examples=5, deadline=None)
def test_the_exact_range_is_enclosed(jump, method, seed, skip):
    rng = np.random.default_rng(seed)
    net = chain([(3, jump), (2, jump), (1, "none")], 2, rng, skip=skip)
    low, high = -np.ones(2), np.ones(2)
    bounds = nn.tighten(net, (low, high), ("interval", "crown", method))
    output = net.outputs[0].name
    assert bounds.low[output][0, 0] <= enumerate_optimum(net, low, high, np.ones(1), maximize=False) + 1e-9
    assert bounds.high[output][0, 0] >= enumerate_optimum(net, low, high, np.ones(1)) - 1e-9


# ---- one staircase --------------------------------------------------------------------------------


def stairs(rng, n, size):
    """Return roundings with stairs some powers of ten around `size`, all rules, limits or none."""
    step = size * rng.choice([0.5, 1.0, 0.3, 1e-2, 7.0], n)
    low = np.where(rng.random(n) < 0.3, -np.inf, rng.integers(-5, 2, n).astype(float))
    high = np.where(rng.random(n) < 0.3, np.inf, np.maximum(low, 0) + rng.integers(0, 6, n))
    return Round("r", ("g",), "y", step, rng.choice([0.1, 1.0, 3.0], n), low, high, rng.choice(["even", "down", "up"]))


def ranges(rng, node, size):
    """Return ranges of all lengths, some of whose ends are jumps."""
    n = len(node.step)
    low = rng.normal(size=(1, n)) * size * rng.choice([0.1, 1.0, 30.0], n)
    high = low + rng.exponential(size=(1, n)) * size * rng.choice([1e-6, 0.1, 1.0, 30.0], n)
    jump = (np.rint(low / node.step) + node.shift) * node.step
    low, high = np.where(rng.random(n) < 0.2, jump, low), np.where(rng.random(n) < 0.2, jump, high)
    return np.minimum(low, high), np.maximum(low, high)


def graph(node, low, high, rng):
    """Return points of the graph on [low, high] and the limits at the jumps: arguments and values (p, n)."""
    share = np.vstack([np.linspace(0, 1, 20)[:, None] * np.ones_like(low), rng.random((30, low.shape[1]))])
    g = np.clip(low + share * (high - low), low, high)
    jump = (np.rint(g / node.step) + node.shift) * node.step
    inside = (jump > low) & (jump < high)
    both = [np.where(inside, jump + sign * 1e-9 * node.step, g) for sign in (-1, 1)]
    values = [node.evaluate(np.clip(b, low, high)) for b in both]
    at = np.where(inside, jump, np.clip(g, low, high))
    return np.vstack([g, at, at, at]), np.vstack([node.evaluate(g), node.evaluate(at), *values])


@given(st.integers(0, 10**6), st.floats(-8, 6))
@settings(max_examples=200, deadline=None)
def test_every_line_is_valid(seed, exponent):
    rng = np.random.default_rng(seed)
    node = stairs(rng, 40, 10**exponent)
    low, high = ranges(rng, node, 10**exponent)
    g, y = graph(node, low, high, rng)
    slack = 1e-13 * (np.abs(y) + np.abs(node.scale / node.step * g))
    least, most = node_interval(node, [(low, high)])
    assert (y >= least - slack).all() and (y <= most + slack).all()
    one = lines(node, low, high)
    assert all(np.isfinite(a).all() for a in (one.lower_slope, one.lower_offset, one.upper_slope, one.upper_offset))
    tight = 1e-15 * np.abs(one.lower_slope * g) + slack * 1e-2
    assert (one.lower_slope * g + one.lower_offset <= y + tight).all()
    tight = 1e-15 * np.abs(one.upper_slope * g) + slack * 1e-2
    assert (one.upper_slope * g + one.upper_offset >= y - tight).all()
    many = family(node, low, high)
    assert ((many.start >= 0) & (many.start <= 1)).all()
    for t in (0.0, 1.0, rng.random(40), many.start):
        slope, offset = many.slope + t * many.turn, many.offset + t * many.shift
        assert (slope[0] * g + offset[0] <= y + many.error + slack).all()
        assert (slope[1] * g + offset[1] >= y - many.error - slack).all()


@given(st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_the_levels_are_those_of_the_ends_and_no_more(seed):
    rng = np.random.default_rng(seed)
    node = stairs(rng, 40, 1.0)
    low, high = ranges(rng, node, 1.0)
    first, last = levels(node, low, high)
    assert (first <= node.level(low / node.step)).all() and (last >= node.level(high / node.step)).all()
    exact = np.isin(node.step, (0.5, 1.0))
    assert (first == node.level(low / node.step))[:, exact].all()
    assert (last == node.level(high / node.step))[:, exact].all()
    found = Stairs(node, low, high)
    assert np.array_equal(found.open, first < last)


def test_no_line_leaves_less_area():
    """Against all lines through two corners, at the middle of the range."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        node = stairs(rng, 20, 1.0)
        low, high = ranges(rng, node, 1.0)
        found = Stairs(node, low, high)
        at, value = (part[:, 0] for part in found.corners())
        middle = 0.5 * (low + high)[0]
        one = lines(node, low, high)
        ours = (one.lower_slope * middle + one.lower_offset)[0], (one.upper_slope * middle + one.upper_offset)[0]
        for i, j in product(range(6), range(6)):
            run = at[j] - at[i]
            good = found.open[0] & (run > 1e-2 * (high - low)[0])
            slope = np.where(good, (value[j] - value[i]) / np.where(good, run, 1.0), 0.0)
            gap = value - slope * (at - middle)
            below, above = gap.min(axis=0), gap.max(axis=0)
            pad = 1e-9 * (1 + np.abs(value).max(axis=0))
            assert (ours[0] >= below - pad)[good].all() and (ours[1] <= above + pad)[good].all()


@given(st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_the_preimage_holds_every_argument(seed):
    rng = np.random.default_rng(seed)
    n = 30
    node = stairs(rng, n, 1.0)
    below, above = ranges(rng, node, 1.0)
    low = node.scale * rng.integers(-3, 3, (1, n)) - rng.choice([-0.05, 0.0, 0.05], (1, n))
    high = low + rng.choice([0.0, 0.1, 3.0], (1, n))
    least, most = preimage(node, low, high, below, above)
    assert (least >= below).all() and (most <= above).all()
    for g in rng.uniform(below, above, (50, n)):
        y = node.evaluate(g)
        good = (y >= low[0]) & (y <= high[0])
        assert ((g >= least[0]) & (g <= most[0]))[good].all()


def test_sharper_methods_are_narrower():
    narrower = np.zeros(2)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        net = chain([(8, "round"), (1, "none")], 2, rng)
        output = net.outputs[0].name
        methods = ("interval", "crown", "lp", ("crown", Mip(outputs=True)))
        found = [nn.tighten(net, (-1.0, 1.0), m) for m in methods]
        interval, crown, lp, mip = ((b.high[output] - b.low[output])[0, 0] for b in found)
        assert mip - 0.04 * interval <= lp <= crown + 1e-9 <= interval + 2e-9
        seen = net(rng.uniform(-1, 1, (2000, 2)))
        assert np.ptp(seen) <= mip + 1e-9
        narrower += [crown < interval - 1e-6, lp < crown - 1e-6]
    assert (narrower > 0).all()


# ---- winners --------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_contenders_are_those_that_win(seed, ties):
    """Ranges with equal ends: exactly the members that win somewhere on the grid of both ends are alive."""
    rng = np.random.default_rng(seed)
    n = 5
    low = rng.integers(0, 4, n).astype(float)
    high = low + rng.integers(0, 3, n)
    members = rng.permutation(n) if not ties else rng.integers(0, n, n)
    node = Winner("w", ("f",), "z", members[None])
    alive = contenders(node, low[None], high[None])[0, 0]
    grid = np.array(list(product(*[np.arange(a, b + 0.5, 0.5) for a, b in zip(low, high, strict=True)])))
    wins = node.evaluate(grid).max(axis=0) > 0
    assert np.array_equal(alive, wins)


def test_differences_decide_what_ranges_do_not():
    """Two members that move together: their ranges overlap, their difference has one sign."""
    x, f, z = TensorSpec("x", (2,)), TensorSpec("f", (3,)), TensorSpec("z", (3,))
    affine = Affine(
        "a", ("x",), "f", (Dense(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.9]])),), np.array([0, 0.1, 0.05])
    )
    net = Network((x,), (z,), (affine, Winner("w", ("f",), "z", np.array([[0, 1, 2]]))), {"x": x, "f": f, "z": z})
    start = input_bounds(net, (-1.0, 1.0))
    bounds = nn.tighten(net, (-1.0, 1.0), "interval")
    assert bounds.high["z"].tolist() == [[1, 1, 1]]
    alive, least = rivals(Backward(net, dict(bounds.low), dict(bounds.high)), net.nodes[1], 1)
    assert alive.tolist() == [[[False, True, True]]]
    assert least[0, 0, 1, 0] == pytest.approx(0.1) and least[0, 0, 2, 1] == pytest.approx(-0.15)
    assert nn.tighten(net, (-1.0, 1.0), "crown").high["z"].tolist() == [[0, 1, 1]]
    assert start.batch == 1


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_bounds_of_differences_hold(seed, batch):
    rng = np.random.default_rng(seed)
    net = chain([(6, "relu"), (6, "winner"), (2, "none")], 3, rng)
    low = rng.normal(size=(3, 3) if batch else 3)
    high = low + rng.exponential(size=low.shape)
    bounds = nn.tighten(net, (low, high), "crown")
    node = net.activations[1]
    alive, least = rivals(Backward(net, dict(bounds.low), dict(bounds.high)), node, net.nodes.index(node))
    for box in range(bounds.batch):
        points = rng.uniform(bounds.low["x"][box], bounds.high["x"][box], (500, 3))
        state = net.forward({"x": points})
        f = state[node.input][:, node.groups]
        assert ((f[..., :, None] - f[..., None, :]) >= least[box] - 1e-12).all()
        assert not state[node.output].reshape(500, *alive.shape[1:])[:, ~alive[box]].any()


# ---- rows of the model ------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", ["round", "winner"])
@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_rows_on_outputs_flow_backwards(jump, seed):
    """With the model's rows the bounds hold for every point that meets them."""
    rng = np.random.default_rng(seed)
    net = chain([(3, jump), (3, jump), (2, "none")], 2, rng, skip=True)
    x = rng.uniform(-1, 1, (4000, 2))
    y = net(x)
    side = float(np.quantile(y[:, 0], 0.7))
    row = (np.array([[0.0, 0.0, 1.0, 0.0]]), side, np.inf)
    result = nn.maximize(net, (-1.0, 1.0), [0.0, 1.0], row, bounds=("fbbt", "crown"))
    best = y[y[:, 0] >= side, 1].max()
    assert result.bound is not None and result.bound >= best - 1e-9


@pytest.mark.parametrize("jump", ["round", "winner"])
@given(st.integers(0, 10**6), st.sampled_from(["auto", "lp", ("fbbt", "crown", "mip")]), st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_a_required_value_is_kept_by_the_model(jump, seed, methods, inputs):
    """Bounds that come from the requirement must not make the rows go that keep it."""
    rng = np.random.default_rng(seed)
    net = chain([(3, "relu"), (3, jump)], inputs, rng, skip=True)
    y = net(rng.uniform(-1, 1, (3000, inputs)))
    value = y[rng.integers(3000), 0]
    outputs = np.zeros((1, inputs + net.output_size))
    outputs[0, inputs] = 1.0
    weights = np.zeros(net.output_size)
    weights[-1] = 1.0
    result = nn.maximize(net, (-1.0, 1.0), weights, (outputs, value - 1e-4, value + 1e-4), bounds=methods)
    best = y[np.abs(y[:, 0] - value) < 1e-4, -1].max()
    assert result.bound >= best - 1e-9
    assert result.certificate.ok and abs(net(result.x)[0] - value) <= 1e-4 + 1e-9


def test_rounding_bound_sees_a_flip():
    from nnembed.ir.check import rounding_bound

    x, y = TensorSpec("x", (1,)), TensorSpec("y", (1,))
    rounding = Round("r", ("x",), "y", np.ones(1), np.full(1, 0.5), np.full(1, -np.inf), np.full(1, np.inf))
    net = Network((x,), (y,), (rounding,), {"x": x, "y": y})
    at = [float(rounding_bound(net, net.forward({"x": np.array([[v]])}), 2.0**-24)[0, 0]) for v in (0.5, 0.6, 2.5)]
    assert at[0] >= 0.5 and at[1] < 1e-6 and at[2] >= 0.5
    f, z = TensorSpec("f", (3,)), TensorSpec("z", (3,))
    net = Network((f,), (z,), (Winner("w", ("f",), "z", np.array([[0, 1, 2]])),), {"f": f, "z": z})
    for v, turns in (([1.0, 1.0, 0.0], True), ([1.0, 0.9, 0.0], False)):
        assert rounding_bound(net, net.forward({"f": np.array([v])}), 2.0**-24).max() == turns
