"""ReLU rows: exact after every chain of lowerings, on random networks and boxes, and for every kind of kink."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.box import input_bounds
from nnembed.bounds.ladder import climb
from nnembed.embedding import emit_block
from nnembed.engine.embed import tighteners
from nnembed.errors import InputError, UnsupportedFeature
from nnembed.features import Feature
from nnembed.formulations import native
from nnembed.formulations.native import Native
from nnembed.formulations.show import show
from nnembed.hooks.manager import registry
from nnembed.ir.nodes import Clip, leaky_relu
from nnembed.lowerings.planner import Chain, cheapest
from nnembed.testing import block_optimum, chain, enumerate_optimum
from nnembed.testing.blocks import violation

KINDS = ["relu", "leaky", "steep", "abs", "clip"]
CHAINS = [
    (),
    ("relu_to_bigm",),
    ("relu_to_complementarity",),
    ("relu_to_complementarity", "complementarity_to_sos1", "sos1_to_binary"),
    ("relu_to_complementarity", "complementarity_to_indicator", "indicator_to_bigm"),
]


def block_of(net, low, high):
    bounds = climb(input_bounds(net, (low, high)), tighteners("auto", registry()), nn.Budget())
    return emit_block(net, bounds, {node.name: Native() for node in net.activations})


def lowered(block, steps):
    parts = registry().parts("lowering")
    return Chain(tuple(parts[name] for name in steps)).apply(block)


def test_doctest():
    assert doctest.testmod(native).failed == 0


def test_a_concave_kink_and_a_clip():
    falling = show(Native(), low=-1.0, high=2.0, node=leaky_relu("n", "x", "y", np.array([3.0])))
    assert "-3 n.pre[0] +2 n.post[0] +1 y.out[0] == 0" in falling
    clip = show(Native(), low=-1.0, high=2.0, node=Clip("n", ("x",), "y", np.array([0.5]), np.array([1.5])))
    assert clip.splitlines()[-2:] == [
        "n.lower.post[0] == max(n.lower.pre[0], 0)",
        "n.upper.post[0] == max(n.upper.pre[0], 0)",
    ]
    assert "+1 n.lower.post[0] -1 n.upper.post[0] in [0, 1]" in clip


@given(st.integers(0, 10**6), st.sampled_from(CHAINS), st.sampled_from(KINDS), st.booleans())
@settings(max_examples=60, deadline=None)
def test_optimum_of_random_networks(seed, steps, kind, maximize):
    rng = np.random.default_rng(seed)
    net = chain([(3, kind), (1, "none")], 2, rng)
    low = rng.uniform(-2, 1, 2)
    high = low + rng.uniform(0, 3, 2) * rng.choice([0, 1], 2, p=[0.1, 0.9])
    block = block_of(net, low, high)
    new, back = lowered(block, steps)
    cost = np.zeros(new.n_columns)
    cost[new.outputs] = 1.0
    want = enumerate_optimum(net, low, high, np.ones(1), maximize=maximize)
    assert block_optimum(new, cost, maximize=maximize) == pytest.approx(want, abs=1e-6)
    for x in rng.uniform(low, high, (5, 2)):
        point = new.fill(net.forward({"x": x[None]}))
        assert violation(new, point)[0] <= 1e-9
        assert violation(block, back(point))[0] <= 1e-9


@pytest.mark.parametrize("steps", CHAINS, ids=lambda steps: "+".join(steps) or "as it is")
def test_a_batch_with_boxes_of_its_own(steps):
    net = chain([(4, "relu"), (3, "leaky"), (2, "none")], 2, np.random.default_rng(3))
    low = np.array([[-1.0, -1.0], [0.2, 0.1], [-3.0, 0.0]])
    block, _ = lowered(block_of(net, low, low + 1.5), steps)
    names = block.names("net")
    assert len(set(names)) == len(names) == block.n_columns
    x = low + np.random.default_rng(0).uniform(0, 1.5, low.shape)
    assert violation(block, block.fill(net.forward({"x": x})))[0] <= 1e-9


def test_what_the_planner_takes():
    lowerings = registry().parts("lowering").values()

    def names(accepts):
        return [step.name for step in cheapest(Native.emits, accepts, lowerings)]

    mip = Feature.LINEAR | Feature.INTEGER
    assert names(mip) == ["relu_to_bigm"]
    assert names(mip | Feature.SOS1 | Feature.INDICATOR) == ["relu_to_bigm"]
    assert names(Feature.LINEAR | Feature.COMPLEMENTARITY) == ["relu_to_complementarity"]
    assert names(Feature.LINEAR | Feature.SOS1) == ["relu_to_complementarity", "complementarity_to_sos1"]
    assert names(mip | Feature.RELU) == []


def test_models_say_which_way_they_went():
    net = chain([(3, "relu"), (3, "abs"), (1, "none")], 2, np.random.default_rng(1))
    box = -np.ones(2), np.ones(2)
    result = nn.maximize(net, box, formulation="native", gap=1e-7)
    assert result.objective == pytest.approx(enumerate_optimum(net, *box, np.ones(1)), abs=1e-5)
    assert result.certificate.ok and "relu -> bigm for highs" in result.plan[0].chain
    assert any(entry.source == "forward" for entry in result.history)  # the start was complete


def test_a_maximum_is_refused_by_name():
    net = chain([(4, "max"), (1, "none")], 2, np.random.default_rng(1))
    with pytest.raises((UnsupportedFeature, InputError), match="native"):
        nn.maximize(net, (-np.ones(2), np.ones(2)), formulation="native")
