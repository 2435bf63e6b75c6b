"""FastC2V and OptC2V: proofs, never looser than the lines and programs they start from, as strong as the papers say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.alpha import AlphaCrown
from nnembed.bounds.alpha_sweep import Shared, entries
from nnembed.bounds.hull_lp import OptC2V
from nnembed.bounds.hull_sweep import CutSweeps, FastC2V, facets
from nnembed.bounds.lp import Lp
from nnembed.ir.nodes import Affine, Kink
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]
METHODS = [FastC2V(), FastC2V(published=True), OptC2V(rounds=2)]


def climbed(net, low, high, rng, steps=15):
    """Return samples that have walked to corners where entries of the outputs are large or small."""
    from nnembed.ir.gradient import gradient

    x = rng.uniform(low, high, (400, len(low)))
    weights = {s.name: rng.normal(size=(400, s.size)) for s in net.outputs}
    found = [x]
    for k in range(steps):
        slope = gradient(net, net.forward({"x": x}), weights)["x"]
        x = np.clip(x + (high - low) * 0.5 * 0.8**k * np.sign(slope), low, high)
        found.append(x)
    return np.vstack(found)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.booleans(), st.floats(0.05, 4.0))
@settings(max_examples=25, deadline=None)
def test_no_point_outside(method, seed, kind, skip, radius):
    rng = np.random.default_rng(seed)
    net = chain([(8, "relu"), (7, kind), (6, "leaky"), (2, "none")], 4, rng, skip=skip)
    centre = rng.normal(size=4)
    low, high = centre - radius * rng.uniform(size=4), centre + radius * rng.uniform(size=4)
    bounds = nn.tighten(net, (low, high), ("crown", method))
    state = net.forward({"x": np.vstack([climbed(net, low, high, rng), rng.uniform(low, high, (2000, 4))])})
    for name, value in state.items():
        assert (value >= bounds.low[name][0]).all() and (value <= bounds.high[name][0]).all(), name


def test_opt_without_facets_is_the_linear_program():
    for seed in range(4):
        net = chain([(10, "relu"), (8, "leaky"), (2, "none")], 4, np.random.default_rng(seed))
        box = (-np.ones(4), np.ones(4))
        plain = nn.tighten(net, box, ("crown", Lp(gain=0.0, min_rate=0.0)))
        ours = nn.tighten(net, box, ("crown", OptC2V(rounds=0)))
        name = net.outputs[0].name
        assert ours.low[name] == pytest.approx(plain.low[name], abs=1e-5)
        assert ours.high[name] == pytest.approx(plain.high[name], abs=1e-5)


def test_facets_of_one_layer_reach_the_optimum_over_single_neurons():
    """One hidden neuron after another: the hull of each over its box, all together, is what OptC2V optimises over."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(2)
    net = chain([(5, "relu"), (1, "none")], 3, rng)
    low, high = -np.ones(3), np.ones(3)
    found = nn.tighten(net, (low, high), ("crown", OptC2V(rounds=40, tolerance=1e-9)))
    w, b = net.nodes[0].operators[0].weight, net.nodes[0].bias
    last = net.nodes[2].operators[0].weight[0]
    # Columns: x, then per neuron p (its part of x), y, z; the extended form of every neuron.
    n, k = 3, 5
    width = n + k * (n + 2)
    rows, side = [], []

    def row(entries_, right):
        full = np.zeros(width)
        for place, value in entries_:
            full[place] += value
        rows.append(full)
        side.append(right)

    for j in range(k):
        p, y, z = n + j * (n + 2), n + j * (n + 2) + n, n + j * (n + 2) + n + 1
        for i in range(n):
            row([(p + i, 1), (z, -1)], 0)
            row([(p + i, -1), (z, -1)], 0)
            row([(i, 1), (p + i, -1), (z, 1)], 1)
            row([(i, -1), (p + i, 1), (z, 1)], 1)
        on = [(p + i, w[j, i]) for i in range(n)] + [(z, b[j])]
        row([(y, 1), *((c, -v) for c, v in on)], 0)
        row([(y, -1), *on], 0)
        row([(c, -v) for c, v in on], 0)
        row([(i, w[j, i]) for i in range(n)] + [(c, -v) for c, v in on], -b[j])
    cost = np.zeros(width)
    for j in range(k):
        cost[n + j * (n + 2) + n] = last[j]
    limits = [(-1, 1)] * n + ([(None, None)] * n + [(0, None), (0, 1)]) * k
    name, bias = net.outputs[0].name, net.nodes[2].bias[0]
    for sign, value in ((1, found.low[name][0, 0]), (-1, found.high[name][0, 0])):
        judge = linprog(sign * cost, np.array(rows), np.array(side), bounds=limits, method="highs")
        assert value == pytest.approx(sign * judge.fun + bias, abs=1e-5)


@pytest.mark.parametrize("method", METHODS[::2], ids=repr)
def test_stronger_than_lines_where_inputs_are_many(method):
    gains = []
    for seed in range(3):
        net = chain([(20, "relu"), (15, "relu"), (1, "none")], 20, np.random.default_rng(seed))
        box = (-0.3 * np.ones(20), 0.3 * np.ones(20))
        lines, ours = (
            nn.tighten(net, box, ("crown", AlphaCrown(iterations=60))),
            nn.tighten(net, box, ("crown", method)),
        )
        name = net.outputs[0].name
        gains.append(float(((ours.high[name] - ours.low[name]) / (lines.high[name] - lines.low[name]))[0, 0]))
    assert np.mean(gains) < 0.95


@pytest.mark.parametrize("method", METHODS[::2], ids=repr)
def test_exact_range_is_enclosed(method):
    for seed in range(3):
        net = chain([(3, "relu"), (2, "abs"), (1, "none")], 2, np.random.default_rng(seed))
        low, high = -np.ones(2), np.ones(2)
        bounds = nn.tighten(net, (low, high), ("crown", method))
        name = net.outputs[0].name
        least, most = (enumerate_optimum(net, low, high, np.ones(1), maximize=up) for up in (False, True))
        assert bounds.low[name][0, 0] <= least + 1e-6 * (1 + abs(least))
        assert bounds.high[name][0, 0] >= most - 1e-6 * (1 + abs(most))


@given(st.integers(0, 10**6), st.sampled_from(["relu", "leaky", "steep", "abs"]))
@settings(max_examples=60, deadline=None)
def test_facets_lie_above_convex_neurons(seed, kind):
    rng = np.random.default_rng(seed)
    net = chain([(6, kind), (1, "none")], 4, rng)
    before, node = net.nodes[:2]
    assert isinstance(before, Affine) and isinstance(node, Kink)
    low, high = -rng.uniform(size=(1, 4)), rng.uniform(size=(1, 4))
    neuron = np.flatnonzero(node.right > node.left)
    if not len(neuron):
        return
    points = rng.uniform(low[0], high[0], (len(neuron), 4))
    g = before.evaluate(points)[np.arange(len(neuron)), neuron]
    found = facets(node, before, ({"x": low}, {"x": high}), np.zeros(len(neuron), int), neuron, (points, g, g + 1))
    x = rng.uniform(low[0], high[0], (500, 4))
    y = node.evaluate(before.evaluate(x))[:, neuron]
    assert (y <= x @ found.coefficients.T + found.constant + 1e-13).all()


def test_derivatives_hold_with_facets():
    rng = np.random.default_rng(8)
    net = chain([(8, "relu"), (7, "relu"), (1, "none")], 4, rng, skip=True)
    bounds = nn.tighten(net, (-np.ones(4), np.ones(4)))
    shared = Shared(net, dict(bounds.low), dict(bounds.high))
    functions = entries(net, len(net.nodes) - 1, np.zeros(2, int), np.zeros(2, int), np.array([1.0, -1.0]))
    sweeps = CutSweeps(shared, functions)
    for share in (1.0, 0.5):
        trace = sweeps.bound()
        sweeps.derivatives(trace)
        sweeps.separate(trace, share)
    assert sweeps.cuts
    for name, share in sweeps.shares.items():
        sweeps.shares[name] = np.clip(share + rng.uniform(-0.3, 0.3, share.shape), 0.1, 0.9)
    trace = sweeps.bound()
    slopes = sweeps.derivatives(trace)
    for name, slope in slopes.items():
        for j in range(slope.shape[1]):
            sweeps.shares[name][:, j] += 1e-7
            change = (sweeps.bound().value - trace.value) / 1e-7
            sweeps.shares[name][:, j] -= 1e-7
            assert change == pytest.approx(slope[:, j], abs=1e-5)


def test_limits_of_programs_and_seconds():
    net = chain([(12, "relu"), (12, "relu"), (2, "none")], 4, np.random.default_rng(0))
    crown = nn.tighten(net, (-np.ones(4), np.ones(4)))
    few = OptC2V().tighten(net, crown, nn.Budget(lps=5))
    assert few.history[-1].lps == 5 and not few.history[-1].finished
    none = OptC2V().tighten(net, crown, nn.Budget(seconds=0))
    assert none.history[-1].lps == 0
    more = OptC2V().tighten(net, few, nn.Budget())
    assert more.history[-1].finished and more.history[-1].lps > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_hundred_thousand_points_stay_inside(seed):
    """Deep, wide, skipping and mixed networks; points sampled and searched by gradients, corners among them."""
    rng = np.random.default_rng(seed)
    layers = [
        [(40, "relu")] * 2,
        [(8, "relu")] * 6,
        [(16, "leaky"), (16, "abs"), (12, "clip")],
        [(20, "max"), (12, "relu")],
        [(12, "steep"), (12, "relu")],
        [(12, "clip"), (12, "max"), (8, "relu")],
    ][seed]
    net = chain([*layers, (3, "none")], 6, rng, skip=bool(seed % 2))
    low = rng.normal(size=6) * 0.3 - 0.5 * rng.uniform(size=6)
    high = low + rng.uniform(0.2, 1.5, size=6)
    bounds = nn.tighten(net, (low, high), ("crown", AlphaCrown(), FastC2V(), OptC2V(rounds=1)), nn.Budget(seconds=60))
    for _ in range(16):
        state = net.forward({"x": climbed(net, low, high, rng)})
        for name, value in state.items():
            assert (value >= bounds.low[name][0]).all() and (value <= bounds.high[name][0]).all(), name
