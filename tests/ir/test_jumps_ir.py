"""Nodes that jump: values, limits, what is refused, what simplification makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.errors import InputError
from nnembed.ir.gradient import gradient
from nnembed.ir.linear import Dense, Selection
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Clip, Round, Winner
from nnembed.ir.simplify import simplify
from nnembed.testing import chain


def rounding(low=-np.inf, high=np.inf, step=1.0, scale=1.0, rule="even"):
    return Round("r", ("x",), "y", *(np.array([v]) for v in (step, scale, low, high)), rule)


def test_halves_go_where_the_rule_says():
    x = np.array([[-1.5], [-0.5], [0.5], [1.5], [2.5], [2.4], [1.0]])
    assert rounding().evaluate(x).ravel().tolist() == [-2, 0, 0, 2, 2, 2, 1]
    assert rounding(rule="down").evaluate(x).ravel().tolist() == [-2, -1, 0, 1, 2, 2, 1]
    assert rounding(rule="up").evaluate(x).ravel().tolist() == [-1, 0, 1, 2, 3, 3, 1]
    assert rounding(-1.0, 2.0, 0.5, 3.0).evaluate(x).ravel().tolist() == [-3, -3, 3, 6, 6, 6, 6]
    assert not np.signbit(rounding().evaluate(np.array([[-0.3]]))).any()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"rule": "odd"}, "rule 'odd'"),
        ({"step": 0.0}, "above zero"),
        ({"scale": -1.0}, "above zero"),
        ({"step": np.nan}, "above zero"),
        ({"low": 0.5}, "whole numbers"),
        ({"low": 2.0, "high": 1.0}, "whole numbers"),
        ({"low": np.inf}, "whole numbers"),
    ],
)
def test_what_is_no_staircase_is_refused(bad, words):
    with pytest.raises(InputError, match=f"'r'.*{words}"):
        rounding(**bad)


@given(st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_the_first_of_equal_members_wins(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 5, (3, 4))
    node = Winner("w", ("x",), "z", groups)
    x = rng.integers(0, 3, (7, 5)).astype(float)
    z = node.evaluate(x).reshape(7, 3, 4)
    assert (z.sum(axis=-1) == 1).all()
    assert np.array_equal(z.argmax(axis=-1), x[:, groups].argmax(axis=-1))
    assert np.array_equal(node.evaluate(x[0]), z[0].ravel())


@pytest.mark.parametrize("kind", ["round", "winner"])
def test_slopes_are_zero(kind):
    net = chain([(3, kind), (2, "none")], 2, np.random.default_rng(0))
    state = net.forward({"x": np.random.default_rng(1).normal(size=(4, 2))})
    assert not gradient(net, state, {net.outputs[0].name: np.ones(2)})["x"].any()


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_clip_at_levels_becomes_the_limits(seed):
    rng = np.random.default_rng(seed)
    n = 4
    specs = {k: TensorSpec(k, (n,)) for k in ("x", "r", "y")}
    low = np.where(rng.random(n) < 0.5, -np.inf, rng.integers(-4, 1, n))
    scale = rng.choice([0.25, 1.0], n)
    node = Round("r", ("x",), "r", np.ones(n), scale, low, np.where(rng.random(n) < 0.5, np.inf, np.maximum(low, 2)))
    ends = np.sort(rng.integers(-5, 6, (2, n)), axis=0) * scale
    off = rng.random() < 0.3
    clip = Clip("c", ("r",), "y", ends[0] - off * 0.1, ends[1] + off * 0.1)
    net = Network((specs["x"],), (specs["y"],), (node, clip), specs)
    small = simplify(net)
    assert len(small.nodes) == 1 + off
    x = rng.integers(-24, 25, (50, n)) / 4
    assert np.array_equal(small(x), net(x))
    both = Network((specs["x"],), (specs["y"], specs["r"]), (node, clip), specs)
    assert len(simplify(both).nodes) == 2


def test_a_winner_takes_its_members_where_a_selection_took_them():
    specs = {k: TensorSpec(k, (3,)) for k in ("x", "s", "z")}
    pick = Affine("p", ("x",), "s", (Selection(np.array([2, 0, 1]), 3),), np.zeros(3))
    net = Network((specs["x"],), (specs["z"],), (pick, Winner("w", ("s",), "z", np.array([[0, 1, 2]]))), specs)
    small = simplify(net)
    assert [n.kind for n in small.nodes] == ["Winner"] and small.nodes[0].groups.tolist() == [[2, 0, 1]]
    x = np.random.default_rng(0).integers(0, 2, (20, 3)).astype(float)
    assert np.array_equal(small(x), net(x))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_through_a_rounding_goes_the_slope_of_its_stairs(seed):
    """As if every rounding were the line through the middle of its stairs, clipped at its limits."""
    rng = np.random.default_rng(seed)
    net = chain([(6, "round"), (2, "none")], 3, rng)
    node = net.activations[0]
    centre = (node.shift - 0.5) * node.step
    ends = (node.low - 0.5) * node.step + centre, (node.high + 0.5) * node.step + centre
    scale = Affine("t", ("c",), node.output, (Dense(np.diag(node.scale / node.step)),), np.zeros(6))
    specs = dict(net.tensors) | {"c": TensorSpec("c", (6,))}
    nodes = (net.nodes[0], Clip("c", node.inputs, "c", *ends), scale, net.nodes[2])
    plain = Network(net.inputs, net.outputs, nodes, specs)
    x, weights = rng.normal(size=(20, 3)), {net.outputs[0].name: rng.normal(size=2)}
    ours = gradient(net, net.forward({"x": x}), weights, through=True)["x"]
    assert ours == pytest.approx(gradient(plain, plain.forward({"x": x}), weights)["x"], abs=1e-12)
    assert not gradient(net, net.forward({"x": x}), weights)["x"].any()


def test_searches_see_quantised_networks():
    """Without a solver: better than many random points."""
    wins = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        net = chain([(20, "round"), (20, "round"), (1, "none")], 15, rng)
        found = nn.maximize(net, (-1.0, 1.0), backend="none", time_limit=1.0)
        wins += found.objective > net(rng.uniform(-1, 1, (1_000, 15))).max()
    assert wins >= 3
