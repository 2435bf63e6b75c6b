"""How strong formulations are: LP bounds, vertices, separation against extended forms, gap closed at the root."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

import nnembed as nn
from nnembed.bounds.box import input_bounds
from nnembed.bounds.ladder import climb
from nnembed.embedding import emit_block
from nnembed.engine.cuts import strengthened
from nnembed.engine.embed import tighteners
from nnembed.engine.solve import Run
from nnembed.formulations.extended import Extended
from nnembed.formulations.hull import Hull
from nnembed.formulations.ideal import Ideal
from nnembed.formulations.ideal_cuts import SimplexCuts
from nnembed.formulations.maxout import Maxout
from nnembed.formulations.maxout_extended import MaxExtended
from nnembed.formulations.maxout_split import MaxSplit
from nnembed.formulations.onehot import OneHot
from nnembed.formulations.partition import Partition
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Clip, Max, leaky_relu, relu
from nnembed.options import Options


def neuron(weights, bias, node):
    """Return the network ``node(weights x + bias)``."""
    n, m = weights.shape[1], len(bias)
    x, p = TensorSpec("x", (n,)), TensorSpec("p", (m,))
    size = len(node.groups) if isinstance(node, Max) else m
    y = TensorSpec("y", (size,))
    nodes = (Affine("a", ("x",), "p", (Dense(weights),), bias), node)
    return Network((x,), (y,), nodes, {"x": x, "p": p, "y": y}, name="neuron")


def block_of(net, box, part):
    bounds = climb(input_bounds(net, box), tighteners(("interval",), registry()), nn.Budget())
    return emit_block(net, bounds, {node.name: part for node in net.activations})


def lp(block, cost, rounds=0, fixed=None):
    """Return the smallest value over the LP relaxation and its point, after `rounds` rounds of cuts."""
    lower, upper = block.lower.copy(), block.upper.copy()
    if fixed is not None:
        columns, values = fixed
        lower[columns] = upper[columns] = values
    matrix, low, high = block.matrix, block.row_lower, block.row_upper
    for _ in range(rounds + 1):
        finite = np.isfinite(high), np.isfinite(low)
        a = sp.vstack([matrix[np.flatnonzero(finite[0])], -matrix[np.flatnonzero(finite[1])]])
        b = np.concatenate([high[finite[0]], -low[finite[1]]])
        found = linprog(cost, A_ub=a, b_ub=b, bounds=np.stack([lower, upper], axis=1), method="highs-ds")
        if found.status:
            return np.inf, None
        parts = [s.violated(found.x, 1e-8) for s in block.separators]
        new = sum(len(p[1]) for p in parts)
        if not new or not rounds:
            break
        wide = [sp.csr_array((p.data, p.indices, p.indptr), shape=(p.shape[0], matrix.shape[1])) for p, _, _ in parts]
        matrix = sp.csr_array(sp.vstack([matrix, *wide]))
        low = np.concatenate([low, *(p[1] for p in parts)])
        high = np.concatenate([high, *(p[2] for p in parts)])
    return found.fun, found.x


def by_tensor(block, values):
    """Return costs of inputs, outputs and binaries (by place) of a block, for blocks with different columns."""
    inputs, outputs, binaries = values
    cost = np.zeros(block.n_columns)
    cost[: block.n_inputs] = inputs
    cost[block.outputs] = outputs
    cost[np.flatnonzero(block.integer)] = binaries
    return cost


def random_neuron(seed, node=None, rows=1, n=None):
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(2, 9))
    weights = rng.normal(size=(rows, n))
    low = rng.normal(size=n)
    high = low + rng.uniform(0.2, 2, n)
    middle = weights @ (low + high) / 2
    reach = np.abs(weights) @ (high - low) / 2
    bias = -middle + rng.uniform(-0.7, 0.7, rows) * reach
    return neuron(weights, bias, node or relu("r", "p", "y", rows)), (low, high), rng


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [relu("r", "p", "y", 1), leaky_relu("r", "p", "y", np.array([1.7]))], ids=["relu", "steep"]
)
def test_separation_of_400_neurons_agrees_with_the_extended_form(part):
    """At random points a cut is found exactly where the extended form has no completion."""
    mismatches, cut_off = 0, 0
    for seed in range(400):
        net, box, rng = random_neuron(seed, part)
        ideal, extended = block_of(net, box, Ideal()), block_of(net, box, Extended())
        x, z = rng.uniform(*box), rng.uniform()
        g = net.nodes[0].evaluate(x)
        top = climb(input_bounds(net, box), tighteners(("interval",), registry()), nn.Budget()).high["p"].ravel()
        r = np.maximum(g, 0) + rng.uniform(0, 0.6) * top  # between the slopes and beyond what big-M allows
        y = float((part.left * g + (part.right - part.left) * r)[0])
        point = np.zeros(ideal.n_columns)
        point[: ideal.n_inputs], point[ideal.integer] = x, z
        point[ideal.n_inputs :][~ideal.integer[ideal.n_inputs :]] = y
        violated = len(ideal.separators[0].violated(point, 1e-7)[1]) > 0
        columns, values = _at(extended, x, z)
        fixed = np.append(columns, extended.outputs[0]), np.append(values, y)
        possible = lp(extended, np.zeros(extended.n_columns), fixed=fixed)[1] is not None
        mismatches += violated == possible
        cut_off += violated
    assert mismatches == 0
    assert 20 < cut_off < 390


def _at(block, x, z):
    columns = np.append(np.arange(block.n_inputs), np.flatnonzero(block.integer))
    return columns, np.append(x, z)


@pytest.mark.parametrize("seed", range(20))
def test_ideal_cuts_and_partitions_against_the_extended_form(seed):
    net, box, rng = random_neuron(seed)
    costs = (rng.normal(size=net.input_size), -np.ones(1) * rng.uniform(1, 3), rng.normal(size=1))
    values = {}
    for name, part in (
        ("two_row", "two_row"), ("extended", Extended()), ("one", Partition(1)), ("two", Partition(2)),
        ("three", Partition(3)), ("all", Partition(99)), ("ideal", Ideal()),
    ):  # fmt: skip
        block = block_of(net, box, registry().get("formulation", part))
        values[name] = lp(block, by_tensor(block, costs), rounds=200 if name == "ideal" else 0)[0]
    close = {"abs": 1e-7}
    assert values["one"] == pytest.approx(values["two_row"], **close)
    assert values["all"] == pytest.approx(values["extended"], **close)
    assert values["ideal"] == pytest.approx(values["extended"], **close)
    assert values["two_row"] - 1e-7 <= values["two"] <= values["extended"] + 1e-7
    assert values["two_row"] - 1e-7 <= values["three"] <= values["extended"] + 1e-7


@pytest.mark.parametrize("seed", range(20))
def test_hull_cuts_have_the_value_of_the_extended_form(seed):
    net, box, rng = random_neuron(seed + 50)
    costs = (rng.normal(size=net.input_size), -np.ones(1) * rng.uniform(1, 3), 0.0)
    hull, extended = block_of(net, box, Hull()), block_of(net, box, Extended())
    ours = lp(hull, by_tensor(hull, (*costs[:2], np.zeros(0))), rounds=200)[0]
    assert ours == pytest.approx(lp(extended, by_tensor(extended, costs))[0], abs=1e-7)


def fractional(block, rng, count, outputs):
    """Return how many of `count` random objectives end in a vertex with a fractional binary."""
    bad = 0
    for _ in range(count):
        inputs = rng.normal(size=block.n_inputs)
        cost = by_tensor(block, (inputs, rng.normal(size=outputs) * 2, rng.normal(size=block.binaries)))
        x = lp(block, cost)[1]
        bad += bool((np.abs(x - np.rint(x))[block.integer] > 1e-6).any())
    return bad


def maximum(d):
    x, y = TensorSpec("x", (d,)), TensorSpec("y", (1,))
    return Network((x,), (y,), (Max("m", ("x",), "y", np.arange(d)[None]),), {"x": x, "y": y}, name="max")


def test_shares_of_two_members_have_no_fractional_vertex():
    rng = np.random.default_rng(0)
    big, shares = 0, 0
    for _ in range(10):
        low = rng.normal(size=2) * 0.5
        box = (low, low + rng.uniform(1.5, 3, 2))
        big += fractional(block_of(maximum(2), box, registry().get("formulation", "two_row")), rng, 30, 1)
        shares += fractional(block_of(maximum(2), box, MaxSplit()), rng, 30, 1)
    assert shares == 0
    assert big > 30  # big-M is not ideal even there


@pytest.mark.parametrize("ends", [(-0.7, 0.4), (-0.1, 0.1)])
def test_clips_have_no_fractional_vertex(ends):
    rng = np.random.default_rng(0)
    x, y = TensorSpec("x", (1,)), TensorSpec("y", (1,))
    node = Clip("c", ("x",), "y", np.array([ends[0]]), np.array([ends[1]]))
    net = Network((x,), (y,), (node,), {"x": x, "y": y}, name="clip")
    block = block_of(net, (np.array([-2.0]), np.array([1.5])), registry().get("formulation", "two_row"))
    assert block.binaries == 2
    assert fractional(block, rng, 300, 1) == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("d", [2, 3])
def test_maxout_cuts_against_copies(seed, d):
    """Without costs on the binaries the cuts are sharp for any number of members; with them ideal for two."""
    rng = np.random.default_rng(seed)
    net, box, _ = random_neuron(seed, Max("m", ("p",), "y", np.arange(d)[None]), rows=d, n=4)
    inputs, binary = rng.normal(size=4), rng.normal(size=d) if d == 2 else np.zeros(d)
    cuts, copies = block_of(net, box, Maxout()), block_of(net, box, MaxExtended())
    shares = block_of(net, box, MaxSplit())
    if cuts.binaries < d:
        pytest.skip("a member is never the largest")
    values = [
        lp(b, by_tensor(b, (inputs, -np.ones(1), binary)), rounds=300 if b is cuts else 0)[0]
        for b in (cuts, copies, shares)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert values[2] <= values[1] + 1e-7


@pytest.mark.parametrize("seed", range(20))
def test_one_hot_cuts_have_the_value_of_the_hull_over_simplices(seed):
    rng = np.random.default_rng(seed)
    blocks, n = ((0, 1, 2), (3, 4, 5, 6)), 8
    weights, bias = rng.normal(size=(1, n)), rng.normal(size=1) * 0.3
    low, high = np.zeros(n), np.ones(n)
    low[7] = -1.0
    net = neuron(weights, bias, relu("r", "p", "y", 1))
    block = block_of(net, (low, high), OneHot(blocks))
    cost, up, on = rng.normal(size=n), -rng.uniform(1, 3), float(rng.normal())
    assert isinstance(block.separators[0], SimplexCuts)
    ours = lp(block, by_tensor(block, (cost, up, on)), rounds=300)[0]
    # x = p + q; the columns are x, p, y, z
    eye, zero, one = np.eye(n), np.zeros((n, n)), np.ones((n, 1))
    member = np.zeros((2, n))
    for k, b in enumerate(blocks):
        member[k, list(b)] = 1
    free = np.zeros((n, 1))
    free[7] = -1.0  # the lower end of the input outside the blocks
    empty = np.zeros((n, 1))
    upper = np.vstack([
        np.hstack([zero, -eye, empty, free]), np.hstack([zero, eye, empty, -one]),
        np.hstack([-eye, eye, empty, -free]), np.hstack([eye, -eye, empty, one]),
        np.hstack([weights, -weights, [[0.0, -bias[0]]]]),
    ])  # fmt: skip
    sides = np.concatenate([np.zeros(2 * n), -free.ravel(), np.ones(n), -bias])
    equal = np.vstack([
        np.hstack([member * 0, member, np.zeros((2, 1)), -np.ones((2, 1))]),
        np.hstack([member, member * 0, np.zeros((2, 2))]),
        np.hstack([np.zeros((1, n)), weights, [[-1.0, bias[0]]]]),
    ])  # fmt: skip
    limits = [(None, None)] * (2 * n) + [(0, None), (0, 1)]
    whole = linprog(np.concatenate([cost, np.zeros(n), [up, on]]), upper, sides, equal, [0, 0, 1, 1, 0], limits)
    assert ours == pytest.approx(whole.fun, abs=1e-7)


# ---- the gap at the root ------------------------------------------------------------------------------


def random_net(widths, seed):
    rng = np.random.default_rng(seed)
    tensors, nodes, current = {"x": TensorSpec("x", (widths[0],))}, [], "x"
    for i, (fan_in, width) in enumerate(pairwise(widths)):
        weight, bias = rng.normal(size=(width, fan_in)) * np.sqrt(2 / fan_in), 0.1 * rng.normal(size=width)
        tensors[f"p{i}"] = TensorSpec(f"p{i}", (width,))
        nodes.append(Affine(f"a{i}", (current,), f"p{i}", (Dense(weight),), bias))
        current = f"p{i}"
        if i < len(widths) - 2:
            tensors[f"h{i}"] = TensorSpec(f"h{i}", (width,))
            nodes.append(relu(f"r{i}", current, f"h{i}", width))
            current = f"h{i}"
    net = Network((tensors["x"],), (tensors[current],), tuple(nodes), tensors, name="random")
    return net, np.random.default_rng(100 + seed).normal(size=widths[0])


@pytest.mark.parametrize("stable", ["auto", "kept"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", [Ideal(), Hull(), Partition(2), Extended()], ids=lambda part: part.name)
def test_cuts_and_copies_see_through_folded_neurons(seed, part, stable):
    """Stable neurons that share a column in the block are what they stand for in cuts and copies."""
    net, centre = random_net((50, 30, 30, 1), seed)
    box = (centre - 0.05, centre + 0.05)
    bounds = climb(input_bounds(net, box), tighteners(("interval",), registry()), nn.Budget())
    block = emit_block(net, bounds, {node.name: part for node in net.activations}, stable=stable)
    assert any(p.columns for p in block.presolved) or stable == "auto"
    rng = np.random.default_rng(seed)
    points = [block.fill(net.forward({"x": rng.uniform(*box)[None]})) for _ in range(30)]
    for point in points:
        value, size = block.matrix @ point, 1 + abs(block.matrix) @ np.abs(point)
        assert (value >= block.row_lower - 1e-11 * size).all() and (value <= block.row_upper + 1e-11 * size).all()
    for separator in block.separators:
        for _ in range(10):
            aim = np.mean(points, axis=0) + rng.normal(size=block.n_columns) * 0.3 * (block.upper - block.lower)
            rows, _, upper = separator.violated(np.clip(aim, block.lower, block.upper), 1e-6)
            for point in points:
                at = point[: rows.shape[1]]
                assert (rows @ at <= upper + 1e-12 * (1 + abs(rows) @ np.abs(at))).all()


def root(net, box, part):
    """Return the value of the LP relaxation with interval bounds, after rounds of cuts, and the number of cuts."""
    model = nn.ArrayModel(*box, maximize=True)
    nn.embed(model, net, np.arange(net.input_size), formulation=part, bounds="interval", attach=False)
    model.cost = np.concatenate([np.zeros(net.input_size), np.ones(1)])
    run = Run(model, Options())
    problem = run._problem()[0]
    highs = registry().get("backend", "highs")
    strong = strengthened(problem, highs, Options(), run.clock, lambda: False)
    relaxed = replace(strong, integer=np.zeros(strong.n_columns, dtype=bool))
    with highs.load(relaxed, Options()) as session:
        return session.solve(lambda event: None, lambda: False).objective, strong.n_rows - problem.n_rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "radius", "bar"),
    [((20, 20, 20, 1), 0.15, 0.53), ((50, 30, 30, 1), 0.05, 0.31), ((100, 50, 50, 1), 0.03, 0.27)],
)
def test_gap_closed_at_the_root(widths, radius, bar):
    closed = []
    for seed in range(5):
        net, centre = random_net(widths, seed)
        box = (centre - radius, centre + radius)
        best = nn.maximize(net, box, gap=1e-6).objective
        plain, none = root(net, box, "two_row")
        value, cuts = root(net, box, Ideal(60))
        assert best - 1e-5 <= value <= plain + 1e-7 and cuts > none == 0
        if plain - best > 1e-6 * (1 + abs(best)):
            closed.append((plain - value) / (plain - best))
    assert np.mean(closed) >= bar
