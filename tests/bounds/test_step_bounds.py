"""Bounds of networks with steps are proofs, with every method, and requirements on a step's output decide its sign."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.alpha_lines import family
from nnembed.bounds.lines import lines
from nnembed.bounds.mip import Mip
from nnembed.bounds.propagate import preimage
from nnembed.ir.nodes import Step
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "steep", "abs", "clip", "max", "step"]
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
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.booleans(), st.booleans(), st.floats(0.01, 5.0))
@settings(max_examples=8, deadline=None)
def test_samples_and_corners_stay_inside(method, seed, kind, first, skip, radius):
    rng = np.random.default_rng(seed)
    layers = [(5, "step"), (5, kind)] if first else [(5, kind), (5, "step")]
    net = chain([*layers, (4, "relu"), (2, "none")], 3, rng, skip=skip)
    centre = rng.normal(size=3)
    low, high = centre - radius * rng.uniform(size=3), centre + radius * rng.uniform(size=3)
    bounds = nn.tighten(net, (low, high), ("interval", "crown", method))
    assert_inside(net, bounds, samples(rng, low, high, 2000))


@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 60), st.booleans())
@settings(max_examples=5, deadline=None)
def test_the_exact_range_is_enclosed(method, seed, skip):
    rng = np.random.default_rng(seed)
    net = chain([(3, "step"), (3, "step"), (1, "none")], 2, rng, skip=skip)
    low, high = -np.ones(2), np.ones(2)
    bounds = nn.tighten(net, (low, high), ("interval", "crown", method))
    output = net.outputs[0].name
    assert bounds.low[output][0, 0] <= enumerate_optimum(net, low, high, np.ones(1), maximize=False) + 1e-9
    assert bounds.high[output][0, 0] >= enumerate_optimum(net, low, high, np.ones(1)) - 1e-9


def layer(rng, n):
    return Step("s", ("g",), "y", rng.normal(size=n), np.where(rng.random(n) < 0.1, 0.0, rng.normal(size=n)))


def graph(node, low, high, rng):
    """Return points of the graph on [low, high] and the limits at the threshold: arguments and values (p, n)."""
    share = np.vstack([np.linspace(0, 1, 30)[:, None] * np.ones_like(low), rng.random((30, low.shape[1]))])
    g = np.clip(low + share * (high - low), low, high)
    near = np.clip(rng.choice([-1e-15, -1e-30, 0.0, 1e-30], size=(30, low.shape[1])), low, high)
    g = np.vstack([g, near])
    y = node.evaluate(g)
    at = np.where((low < 0) & (high >= 0), 0.0, low)
    limit = np.where((low < 0) & (high >= 0), node.low, node.evaluate(low))
    return np.vstack([g, at]), np.vstack([y, limit])


@given(st.integers(0, 10**6), st.floats(-12, 6), st.floats(-12, 3))
@settings(max_examples=200, deadline=None)
def test_every_line_is_valid(seed, exponent, lopsided):
    rng = np.random.default_rng(seed)
    n = 40
    node = layer(rng, n)
    low = rng.normal(size=(1, n)) * 10**exponent
    high = low + rng.exponential(size=(1, n)) * 10**exponent
    low[:, :10], high[:, :10] = -(10.0**exponent), 10.0 ** (exponent + lopsided)
    high[:, 10:14], low[:, 10:14] = 0.0, -rng.exponential(size=4)
    low[:, 14:18], high[:, 14:18] = 0.0, rng.exponential(size=4)
    g, y = graph(node, low, high, rng)
    one = lines(node, low, high)
    assert all(np.isfinite(a).all() for a in (one.lower_slope, one.lower_offset, one.upper_slope, one.upper_offset))
    slack = 1e-15 * np.abs(one.lower_slope * g)
    assert (one.lower_slope * g + one.lower_offset <= y + slack).all()
    slack = 1e-15 * np.abs(one.upper_slope * g)
    assert (one.upper_slope * g + one.upper_offset >= y - slack).all()
    many = family(node, low, high)
    assert ((many.start >= 0) & (many.start <= 1)).all()
    for t in (0.0, 1.0, rng.random(n), many.start):
        slope, offset = many.slope + t * many.turn, many.offset + t * many.shift
        assert (slope[0] * g + offset[0] <= y + many.error).all()
        assert (slope[1] * g + offset[1] >= y - many.error).all()


def test_sharper_methods_are_narrower():
    """CROWN beats intervals, the LP CROWN; the MIP stops where a program could not gain much of the width."""
    narrower = np.zeros(2)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        net = chain([(4, "step"), (1, "none")], 2, rng)
        low, high = -np.ones(2), np.ones(2)
        output = net.outputs[0].name
        most = enumerate_optimum(net, low, high, np.ones(1))
        methods = ("interval", "crown", "lp", ("crown", Mip(outputs=True)))
        found = [nn.tighten(net, (low, high), m) for m in methods]
        interval, crown, lp, mip = (bounds.high[output][0, 0] for bounds in found)
        near = 0.02 * (interval - found[0].low[output][0, 0])
        assert most - 1e-9 <= mip <= most + near
        assert mip - near <= lp <= crown + 1e-9 <= interval + 2e-9
        narrower += [crown < interval - 1e-6, lp < crown - 1e-6]
    assert (narrower > 0).all()


@given(st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_the_preimage_holds_every_argument(seed):
    rng = np.random.default_rng(seed)
    n = 30
    node = layer(rng, n)
    below = rng.normal(size=(1, n))
    above = below + rng.exponential(size=(1, n))
    low = np.minimum(node.low, node.high)[None] - rng.choice([-0.5, 0.0, 0.5], size=(1, n))
    high = low + rng.choice([0.0, 0.5, 3.0], size=(1, n))
    least, most = preimage(node, low, high, below, above)
    assert (least >= below).all() and (most <= above).all()
    for g in rng.uniform(below, above, (50, n)):
        y = node.evaluate(g)
        good = (y >= low[0]) & (y <= high[0])
        assert ((g >= least[0]) & (g <= most[0]))[good].all()


def test_a_required_value_decides_the_sign():
    node = Step("s", ("g",), "y", np.array([-1.0, -1.0, 2.0, -1.0]), np.array([1.0, 1.0, -2.0, 1.0]))
    below, above = -np.ones((1, 4)), np.ones((1, 4))
    low, high = np.array([[0.5, -2.0, 0.0, 3.0]]), np.array([[1.0, 0.0, 2.0, 4.0]])
    least, most = preimage(node, low, high, below, above)
    assert least[0, :3] == pytest.approx([0, -1, -1], abs=1e-5)
    assert most[0, :3] == pytest.approx([1, 0, 0], abs=1e-5)
    assert least[0, 0] < 0 < most[0, 1], "a step must keep its rows: nothing else holds its argument there"
    assert least[0, 3] > most[0, 3]


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_rows_on_outputs_flow_backwards(seed):
    """With the model's rows the bounds hold for every point that meets them."""
    rng = np.random.default_rng(seed)
    net = chain([(4, "step"), (3, "step"), (2, "none")], 2, rng)
    x = rng.uniform(-1, 1, (4000, 2))
    y = net(x)
    side = float(np.quantile(y[:, 0], 0.7))
    row = (np.array([[0.0, 0.0, 1.0, 0.0]]), side, np.inf)
    result = nn.maximize(net, (-1.0, 1.0), [0.0, 1.0], row, bounds=("fbbt", "crown"), formulation="step")
    best = y[y[:, 0] >= side, 1].max()
    assert result.bound is not None and result.bound >= best - 1e-9


def test_rounding_bound_sees_a_flip():
    from nnembed.ir.check import rounding_bound

    rng = np.random.default_rng(0)
    net = chain([(6, "step"), (1, "none")], 3, rng)
    step = net.activations[0]
    weights, bias = net.nodes[0].operators[0].weight, net.nodes[0].bias
    x = rng.normal(size=3)
    x -= weights[0] * (weights[0] @ x + bias[0]) / (weights[0] @ weights[0])  # on the first threshold
    near, far = net.forward({"x": x[None]}), net.forward({"x": (x + 0.01 * weights[0])[None]})
    jump = abs(step.high[0] - step.low[0]) * abs(net.nodes[2].operators[0].weight[0, 0])
    assert rounding_bound(net, near, 2.0**-24)[0, 0] >= jump
    if (np.abs(far[step.input]) > 1e-3).all():
        assert rounding_bound(net, far, 2.0**-24)[0, 0] < 1e-4


@given(st.integers(0, 10**6), st.sampled_from(["auto", "lp", ("fbbt", "crown", "mip")]))
@settings(max_examples=20, deadline=None)
def test_a_required_value_is_kept_by_the_model(seed, methods):
    """Bounds that come from the requirement must not make the rows go that keep it."""
    rng = np.random.default_rng(seed)
    net = chain([(3, "step"), (2, "step")], 2, rng)
    y = net(rng.uniform(-1, 1, (1000, 2)))
    value = y[rng.integers(1000), 0]
    row = (np.array([[0.0, 0.0, 1.0, 0.0]]), value - 1e-4, value + 1e-4)
    result = nn.maximize(net, (-1.0, 1.0), [0.0, 1.0], row, bounds=methods, formulation="step")
    best = y[np.abs(y[:, 0] - value) < 1e-4, 1].max()
    assert result.bound >= best - 1e-9
    g = net.forward({"x": result.x[None]})
    off = [float(np.abs(g[s.input]).min()) for s in net.activations]
    assert min(off) < 1e-6 or abs(net(result.x)[0] - value) <= 1e-4 + 1e-9
