"""Roundings: optima against enumeration and all solvers, what happens at a jump, margins."""

import doctest
import importlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.errors import CoefficientWarning, InputError
from nnembed.formulations.bigm import Slack, TwoRow
from nnembed.formulations.hull import Hull
from nnembed.formulations.round import RoundRows
from nnembed.formulations.triangle import Triangle
from nnembed.hooks.manager import registry
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Round
from nnembed.testing import block_optimum, chain
from nnembed.testing.blocks import violation
from nnembed.testing.emitted import bounded, enumerated, written
from nnembed.testing.formulations import output_cost

MIXED = [TwoRow(), Slack()]


def name(part):
    return part.name


def rounding(low=-np.inf, high=np.inf, step=1.0, scale=1.0, rule="even"):
    """Return the network of one rounding."""
    x, y = TensorSpec("x", (1,)), TensorSpec("y", (1,))
    node = Round("round", ("x",), "y", *(np.array([v]) for v in (step, scale, low, high)), rule)
    return Network((x,), (y,), (node,), {"x": x, "y": y}, name="rounding")


def values_at(net, part, low, high, x, methods="interval"):
    """Return the least and the greatest value that a block holds at an input."""
    block = written(net, bounded(net, low, high, methods), part)
    lower, upper = block.lower.copy(), block.upper.copy()
    lower[0] = upper[0] = x
    fixed = replace(block, lower=lower, upper=upper)
    return [block_optimum(fixed, output_cost(block, np.ones(1)), maximize=up) for up in (False, True)]


def test_doctests_print_the_blocks():
    found = doctest.testmod(importlib.import_module("nnembed.formulations.round"))
    assert found.attempted and not found.failed


@given(st.integers(0, 40), st.booleans())
@settings(max_examples=8, deadline=None)
def test_blocks_have_the_optimum_of_enumeration(seed, skip):
    net, ends = enumerated(((3, "round"), (2, "round")), seed, skip)
    block = written(net, bounded(net, -1.0, 1.0), RoundRows())
    for want, up in zip(ends, (False, True), strict=True):
        assert block_optimum(block, output_cost(block, np.ones(1)), maximize=up) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("part", MIXED, ids=name)
@given(st.integers(0, 40), st.sampled_from(["relu", "steep", "clip", "step", "winner"]), st.booleans())
@settings(max_examples=8, deadline=None)
def test_roundings_mix_with_other_layers(part, seed, kind, first):
    layers = ((2, "round"), (3, kind)) if first else ((3, kind), (2, "round"))
    net, ends = enumerated(layers, seed, True)
    block = written(net, bounded(net, -1.0, 1.0), part)
    for want, up in zip(ends, (False, True), strict=True):
        assert block_optimum(block, output_cost(block, np.ones(1)), maximize=up) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("part", [Triangle(), Hull()], ids=name)
@given(st.integers(0, 40), st.booleans())
@settings(max_examples=5, deadline=None)
def test_relaxations_contain_the_network(part, seed, skip):
    net, (least, most) = enumerated(((2, "round"), (2, "relu"), (2, "round")), seed, skip)
    block = written(net, bounded(net, -1.0, 1.0), part)
    assert not block.integer.any() and not block.exact
    cost = output_cost(block, np.ones(1))
    assert block_optimum(block, cost, maximize=False) <= least + 1e-7
    assert block_optimum(block, cost, maximize=True) >= most - 1e-7


@pytest.mark.parametrize("backend", ["highs", "scip", "gurobi"])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_the_networks_with_every_solver(backend, seed):
    known = registry().parts("backend").get(backend)
    if known is None or not known.available():
        pytest.skip(f"{backend} is not installed")
    net, (least, most) = enumerated(((3, "round"), (2, "relu"), (2, "round")), 100 + seed, True)
    for want, call in ((least, nn.minimize), (most, nn.maximize)):
        result = call(net, (-1.0, 1.0), backend=backend, gap=0.0)
        assert result.status in ("optimal", "feasible") and result.certificate.ok
        assert result.bound == pytest.approx(want, abs=1e-5)
        assert result.objective == pytest.approx(net(result.x)[0], abs=1e-9)
        if result.status == "optimal":
            assert result.objective == pytest.approx(want, abs=1e-4)


# ---- levels ---------------------------------------------------------------------------------------


def test_a_known_level_is_a_number_and_two_are_a_binary():
    sizes = {}
    for low, high in ((0.6, 1.4), (0.6, 1.6), (0.6, 2.6)):
        block = written(rounding(), bounded(rounding(), low, high, "interval"), RoundRows())
        sizes[high] = block.n_columns, block.binaries, block.n_rows
    assert sizes == {1.4: (2, 0, 1), 1.6: (3, 1, 3), 2.6: (3, 1, 3)}


def test_saturation_takes_a_binary_where_it_is_in_reach():
    net = rounding(0.0, 3.0)
    count = {}
    for low, high in ((-0.4, 3.4), (-2.0, 3.4), (-0.4, 9.0), (-2.0, 9.0)):
        count[low, high] = written(net, bounded(net, low, high, "interval"), RoundRows()).binaries
    assert list(count.values()) == [1, 2, 2, 3]


@given(st.integers(0, 10**6), st.sampled_from(["even", "down", "up"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_point_has_its_value_and_no_other(seed, rule, limited):
    rng = np.random.default_rng(seed)
    step, scale = rng.choice([0.01, 0.3, 1.0, 7.0]), rng.choice([0.1, 1.0])
    limits = (rng.integers(-3, 1), rng.integers(1, 4)) if limited else (-np.inf, np.inf)
    net = rounding(*limits, step, scale, rule)
    low, high = np.sort(rng.uniform(-6, 6, 2)) * step
    x = float(rng.uniform(low, high))
    want = net(np.array([x]))[0]
    part = (x / step - net.nodes[0].shift) % 1.0
    if min(part, 1 - part) > 1e-3:
        assert values_at(net, RoundRows(), low, high, x) == pytest.approx([want, want], abs=1e-6)


def test_a_jump_has_both_values():
    assert values_at(rounding(), RoundRows(), -3.0, 3.0, 0.5) == pytest.approx([0, 1], abs=1e-6)
    assert values_at(rounding(), RoundRows(), -3.0, 3.0, 0.49) == pytest.approx([0, 0], abs=1e-6)
    assert values_at(rounding(rule="down"), RoundRows(), -3.0, 3.0, 1.0) == pytest.approx([0, 1], abs=1e-6)
    assert values_at(rounding(rule="up"), RoundRows(), 0.1, 1.9, 1.0) == pytest.approx([1, 2], abs=1e-6)


@given(st.integers(0, 10**6), st.sampled_from(["even", "down", "up"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_margin_gives_jumps_to_the_level_of_the_network(seed, rule, limited):
    rng = np.random.default_rng(seed)
    limits = (rng.integers(-3, 1), rng.integers(1, 4)) if limited else (-np.inf, np.inf)
    net = rounding(*limits, 1.0, 0.5, rule)
    low, high = np.sort(rng.integers(-16, 17, 2) / 4)
    x = float(
        rng.integers(round(low * 4), round(high * 4) + 1) / 4
    )  # multiples of 1/4: jumps, and points a margin apart
    want = net(np.array([x]))[0]
    part = RoundRows(margin=0.25)
    assert values_at(net, part, low, high, x) == pytest.approx([want, want], abs=1e-6)
    block = written(net, bounded(net, low, high, "interval"), part)
    assert violation(block, block.fill(net.forward({"x": np.array([[x]])})))[0] <= 1e-9


def test_the_margin_leaves_out_what_it_says():
    part = RoundRows(margin=0.25)
    assert values_at(rounding(), part, -3.0, 3.0, 0.6) == [None, None]  # halves belong to zero
    assert values_at(rounding(), part, -3.0, 3.0, 0.45) == pytest.approx([0, 0])
    assert values_at(rounding(), part, 0.2, 0.9, 0.6) == [None, None]
    assert values_at(rounding(rule="down"), part, -3.0, 3.0, 0.9) == [None, None]
    assert values_at(rounding(rule="up"), part, -3.0, 3.0, 1.1) == [None, None]
    assert "margin=0.25" in part.name


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_margins_are_refused(bad):
    with pytest.raises(InputError, match="margin"):
        RoundRows(margin=bad)


def test_a_batch_and_wild_sizes():
    """Every point of a batch with its own box; steps of 1e6 and 1e-6."""
    for size in (1e-6, 1.0, 1e6):
        net = rounding(-4.0, 5.0, 0.3 * size, 0.7)
        low = size * np.array([[-3.0], [0.1], [-0.2], [0.3]])
        bounds = bounded(net, low, low + size * np.array([[6.0], [0.2], [0.5], [0.0]]))
        block = written(net, bounds, RoundRows())
        rng = np.random.default_rng(0)
        for _ in range(50):
            x = rng.uniform(bounds.low["x"], bounds.high["x"])
            point = block.fill(net.forward({"x": x}))
            assert violation(block, point)[0] <= 1e-9
            assert point[block.outputs] == pytest.approx(net(x)[:, 0])
        assert np.abs(block.matrix.data).max() < 100 * max(1.0, 1e-6 / size, 1.0 / size)


def test_too_many_levels_earn_a_warning():
    with pytest.warns(CoefficientWarning, match=r"'round': a rounding has 2\.0e\+09 levels"):
        written(rounding(), bounded(rounding(), -1e9, 1e9, "interval"), RoundRows())


def test_a_quantised_network_is_solved_and_explained():
    """Eight bits of weights do not matter here: activations of four bits between dense layers."""
    rng = np.random.default_rng(0)
    net = chain([(8, "round"), (8, "round"), (1, "none")], 3, rng)
    result = nn.maximize(net, (-1.0, 1.0), gap=0.0)
    assert result.certificate.ok
    assert result.bound >= net(rng.uniform(-1, 1, (20000, 3))).max() - 1e-9


def test_integers_attach_to_models():
    import linopy

    net = rounding(scale=0.5)
    model = linopy.Model()
    x = model.add_variables(lower=-3, upper=3, coords=[range(1)], name="x")
    emb = nn.embed(model, net, x)
    assert "an integer column" in str(emb.plan)
    model.add_constraints(x <= 2.4)
    model.add_objective(emb.outputs.sum() - 0.01 * x.sum(), sense="max")
    result = nn.solve(model, gap=0.0)
    assert result.objective == pytest.approx(1.0 - 0.015, abs=1e-5)


def test_an_answer_at_a_jump_of_a_single_precision_file_is_told(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import helper, numpy_helper

    weight = np.array([[1, -2, 0.5], [0, 1, 1], [-1, 0.3, 2]], np.float32)
    constants = {"W": weight, "s": np.float32(0.25), "z": np.int8(3)}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path = tmp_path / "quantised.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), path)
    network = nn.load(path)
    result = nn.maximize(network, (-1.0, 1.0), objective=[1.0, 1.0, 1.0], progress=False)
    assert result.certificate.ok
    theirs = network.reference.run({"x": np.asarray(result.x, float).reshape(1, 3)})["y"]
    differs = np.abs(theirs - result.y).max() > 1e-5
    assert differs == any("at a jump" in note for note in result.certificate.notes)
