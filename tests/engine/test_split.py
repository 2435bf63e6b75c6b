"""Few decisions: the box of the inputs is split; the answer must be the solver's, the bound a proof."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.testing.networks import KINDS, chain


def net(seed, inputs, *widths, kind="relu"):
    rng = np.random.default_rng(seed)
    return chain([*((w, kind) for w in widths), (1, "none")], inputs, rng)


def by_solver(network, box, **options):
    return nn.maximize(network, box, formulation="two_row", **options)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 2), st.sampled_from(KINDS))
def test_the_answer_is_the_solvers(seed, inputs, depth, kind):
    network = net(seed, inputs, *[8] * depth, kind=kind)
    box = (-np.ones(inputs), np.ones(inputs))
    ours, theirs = nn.maximize(network, box), by_solver(network, box)
    assert ours.status == theirs.status == "optimal"
    assert ours.objective == pytest.approx(theirs.objective, rel=3e-4, abs=1e-6)
    assert ours.certificate.ok
    sample = np.random.default_rng(0).uniform(-1, 1, (2000, inputs))
    assert network(sample).max() <= ours.bound + 1e-12


def test_it_says_who_proved_it():
    network = net(0, 2, 16, 16)
    result = nn.maximize(network, (-1, 1))
    assert "splitting the input box" in result.message
    assert any(entry.source == "input splitting" for entry in result.history)


def test_rows_over_the_inputs_are_respected():
    network = net(0, 3, 12, 12)
    row = (np.array([[1.0, 1.0, 1.0]]), -np.inf, np.array([0.25]))
    ours = nn.maximize(network, (-1, 1), constraints=row)
    theirs = by_solver(network, (-1, 1), constraints=row)
    assert "splitting" in ours.message
    assert ours.x.sum() <= 0.25 + 1e-6
    assert ours.objective == pytest.approx(theirs.objective, rel=3e-4)


def test_contradicting_rows_are_left_to_the_solver():
    network = net(0, 2, 6)
    rows = [(np.array([[1.0, 0.0]]), 0.5, np.inf), (np.array([[1.0, 0.0]]), -np.inf, 0.2)]
    assert nn.maximize(network, (-1, 1), constraints=rows).status == "infeasible"


def test_rows_over_outputs_are_left_to_the_solver():
    network = net(0, 2, 8)
    free = nn.maximize(network, (-1, 1)).objective
    capped = nn.maximize(network, (-1, 1), constraints=(np.array([[0.0, 0.0, 1.0]]), -np.inf, free - 0.1))
    assert capped.objective == pytest.approx(free - 0.1, abs=1e-4)


def test_integer_decisions():
    network = net(0, 2, 10)
    model = nn.Model()
    x = model.add_variables(lower=-3, upper=3, coords=[range(2)], name="x", integer=True)
    y = model.embed(network, x, name="net")
    model.add_objective(y.sum(), sense="max")
    result = model.solve()
    grid = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-3, 4)), axis=-1).reshape(-1, 2).astype(float)
    assert result.objective == pytest.approx(network(grid).max(), abs=1e-6)


def test_a_zero_gap_ends():
    network = net(0, 2, 8)
    result = nn.maximize(network, (-1, 1), gap=0.0)
    assert result.status in ("optimal", "feasible")
    assert result.objective == pytest.approx(by_solver(network, (-1, 1)).objective, rel=2e-4)
