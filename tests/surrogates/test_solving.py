"""Solving on twins: answers and bounds are the original networks', whatever the twins say."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.events import Incumbent
from nnembed.ir.nodes import Affine
from nnembed.surrogates.magnitude import Magnitude
from nnembed.testing import enumerate_optimum
from nnembed.testing.networks import chain, random_network

FAST = {"time_limit": 20.0, "progress": False}


def close(a, b):
    return abs(a - b) <= 1e-5 * (1 + abs(b))


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from(["relu", "leaky", "abs"]), min_size=1, max_size=2),
    st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    st.sampled_from(["layer", "global"]),
    st.booleans(),
    st.sampled_from(["auto", "none"]),
)
def test_bounds_hold_and_answers_are_the_networks(seed, kinds, sparsity, scope, maximize, heuristics):
    network = random_network(seed, width=3, kinds=kinds)
    low, high = -np.ones(2), np.ones(2)
    search = nn.maximize if maximize else nn.minimize
    best = enumerate_optimum(network, low, high, np.ones(1), maximize=maximize)
    result = search(
        network, (low, high), surrogate=f"magnitude:{sparsity},scope={scope}", heuristics=heuristics, **FAST
    )
    sign = 1.0 if maximize else -1.0
    assert sign * result.bound >= sign * best - 1e-6
    assert sign * result.objective <= sign * best + 1e-6
    assert network(result.x)[0] == pytest.approx(result.objective, abs=1e-6)
    assert result.certificate.ok
    if sparsity == 0:
        assert result.status == "optimal"
        assert close(result.objective, best)
    assert (result.status == "optimal") == (result.gap <= 1e-4)


def model_with_rows(seed=0, floor=None):
    """A model with a row over an input, an integer and the network's output."""
    network = chain([(8, "relu"), (8, "relu"), (2, "none")], 3, np.random.default_rng(seed))
    m = nn.Model()
    x = m.add_variables(lower=-1, upper=1, coords=[range(3)], name="x")
    k = m.add_variables(lower=0, upper=5, integer=True, name="k")
    y = m.embed(network, x, name="net")
    m.add_constraints(x.sum() + 0.2 * k <= 1.0, name="budget")
    first, second = y.isel(output=0), y.isel(output=1)
    if floor is not None:
        m.add_constraints(second - 0.1 * k >= floor, name="floor")
    m.add_objective(first + 0.1 * k, sense="max")
    return m, network


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("floor", [None, 0.0, 0.3])
def test_the_users_rows_hold_with_the_networks_own_outputs(sparsity, floor):
    exact = model_with_rows(floor=floor)[0].solve(**FAST)
    assert exact.status == "optimal"
    m, network = model_with_rows(floor=floor)
    result = m.solve(surrogate=f"magnitude:{sparsity}", **FAST)
    assert result.bound >= exact.objective - 1e-6
    assert result.status in ("feasible", "optimal")
    assert result.certificate.ok
    assert result.objective <= exact.objective + 1e-5
    x, k = result.values["x"].values, float(result.values["k"])
    y = network(x)
    assert x.sum() + 0.2 * k <= 1 + 1e-6
    assert floor is None or y[1] - 0.1 * k >= floor - 1e-5
    assert y[0] + 0.1 * k == pytest.approx(result.objective, abs=1e-5)
    np.testing.assert_allclose(result.values["net"].values.ravel(), y, atol=1e-5)


def test_bounds_of_the_users_own_on_outputs_hold():
    m, network = model_with_rows()
    exact, _ = model_with_rows()
    cap = float(network(np.zeros(3)).max()) + 0.05
    for model in (m, exact):
        outputs = model.variables["net"]
        outputs.upper = outputs.upper.clip(max=cap)
    best = exact.solve(**FAST)
    result = m.solve(surrogate="magnitude:0.5", **FAST)
    assert result.objective <= best.objective + 1e-5
    assert result.bound >= best.objective - 1e-6
    assert (network(result.values["x"].values) <= cap + 1e-5).all()


def test_networks_that_feed_networks_and_batches():
    rng = np.random.default_rng(3)
    first, second = (chain([(6, "relu"), (2, "none")], n, rng) for n in (3, 2))
    results = []
    for surrogate in (None, "magnitude:0.4"):
        m = nn.Model()
        x = m.add_variables(lower=-1, upper=1, coords=[range(2), range(3)], dims=["point", "in"], name="x")
        h = m.embed(first, x, name="first")
        y = m.embed(second, h, name="second")
        m.add_constraints(x.sum() <= 0.5, name="budget")
        m.add_objective(y.sum(), sense="max")
        results.append(m.solve(surrogate=surrogate, **FAST))
        values = m.solution["x"].values
        assert second(first(values)).sum() == pytest.approx(results[-1].objective, abs=1e-5)
    exact, twin = results
    assert exact.status == "optimal"
    assert twin.certificate.ok
    assert twin.objective <= exact.objective + 1e-5
    assert twin.bound >= exact.objective - 1e-6


@pytest.mark.parametrize("weights", ["alike", "different"])
def test_batches_move_the_bound_point_by_point(weights):
    network = chain([(6, "relu"), (2, "none")], 3, np.random.default_rng(5))
    scale = np.array([1.0, 1.0, 1.0]) if weights == "alike" else np.array([1.0, -2.0, 0.5])
    results = []
    for surrogate in (None, "magnitude:0.3"):
        upper = np.array([[1.0], [0.5], [0.2]]) * np.ones((3, 3))
        model = nn.ArrayModel(-np.ones(9), upper.ravel(), maximize=True)
        made = nn.embed(model, network, np.arange(9).reshape(3, 3), attach=False)
        model.cost[made.attached.output_labels] = np.repeat(scale, 2)
        results.append(nn.solve(model, surrogate=surrogate, **FAST))
    exact, twin = results
    assert twin.bound >= exact.objective - 1e-6
    assert twin.objective <= exact.objective + 1e-5
    assert twin.certificate.ok


def test_a_twin_without_an_answer_leaves_it_to_the_network():
    class Flat(Magnitude):
        """Zeroes everything, biases too, so that rows over outputs cannot hold."""

        name = "flat"

        def build(self, network, bounds, samples, budget):
            made = Magnitude(0.5).build(network, bounds, samples, budget).network
            last = replace(
                made.nodes[-1], operators=(made.nodes[-1].operators[0].map(np.zeros_like),), bias=np.zeros(2)
            )
            return nn.Twin(replace(made, nodes=(*made.nodes[:-1], last)))

    exact = model_with_rows(floor=0.3)[0].solve(**FAST)
    m, _ = model_with_rows(floor=0.3)
    result = m.solve(surrogate=Flat(), heuristics="none", **FAST)
    assert result.status == "optimal"
    assert close(result.objective, exact.objective)


def test_infeasible_models_are_infeasible_with_twins():
    network = chain([(6, "relu"), (1, "none")], 3, np.random.default_rng(0))
    rows = (np.ones((1, 3)), 4.0, np.inf)
    assert nn.maximize(network, (0.0, 1.0), constraints=rows, surrogate="magnitude:0.5", **FAST).status == "infeasible"


class Closed(Highs):
    """HiGHS whose incumbents come without their points."""

    name = "closed"

    def load(self, problem, options):
        session = super().load(problem, options)
        inner = session.solve
        self.solves = getattr(self, "solves", 0) + 1

        def solve(on_event, should_stop):
            def hear(event):
                on_event(replace(event, x=None) if isinstance(event, Incumbent) else event)

            return inner(hear, should_stop)

        session.solve = solve
        return session


def test_solvers_that_do_not_show_their_points_are_asked_in_rounds(monkeypatch):
    from nnembed.engine import passing

    monkeypatch.setattr(passing, "_ROUND", 0.05)
    network = chain([(25, "relu"), (25, "relu"), (1, "none")], 6, np.random.default_rng(2))
    backend = Closed()
    result = nn.maximize(
        network,
        (-1.0, 1.0),
        surrogate="magnitude:0.5",
        backend=backend,
        heuristics="none",
        time_limit=8,
        progress=False,
    )
    assert backend.solves > 1
    assert result.objective == pytest.approx(network(result.x)[0], abs=1e-5)
    assert result.certificate.ok


def test_a_target_ends_the_search():
    network = chain([(30, "relu"), (30, "relu"), (1, "none")], 8, np.random.default_rng(1))
    best = nn.maximize(network, (-1.0, 1.0), time_limit=3, progress=False).objective
    for surrogate in (None, "magnitude:0.5"):
        result = nn.maximize(
            network, (-1.0, 1.0), surrogate=surrogate, target=0.5 * best, time_limit=30, progress=False
        )
        assert result.objective >= 0.5 * best - 1e-6
        assert result.status == "feasible"
        assert result.seconds < 25
    smallest = nn.minimize(network, (-1.0, 1.0), surrogate="magnitude:0.5", target=0.0, time_limit=30, progress=False)
    assert smallest.objective <= 0.0


def test_what_cannot_be_replaced_is_refused():
    network = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    model = nn.ArrayModel(-np.ones(2), np.ones(2), maximize=True)
    with pytest.raises(nn.InputError, match="no network"):
        nn.solve(model, surrogate="magnitude:0.5")
    nn.embed(model, network, np.arange(2), attach=True)
    with pytest.raises(nn.InputError, match="attach=False"):
        nn.solve(model, surrogate="magnitude:0.5")
    with pytest.raises(nn.InputError, match="did you mean 'magnitude'"):
        nn.maximize(network, (0.0, 1.0), surrogate="magnitud:0.5")
    with pytest.raises(nn.InputError, match="target=nan"):
        nn.maximize(network, (0.0, 1.0), target=np.nan)

    other = SimpleNamespace(
        name="other",
        summary="fits nothing",
        sound=True,
        build=lambda *_: nn.Twin(chain([(1, "none")], 3, np.random.default_rng(0))),
    )
    with pytest.raises(nn.UnsupportedFeature, match="does not fit"):
        nn.maximize(network, (0.0, 1.0), surrogate=other)


def test_the_users_model_is_as_before():
    m, _ = model_with_rows()
    first = m.solve(**FAST)
    embedding = m.embeddings["net"]
    network, block, lower = embedding.network, embedding.block, m.variables["net"].lower.values.copy()
    m.solve(surrogate="magnitude:0.5", **FAST)
    assert embedding.network is network
    assert embedding.block is block
    assert (m.variables["net"].lower.values == lower).all()
    assert close(m.solve(**FAST).objective, first.objective)


class Counted(Magnitude):
    """A surrogate that says how often it was asked."""

    name = "counted"

    def build(self, network, bounds, samples, budget):
        object.__setattr__(self, "asked", getattr(self, "asked", 0) + 1)
        return super().build(network, bounds, samples, budget)


class Blind(Magnitude):
    """A surrogate whose twin is constant."""

    name = "blind"

    def build(self, network, bounds, samples, budget):
        nodes = [
            replace(n, operators=tuple(op.map(np.zeros_like) for op in n.operators)) if isinstance(n, Affine) else n
            for n in network.nodes
        ]
        return nn.Twin(replace(network, nodes=tuple(nodes), reference=None))


def test_a_target_that_heuristics_reach_needs_no_twin():
    network = chain([(30, "relu"), (30, "relu"), (1, "none")], 8, np.random.default_rng(1))
    part = Counted(0.5)
    result = nn.maximize(network, (-1.0, 1.0), surrogate=part, target=float(network(np.zeros(8))[0]), progress=False)
    assert result.status == "feasible"
    assert result.bound >= result.objective - 1e-6
    assert not hasattr(part, "asked")


@pytest.mark.parametrize("heuristics", ["none", "auto"])
def test_a_target_that_twins_do_not_reach_is_left_to_the_network(heuristics):
    network = chain([(12, "relu"), (12, "relu"), (1, "none")], 5, np.random.default_rng(4))
    options = {"heuristics": heuristics, "time_limit": 30.0, "progress": False}
    best = nn.maximize(network, (-1.0, 1.0), **options).objective
    found = nn.maximize(network, (-1.0, 1.0), surrogate=Blind(), target=best - 1e-4, **options)
    assert found.objective >= best - 1e-3
    assert found.certificate.ok
    beyond = nn.maximize(network, (-1.0, 1.0), surrogate=Blind(), target=best + 1.0, **options)
    assert beyond.status == "optimal"
    assert close(beyond.objective, best)
    assert "without reaching the target" in beyond.message


def test_points_of_twins_are_walked_on_from_without_heuristics(monkeypatch):
    from nnembed.engine import passing

    def total():
        found = 0.0
        for seed in range(4):
            network = chain([(20, "relu"), (20, "relu"), (1, "none")], 10, np.random.default_rng(seed))
            result = nn.maximize(
                network, (-1.0, 1.0), surrogate="magnitude:0.8", heuristics="none", time_limit=3, progress=False
            )
            assert result.certificate.ok
            assert result.objective <= result.bound + 1e-6
            found += result.objective
        return found

    walked = total()
    monkeypatch.setattr(passing.Passing, "walk", lambda *_: None)
    assert total() < walked


def test_walks_respect_rows_and_integers():
    m, network = model_with_rows(seed=2)
    result = m.solve(surrogate="magnitude:0.7", heuristics="none", **FAST)
    x, k = result.values["x"].values, float(result.values["k"])
    assert x.sum() + 0.2 * k <= 1 + 1e-6
    assert k == pytest.approx(round(k), abs=1e-6)
    assert network(x)[0] + 0.1 * k == pytest.approx(result.objective, abs=1e-5)
    exact = model_with_rows(seed=2)[0].solve(**FAST)
    assert result.objective <= exact.objective + 1e-5
    assert result.bound >= exact.objective - 1e-6


def test_with_rows_the_relaxation_of_the_twins_comes_before_a_first_plan():
    network = chain([(20, "relu"), (20, "relu"), (1, "none")], 6, np.random.default_rng(1))

    def model():
        made = nn.ArrayModel(-np.ones(6), np.ones(6), matrix=np.ones((1, 6)), row_upper=1.0, maximize=True)
        block = nn.embed(made, network, np.arange(6), attach=False)
        made.cost[block.attached.output_labels] = 1.0
        return made

    best = nn.solve(model(), **FAST).objective
    low = best - 0.8 * abs(best)
    result = nn.solve(model(), surrogate="magnitude:0.3", target=low, **FAST)
    assert result.objective >= low
    assert result.point[:6].sum() <= 1 + 1e-6
    assert "root" in result.phases
    assert result.certificate.ok
