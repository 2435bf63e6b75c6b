"""Optimised lines: every bound is a proof, derivatives are derivatives, split entries count."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.alpha import AlphaCrown, advance, maximised
from nnembed.bounds.alpha_lines import family, peaks
from nnembed.bounds.alpha_sweep import Shared, Sweeps, entries
from nnembed.bounds.hull_sweep import FastC2V
from nnembed.ir.nodes import Clip, Max, absolute, leaky_relu, relu
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]
METHODS = [AlphaCrown(), AlphaCrown(iterations=12), FastC2V(), FastC2V(published=True)]


def assert_inside(net, bounds, points, box=0):
    state = net.forward({"x": points})
    for name, low in bounds.low.items():
        assert (state[name] >= low[box]).all(), name
        assert (state[name] <= bounds.high[name][box]).all(), name


@pytest.mark.parametrize("method", METHODS, ids=repr)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(KINDS), st.booleans(), st.floats(0.0, 5.0))
@settings(max_examples=40, deadline=None)
def test_samples_and_corners_stay_inside(method, seed, first, second, skip, radius):
    rng = np.random.default_rng(seed)
    net = chain([(8, first), (7, second), (6, "relu"), (2, "none")], 4, rng, skip=skip)
    centre = rng.normal(size=4)
    low, high = centre - radius * rng.uniform(size=4), centre + radius * rng.uniform(size=4)
    corners = np.array(list(product(*zip(low, high, strict=True))))
    points = np.vstack([rng.uniform(low, high, (2000, 4)), corners])
    crown = nn.tighten(net, (low, high), "crown")
    found = nn.tighten(net, (low, high), ("crown", method))
    assert_inside(net, found, points)
    assert found.unstable <= crown.unstable
    for name in crown.low:
        assert (found.low[name] >= crown.low[name]).all() and (found.high[name] <= crown.high[name]).all()


@pytest.mark.parametrize("method", METHODS[::2], ids=repr)
def test_exact_range_is_enclosed(method):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        net = chain([(3, "relu"), (2, KINDS[seed]), (1, "none")], 2, rng)
        low, high = -np.ones(2), np.ones(2)
        bounds = nn.tighten(net, (low, high), ("crown", method))
        name = net.outputs[0].name
        least, most = (enumerate_optimum(net, low, high, np.ones(1), maximize=up) for up in (False, True))
        assert bounds.low[name][0, 0] <= least + 1e-6 * (1 + abs(least))
        assert bounds.high[name][0, 0] >= most - 1e-6 * (1 + abs(most))


def layers(rng, n):
    return [
        relu("r", "g", "y", n),
        leaky_relu("l", "g", "y", rng.uniform(-2, 2, n)),
        absolute("a", "g", "y", n),
        Clip("c", ("g",), "y", rng.uniform(-1, 0, n), rng.uniform(0, 1, n)),
    ]


@given(st.integers(0, 10**6), st.floats(-9, 2))
@settings(max_examples=100, deadline=None)
def test_every_line_of_a_family_is_valid(seed, exponent):
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(1, 30)) * 10**exponent
    high = low + rng.exponential(size=(1, 30)) * 10**exponent
    for node in layers(rng, 30):
        lines = family(node, low, high)
        for _ in range(10):
            t = rng.choice([0.0, 1.0, rng.uniform()], size=30)
            g = low + rng.choice([0.0, 1.0, rng.uniform()], size=30) * (high - low)
            below, above = (
                (lines.slope[i] + t * lines.turn[i]) * g + lines.offset[i] + t * lines.shift[i] for i in (0, 1)
            )
            value = node.evaluate(g)
            assert (below <= value + lines.error).all() and (above >= value - lines.error).all()


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_functions_about_maxima_are_valid(seed, k):
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(2, 9))
    high = low + rng.exponential(size=(2, 9)) * (rng.uniform(size=(2, 9)) > 0.2)
    node = Max("m", ("g",), "y", rng.integers(0, 9, (6, k)))
    found = peaks(node, low, high)
    first, last, lows, highs, scale = found.members
    for _ in range(20):
        t = rng.choice([0.0, 1.0, rng.uniform()], size=(2, 6))
        g = np.where(rng.uniform(size=(2, 9)) < 0.3, high, rng.uniform(low, high))
        members, value = g[:, node.groups], node.evaluate(g)
        level = found.least + t * found.span
        rise = np.maximum(highs - level[..., None], 0) * scale
        above = level + (rise * (members - lows)).sum(axis=-1)
        below = ((first + t[..., None] * (last - first)) * members).sum(axis=-1)
        assert (below <= value + 1e-12).all()
        assert (np.where(found.sure, (first * members).sum(axis=-1), above) >= value - 1e-12).all()
        assert (level <= found.least + found.span + 1e-15).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_derivatives_are_those_of_the_bound(kind, skip):
    rng = np.random.default_rng(7)
    net = chain([(6, kind), (6, kind), (2, "none")], 3, rng, skip=skip)
    bounds = nn.tighten(net, (np.full(3, -0.6), np.full(3, 0.7)))
    shared = Shared(net, dict(bounds.low), dict(bounds.high))
    position = len(net.nodes) - 1
    functions = entries(net, position, np.zeros(4, int), np.array([0, 1, 0, 1]), np.array([1.0, 1, -1, -1]))
    sweeps = Sweeps(shared, functions)
    sweeps.bound()
    for name, share in sweeps.shares.items():
        sweeps.shares[name] = np.clip(share + rng.uniform(-0.4, 0.4, share.shape), 0.05, 0.95)
    trace = sweeps.bound()
    slopes = sweeps.derivatives(trace)
    assert set(slopes) == set(sweeps.shares)
    worst = 0.0
    for name, slope in slopes.items():
        for j in range(slope.shape[1]):
            sweeps.shares[name][:, j] += 1e-7
            change = (sweeps.bound().value - trace.value) / 1e-7
            sweeps.shares[name][:, j] -= 1e-7
            worst = max(worst, float(np.abs(change - slope[:, j]).max()))
    assert worst < 1e-5


def test_split_entries_bound_the_part_of_the_box():
    """Bounds under g >= 0 or g <= 0 hold for the points that meet it, and some get better."""
    better = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        net = chain([(6, "relu"), (5, "relu"), (1, "none")], 3, rng)
        low, high = -np.ones(3), np.ones(3)
        bounds = nn.tighten(net, (low, high))
        node = net.activations[seed % 2]
        pre = node.inputs[0]
        opened = np.flatnonzero(bounds.open(node)[0])
        if not len(opened):
            continue
        state = net.forward({"x": rng.uniform(low, high, (20000, 3))})
        values = state[net.outputs[0].name][:, 0]
        for sign in (1, -1):
            split = np.zeros(bounds.low[pre].shape)
            split[0, opened[0]] = sign
            lows, highs = dict(bounds.low), dict(bounds.high)
            lows[pre], highs[pre] = lows[pre].copy(), highs[pre].copy()
            (lows if sign > 0 else highs)[pre][0, opened[0]] = 0.0
            shared = Shared(net, lows, highs)
            functions = entries(net, len(net.nodes) - 1, np.zeros(1, int), np.zeros(1, int), np.ones(1))
            clock = nn.Budget().start()
            plain = maximised(Sweeps(shared, functions), 20, clock)
            priced = maximised(Sweeps(shared, functions, {pre: split}), 20, clock)
            met = sign * state[pre][:, opened[0]] >= 0
            if met.any():
                assert max(plain[0], priced[0]) <= values[met].min()
            better += priced[0] > plain[0] + 1e-6
    assert better >= 5


def test_derivatives_of_prices():
    rng = np.random.default_rng(3)
    net = chain([(6, "relu"), (6, "relu"), (1, "none")], 3, rng)
    bounds = nn.tighten(net, (-np.ones(3), np.ones(3)))
    pre = net.activations[0].inputs[0]
    shared = Shared(net, dict(bounds.low), dict(bounds.high))
    functions = entries(net, len(net.nodes) - 1, np.zeros(2, int), np.zeros(2, int), np.array([1.0, -1.0]))
    sweeps = Sweeps(shared, functions, {pre: np.array([[1.0, -1, 0, 1, 0, -1]])})
    sweeps.bound()
    sweeps.prices[pre] = rng.uniform(0.1, 0.5, (2, 6))
    trace = sweeps.bound()
    slope = sweeps.derivatives(trace)[pre]
    for j in range(6):
        sweeps.prices[pre][:, j] += 1e-7
        change = (sweeps.bound().value - trace.value) / 1e-7
        sweeps.prices[pre][:, j] -= 1e-7
        assert change == pytest.approx(slope[:, j], abs=1e-5)
    advance(sweeps, trace, sweeps.derivatives(trace), 0.5)
    assert (sweeps.prices[pre] >= 0).all()


def test_bounds_approach_the_linear_program():
    """With fixed pre-activation bounds the dual of the triangle relaxation is reached; scipy solves the primal."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(4)
    net = chain([(10, "relu"), (1, "none")], 4, rng)
    low, high = -np.ones(4), np.ones(4)
    bounds = nn.tighten(net, (low, high), ("crown", AlphaCrown(iterations=300)))
    first, last = (n.operators[0].weight for n in (net.nodes[0], net.nodes[2]))
    b, pre = net.nodes[0].bias, net.nodes[0].output
    lo, hi = bounds.low[pre][0], bounds.high[pre][0]
    k = 10
    up = np.where(lo >= 0, 1.0, np.where(hi <= 0, 0.0, hi / (hi - lo)))
    shift = np.where((lo < 0) & (hi > 0), -up * lo, 0.0)
    active = (hi > 0).astype(float)
    rows = np.vstack([np.hstack([first * active[:, None], -np.eye(k)]), np.hstack([-up[:, None] * first, np.eye(k)])])
    side = np.concatenate([-b * active, up * b + shift])
    cost = np.concatenate([np.zeros(4), last[0]])
    judge = linprog(cost, rows, side, bounds=[(-1, 1)] * 4 + [(0, None)] * k, method="highs")
    name, bias = net.outputs[0].name, net.nodes[2].bias[0]
    least = judge.fun + bias
    assert bounds.low[name][0, 0] <= least + 1e-7
    assert bounds.low[name][0, 0] >= least - 0.02 * (bounds.high[name] - bounds.low[name])[0, 0]


@pytest.mark.parametrize("method", METHODS[::2], ids=repr)
def test_a_batch_is_each_box_alone(method):
    rng = np.random.default_rng(1)
    for kind in KINDS:
        net = chain([(7, kind), (6, "relu"), (2, "none")], 3, rng, skip=True)
        low = rng.normal(size=(4, 3))
        high = low + rng.uniform(0, 2, size=(4, 3))
        together = nn.tighten(net, (low, high), ("interval", method))
        for k in range(4):
            alone = nn.tighten(net, (low[k], high[k]), ("interval", method))
            assert_inside(net, together, rng.uniform(low[k], high[k], (500, 3)), k)
            name = net.outputs[0].name
            assert together.low[name][k] == pytest.approx(alone.low[name][0], abs=1e-6)
            assert together.high[name][k] == pytest.approx(alone.high[name][0], abs=1e-6)


@pytest.mark.parametrize("method", METHODS[::2], ids=repr)
def test_budgets(method):
    net = chain([(60, "relu"), (60, "relu"), (60, "relu"), (3, "none")], 8, np.random.default_rng(0))
    box = (-np.ones(8), np.ones(8))
    crown = nn.tighten(net, box)
    for budget in (nn.Budget(seconds=0), nn.Budget(seconds=0.05), nn.Budget(layer_seconds=0.0)):
        bounds = method.tighten(net, crown, budget)
        assert bounds.complete
        assert_inside(net, bounds, np.random.default_rng(1).uniform(*box, (500, 8)))
    untouched = method.tighten(net, crown, nn.Budget(seconds=0))
    assert all((untouched.low[t] == crown.low[t]).all() for t in crown.low)


def test_registered():
    net = chain([(6, "relu"), (6, "relu"), (2, "none")], 3, np.random.default_rng(0))
    bounds = nn.tighten(net, (-1.0, 1.0), methods=("crown", "alpha-crown", "fast-c2v"))
    assert [p.method for p in bounds.history] == ["crown", "alpha-crown", "fast-c2v"]
    alone = nn.tighten(net, (-1.0, 1.0), "alpha-crown")
    assert alone.complete
