"""Bounds of a chain from facets are above it everywhere, and the search over boxes ends with the solver's answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.engine.chain import chain_of
from nnembed.engine.chain_bounds import ChainBounds
from nnembed.engine.chain_search import ChainSearch
from nnembed.engine.facets import LEVELS, FirstLayer, Sums
from nnembed.engine.parts import Part, Port
from nnembed.testing import enumerate_optimum
from nnembed.testing.networks import chain

KINKS = ("relu", "leaky", "steep", "abs")


def part(network, low, high, slope=None, weights=None):
    """Maximise weighted outputs plus ``slope @ x``."""
    n, m = network.inputs[0].size, network.outputs[0].size
    rng = np.random.default_rng(0)
    port = Port(network, np.eye(n), np.zeros(n), np.arange(m))
    cost = np.concatenate([np.zeros(n) if slope is None else -slope, -(np.ones(m) if weights is None else weights)])
    none = np.zeros(0)
    return Part(
        np.arange(n), n + np.arange(m), (port,), np.full(n, low), np.full(n, high), np.zeros(n, dtype=bool), cost,
        np.zeros((n + m, n + m)), rng.normal(size=(0, n)), none, none,
    )  # fmt: skip


def net(seed, inputs, widths, kind="relu", outputs=1):
    return chain([*((w, kind) for w in widths), (outputs, "none")], inputs, np.random.default_rng(seed))


def boxes(rng, count, n):
    ends = np.sort(rng.uniform(-1, 1, (2, count, n)), axis=0)
    ends[1, :, 0] = np.where(rng.random(count) < 0.3, ends[0, :, 0], ends[1, :, 0])  # some are flat
    return ends


def inside(rng, low, high, count):
    """Points of boxes (s, count, n), half of them corners."""
    share = rng.random((len(low), count, low.shape[1]))
    share[:, ::2] = np.rint(share[:, ::2])
    return low[:, None] + share * (high - low)[:, None]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from(KINKS),
    st.sampled_from([1, 1e-3, 1e4]),
)
def test_ranges_and_lines_hold(seed, n, depth, kind, size):
    rng = np.random.default_rng(seed)
    task = part(net(seed, n, [12] * depth, kind, outputs=2), -1, 1, rng.normal(size=n), size * rng.normal(size=2))
    found = chain_of(task)
    bounds = ChainBounds(found)
    low, high = boxes(rng, 5, n)
    known = bounds.loose(5)
    for _ in range(2):  # the second time from the points and ranges of the first
        known = bounds.ranges(low, high, known)
    points = inside(rng, low, high, 300)
    for steps in (0, 3):
        slope, value, top = bounds.line(low, high, known, steps)
        for i in range(5):
            objective, pre = found.values(points[i])
            later = np.concatenate([np.zeros((300, 0)), *pre[1:]], axis=1)
            assert (later >= known.low[i]).all()
            assert (later <= known.high[i]).all()
            line = value[i] + (points[i] - 0.5 * (low[i] + high[i])) @ slope[i]
            assert (objective <= line + 1e-12 * size).all()
            assert objective.max() <= top[i] + 1e-12 * size


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_facets_support_the_sum(seed, n):
    rng = np.random.default_rng(seed)
    layer = chain_of(part(net(seed, n, [9]), -1, 1)).layers[0]
    low, high = boxes(rng, 4, n)
    first = FirstLayer(layer, 0.5 * (low + high), 0.5 * (high - low))
    weights = rng.normal(size=(4, 3, 9))
    levels = rng.integers(0, LEVELS, (4, 3, n)).astype(np.int8)
    levels[:, 0] = np.where(levels[:, 0] > 1, LEVELS - 1, 0)  # a corner: the envelope is the sum itself there
    slope, value = first.supporting(Sums(first, weights), levels)
    points = inside(rng, low, high, 200) - 0.5 * (low + high)[:, None]
    sums = np.maximum(points @ layer.weight.T + 0.5 * (low + high)[:, None] @ layer.weight.T + layer.bias, 0) @ (
        weights.transpose(0, 2, 1)
    )
    lines = value[:, None] + points @ slope.transpose(0, 2, 1)
    assert (lines >= sums - 1e-9).all()
    d = (np.linspace(-1, 1, LEVELS)[levels[:, 0]]) * 0.5 * (high - low)
    g = (d + 0.5 * (low + high)) @ layer.weight.T + layer.bias
    at = (np.maximum(g, 0) * weights[:, 0]).sum(axis=1)
    assert value[:, 0] + (slope[:, 0] * d).sum(axis=1) == pytest.approx(at, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 3), st.sampled_from(KINKS))
def test_the_answer_is_the_solvers(seed, n, depth, kind):
    network = net(seed, n, [8] * depth, kind)
    search = ChainSearch(task := part(network, -1, 1), chain_of(task), 0)
    lowest, ended = search.lower, False
    for _ in range(200):
        if ended := not search.split(1e-5 * (1 + abs(search.value))):
            break
        assert search.lower >= lowest - 1e-12
        lowest = search.lower
    plain = {"presolve": "off"}  # it moves answers by 1e-7, much on an optimum near zero
    theirs = nn.maximize(network, (-1, 1), formulation="two_row", gap=1e-6, solver_options=plain)
    assert theirs.status == "optimal"
    assert -search.lower >= theirs.objective - 1e-6 * (1 + abs(theirs.objective))
    assert -search.value <= theirs.bound + 1e-6 * (1 + abs(theirs.objective))
    if ended:  # flat optima with kinks around them take longer than this
        assert -search.value == pytest.approx(theirs.objective, rel=1e-4, abs=1e-4)
        assert -search.lower == pytest.approx(theirs.objective, rel=1e-4, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_the_bound_is_never_below_the_enumerated_optimum(seed, n):
    network = net(seed, n, [4, 3])
    search = ChainSearch(task := part(network, -1, 1), chain_of(task), seed)
    best = enumerate_optimum(network, -np.ones(n), np.ones(n), np.ones(1))
    for _ in range(20):
        assert -search.lower >= best - 1e-9 * (1 + abs(best))
        assert -search.value <= best + 1e-6 * (1 + abs(best))
        if not search.split(1e-4 * abs(search.value)):
            break


def test_what_is_no_chain():
    assert chain_of(part(net(0, 3, [5], "max"), -1, 1)) is None
    assert chain_of(part(net(0, 3, [5], "clip"), -1, 1)) is None
    assert (
        chain_of(part(chain([(6, "relu"), (6, "relu"), (1, "none")], 3, np.random.default_rng(0), skip=True), -1, 1))
        is None
    )
    assert (
        chain_of(part(chain([(6, "none"), (6, "relu"), (1, "relu")], 3, np.random.default_rng(0)), -1, 1)) is not None
    )


def test_numbers_beyond_single_precision_are_left_to_others():
    network = net(0, 3, [5])
    assert chain_of(part(network, -1, 1, weights=np.array([1e16]))) is None
    assert chain_of(part(network, -1e20, 1e20)) is None


def test_a_zero_gap_ends():
    network = net(3, 9, [16, 8])
    ours = nn.maximize(network, (-1, 1), gap=0.0, time_limit=60)
    assert ours.status == "optimal"
    assert ours.objective == pytest.approx(nn.maximize(network, (-1, 1), formulation="two_row").objective, rel=2e-4)


def test_a_few_more_inputs_are_proved_without_a_solver():
    network = net(3, 9, [24, 12])
    result = nn.maximize(network, (-1, 1), time_limit=60)
    assert result.status == "optimal"
    assert "splitting the input box" in result.message
    assert result.certificate.ok
    assert network(np.random.default_rng(0).uniform(-1, 1, (5000, 9))).max() <= result.bound
    assert any(entry.source == "input splitting" for entry in result.history)


@pytest.mark.parametrize("sense", ["max", "min"])
def test_costs_of_decisions_count(sense):
    network = net(1, 9, [20, 10])
    model = nn.Model()
    x = model.add_variables(lower=-1, upper=1, coords=[range(9)], name="x")
    y = model.embed(network, x, name="net")
    model.add_objective(y.sum() + 0.3 * x.sum(), sense=sense)
    ours = model.solve(time_limit=60)
    theirs = model.solve(formulation="two_row", time_limit=60)
    assert "splitting" in ours.message
    assert ours.objective == pytest.approx(theirs.objective, rel=3e-4)


def test_a_search_that_is_cut_off_leaves_its_bound():
    network = net(0, 16, [60, 60])
    result = nn.maximize(network, (-1, 1), time_limit=2.5)
    assert result.status in ("feasible", "time_limit")
    assert result.seconds < 6
    root = nn.embed(nn.ArrayModel(-np.ones(16), np.ones(16)), network, np.arange(16)).bounds
    assert result.bound < root.high[network.outputs[0].name].item()
    assert network(np.random.default_rng(0).uniform(-1, 1, (2000, 16))).max() <= result.bound
    assert np.isfinite(result.gap)


def test_it_can_be_stopped_at_a_target():
    network = net(0, 12, [60, 60])
    free = nn.maximize(network, (-1, 1), time_limit=1.0)
    result = nn.maximize(network, (-1, 1), target=0.5 * free.objective, time_limit=30)
    assert result.seconds < 10
    assert result.objective >= 0.5 * free.objective
