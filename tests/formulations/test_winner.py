"""Winners: optima against enumeration and all solvers, ties, big-M from differences, models with a required class."""

import doctest
import importlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.errors import InputError
from nnembed.formulations.bigm import Slack, TwoRow
from nnembed.formulations.hull import Hull
from nnembed.formulations.triangle import Triangle
from nnembed.formulations.winner import WinnerRows
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Winner, relu
from nnembed.testing import block_optimum, chain
from nnembed.testing.blocks import violation
from nnembed.testing.emitted import bounded, enumerated, written
from nnembed.testing.formulations import output_cost


def name(part):
    return part.name


def first_of(weights, bias, groups=None):
    """Return the one-hot winner among ``weights x + bias``."""
    weights = np.asarray(weights, float)
    groups = np.arange(len(weights))[None] if groups is None else np.asarray(groups)
    x, f = TensorSpec("x", (weights.shape[1],)), TensorSpec("f", (len(weights),))
    z = TensorSpec("z", (groups.size,))
    affine = Affine("affine", ("x",), "f", (Dense(weights),), np.asarray(bias, float))
    return Network((x,), (z,), (affine, Winner("winner", ("f",), "z", groups)), {"x": x, "f": f, "z": z}, name="first")


def values_at(net, part, low, high, x):
    """Return the least and the greatest value of every output that a block holds at an input."""
    block = written(net, bounded(net, low, high, "interval"), part)
    lower, upper = block.lower.copy(), block.upper.copy()
    lower[: len(x)] = upper[: len(x)] = x
    fixed, unit = replace(block, lower=lower, upper=upper), np.eye(net.output_size)
    return [[block_optimum(fixed, output_cost(block, e), maximize=up) for e in unit] for up in (False, True)]


def test_doctests_print_the_blocks():
    found = doctest.testmod(importlib.import_module("nnembed.formulations.winner"))
    assert found.attempted and not found.failed


@given(st.integers(0, 40), st.booleans())
@settings(max_examples=8, deadline=None)
def test_blocks_have_the_optimum_of_enumeration(seed, skip):
    net, ends = enumerated(((6, "winner"), (4, "winner")), seed, skip)
    block = written(net, bounded(net, -1.0, 1.0), WinnerRows())
    for want, up in zip(ends, (False, True), strict=True):
        assert block_optimum(block, output_cost(block, np.ones(1)), maximize=up) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("part", [TwoRow(), Slack()], ids=name)
@given(st.integers(0, 40), st.sampled_from(["relu", "abs", "max", "step"]), st.booleans())
@settings(max_examples=8, deadline=None)
def test_winners_mix_with_other_layers(part, seed, kind, first):
    layers = ((4, "winner"), (3, kind)) if first else ((3, kind), (4, "winner"))
    net, ends = enumerated(layers, seed, True)
    block = written(net, bounded(net, -1.0, 1.0), part)
    for want, up in zip(ends, (False, True), strict=True):
        assert block_optimum(block, output_cost(block, np.ones(1)), maximize=up) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("part", [Triangle(), Hull()], ids=name)
@given(st.integers(0, 40), st.booleans())
@settings(max_examples=5, deadline=None)
def test_relaxations_contain_the_network(part, seed, skip):
    net, (least, most) = enumerated(((3, "relu"), (6, "winner")), seed, skip)
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
    net, (least, most) = enumerated(((3, "relu"), (6, "winner")), 100 + seed, True)
    for want, call in ((least, nn.minimize), (most, nn.maximize)):
        result = call(net, (-1.0, 1.0), backend=backend, gap=0.0)
        assert result.status in ("optimal", "feasible") and result.certificate.ok
        assert result.bound == pytest.approx(want, abs=1e-5)
        assert result.objective == pytest.approx(net(result.x)[0], abs=1e-9)
        if result.status == "optimal":
            assert result.objective == pytest.approx(want, abs=1e-4)


# ---- members and ties ----------------------------------------------------------------------------------


def test_big_m_is_that_of_the_difference():
    """Ranges of both members are [-2, 2], the difference is in [-0.2, 0.2]."""
    net = first_of([[1.0, 1.0], [1.0, 0.8]], [0.0, 0.0])
    block = written(net, bounded(net, -1.0, 1.0), WinnerRows())
    assert block.binaries == 2
    (z,) = [g for g in block.groups if g.role.value == "on"]
    assert np.abs(block.matrix[1:3][:, z.columns].data) == pytest.approx(0.2)


def test_members_that_cannot_win_have_nothing():
    net = first_of([[1.0, 1.0], [1.0, 0.8], [1.0, 1.0], [0.5, 0.5]], [0.0, 0.0, -1e-3, -2.0])
    block = written(net, bounded(net, -1.0, 1.0), WinnerRows())
    assert block.binaries == 2 and "winner.on[2]" not in block.to_text() and "winner.on[3]" not in block.to_text()
    sure = first_of([[1.0, 1.0], [1.0, 0.8]], [0.0, -1.0])
    assert written(sure, bounded(sure, -1.0, 1.0), WinnerRows()).n_rows == 2


def test_a_tie_has_all_its_winners_and_with_a_margin_the_first():
    net = first_of([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], [0.0, 0.0, 0.0])
    assert values_at(net, WinnerRows(), -1.0, 1.0, [0.5, 0.5]) == pytest.approx(np.array([[0] * 3, [1] * 3]))
    assert values_at(net, WinnerRows(), -1.0, 1.0, [0.5, 0.4]) == pytest.approx(np.array([[1, 0, 0]] * 2))
    strict = WinnerRows(margin=0.25)
    assert values_at(net, strict, -1.0, 1.0, [0.5, 0.5]) == pytest.approx(np.array([[1, 0, 0]] * 2))
    assert values_at(net, strict, -1.0, 1.0, [0.0, 0.5]) == pytest.approx(np.array([[0, 1, 0]] * 2))
    assert values_at(net, strict, -1.0, 1.0, [0.4, 0.5]) == [[None] * 3] * 2
    with pytest.raises(InputError, match="margin"):
        WinnerRows(margin=-1.0)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_margin_is_exact_on_integers(seed):
    rng = np.random.default_rng(seed)
    net = first_of(rng.integers(-2, 3, (4, 3)), rng.integers(-2, 3, 4))
    x = rng.integers(-1, 2, 3).astype(float)
    want = net(x)
    assert values_at(net, WinnerRows(margin=1.0), -1.0, 1.0, x) == pytest.approx(np.array([want, want]), abs=1e-6)


def test_a_short_group_repeats_a_member():
    net = first_of([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0, 0.1], [[0, 1, 2], [1, 0, 1]])
    for x in np.random.default_rng(0).uniform(-1, 1, (10, 2)):
        want = net(x)
        assert want[5] == 0
        assert values_at(net, WinnerRows(), -1.0, 1.0, x) == pytest.approx(np.array([want, want]), abs=1e-6)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_batch_and_wild_sizes(seed):
    rng = np.random.default_rng(seed)
    net = first_of(10.0 ** rng.integers(-6, 7) * rng.normal(size=(5, 3)), np.zeros(5))
    low = rng.normal(size=(4, 3))
    bounds = bounded(net, low, low + rng.exponential(size=(4, 3)) * np.array([[1.0], [0.1], [1e-3], [0.0]]))
    block = written(net, bounds, WinnerRows())
    for _ in range(30):
        x = rng.uniform(bounds.low["x"], bounds.high["x"])
        point = block.fill(net.forward({"x": x}))
        assert violation(block, point)[0] <= 1e-9
        assert np.array_equal(point[block.outputs], net(x).ravel())


# ---- in a model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attach", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_class_can_be_required(seed, attach):
    """Maximise a price subject to "class k wins", against sampling; the answer is of that class."""
    import linopy

    rng = np.random.default_rng(seed)
    net = chain([(6, "relu"), (3, "winner")], 3, rng)
    x = rng.uniform(-1, 1, (100_000, 3))
    wins = net(x)
    k, price = int(wins.sum(axis=0).argsort()[1]), rng.normal(size=3)
    model = linopy.Model()
    v = model.add_variables(lower=-1, upper=1, coords=[range(3)], name="v")
    emb = nn.embed(model, net, v, attach=attach)
    model.add_constraints(emb.outputs.isel({emb.outputs.dims[-1]: k}) == 1)
    model.add_objective((v * price).sum(), sense="max")
    result = nn.solve(model, gap=0.0)
    if not wins[:, k].any():
        return
    assert result.status == "optimal" and result.certificate.ok
    assert result.objective >= (x @ price)[wins[:, k] == 1].max() - 1e-6
    assert net(np.asarray(result.values["v"]))[k] == 1.0


def test_members_that_are_equal_on_a_whole_region():
    """Behind dead ReLUs all classes are equal, and the network says the first; a margin keeps the model from lying."""
    import linopy

    x, g, h = (TensorSpec(k, (n,)) for k, n in (("x", 1), ("g", 1), ("h", 1)))
    f, z = TensorSpec("f", (2,)), TensorSpec("z", (2,))
    nodes = (
        Affine("a", ("x",), "g", (Dense(np.array([[1.0]])),), np.zeros(1)),
        relu("r", "g", "h", 1),
        Affine("b", ("h",), "f", (Dense(np.array([[0.0], [1.0]])),), np.zeros(2)),
        Winner("w", ("f",), "z", np.array([[0, 1]])),
    )
    net = Network((x,), (z,), nodes, {s.name: s for s in (x, g, h, f, z)}, name="dead")
    found = {}
    for margin in (0.0, 1e-3):
        model = linopy.Model()
        v = model.add_variables(lower=-1, upper=1, coords=[range(1)], name="v")
        emb = nn.embed(model, net, v, formulation={"w": WinnerRows(margin=margin)})
        model.add_constraints(emb.outputs.isel({emb.outputs.dims[-1]: 1}) == 1)
        model.add_objective(v.sum(), sense="min")
        found[margin] = nn.solve(model, gap=0.0)
    assert found[0.0].bound <= 0.0  # a proof in any case
    assert not found[0.0].certificate.ok or net(np.asarray(found[0.0].values["v"]))[1] == 1
    assert found[1e-3].certificate.ok and found[1e-3].objective == pytest.approx(1e-3, abs=1e-6)


def test_a_point_at_a_tie_is_not_called_optimal():
    """All ReLUs off before the contest: the model lets either member win, the network the first one."""
    t = {n: TensorSpec(n, (k,)) for n, k in {"x": 1, "g": 1, "h": 1, "f": 2, "y": 2}.items()}
    nodes = (
        Affine("a", ("x",), "g", (Dense(np.ones((1, 1))),), np.zeros(1)),
        relu("r", "g", "h", 1),
        Affine("b", ("h",), "f", (Dense(np.array([[1.0], [2.0]])),), np.zeros(2)),
        Winner("w", ("f",), "y", np.array([[0, 1]])),
    )
    m = nn.Model()
    x = m.add_variables(lower=-1, upper=1, name="x")
    y = m.embed(Network((t["x"],), (t["y"],), nodes, t), x, name="n")
    m.add_constraints(y.isel(output=1) >= 1)
    m.add_objective(1 * x, sense="min")
    result = m.solve(progress=False)
    assert result.status == "feasible" and not result.certificate.ok
    assert result.bound <= 0 and "fails its certificate: network 'n' replayed" in result.message
