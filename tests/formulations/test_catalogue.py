"""The catalogue: optima against enumeration, forward passes, doctests, options, mixtures, degenerate cases."""

import doctest
import importlib
import pickle
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.box import Region, input_bounds
from nnembed.bounds.ladder import climb
from nnembed.builder import BlockBuilder
from nnembed.embedding import emit_block
from nnembed.engine.cuts import cuts_of
from nnembed.engine.embed import tighteners
from nnembed.engine.solve import Run
from nnembed.errors import InputError
from nnembed.formulations.dependency import Dependency, dependencies
from nnembed.formulations.extended import Extended
from nnembed.formulations.hull import Hull
from nnembed.formulations.ideal import Ideal
from nnembed.formulations.maxout import Maxout
from nnembed.formulations.maxout_extended import MaxExtended
from nnembed.formulations.maxout_split import MaxSplit
from nnembed.formulations.onehot import OneHot, _found
from nnembed.formulations.partition import Partition, equal_range, equal_size
from nnembed.formulations.zhat import ZHat
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Max, relu
from nnembed.options import Options
from nnembed.testing import chain, enumerate_optimum

MODULES = ["zhat", "partition", "extended", "ideal", "hull", "onehot", "dependency"]
MODULES += ["maxout", "maxout_split", "maxout_extended"]
KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]
EXACT = [
    ZHat(), Partition(1), Partition(2), Partition(3, "range"), Extended(), Ideal(0), Ideal(2), OneHot(), Dependency()
]  # fmt: skip
MAXIMA = [Maxout(2), MaxSplit(), MaxExtended()]


def label(part):
    return f"{part.name}-{getattr(part, 'parts', '')}{getattr(part, 'rounds', '')}"


@pytest.mark.parametrize("module", MODULES)
def test_doctests_print_the_blocks(module):
    found = doctest.testmod(importlib.import_module(f"nnembed.formulations.{module}"))
    assert found.attempted and not found.failed


@cache
def enumerated(layers, inputs, seed, skip):
    """Return a network, weights and its smallest and largest weighted output on [-1, 1]."""
    rng = np.random.default_rng(seed)
    net = chain([*layers, (2, "none")], inputs, rng, skip=skip)
    weights = rng.normal(size=2)
    sides = -np.ones(inputs), np.ones(inputs)
    return net, weights, [enumerate_optimum(net, *sides, weights, maximize=up) for up in (False, True)]


def agree(part, case, methods):
    net, weights, ends = case
    n = net.input_size
    for solve, want in zip((nn.minimize, nn.maximize), ends, strict=True):
        result = solve(net, (-np.ones(n), np.ones(n)), objective=weights, formulation=part, bounds=methods, gap=0.0)
        assert result.objective == pytest.approx(want, abs=1e-6)
        assert result.bound == pytest.approx(want, abs=1e-6)
        assert result.certificate.ok


@pytest.mark.parametrize("part", EXACT, ids=label)
@pytest.mark.parametrize("kind", KINDS)
def test_optimum_equals_enumeration(part, kind):
    skip = len(kind) % 2 == 0
    agree(part, enumerated(((3, kind), (3, "relu")), 2, len(kind), skip), "interval" if skip else "crown")


@pytest.mark.parametrize("part", MAXIMA, ids=label)
@pytest.mark.parametrize("seed", range(3))
def test_maxima_equal_enumeration(part, seed):
    agree(part, enumerated(((4, "max"), (4, "max")), 3, seed, bool(seed % 2)), "crown")


@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.booleans(),
    st.floats(0.01, 4.0),
    st.sampled_from([1.0, 1e4, 1e-4]),
)
@settings(max_examples=15, deadline=None)
def test_every_forward_pass_meets_every_row_and_every_cut(seed, kind, skip, radius, scale):
    """Rows and, at random points near the relaxation, the cuts that separators find hold at all points of the graph."""
    rng = np.random.default_rng(seed)
    net = chain([(5, kind), (4, "relu"), (4, kind), (2, "none")], 3, rng, skip=skip)
    centre = scale * rng.normal(size=(2, 3))
    box = (centre - scale * radius, centre + scale * radius)
    bounds = climb(input_bounds(net, box), tighteners(("interval", "crown"), registry()), nn.Budget())
    parts = [*EXACT, Hull()] + (MAXIMA if kind == "max" else [])
    for part in parts:
        chosen = {n.name: part if type(n) in part.handles else ZHat() for n in net.activations}
        block = emit_block(net, bounds, chosen)
        points = []
        for _ in range(8):
            state = net.forward({"x": rng.uniform(*box)})
            points.append(block.fill(state))
            value, size = block.matrix @ points[-1], 1 + abs(block.matrix) @ np.abs(points[-1])
            assert (value >= block.row_lower - 1e-9 * size).all()
            assert (value <= block.row_upper + 1e-9 * size).all()
            assert (points[-1] >= block.lower - 1e-9 * (1 + np.abs(block.lower))).all()
            assert (points[-1] <= block.upper + 1e-9 * (1 + np.abs(block.upper))).all()
            assert np.array_equal(points[-1][block.outputs], state[net.outputs[0].name].ravel())
        for separator in block.separators:
            for _ in range(4):
                mixture = rng.dirichlet(np.ones(len(points))) @ np.array(points)
                mixture += rng.normal(size=len(mixture)) * 0.1 * (block.upper - block.lower)
                rows, lower, upper = separator.violated(np.clip(mixture, block.lower, block.upper), 1e-6)
                assert np.isfinite(rows.data).all() and (lower == -np.inf).all()
                if len(upper):
                    sizes = np.abs(rows.data)
                    most = np.maximum.reduceat(sizes, rows.indptr[:-1])
                    assert (most <= 1).all()
                    assert (most <= 1e6 * np.minimum.reduceat(sizes, rows.indptr[:-1])).all()
                for point in points:
                    at = point[: rows.shape[1]]
                    assert (rows @ at <= upper + 1e-11 * (1 + abs(rows) @ np.abs(at))).all()


@pytest.mark.parametrize("part", [*EXACT, Hull(), *MAXIMA], ids=label)
def test_blocks_travel(part):
    net = chain(
        [(4, "max"), (2, "none")] if Max in part.handles and len(part.handles) == 1 else [(4, "relu"), (2, "none")],
        3,
        np.random.default_rng(0),
    )
    bounds = nn.tighten(net, (-np.ones(3), np.ones(3)))
    block = emit_block(net, bounds, {n.name: part for n in net.activations})
    again = pickle.loads(pickle.dumps(block))
    state = net.forward({"x": np.full((1, 3), 0.3)})
    assert np.array_equal(block.fill(state), again.fill(state))
    assert len(again.separators) == len(block.separators)


def test_mixtures_per_layer():
    rng = np.random.default_rng(1)
    net = chain([(2, "relu"), (2, "abs"), (4, "max"), (2, "clip"), (1, "none")], 2, rng)
    choice = {"relu_0": "extended", "abs_1": Partition(2), "max_2": "max_extended", "clip_3": "zhat"}
    low, high = -np.ones(2), np.ones(2)
    result = nn.maximize(net, (low, high), formulation=choice, gap=0.0)
    assert result.objective == pytest.approx(enumerate_optimum(net, low, high, np.ones(1)), abs=1e-6)
    assert [line.formulation for line in result.plan[0].lines] == ["extended", "partition", "max_extended", "zhat"]


def test_hull_bounds_from_above_and_is_no_answer():
    net = chain([(4, "relu"), (4, "relu"), (1, "none")], 3, np.random.default_rng(5))
    low, high = -np.ones(3), np.ones(3)
    best = enumerate_optimum(net, low, high, np.ones(1))
    bounds = {
        name: nn.maximize(net, (low, high), formulation=name, bounds="interval").bound for name in ("triangle", "hull")
    }
    assert best - 1e-7 <= bounds["hull"] <= bounds["triangle"] + 1e-7
    assert bounds["hull"] < bounds["triangle"] - 1e-3
    with pytest.raises(nn.errors.UnsupportedFeature, match="relaxation"):
        nn.embed(nn.ArrayModel(low, high), net, np.arange(3), formulation="hull", attach=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Partition(0),
        lambda: Partition(2, "range"),
        lambda: Partition(2, "weight"),
        lambda: Ideal(-1),
        lambda: Hull(-1),
        lambda: Maxout(-1),
        lambda: Dependency(-1),
        lambda: OneHot(((0, 1), (1, 2))),
        lambda: OneHot((), -1),
    ],
)
def test_options_that_make_no_sense(make):
    with pytest.raises(InputError, match="give"):
        make()


# ---- partitions -------------------------------------------------------------------------------------


def terms_of_weights(weights):
    from nnembed.formulations.disjunctive import Terms

    k, n = weights.shape
    owner, column = np.divmod(np.arange(k * n), n)
    flat = weights.ravel()
    return Terms(owner, column, flat, -np.sign(flat), np.sign(flat), np.zeros(k))


def test_groups_of_equal_size_hold_neighbours_of_the_sorted_weights():
    weights = np.random.default_rng(0).normal(size=(3, 10))
    group = equal_size(terms_of_weights(weights), 3).reshape(3, 10)
    for row, mine in zip(weights, group, strict=True):
        assert sorted(np.bincount(mine).tolist()) == [3, 3, 4]
        assert (np.diff(mine[np.argsort(row)]) >= 0).all()


def test_equal_range_is_that_of_numpy_quantiles():
    weights = np.random.default_rng(1).normal(size=(4, 60))
    group = equal_range(terms_of_weights(weights), 5).reshape(4, 60)
    for row, mine in zip(weights, group, strict=True):
        low, high = np.quantile(row, [0.05, 0.95])
        want = np.where(row < low, 0, np.where(row > high, 4, 1 + np.clip(3 * (row - low) // (high - low), 0, 2)))
        assert np.array_equal(mine, want)


def test_equal_range_of_equal_weights():
    assert len(np.unique(equal_range(terms_of_weights(np.ones((2, 4))), 3))) == 1


# ---- one-hot ----------------------------------------------------------------------------------------


def one_hot_net(seed, n=6, width=4):
    return chain([(width, "relu"), (width, "relu"), (1, "none")], n, np.random.default_rng(seed))


def simplex_model(blocks, n, maximize=True):
    model = nn.ArrayModel(np.zeros(n), np.ones(n), maximize=maximize)
    for block in blocks:
        row = np.zeros((1, n))
        row[0, list(block)] = 1
        model.add_rows(sp.csr_array(row), np.ones(1), np.ones(1))
    return model


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stated", [True, False])
def test_one_hot_blocks_give_the_same_optimum(seed, stated):
    blocks = ((0, 1, 2), (3, 4))
    net = one_hot_net(seed)
    values = []
    for part in ("two_row", OneHot(blocks if stated else ())):
        model = simplex_model(blocks, 6)
        nn.embed(model, net, np.arange(6), formulation=part, attach=False)
        model.cost = np.concatenate([np.zeros(6), np.ones(1)])
        values.append(nn.solve(model, gap=0.0).objective)
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_stated_blocks_are_written_as_rows():
    net = one_hot_net(0)
    result = nn.maximize(net, (np.zeros(6), np.ones(6)), formulation=OneHot(((0, 1, 2), (3, 4))), gap=0.0)
    assert result.x[:3].sum() == pytest.approx(1)
    assert result.x[3:5].sum() == pytest.approx(1)


@pytest.mark.parametrize("blocks", [((0, 9),), ((0, 1),)])
def test_blocks_that_cannot_be(blocks):
    with pytest.raises(InputError, match="blocks"):
        nn.maximize(one_hot_net(0), (-np.ones(6), np.ones(6)), formulation=OneHot(blocks))


def test_blocks_are_found_in_the_users_rows():
    matrix = sp.csr_array(np.array([[1, 1, 0, 0.0], [0, 0, 2, 2], [1, 0, 1, 0], [0, 1, 0, 3]]))
    sides = np.array([1.0, 2.0, 1.0, 1.0])
    region = Region(
        matrix,
        np.array([1, 2, 0, 1.0]),
        sides,
        np.zeros(4),
        np.ones(4),
        sp.csr_array(np.eye(4)),
        np.zeros(4),
        np.array([-1]),
    )
    assert [f.tolist() for f in _found(region, np.zeros(4))] == [[0, 1], [2, 3]]
    assert _found(region, -np.ones(4)) == []


# ---- dependencies -----------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_dependencies_are_those_of_linear_programs(seed, n):
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(4, n)), rng.normal(size=4)
    weights[1] = -weights[0] + 0.05 * rng.normal(size=n)
    weights[3] = weights[2] + 0.05 * rng.normal(size=n)
    low = rng.normal(size=n)
    high = low + rng.uniform(0, 2, n)
    both, implied, one = dependencies(sp.csr_array(weights), bias, low, high, 100)

    def most(j, sign_j, i, sign_i):
        limits = np.stack([low, high], axis=1)
        lp = linprog(-sign_j * weights[j], A_ub=-sign_i * weights[[i]], b_ub=[sign_i * bias[i]], bounds=limits)
        return -np.inf if lp.status == 2 else -lp.fun + sign_j * bias[j]

    found = [{tuple(p) for p in kind.tolist()} for kind in (both, implied, one)]
    centre, reach = weights @ (low + high) / 2 + bias, np.abs(weights) @ (high - low) / 2
    crossing = np.abs(centre) < reach - 1e-6
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            checks = [((i, j), 0, most(j, 1, i, 1)), ((i, j), 1, most(j, -1, i, 1)), ((i, j), 2, most(j, -1, i, -1))]
            for pair, kind, value in checks:
                there = pair in found[kind] or (kind != 1 and pair[::-1] in found[kind])
                if value > 1e-7:
                    assert not there, (pair, kind, value)
                elif value < -1e-6 and crossing[[i, j]].all():
                    assert there, (pair, kind, value)


def test_a_neuron_and_its_negative_are_never_both_on():
    weight = np.array([[1.0, 2.0], [-1.0, -2.0]])
    tensors = {"x": TensorSpec("x", (2,)), "p": TensorSpec("p", (2,)), "y": TensorSpec("y", (2,))}
    nodes = (Affine("a", ("x",), "p", (Dense(weight),), np.array([0.1, -0.2])), relu("r", "p", "y", 2))
    net = Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="crelu")
    block = emit_block(net, nn.tighten(net, (-np.ones(2), np.ones(2))), {"r": Dependency()})
    assert "+1 r.on[0] +1 r.on[1] <= 1" in block.to_text()


# ---- network-level rows -----------------------------------------------------------------------------


def test_emit_network_is_called_once_after_all_layers():
    calls = []

    class Coupled(ZHat):
        name = "coupled"

        def emit(self, node, bounds, block):
            if isinstance(block, BlockBuilder) and block.network.name == "chain":
                calls.append(node.name)
            super().emit(node, bounds, block)

        def emit_network(self, network, bounds, block):
            calls.append(network.name)

    net = chain([(4, "relu"), (4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    part = Coupled()
    emit_block(net, nn.tighten(net, (-np.ones(2), np.ones(2))), {n.name: part for n in net.activations})
    assert calls == ["relu_0", "relu_1", "chain"]


def test_separators_follow_their_columns_into_a_problem():
    net = chain([(4, "relu"), (4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    model = nn.ArrayModel(-np.ones(2), np.ones(2))
    for name in ("first", "second"):
        nn.embed(model, net, np.arange(2), formulation="ideal", attach=False, name=name)
    problem = Run(model, Options())._problem()[0]
    cuts = cuts_of(problem)
    assert len(cuts.separators) == 4 and cuts.rounds == 3
    x = np.where(problem.integer, 0.5, problem.upper)
    rows, _, upper = cuts(x)
    assert rows.shape == (len(upper), problem.n_columns) and len(upper)
    assert (rows @ x > upper).all()
