"""Steps: optima against enumeration, hulls against their extended form, what happens at the threshold."""

import doctest
import importlib
import pickle
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import nnembed as nn
from nnembed.builder import BlockBuilder
from nnembed.errors import InputError
from nnembed.formulations.bigm import Slack, TwoRow
from nnembed.formulations.hull import Hull
from nnembed.formulations.ideal import Ideal
from nnembed.formulations.indicator import Indicator
from nnembed.formulations.step import StepIdeal, StepRows
from nnembed.formulations.triangle import Triangle
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Step
from nnembed.testing import block_optimum, chain, enumerate_optimum
from nnembed.testing.blocks import violation
from nnembed.testing.emitted import bounded, enumerated, written
from nnembed.testing.formulations import output_cost

EXACT = [StepRows(), StepIdeal(), TwoRow(), Slack(), Ideal(), Indicator()]
MIXED = [TwoRow(), Slack(), Ideal(), Indicator()]
RELAXED = [Triangle(), Hull()]


def name(part):
    return part.name


def neuron(weights, bias, low=-1.0, high=1.0):
    """Return ``step(weights x + bias)``."""
    n = len(weights)
    x, g, y = TensorSpec("x", (n,)), TensorSpec("g", (1,)), TensorSpec("y", (1,))
    affine = Affine("affine", ("x",), "g", (Dense(np.asarray(weights, float)[None]),), np.array([bias]))
    step = Step("step", ("g",), "y", np.array([low]), np.array([high]))
    return Network((x,), (y,), (affine, step), {"x": x, "g": g, "y": y}, name="neuron")


def test_doctests_print_the_blocks():
    found = doctest.testmod(importlib.import_module("nnembed.formulations.step"))
    assert found.attempted and not found.failed


@pytest.mark.parametrize("part", EXACT, ids=name)
@given(st.integers(0, 40), st.booleans())
@settings(max_examples=8, deadline=None)
def test_blocks_have_the_optimum_of_enumeration(part, seed, skip):
    net, ends = enumerated(((3, "step"), (2, "step")), seed, skip)
    block = written(net, bounded(net, -1.0, 1.0), part)
    for want, up in zip(ends, (False, True), strict=True):
        assert block_optimum(block, output_cost(block, np.ones(1)), maximize=up) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("part", MIXED, ids=name)
@given(st.integers(0, 40), st.sampled_from(["relu", "steep", "abs", "clip", "max"]), st.booleans())
@settings(max_examples=8, deadline=None)
def test_steps_mix_with_other_layers(part, seed, kind, first):
    layers = ((2, "step"), (2, kind)) if first else ((2, kind), (2, "step"))
    net, ends = enumerated(layers, seed, True)
    block = written(net, bounded(net, -1.0, 1.0), part)
    for want, up in zip(ends, (False, True), strict=True):
        assert block_optimum(block, output_cost(block, np.ones(1)), maximize=up) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("part", RELAXED, ids=name)
@given(st.integers(0, 40), st.booleans())
@settings(max_examples=5, deadline=None)
def test_relaxations_contain_the_network(part, seed, skip):
    net, (least, most) = enumerated(((3, "step"), (2, "relu"), (2, "step")), seed, skip)
    block = written(net, bounded(net, -1.0, 1.0), part)
    assert not block.integer.any() and not block.exact
    cost = output_cost(block, np.ones(1))
    assert block_optimum(block, cost, maximize=False) <= least + 1e-7
    assert block_optimum(block, cost, maximize=True) >= most - 1e-7


@pytest.mark.parametrize("part", EXACT, ids=name)
@given(st.integers(0, 10**6))
@settings(max_examples=6, deadline=None)
def test_answers_are_the_networks_and_bounds_are_proofs(part, seed):
    """Also where the optimum is at a threshold: a supremum may be missed by the answer, never by the bound."""
    rng = np.random.default_rng(seed)
    net = chain([(4, "step"), (3, "step"), (1, "none")], 2, rng, skip=True)
    box = -np.ones(2), np.ones(2)
    result = nn.maximize(net, box, formulation=part, bounds="crown", gap=0.0)
    want = enumerate_optimum(net, *box, np.ones(1))
    assert result.status in ("optimal", "feasible")
    assert result.objective == pytest.approx(net(result.x[None])[0, 0], abs=1e-9)
    assert result.bound >= net(rng.uniform(-1, 1, (2000, 2))).max() - 1e-9
    assert result.bound == pytest.approx(want, abs=1e-6)
    assert result.objective <= want + 1e-6
    assert result.certificate.ok
    if result.status == "optimal":
        assert result.objective == pytest.approx(want, abs=1e-5 * (1 + abs(want)))


# ---- the threshold --------------------------------------------------------------------------------


def values_at(net, part, low, high, x):
    """Return the values that a block holds at an input."""
    block = written(net, bounded(net, low, high, "interval"), part)
    side = np.asarray(x, float)
    lower, upper = block.lower.copy(), block.upper.copy()
    lower[: len(side)] = upper[: len(side)] = side
    fixed = replace(block, lower=lower, upper=upper)
    return [block_optimum(fixed, output_cost(block, np.ones(1)), maximize=up) for up in (False, True)]


@pytest.mark.parametrize("part", EXACT, ids=name)
def test_a_point_at_the_threshold_has_both_values_and_others_their_own(part):
    net = neuron([1.0, -1.0], 0.0)
    assert values_at(net, part, -2.0, 2.0, [1.0, 1.0]) == pytest.approx([-1, 1], abs=1e-6)
    assert values_at(net, part, -2.0, 2.0, [1.0, 1.01]) == pytest.approx([-1, -1], abs=1e-6)
    assert values_at(net, part, -2.0, 2.0, [1.01, 1.0]) == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("part", [StepRows(margin=1.0), StepIdeal(margin=1.0)], ids=name)
@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_margin_is_exact_on_integers(part, seed):
    rng = np.random.default_rng(seed)
    weights, bias = rng.integers(-3, 4, 3).astype(float), float(rng.integers(-3, 4))
    net = neuron(weights, bias, *rng.normal(size=2))
    for x in product((-1.0, 0.0, 2.0), repeat=3):
        want = net(np.array([x]))[0, 0]
        assert values_at(net, part, -1.0, 2.0, x) == pytest.approx([want, want], abs=1e-6)


def test_the_margin_leaves_out_what_it_says():
    net = neuron([1.0], 0.0)
    assert values_at(net, StepRows(margin=0.5), -2.0, 2.0, [-0.5]) == pytest.approx([-1, -1])
    assert values_at(net, StepRows(margin=0.5), -2.0, 2.0, [-0.25]) == [None, None]
    assert values_at(net, StepRows(margin=0.5), -0.25, 2.0, [0.0]) == pytest.approx([1, 1])
    wide = neuron([1e7], 0.0)  # in units
    assert values_at(wide, StepRows(margin=1e6), -2.0, 2.0, [-0.05]) == [None, None]
    assert values_at(wide, StepRows(margin=1e6), -2.0, 2.0, [-0.2]) == pytest.approx([-1, -1])


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("kind", [StepRows, StepIdeal])
def test_bad_margins_are_refused(kind, bad):
    with pytest.raises(InputError, match="margin"):
        kind(margin=bad)
    with pytest.raises(InputError, match="rounds"):
        StepIdeal(rounds=-1)


def test_a_touching_bound_decides_on_one_side_only():
    net = neuron([1.0], 0.0)
    (step,) = net.activations
    assert bounded(net, -1.0, 0.0, "interval").open(step).all()
    assert not bounded(net, 0.0, 1.0, "interval").open(step).any()
    assert bounded(net, 0.0, 1.0, "interval").low["y"] == 1.0


@pytest.mark.parametrize("part", EXACT, ids=name)
def test_a_batch_and_wild_sizes(part):
    """Every point of a batch with its own box; weights of 1e6 and 1e-6."""
    for scale in (1e-6, 1.0, 1e6):
        net = neuron([scale, -2 * scale], 0.25 * scale, 3.0, -2.0)
        low = np.array([[-1.0, -1.0], [0.5, 0.0], [-1.0, 0.0], [0.3, 0.2]])
        bounds = bounded(net, low, low + np.array([[2.0], [0.2], [0.5], [0.0]]))
        block = written(net, bounds, part)
        rng = np.random.default_rng(0)
        for _ in range(50):
            x = rng.uniform(bounds.low["x"], bounds.high["x"])
            point = block.fill(net.forward({"x": x}))
            assert violation(block, point)[0] <= 1e-9
            assert point[block.outputs] == pytest.approx(net(x)[:, 0])


# ---- hull -----------------------------------------------------------------------------------------


def extended(weights, bias, low, high, cost, margin):
    """Return the least ``cost @ (x, z)`` over the hull of both cases, in Balas's form: p + q = x."""
    n = len(weights)
    unit, zero = np.eye(n), np.zeros((n, n))
    z = np.ones((n, 1))
    rows = [  # over p, q, z
        np.hstack([unit, zero, -high[:, None] * z]),
        np.hstack([-unit, zero, low[:, None] * z]),
        np.hstack([zero, unit, high[:, None] * z]),
        np.hstack([zero, -unit, -low[:, None] * z]),
        np.concatenate([-weights, np.zeros(n), [-bias]])[None],
        np.concatenate([np.zeros(n), weights, [-bias - margin]])[None],
    ]
    sides = np.concatenate([np.zeros(2 * n), high, -low, [0.0, -bias - margin]])
    total = np.concatenate([cost[:n], cost[:n], cost[n:]])
    limits = [(None, None)] * (2 * n) + [(0, 1)]
    return linprog(total, np.vstack(rows), sides, bounds=limits).fun


@pytest.mark.parametrize("margin", [0.0, 0.25])
@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_cuts_reach_the_hull(margin, seed, n):
    rng = np.random.default_rng(seed)
    weights, low = rng.normal(size=n), rng.normal(size=n)
    high = low + rng.uniform(0.1, 2, n)
    middle = 0.5 * (low + high)
    bias = -float(weights @ middle) + 0.1 * rng.normal()
    net = neuron(weights, bias, 0.0, 1.0)
    bounds = bounded(net, low, high, "interval")
    if not bounds.open(net.activations[0]).any():
        return
    builder = BlockBuilder(net, bounds)
    StepIdeal(margin=margin).emit(net.activations[0], bounds, builder)
    block = builder.finish()
    (cuts,) = pickle.loads(pickle.dumps(block.separators))
    cost = np.zeros(block.n_columns)
    cost[:n], cost[n] = rng.normal(size=n), 3 * rng.normal()
    want = extended(weights, bias, low, high, cost[: n + 1], margin)
    matrix, lower, upper = block.matrix.toarray(), block.row_lower, block.row_upper
    for _ in range(60):
        both = np.vstack([matrix, -matrix]), np.concatenate([upper, -lower])
        finite = np.isfinite(both[1])
        limits = np.stack([block.lower, block.upper], axis=1)
        found = linprog(cost, both[0][finite], both[1][finite], bounds=limits)
        if found.status != 0:
            assert want is None
            return
        rows, least, most = cuts.violated(found.x, 1e-8)
        if not len(least):
            break
        wide = np.zeros((rows.shape[0], block.n_columns))
        wide[:, : rows.shape[1]] = rows.toarray()
        matrix = np.vstack([matrix, wide])
        lower, upper = np.concatenate([lower, least]), np.concatenate([upper, most])
    assert want is not None
    assert found.fun == pytest.approx(want, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 8), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_cuts_leave_every_point_of_the_network(seed, n, margin):
    """Cuts at random fractional points, looked at from points of the network, corners and threshold included."""
    rng = np.random.default_rng(seed)
    weights, low = rng.normal(size=(3, n)), rng.normal(size=n)
    high = low + rng.uniform(0.1, 2, n)
    bias = -weights @ (0.5 * (low + high))
    x, g, y = TensorSpec("x", (n,)), TensorSpec("g", (3,)), TensorSpec("y", (3,))
    affine = Affine("affine", ("x",), "g", (Dense(weights),), bias)
    step = Step("step", ("g",), "y", rng.normal(size=3), rng.normal(size=3))
    net = Network((x,), (y,), (affine, step), {"x": x, "g": g, "y": y})
    block = written(net, bounded(net, low, high), StepIdeal(margin=margin))
    points = np.vstack([rng.uniform(low, high, (200, n)), np.where(rng.random((50, n)) < 0.5, low, high)])
    state = net.forward({"x": points})
    if margin:
        kept = ~((state["g"] < 0) & (state["g"] > -margin)).any(axis=1)
        points = points[kept]
    filled = [block.fill(net.forward({"x": p[None]})) for p in points]
    for _ in range(10):
        at = np.concatenate([rng.uniform(low, high), rng.random(block.n_columns - n)])
        rows, least, most = block.separators[0].violated(at, 1e-9)
        for p in filled if len(least) else []:
            value = rows @ p[: rows.shape[1]]
            assert (value >= least - 1e-12).all() and (value <= most + 1e-12).all()


# ---- networks of integers -------------------------------------------------------------------------


def integers(rng, sizes):
    """Return a network of two layers of steps of -1 and 1 with integer weights and biases, and a linear end."""
    tensors = {k: TensorSpec(k, (n,)) for k, n in zip(("x", "g", "s", "h", "t", "y"), sizes, strict=True)}

    def affine(source, target):
        weight = rng.integers(-2, 3, (tensors[target].size, tensors[source].size)).astype(float)
        bias = rng.integers(-2, 3, tensors[target].size).astype(float)
        return Affine(target, (source,), target, (Dense(weight),), bias)

    def sign(source, target):
        n = tensors[target].size
        return Step(target, (source,), target, -np.ones(n), np.ones(n))

    nodes = (affine("x", "g"), sign("g", "s"), affine("s", "h"), sign("h", "t"), affine("t", "y"))
    return Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="integers")


@pytest.mark.parametrize("part", [StepRows(margin=1.0), StepIdeal(margin=1.0)], ids=name)
@pytest.mark.parametrize("seed", range(6))
def test_a_binarised_network_on_integers_is_solved_exactly(part, seed):
    import linopy

    net = integers(np.random.default_rng(seed), (4, 6, 6, 4, 4, 1))
    model = linopy.Model()
    x = model.add_variables(lower=-1, upper=1, coords=[range(4)], name="x", integer=True)
    emb = nn.embed(model, net, x, formulation=part)
    model.add_objective(emb.outputs.sum() + 0.01 * x.sum(), sense="max")
    result = nn.solve(model, gap=0.0)
    grid = np.array(list(product((-1.0, 0.0, 1.0), repeat=4)))
    want = (net(grid)[:, 0] + 0.01 * grid.sum(axis=1)).max()
    assert result.status == "optimal" and result.certificate.ok
    assert result.objective == pytest.approx(want, abs=1e-7)
    assert result.bound == pytest.approx(want, abs=1e-6)
    assert "margin=1" in str(emb.plan)


@pytest.mark.parametrize("part", EXACT, ids=name)
def test_the_threshold_itself_is_not_cut_off(part):
    """Only points with g = 0 meet the rows, and there the value is the upper one."""
    net = neuron([1.0, 1.0], 0.0)
    rows = [(np.array([[1.0, 1.0, 0.0]]), -np.inf, 0.0), (np.array([[0.0, 0.0, 1.0]]), 0.5, np.inf)]
    result = nn.maximize(net, (-1.0, 1.0), constraints=rows, formulation=part)
    assert result.status != "infeasible"
    assert result.bound == pytest.approx(1.0, abs=1e-6)
