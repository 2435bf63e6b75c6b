"""Bounds without a search are proofs, and leaving out binaries that do not matter changes no answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.embedding import embeddings_of
from nnembed.engine.dual_side import DualSide
from nnembed.engine.embed import embed
from nnembed.engine.pushed import eased
from nnembed.hosts.arrays import ArrayHost, ArrayModel
from nnembed.options import Options
from nnembed.problem import Overlay, overlay
from nnembed.testing import enumerate_optimum
from nnembed.testing.networks import KINDS, chain, random_network


def never():
    return False


def laid(model):
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in embeddings_of(model).values()]
    return overlay(ArrayHost().compile(model), layers)


def dual(problem, seconds=None):
    options = Options()
    return DualSide(problem, never, options, options.budget.start()).improve(seconds)


def single(network, low, high, weights, maximize):
    model = ArrayModel(low, high, maximize=maximize)
    embed(model, network, np.arange(len(low)), attach=False)
    model.cost = np.r_[np.zeros(len(low)), weights]
    return model


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS[:-1]), st.booleans(), st.sampled_from([0.0, None]))
def test_the_bound_holds_and_is_not_far(seed, kind, maximize, seconds):
    rng = np.random.default_rng(seed)
    network = chain([(3, kind), (2, kind if kind != "clip" else "relu"), (2, "none")], 2, rng)
    low, weights = rng.uniform(-2, 0, 2), rng.normal(size=2)
    high = low + rng.uniform(0, 2, 2)
    best = enumerate_optimum(network, low, high, weights, maximize=maximize)
    problem = laid(single(network, low, high, weights, maximize))
    bound = dual(problem, seconds)
    sign = 1.0 if maximize else -1.0
    assert sign * bound >= sign * best - 1e-12 * (1 + abs(best))
    boxed = sign * problem.cost[2:4] @ np.where(sign * problem.cost[2:4] > 0, problem.upper[2:4], problem.lower[2:4])
    assert sign * bound <= boxed + 1e-9 * (1 + abs(boxed))


def model_with_rows(seed, maximize=False):
    """Two networks, one reading the other, own columns with cost, integers, rows over inputs and outputs."""
    rng = np.random.default_rng(seed)
    low = np.r_[-np.ones(3), 0.0, 0.0]
    model = ArrayModel(
        low, low + 2.0, integer=np.array([False, False, bool(seed % 2), False, False]), maximize=maximize
    )
    first, second = random_network(seed, inputs=2), random_network(seed + 1, inputs=2)
    embed(model, first, np.array([0, 1]), name="a", attach=False)  # writes column 5
    embed(model, second, np.array([2, 5]), name="b", attach=False)  # writes column 6
    model.cost = rng.normal(size=7)
    rows = rng.normal(size=(2, 7))
    inside = rng.uniform(0.3, 0.7, 5) * 2 + low
    inside[2] = np.rint(inside[2])
    y = first(inside[:2])
    z = second(np.r_[inside[2], y])
    value = rows @ np.r_[inside, y, z]
    model.add_rows(rows, value - 0.5, value + 0.5)
    return model


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_bound_holds_with_rows_and_networks_in_a_row(seed, maximize):
    model = model_with_rows(seed, maximize)
    best = nn.solve(model, gap=1e-6, formulation="two_row")
    assert best.status == "optimal" and best.certificate.ok
    bound = dual(laid(model_with_rows(seed, maximize)))
    sign = 1.0 if maximize else -1.0
    assert sign * bound >= sign * best.objective - 1e-6 * (1 + abs(best.objective))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_heuristics_alone_keep_to_the_rows(seed):
    model = model_with_rows(seed)
    alone = nn.solve(model, backend="none", time_limit=20)
    best = nn.solve(model, gap=0.0)
    assert alone.bound is not None and alone.bound <= best.objective + 1e-6
    if alone.point is not None:
        assert alone.certificate.ok and alone.objective >= best.objective - 1e-6 * (1 + abs(best.objective))


def test_a_batch_and_a_quadratic_objective():
    network = random_network(5)
    model = ArrayModel(-np.ones(6), np.ones(6), maximize=True)
    embed(model, network, np.arange(6).reshape(3, 2), attach=False)
    model.cost = np.r_[np.zeros(6), 1.0, -2.0, 0.5]
    problem = laid(model)
    quadratic = np.zeros((problem.n_columns, problem.n_columns))
    quadratic[0, 6] = quadratic[6, 0] = 1.0
    quadratic[1, 1] = -1.0
    problem = replace(problem, quadratic=sp.csr_array(quadratic))
    points = np.random.default_rng(0).uniform(-1, 1, (20000, 6))
    y = np.stack([network(points[:, 2 * k : 2 * k + 2])[:, 0] for k in range(3)], axis=1)
    value = y @ np.array([1.0, -2.0, 0.5]) + points[:, 0] * y[:, 0] - 0.5 * points[:, 1] ** 2
    bound = dual(problem)
    assert bound is not None and value.max() <= bound <= value.max() + 2.0


def test_unbounded_own_columns_give_no_bound():
    model = ArrayModel(np.r_[-np.ones(2), 0.0], np.r_[np.ones(2), np.inf], maximize=True)
    embed(model, random_network(0), np.arange(2), attach=False)
    model.cost = np.array([0.0, 0.0, 1.0, 1.0])
    assert dual(laid(model)) is None


def test_a_bound_that_meets_the_point_ends_the_solve():
    rng = np.random.default_rng(0)
    network = chain([(300, "relu"), (300, "relu"), (300, "relu"), (1, "none")], 40, rng)
    flat = single(network, np.zeros(40), np.zeros(40), np.ones(1), True)
    assert nn.solve(flat).status == "optimal"


# ---- binaries that do not matter ---------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(("relu", "leaky", "steep", "abs")), st.booleans(),
    st.sampled_from(("two_row", "slack")),
)  # fmt: skip
def test_answers_stay_without_these_binaries(seed, kind, maximize, form):
    rng = np.random.default_rng(seed)
    network = chain([(3, kind), (2, kind), (2, "none")], 2, rng, skip=bool(seed % 2))
    low, high, weights = -np.ones(2), np.ones(2), rng.normal(size=2)
    model = single(network, low, high, weights, maximize)
    best = enumerate_optimum(network, low, high, weights, maximize=maximize)
    result = nn.solve(model, formulation=form, gap=0.0)
    assert result.status == "optimal" and result.certificate.ok
    assert result.objective == pytest.approx(best, abs=1e-5)
    assert result.bound == pytest.approx(best, abs=1e-5)


def test_half_of_the_last_layer_is_left_out_and_rows_on_outputs_keep_all():
    network = random_network(3, width=8)
    problem = laid(single(network, -np.ones(2), np.ones(2), np.ones(1), True))
    less = eased(problem)
    assert 0 < less.integer.sum() < problem.integer.sum()
    tied = single(network, -np.ones(2), np.ones(2), np.ones(1), True)
    tied.add_rows(np.array([[0.0, 0.0, 1.0]]), -np.inf, 0.1)
    assert (eased(laid(tied)).integer == laid(tied).integer).all()
    assert nn.solve(tied).objective <= 0.1 + 1e-6
