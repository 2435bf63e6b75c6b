"""Columns for stable neurons: the same optimum, fewer nonzeros, every column known to a forward pass."""

from __future__ import annotations

import os
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed import presolve
from nnembed.block import Role
from nnembed.embedding import emit_block
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Convolution, Dense, Sparse
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Clip, Max, absolute, leaky_relu, relu
from nnembed.reduction import appearances
from nnembed.testing import enumerate_optimum
from nnembed.testing.blocks import block_optimum, violation

WAYS = ("auto", "kept", "substituted")


def dense_net(sizes, seed, shift, kind=relu, density=1.0):
    """Return a chain whose hidden biases are +-shift, four of five positive: many stably active neurons."""
    rng = np.random.default_rng(seed)
    tensors, nodes, current = {"x": TensorSpec("x", (sizes[0],))}, [], "x"
    for i, (a, b) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        weight = rng.normal(size=(b, a)) * np.sqrt(2 / a) * (rng.random((b, a)) < density)
        bias = np.zeros(b) if last else rng.choice([-1, 1], size=b, p=[0.2, 0.8]) * shift
        operator = Dense(weight) if density == 1 else Sparse(sp.csr_array(weight))
        nodes.append(Affine(f"affine_{i}", (current,), f"pre_{i}", (operator,), bias))
        tensors[f"pre_{i}"] = TensorSpec(f"pre_{i}", (b,))
        current = f"pre_{i}"
        if not last:
            nodes.append(kind(f"act_{i}", current, f"post_{i}", b))
            tensors[f"post_{i}"] = TensorSpec(f"post_{i}", (b,))
            current = f"post_{i}"
    return Network((tensors["x"],), (tensors[current],), tuple(nodes), tensors, name="shifted")


def leaky(name, source, output, n):
    return leaky_relu(name, source, output, np.full(n, 0.2))


def blocks(net, box, formulation):
    bounds = nn.tighten(net, box)
    part = registry().get("formulation", formulation)
    return bounds, {s: emit_block(net, bounds, {n.name: part for n in net.activations}, stable=s) for s in WAYS}


def cost_of(block, weights, point=0):
    cost = np.zeros(block.n_columns)
    np.add.at(cost, block.outputs.reshape(block.batch, -1)[point], weights)
    return cost


EXACT = ["two_row", "slack", "sos1", "indicator", "complementarity"]


# ---- exactness --------------------------------------------------------------------------------------


@cache
def small_case(seed, kind):
    net = dense_net([4, 4, 3, 2], seed, 1.2, kind)
    x, weights = np.random.default_rng(seed).normal(size=4) * 0.3, np.array([1.0, -0.5])
    return net, (x - 0.35, x + 0.35), weights, enumerate_optimum(net, x - 0.35, x + 0.35, weights)


@pytest.mark.parametrize("formulation", EXACT)
@pytest.mark.parametrize("kind", [relu, leaky, absolute])
def test_every_way_has_the_enumerated_optimum(formulation, kind):
    chosen = set()
    for seed in range(3):
        net, box, weights, want = small_case(seed, kind)
        _, found = blocks(net, box, formulation)
        for name, block in found.items():
            got = block_optimum(block, cost_of(block, weights))
            assert got == pytest.approx(want, abs=1e-6), name
            chosen |= {p.choice for p in block.presolved}
    assert "kept" in chosen


@given(
    seed=st.integers(0, 10**6),
    radius=st.floats(1e-3, 1.0),
    shift=st.floats(0.0, 3.0),
    kind=st.sampled_from([relu, leaky, absolute]),
    formulation=st.sampled_from(["two_row", "slack", "triangle"]),
    density=st.sampled_from([1.0, 0.4]),
)
@settings(max_examples=30, deadline=None)
def test_forward_passes_meet_every_row_and_bound(seed, radius, shift, kind, formulation, density):
    net = dense_net([6, 9, 8, 7, 3], seed, shift, kind, density)
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(3, 6))
    _, found = blocks(net, (centre - radius, centre + radius), formulation)
    for name, block in found.items():
        for _ in range(5):
            state = net.forward({"x": rng.uniform(centre - radius, centre + radius)})
            x = block.fill(state)
            worst, what = violation(block, x)
            assert worst < 1e-11, (name, what)
            assert np.array_equal(x[block.outputs], state[net.outputs[0].name].ravel())
        names = block.names("n")
        assert len(set(names)) == len(names)


def test_names_of_columns_are_unique_with_folds_from_two_sources():
    net = skip_net(0)
    _, found = blocks(net, (np.full(8, -0.05), np.full(8, 0.05)), "two_row")
    assert any(p.choice == "folded" for p in found["auto"].presolved)
    for block in found.values():
        names = block.names("n")
        assert len(set(names)) == len(names)


def skip_net(seed):
    """Return a network whose last hidden layer reads two stable layers at once."""
    rng = np.random.default_rng(seed)
    sizes = {"x": 8, "g0": 30, "h0": 30, "g1": 30, "h1": 30, "g2": 9, "h2": 9, "y": 2}
    t = {n: TensorSpec(n, (k,)) for n, k in sizes.items()}

    def w(out, source):
        return Dense(rng.normal(size=(sizes[out], sizes[source])) / np.sqrt(sizes[source]))

    up = np.where(np.arange(30) < 25, 1.0, 0.0)
    nodes = (
        Affine("a0", ("x",), "g0", (w("g0", "x"),), up),
        relu("r0", "g0", "h0", 30),
        Affine("a1", ("h0",), "g1", (w("g1", "h0"),), 2 * up),
        relu("r1", "g1", "h1", 30),
        Affine("a2", ("h1", "h0"), "g2", (w("g2", "h1"), w("g2", "h0")), np.zeros(9)),
        relu("r2", "g2", "h2", 9),
        Affine("a3", ("h2",), "y", (w("y", "h2"),), np.zeros(2)),
    )
    bias = -nodes[4].operators[0].apply(np.maximum(2 * up, 0)) - nodes[4].operators[1].apply(up)
    middle = Affine("a2", nodes[4].inputs, "g2", nodes[4].operators, bias)
    return Network((t["x"],), (t["y"],), (*nodes[:4], middle, *nodes[5:]), t, name="skip")


@pytest.mark.parametrize("formulation", ["two_row", "slack"])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_ways_agree_on_a_network_with_skips(formulation, seed):
    net = skip_net(seed)
    _, found = blocks(net, (np.full(8, -0.05), np.full(8, 0.05)), formulation)
    weights = np.array([1.0, -1.0])
    best = [block_optimum(b, cost_of(b, weights)) for b in found.values()]
    assert best == pytest.approx([best[0]] * 3, abs=1e-7)
    rng = np.random.default_rng(seed)
    assert best[0] >= (net(rng.uniform(-0.05, 0.05, (2000, 8))) @ weights).max() - 1e-9


def test_clips_and_maxima_behind_stable_neurons():
    rng = np.random.default_rng(2)
    sizes = {"x": 3, "g0": 4, "h0": 4, "g1": 2, "h1": 2, "m": 1, "y": 1}
    t = {n: TensorSpec(n, (k,)) for n, k in sizes.items()}
    nodes = (
        Affine("a0", ("x",), "g0", (Dense(rng.normal(size=(4, 3))),), np.full(4, 5.0)),
        relu("r0", "g0", "h0", 4),
        Affine("a1", ("h0",), "g1", (Dense(rng.normal(size=(2, 4)) / 4),), np.zeros(2)),
        Clip("c1", ("g1",), "h1", np.full(2, -0.2), np.full(2, 0.8)),
        Max("m1", ("h1",), "m", np.array([[0, 1]])),
        Affine("a2", ("m",), "y", (Dense(rng.normal(size=(1, 1))),), np.zeros(1)),
    )
    net = Network((t["x"],), (t["y"],), nodes, t)
    low, high = np.full(3, -1.0), np.full(3, 1.0)
    want = enumerate_optimum(net, low, high, np.ones(1))
    for formulation in ("two_row", "slack"):
        _, found = blocks(net, (low, high), formulation)
        for block in found.values():
            assert block_optimum(block, cost_of(block, np.ones(1))) == pytest.approx(want, abs=1e-6)


def test_a_batch_of_boxes_with_different_stable_neurons():
    net = dense_net([5, 12, 9, 3], 3, 0.8)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 5))
    radius = np.array([0.01, 0.05, 0.1, 0.3])[:, None]
    _, found = blocks(net, (x - radius, x + radius), "two_row")
    weights = np.array([1.0, 1.0, -1.0])
    for point in range(4):
        single = blocks(net, (x[point] - radius[point], x[point] + radius[point]), "two_row")[1]["substituted"]
        want = block_optimum(single, cost_of(single, weights))
        for block in found.values():
            assert block_optimum(block, cost_of(block, weights, point)) == pytest.approx(want, abs=1e-6)


def test_infinite_bounds_do_not_disturb():
    from dataclasses import replace

    net = dense_net([3, 8, 6, 2], 0, 4.0)
    bounds = nn.tighten(net, (np.full(3, -1.0), np.full(3, 1.0)))
    high = {k: np.where(np.arange(v.shape[1]) % 2 == 0, np.inf, v) if k != "x" else v for k, v in bounds.high.items()}
    part = registry().get("formulation", "sos1")
    block = emit_block(net, replace(bounds, high=high), {n.name: part for n in net.activations})
    state = net.forward({"x": np.full((1, 3), 0.5)})
    assert not np.isnan(block.lower).any() and not np.isnan(block.upper).any()
    assert violation(block, block.fill(state))[0] < 1e-12


# ---- counting ----------------------------------------------------------------------------------------


def test_counts_are_the_nonzeros_that_are_written():
    """The predicted saving against keeping is the saving in the matrix, for a layer followed by outputs only."""
    for density in (1.0, 0.3):
        net = dense_net([20, 40, 3], 1, 3.0, density=density)
        _, found = blocks(net, (np.full(20, -0.05), np.full(20, 0.05)), "two_row")
        (line,) = found["auto"].presolved
        sizes = {name: block.matrix.nnz for name, block in found.items()}
        assert sizes["kept"] - sizes["substituted"] == line.costs["kept"] - line.costs["substituted"]
        assert line.choice == "substituted"


def test_convolutions_keep_their_stable_neurons():
    """Rows that read 36 pixels of a hidden layer are cheaper than the 75 of the image behind it."""
    rng = np.random.default_rng(0)
    t = {n: TensorSpec(n, s) for n, s in {"x": (3, 5, 5), "g": (4, 5, 5), "h": (4, 5, 5), "p": (16, 5, 5)}.items()}
    t |= {"q": TensorSpec("q", (16, 5, 5)), "y": TensorSpec("y", (1,))}
    first = Convolution(rng.normal(size=(4, 3, 3, 3)), (5, 5), (1, 1), (1, 1), ((1, 1), (1, 1)))
    second = Convolution(rng.normal(size=(16, 4, 3, 3)), (5, 5), (1, 1), (1, 1), ((1, 1), (1, 1)))
    nodes = (
        Affine("c0", ("x",), "g", (first,), np.full(100, 4.0)),
        relu("r0", "g", "h", 100),
        Affine("c1", ("h",), "p", (second,), -second.apply(np.full(100, 4.0))),
        relu("r1", "p", "q", 400),
        Affine("f", ("q",), "y", (Dense(rng.normal(size=(1, 400))),), np.zeros(1)),
    )
    net = Network((t["x"],), (t["y"],), nodes, t)
    _, found = blocks(net, (np.full(75, -0.05), np.full(75, 0.05)), "slack")
    assert [p.choice for p in found["auto"].presolved][:1] == ["kept"]
    assert found["auto"].matrix.nnz < 0.8 * found["substituted"].matrix.nnz


def test_how_often_a_row_is_written():
    node = relu("r", "x", "y", 3)
    get = registry().get
    assert appearances(get("formulation", "two_row"), node) == 2
    assert appearances(get("formulation", "slack"), node) == 1
    assert appearances(get("formulation", "indicator"), node) == 1
    assert appearances(get("formulation", "two_row"), absolute("a", "x", "y", 3)) == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_wide_networks_with_many_stable_neurons_shrink_to_less_than_half(seed):
    net = dense_net([784, 400, 400, 10], seed, 0.6)
    x = np.random.default_rng(seed).random(784) * 0.2
    for formulation in ("two_row", "slack"):
        bounds, found = blocks(net, (x - 0.01, x + 0.01), formulation)
        assert (bounds.low["pre_0"] >= 0).sum() > 300
        sizes = {name: block.matrix.nnz for name, block in found.items()}
        assert sizes["auto"] <= 0.5 * sizes["kept"]
        assert sizes["auto"] <= sizes["substituted"]
        state = net.forward({"x": (x + np.linspace(-0.01, 0.01, 784))[None]})
        assert violation(found["auto"], found["auto"].fill(state))[0] < 1e-12


def bench_net(name):
    folder = Path(os.environ.get("NNEMBED_BENCH") or Path(__file__).parents[2] / "shared" / "bench") / "nets"
    if not (folder / f"{name}.onnx").is_file():
        pytest.skip("the yardstick's networks are not here")
    return nn.load(folder / f"{name}.onnx"), folder


def test_digits_needs_fewer_nonzeros_than_keeping_and_than_substituting():
    import json

    net, folder = bench_net("digits_3x100")
    task = next(t for t in json.loads((folder / "tasks.json").read_text()) if t["name"] == "digits_3x100_i0_e0.05")
    _, found = blocks(net, (np.array(task["lb"]), np.array(task["ub"])), "two_row")
    sizes = {name: block.matrix.nnz for name, block in found.items()}
    assert sizes["auto"] < 0.8 * min(sizes["kept"], sizes["substituted"])


# ---- what the user sees -------------------------------------------------------------------------------


@pytest.mark.parametrize("attach", [True, False])
def test_summary_and_plan_say_what_was_done(attach):
    net = dense_net([30, 60, 20, 2], 0, 1.0)
    x = np.random.default_rng(0).random(30)
    model = nn.ArrayModel(x - 0.05, x + 0.05)
    embedding = nn.embed(model, net, np.arange(30), formulation="two_row", attach=attach)
    done = embedding.reduction()
    assert done.after == embedding.block.matrix.nnz
    assert done.after < min(done.kept, done.substituted)
    assert done.difference <= 1e-12
    text = " ".join(str(embedding.summary()).split())
    assert "presolve" in text and f"{done.kept} -> {done.after}" in text
    assert "folded" in " ".join(str(embedding.plan).split())
    assert embedding.reduction() is done


def test_hidden_values_are_recovered():
    """Every kept or folded column has the value of a forward pass after a solve."""
    net = dense_net([30, 60, 20, 2], 0, 1.0)
    x = np.random.default_rng(0).random(30)
    _, found = blocks(net, (x - 0.05, x + 0.05), "two_row")
    state = net.forward({"x": (x + 0.02)[None]})
    for block in (found["auto"], found["kept"]):
        point = block.fill(state)
        groups = [g for g in block.groups if g.role is Role.STABLE]
        assert groups
        for group in groups:
            if group.tensor.startswith("post"):
                assert np.array_equal(point[group.columns], state[group.tensor].ravel()[group.elements])


def test_nothing_to_decide():
    net = dense_net([2, 4, 1], 0, 0.0)
    embedding = nn.embed(nn.ArrayModel(-np.ones(2), np.ones(2)), net, np.arange(2))
    assert embedding.block.presolved == ()
    assert embedding.reduction().kept == embedding.reduction().after


# ---- intervals ---------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_ranges_enclose(seed):
    rng = np.random.default_rng(seed)
    matrix = sp.csr_array(rng.normal(size=(5, 7)) * (rng.random((5, 7)) < 0.6) * 10.0 ** rng.integers(-8, 8, (5, 1)))
    low = rng.normal(size=7) * 10.0 ** rng.integers(-4, 4)
    high = low + rng.random(7) * 10.0 ** rng.integers(-4, 4)
    least, most = presolve.ranges(matrix, low, high)
    for x in (low, high, *rng.uniform(low, high, (20, 7))):
        exact = np.array([float(sum(_fraction(a) * _fraction(b) for a, b in zip(row, x, strict=True)))
                          for row in matrix.toarray()])  # fmt: skip
        assert (least <= exact).all() and (exact <= most).all()


def _fraction(value):
    from fractions import Fraction

    return Fraction(float(value))


def test_ranges_of_infinite_sides():
    matrix = sp.csr_array(np.array([[1.0, -1.0], [0.0, 2.0], [0.0, 0.0]]))
    least, most = presolve.ranges(matrix, np.array([0.0, -np.inf]), np.array([np.inf, 1.0]))
    assert least[0] <= -1 and most[0] == np.inf
    assert least[1] == -np.inf and most[1] >= 2
    assert least[2] <= 0 <= most[2]
