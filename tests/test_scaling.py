"""Neurons in units of a sane size: wild weights, exact answers, coefficients a solver can hold."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed import presolve
from nnembed.embedding import emit_block
from nnembed.engine.recover import credible
from nnembed.errors import CoefficientWarning
from nnembed.formulations import pieces
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Clip, absolute, leaky_relu, relu
from nnembed.protocols import Solution
from nnembed.testing import enumerate_optimum
from nnembed.testing.blocks import block_optimum, violation

EXACT = ["two_row", "slack", "sos1", "indicator", "complementarity"]


def leaky(name, source, output, n):
    return leaky_relu(name, source, output, np.full(n, 0.2))


def wild_net(scales, seed, kind=relu, widths=(4, 3), shift=0.0, per_neuron=0):
    """Return a chain with hidden layer i multiplied by ``scales[i]`` and the next one divided by it."""
    rng = np.random.default_rng(seed)
    sizes, tensors, nodes = (2, *widths, 1), {"x": TensorSpec("x", (2,))}, []
    current, before = "x", np.ones(2)
    for i, (a, b) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        after = np.ones(b) if last else scales[i] * 10.0 ** rng.integers(-per_neuron, per_neuron + 1, b)
        weight, bias = rng.normal(size=(b, a)) / np.sqrt(a), rng.normal(size=b) * 0.3 + shift
        nodes.append(
            Affine(f"affine_{i}", (current,), f"pre_{i}", (Dense(weight * after[:, None] / before),), bias * after)
        )
        tensors[f"pre_{i}"] = TensorSpec(f"pre_{i}", (b,))
        current, before = f"pre_{i}", after
        if not last:
            nodes.append(kind(f"act_{i}", current, f"post_{i}", b))
            tensors[f"post_{i}"] = TensorSpec(f"post_{i}", (b,))
            current = f"post_{i}"
    return Network((tensors["x"],), (tensors[current],), tuple(nodes), tensors, name="wild")


def block_of(net, box, formulation):
    part = registry().get("formulation", formulation)
    return emit_block(net, nn.tighten(net, box), {n.name: part for n in net.activations})


def best(block):
    cost = np.zeros(block.n_columns)
    cost[block.outputs] = 1.0
    return block_optimum(block, cost)


BOX = (np.full(2, -1.0), np.full(2, 1.0))


@cache
def tame_optimum(seed, kind, shift=0.0):
    """Return the optimum that does not depend on the scales."""
    return enumerate_optimum(wild_net((1.0, 1.0), seed, kind, shift=shift), *BOX, np.ones(1))


@pytest.mark.parametrize("formulation", EXACT)
@pytest.mark.parametrize("kind", [relu, leaky, absolute])
@pytest.mark.parametrize("scales", [(1e6, 1.0), (1e-6, 1.0), (1e6, 1e-6), (1e-6, 1e6)])
def test_wild_weights_have_the_enumerated_optimum(formulation, kind, scales):
    net = wild_net(scales, 2, kind)
    want = tame_optimum(2, kind)
    block = block_of(net, BOX, formulation)
    assert best(block) == pytest.approx(want, rel=1e-6, abs=1e-6)
    small, large = block.coefficient_range()
    assert small > 1e-6 and large < 1e4


@pytest.mark.parametrize("formulation", ["two_row", "slack"])
def test_highs_needs_the_units(formulation, monkeypatch):
    """Neurons of size 1e-6 are below a solver's tolerance: with units the answer is right, without it is not."""
    wrong = 0
    for seed in range(4):
        net, want = wild_net((1e-7, 1e-7), seed), tame_optimum(seed, relu)
        result = nn.maximize(net, BOX, formulation=formulation, heuristics="none", gap=1e-5, progress=False)
        assert result.status == "optimal" and result.certificate.ok
        assert result.objective == pytest.approx(want, rel=2e-5, abs=1e-5)
        assert result.bound == pytest.approx(want, rel=2e-5, abs=1e-5)
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "units", lambda low, high, matrix: np.ones(len(low)))
            plain = block_of(net, BOX, formulation)
        small, large = plain.coefficient_range()
        assert large / small > 1e6
        wrong += abs((best(plain) or 0.0) - want) > 1e-4
    assert wrong


@pytest.mark.slow
@given(
    seed=st.integers(0, 10**6),
    exponents=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    kind=st.sampled_from([relu, leaky, absolute]),
    formulation=st.sampled_from(["two_row", "slack"]),
    per_neuron=st.integers(0, 3),
    shift=st.sampled_from([0.0, 1.5]),
)
@settings(max_examples=25, deadline=None)
def test_any_scale_has_the_optimum_of_the_tame_network(seed, exponents, kind, formulation, per_neuron, shift):
    scales = tuple(10.0**e for e in exponents)
    net = wild_net(scales, seed, kind, shift=shift, per_neuron=per_neuron)
    want = (
        tame_optimum(seed, kind, shift)
        if not per_neuron
        else enumerate_optimum(wild_net((1.0, 1.0), seed, kind, shift=shift, per_neuron=per_neuron), *BOX, np.ones(1))
    )
    block = block_of(net, BOX, formulation)
    state = net.forward({"x": np.random.default_rng(seed).uniform(-1, 1, (1, 2))})
    assert violation(block, block.fill(state))[0] < 1e-10
    sampled = net(np.random.default_rng(seed).uniform(-1, 1, (500, 2))).max()
    got = best(block)
    assume(got is None or np.isfinite(got))  # every column is bounded: infinite only if scipy's solver gave up
    assert got >= sampled - 1e-6 * (1 + abs(sampled))
    assert got == pytest.approx(want, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("formulation", ["two_row", "slack", "indicator"])
@pytest.mark.parametrize("size", [1e6, 1e-6])
def test_clips_are_rescaled_around_their_ends(formulation, size):
    rng = np.random.default_rng(3)
    t = {n: TensorSpec(n, (k,)) for n, k in {"x": 2, "g": 4, "h": 4, "y": 1}.items()}
    weight, out = rng.normal(size=(4, 2)), rng.normal(size=(1, 4))

    def net(unit):
        nodes = (
            Affine("a", ("x",), "g", (Dense(weight * unit),), np.zeros(4)),
            Clip("c", ("g",), "h", np.full(4, -0.3 * unit), np.array([0.4, 0.4, 9.0, 0.4]) * unit),
            Affine("b", ("h",), "y", (Dense(out / unit),), np.zeros(1)),
        )
        return Network((t["x"],), (t["y"],), nodes, t)

    want = enumerate_optimum(net(1.0), *BOX, np.ones(1))
    block = block_of(net(size), BOX, formulation)
    assert best(block) == pytest.approx(want, abs=1e-6)
    state = net(size).forward({"x": np.array([[0.3, -0.2]])})
    assert violation(block, block.fill(state))[0] < 1e-12


def test_stable_columns_have_units_too():
    net = wild_net((1e8, 1e-7), 2, widths=(30, 12), shift=0.0)
    layer = net.nodes[0]
    shifted = Affine(layer.name, layer.inputs, layer.output, layer.operators, np.full(30, 3e8))
    net = Network(net.inputs, net.outputs, (shifted, *net.nodes[1:]), net.tensors)
    part = registry().get("formulation", "two_row")
    bounds = nn.tighten(net, BOX)
    for way in ("auto", "kept"):
        block = emit_block(net, bounds, {n.name: part for n in net.activations}, stable=way)
        state = net.forward({"x": np.array([[0.3, -0.2]])})
        assert violation(block, block.fill(state))[0] < 1e-12
    assert np.abs(block.upper[block.n_inputs :]).max() < 1e6


def test_ordinary_networks_are_left_alone():
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(rng.normal(size=(6, 4)))
    size = 10.0 ** rng.uniform(-3.9, 3.9, 6)
    assert (presolve.units(-size, size, matrix) == 1).all()


@given(st.integers(0, 10**6))
def test_units_are_powers_of_two_that_tame(seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-12, 12, 20)
    matrix = sp.csr_array(rng.normal(size=(20, 5)) * scale[:, None])
    high = np.abs(matrix).sum(axis=1)
    unit = presolve.units(-high, high, matrix)
    assert (np.log2(unit) == np.round(np.log2(unit))).all()
    assert ((high / unit < 1.1e4) & (high / unit > 0.9e-4)).all()
    largest = np.abs(matrix.toarray()).max(axis=1)[unit != 1] / unit[unit != 1]
    assert ((largest < 2**11) & (largest > 2.0**-11)).all()


def test_a_huge_coefficient_is_told():
    t = {n: TensorSpec(n, (1,)) for n in "xghy"}
    nodes = (
        Affine("a", ("x",), "g", (Dense(np.ones((1, 1))),), np.zeros(1)),
        relu("r", "g", "h", 1),
        Affine("b", ("h",), "y", (Dense(np.full((1, 1), 1e9)),), np.zeros(1)),
    )
    net = Network((t["x"],), (t["y"],), nodes, t, name="steep")
    with pytest.warns(CoefficientWarning, match="'steep'.*1.0e[+]09.*rescale"):
        embedding = nn.embed(nn.ArrayModel([-1.0], [1.0]), net, np.arange(1))
    assert "1.0e+09" in str(embedding.summary())


def narrow_clips(seed, size=2.0**20):
    """Return a network whose clips span 1 to 5 of inputs that reach `size`."""
    rng = np.random.default_rng(seed)
    t = {n: TensorSpec(n, (k,)) for n, k in {"x": 2, "g": 3, "h": 3, "y": 1}.items()}
    nodes = (
        Affine("a", ("x",), "g", (Dense(rng.normal(size=(3, 2)) * size),), rng.normal(size=3) * size / 4),
        Clip("c", ("g",), "h", np.full(3, -0.5), np.array([0.5, 2.5, 4.5])),
        Affine("b", ("h",), "y", (Dense(rng.normal(size=(1, 3))),), np.zeros(1)),
    )
    return Network((t["x"],), (t["y"],), nodes, t)


@pytest.mark.parametrize("formulation", ["auto", "sos1", "indicator"])
@pytest.mark.parametrize("seed", range(4))
def test_outputs_do_not_drown_in_the_units_of_their_inputs(formulation, seed):
    net = narrow_clips(seed)
    want = enumerate_optimum(net, *BOX, np.ones(1))
    result = nn.maximize(net, BOX, formulation=formulation, heuristics="none", progress=False)
    assert result.status == "optimal"
    assert result.objective == pytest.approx(want, rel=1e-4, abs=1e-5)
    assert result.bound >= want - 1e-5


def test_outputs_that_drown_all_the_same_are_told():
    with pytest.warns(CoefficientWarning, match="'c'.*will not count.*rescale"):
        nn.embed(nn.ArrayModel(*BOX), narrow_clips(0, 1e13), np.arange(2), attach=False)


@pytest.mark.parametrize("size", [1e9, 1e11])
@pytest.mark.parametrize("heuristics", ["none", "auto"])
def test_what_a_solver_proves_about_outputs_that_drown_does_not_count(size, heuristics):
    net = narrow_clips(2, size)
    want = enumerate_optimum(net, *BOX, np.ones(1))
    with pytest.warns(CoefficientWarning):
        result = nn.maximize(net, BOX, formulation="two_row", heuristics=heuristics, progress=False)
    assert result.bound >= want - 1e-5  # linear bounds of our own, rounded outward
    assert (result.status == "optimal" and abs(result.objective - want) <= 1e-4) or "not counted" in result.message


def test_infeasible_does_not_count_where_outputs_drown():
    model = nn.ArrayModel(*BOX)
    with pytest.warns(CoefficientWarning):
        embedding = nn.embed(model, narrow_clips(2, 1e11), np.arange(2), attach=False, formulation="two_row")
    problem = SimpleNamespace(placements=(SimpleNamespace(embedding=embedding, block=embedding.block),))
    answer = credible(problem, Solution("infeasible"))
    assert answer.status == "error" and "verdict infeasible is not counted" in answer.message
    assert "rescale" in answer.message
    plain = SimpleNamespace(placements=())
    assert credible(plain, Solution("infeasible")).status == "infeasible"


@given(st.integers(0, 10**6))
def test_visible_units_keep_what_can_be_kept(seed):
    rng = np.random.default_rng(seed)
    size, extent = 10.0 ** rng.uniform(4, 12, 20), 10.0 ** rng.uniform(-6, 4, 20)
    unit = np.exp2(np.round(np.log2(size)))
    made = presolve.visible(unit, size, np.minimum(extent, size))
    assert (made <= unit).all() and (np.log2(made) == np.round(np.log2(made))).all()
    assert (size / made < 2.0**17).all()
    assert ((np.minimum(extent, size) / made > 2.0**-8) | (size / made > 2.0**15)).all()
