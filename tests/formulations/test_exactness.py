"""Exactness by solving: MILP optima against enumeration of linear pieces and against forward passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.testing import chain, enumerate_optimum

EXACT = ["two_row", "slack"]
KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]


@pytest.mark.parametrize("formulation", EXACT)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_optimum_equals_enumeration(formulation, kind, skip):
    rng = np.random.default_rng(len(kind))
    net = chain([(4, kind), (3, "relu"), (2, "none")], 2, rng, skip=skip)
    weights = rng.normal(size=2)
    low, high = -np.ones(2), np.ones(2)
    for solve, up in ((nn.maximize, True), (nn.minimize, False)):
        result = solve(net, (low, high), objective=weights, formulation=formulation, gap=0.0)
        want = enumerate_optimum(net, low, high, weights, maximize=up)
        assert result.status == "optimal"
        assert result.objective == pytest.approx(want, abs=1e-6)
        assert result.bound == pytest.approx(want, abs=1e-6)
        assert result.certificate.ok


@pytest.mark.parametrize("formulation", [*EXACT, "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_fixed_inputs_give_the_forward_pass(formulation, kind):
    rng = np.random.default_rng(3)
    net = chain([(6, kind), (5, kind), (3, "none")], 3, rng, skip=True)
    bounds = nn.tighten(net, (-2 * np.ones(3), 2 * np.ones(3)))
    for x in rng.uniform(-2, 2, (4, 3)):
        for k in range(3):
            for solve in (nn.maximize, nn.minimize):
                result = solve(
                    net, (x, x), objective=np.eye(3)[k], formulation=formulation, bounds=bounds, heuristics="none"
                )
                assert result.objective == pytest.approx(net(x)[k], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_triangle_encloses_the_optimum(kind):
    rng = np.random.default_rng(7)
    net = chain([(4, kind), (3, "relu"), (1, "none")], 2, rng)
    low, high = -np.ones(2), np.ones(2)
    best = enumerate_optimum(net, low, high, np.ones(1))
    result = nn.maximize(net, (low, high), formulation="triangle")
    assert result.bound >= best - 1e-7
    assert not result.certificate.sound


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.booleans(), st.floats(0.01, 4.0))
@settings(max_examples=60, deadline=None)
def test_every_forward_pass_is_feasible(seed, kind, skip, radius):
    """Sampled points of the graph satisfy every row of every formulation, relaxations included."""
    from nnembed.bounds.box import input_bounds
    from nnembed.bounds.ladder import climb
    from nnembed.embedding import emit_block
    from nnembed.engine.embed import tighteners
    from nnembed.hooks.manager import registry

    rng = np.random.default_rng(seed)
    net = chain([(5, kind), (4, "relu"), (4, kind), (2, "none")], 3, rng, skip=skip)
    centre = rng.normal(size=(4, 3))
    box = (centre - radius, centre + radius)
    bounds = climb(input_bounds(net, box), tighteners("auto", registry()), nn.Budget())
    for name in ("two_row", "slack", "triangle"):
        part = registry().get("formulation", name)
        block = emit_block(net, bounds, {node.name: part for node in net.activations})
        for _ in range(20):
            x = rng.uniform(*box)
            state = net.forward({"x": x})
            point = block.fill(state)
            value = block.matrix @ point
            assert (value >= block.row_lower - 1e-9).all()
            assert (value <= block.row_upper + 1e-9).all()
            assert (point >= block.lower - 1e-9).all()
            assert (point <= block.upper + 1e-9).all()
            assert np.array_equal(point[block.outputs], state[net.outputs[0].name].ravel())


def test_stable_neurons_cost_nothing():
    rng = np.random.default_rng(0)
    net = chain([(50, "relu"), (40, "relu"), (1, "none")], 3, rng)
    x = rng.normal(size=3)
    m = nn.ArrayModel(x - 1e-9, x + 1e-9)
    embedding = nn.embed(m, net, np.arange(3), attach=False)
    assert embedding.bounds.unstable == 0
    assert embedding.block.binaries == 0
    assert embedding.block.n_rows == 1
    assert embedding.block.n_columns == 4


def test_mixed_formulations_per_layer():
    rng = np.random.default_rng(1)
    net = chain([(4, "relu"), (4, "abs"), (1, "none")], 2, rng)
    choice = {"relu_0": "slack", "abs_1": "two_row"}
    result = nn.maximize(net, (-np.ones(2), np.ones(2)), formulation=choice, gap=0.0)
    assert result.objective == pytest.approx(enumerate_optimum(net, -np.ones(2), np.ones(2), np.ones(1)), abs=1e-6)
    assert [line.formulation for line in result.plan[0].lines] == ["slack", "two_row"]


def test_doctests_print_the_blocks():
    import doctest

    from nnembed.formulations import bigm, triangle

    for module in (bigm, triangle):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed
