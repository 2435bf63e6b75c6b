"""Neurons that are each other's negative share a binary; maxima of two have one."""

import doctest
import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.box import input_bounds
from nnembed.bounds.ladder import climb
from nnembed.builder import Rows
from nnembed.engine.embed import tighteners
from nnembed.formulations.bigm import TwoRow
from nnembed.formulations.crelu import CRelu, classes
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Dense, Selection
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Max, leaky_relu, relu
from nnembed.testing import block_optimum, enumerate_optimum
from nnembed.testing.blocks import violation
from nnembed.testing.emitted import written
from nnembed.testing.formulations import output_cost


def bounded(net, low=-1.0, high=1.0):
    return climb(input_bounds(net, (low, high)), tighteners("crown", registry()), nn.Budget())


def concatenated(rng, n, *, apart, kind=relu):
    """Return a CReLU layer of 2 n neurons and a linear end; `apart` in two layers, the second reading the negative."""
    weight, bias = rng.normal(size=(n, 2)), 0.3 * rng.normal(size=n)
    end, shift = (Dense(rng.normal(size=(1, n))), Dense(rng.normal(size=(1, n)))), rng.normal(size=1)
    slope = np.full(n if apart else 2 * n, 0.1)
    make = (lambda *a: relu(*a, n if apart else 2 * n)) if kind is relu else (lambda *a: leaky_relu(*a, slope))
    sizes = {"x": 2, "g": n, "y": 1}
    if apart:
        sizes |= {"h": n, "p": n, "q": n}
        minus = Affine("neg", ("g",), "h", (Dense(-np.eye(n)),), np.zeros(n))
        layers = (minus, make("up", "g", "p"), make("down", "h", "q"))
        nodes = (Affine("a", ("x",), "g", (Dense(weight),), bias), *layers, Affine("e", ("p", "q"), "y", end, shift))
    else:
        sizes |= {"g": 2 * n, "p": 2 * n}
        both = Affine("a", ("x",), "g", (Dense(np.vstack([weight, -weight])),), np.concatenate([bias, -bias]))
        nodes = (both, make("crelu", "g", "p"), Affine("e", ("p",), "y", (Dense(rng.normal(size=(1, 2 * n))),), shift))
    tensors = {k: TensorSpec(k, (m,)) for k, m in sizes.items()}
    return Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="crelu")


def test_doctests_print_the_blocks():
    for module in ("crelu", "bigm"):
        found = doctest.testmod(importlib.import_module(f"nnembed.formulations.{module}"))
        assert found.attempted and not found.failed


@pytest.mark.parametrize("kind", [relu, leaky_relu])
@pytest.mark.parametrize("apart", [False, True])
@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_pairs_share_their_binary_and_nothing_else_changes(kind, apart, seed):
    net = concatenated(np.random.default_rng(seed), 3, apart=apart, kind=kind)
    bounds = bounded(net)
    shared, plain = written(net, bounds, CRelu()), written(net, bounds, TwoRow())
    assert shared.binaries * 2 == plain.binaries == bounds.unstable
    for up in (False, True):
        want = enumerate_optimum(net, -np.ones(2), np.ones(2), np.ones(1), maximize=up)
        assert block_optimum(shared, output_cost(shared, np.ones(1)), maximize=up) == pytest.approx(want, abs=1e-5)
    for x in np.random.default_rng(seed).uniform(-1, 1, (20, 2)):
        point = shared.fill(net.forward({"x": x[None]}))
        assert violation(shared, point)[0] <= 1e-9


@pytest.mark.parametrize("apart", [False, True])
def test_auto_sees_pairs(apart):
    net = concatenated(np.random.default_rng(3), 4, apart=apart)
    result = nn.maximize(net, (-1.0, 1.0), gap=0.0)
    want = enumerate_optimum(net, -np.ones(2), np.ones(2), np.ones(1))
    assert result.status == "optimal" and result.objective == pytest.approx(want, abs=1e-5)
    import linopy

    model = linopy.Model()
    emb = nn.embed(model, net, model.add_variables(lower=-1, upper=1, coords=[range(2)], name="x"))
    assert {line.formulation for line in emb.plan.lines} == {"crelu"}
    assert all(f"{line.open} neurons" in line.reason for line in emb.plan.lines)
    assert emb.block.binaries * 2 == emb.bounds.unstable
    lone = nn.maximize(net, (-1.0, 1.0), formulation="crelu", backend="highs", gap=0.0)
    assert lone.objective == pytest.approx(want, abs=1e-5)


def test_auto_sees_none_where_there_are_none():
    rng = np.random.default_rng(0)
    net = concatenated(rng, 4, apart=False)
    weight = net.nodes[0].operators[0].weight.copy()
    weight[4:] *= 1.0 + 1e-9
    nodes = (Affine("a", ("x",), "g", (Dense(weight),), net.nodes[0].bias), *net.nodes[1:])
    other = Network(net.inputs, net.outputs, nodes, net.tensors)
    import linopy

    model = linopy.Model()
    emb = nn.embed(model, other, model.add_variables(lower=-1, upper=1, coords=[range(2)], name="x"))
    assert [line.formulation for line in emb.plan.lines] == ["two_row"]
    assert written(other, bounded(other), CRelu()).binaries == bounded(other).unstable


def test_classes_of_rows():
    import scipy.sparse as sp

    rows = np.array([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0], [1.0, 2.0], [0.0, 3.0], [2.0, 4.0], [-1.0, -2.0]])
    constant = np.array([0.5, -0.5, 0.5, 0.25, 0.0, 1.0, 0.5])
    first, sign = classes(Rows(sp.csr_array(rows), constant))
    assert first.tolist() == [0, 0, 0, 3, 4, 5, 6] and sign.tolist() == [1, -1, 1, 1, 1, 1, 1]


def test_a_batch_with_units():
    """Wild sizes and several boxes: columns in units of their own."""
    rng = np.random.default_rng(1)
    for size in (1e-7, 1e7):
        net = concatenated(rng, 3, apart=True)
        affine = net.nodes[0]
        nodes = (
            Affine("a", ("x",), "g", (Dense(size * affine.operators[0].weight),), size * affine.bias),
            *net.nodes[1:],
        )
        wild = Network(net.inputs, net.outputs, nodes, net.tensors)
        bounds = bounded(wild, -np.ones((3, 2)), np.array([[1.0, 1.0], [0.0, 0.5], [-1.0, -1.0]]))
        block = written(wild, bounds, CRelu())
        for _ in range(20):
            x = rng.uniform(bounds.low["x"], bounds.high["x"])
            assert violation(block, block.fill(wild.forward({"x": x})))[0] <= 1e-9


# ---- maxima of two ----------------------------------------------------------------------------------


def sorted_pairs(n):
    """Return GroupSort-2 on n pairs: hi = max(a, b), lo = a + b - hi."""
    tensors = {k: TensorSpec(k, (m,)) for k, m in (("x", 2 * n), ("hi", n), ("lo", n))}
    groups = np.stack([np.arange(n), n + np.arange(n)], axis=1)
    both, pick = Dense(np.hstack([np.eye(n), np.eye(n)])), Selection(np.arange(n), n)
    lo = Affine("lo", ("x", "hi"), "lo", (both, Dense(-np.eye(n))), np.zeros(n))
    assert pick.shape == (n, n)
    return Network((tensors["x"],), (tensors["hi"], tensors["lo"]), (Max("max", ("x",), "hi", groups), lo), tensors)


@pytest.mark.parametrize("part", ["two_row", "slack", "zhat", "ideal"])
def test_sorting_two_costs_one_binary(part):
    net = sorted_pairs(3)
    block = written(net, bounded(net), registry().get("formulation", part))
    assert block.binaries == 3
    rng = np.random.default_rng(0)
    for x in rng.uniform(-1, 1, (20, 6)):
        state = net.forward({"x": x[None]})
        assert violation(block, block.fill(state))[0] <= 1e-9
        assert np.allclose(np.sort(np.stack([state["hi"], state["lo"]]), axis=0), np.stack([state["lo"], state["hi"]]))
    weights = rng.normal(size=6)
    want = enumerate_optimum(net, -np.ones(6), np.ones(6), weights)
    assert block_optimum(block, output_cost(block, weights), maximize=True) == pytest.approx(want, abs=1e-6)


def test_groups_of_two_and_of_three():
    x, y = TensorSpec("x", (3,)), TensorSpec("y", (3,))
    node = Max("max", ("x",), "y", np.array([[0, 1, 2], [0, 1, 1], [2, 1, 0]]))
    net = Network((x,), (y,), (node,), {"x": x, "y": y})
    block = written(net, bounded(net), TwoRow())
    assert block.binaries == 7
    for weights in np.random.default_rng(0).normal(size=(5, 3)):
        want = enumerate_optimum(net, -np.ones(3), np.ones(3), weights)
        assert block_optimum(block, output_cost(block, weights), maximize=True) == pytest.approx(want, abs=1e-6)
