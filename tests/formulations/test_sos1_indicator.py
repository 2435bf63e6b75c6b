"""The forms without big-M: exactness after every chain of lowerings, and the conditions at forward passes."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.box import Bounds, input_bounds
from nnembed.bounds.ladder import climb
from nnembed.embedding import emit_block
from nnembed.engine.embed import tighteners
from nnembed.errors import BoxError
from nnembed.features import Feature
from nnembed.formulations import complementarity, indicator, sos1
from nnembed.formulations.show import show
from nnembed.hooks.manager import registry
from nnembed.lowerings.planner import Chain
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]
CHAINS = {
    "sos1": [("sos1_to_binary",)],
    "indicator": [("indicator_to_bigm",)],
    "complementarity": [
        ("complementarity_to_sos1", "sos1_to_binary"),
        ("complementarity_to_indicator", "indicator_to_bigm"),
    ],
}
FORMS = list(CHAINS)
PAIRS = [(form, steps) for form, chains in CHAINS.items() for steps in chains]


def block_of(net, formulation, low, high):
    bounds = climb(input_bounds(net, (low, high)), tighteners("auto", registry()), nn.Budget())
    part = registry().get("formulation", formulation)
    return emit_block(net, bounds, {node.name: part for node in net.activations})


def lowered(block, steps):
    parts = registry().parts("lowering")
    return Chain(tuple(parts[name] for name in steps)).apply(block)


def problem_of(block, weights=None, *, maximize=True):
    cost = np.zeros(block.n_columns)
    if weights is not None:
        np.add.at(cost, block.outputs, weights)
    return Problem(
        block.matrix,
        block.row_lower,
        block.row_upper,
        block.lower,
        block.upper,
        block.integer,
        cost,
        maximize=maximize,
        sos1=tuple(s.columns for s in block.sos1),
        indicators=block.indicators,
        complementarities=block.complementarities,
    )


def worst(block, x):
    """Largest absolute violation of anything the block states."""
    value = block.matrix @ x
    parts = [block.row_lower - value, value - block.row_upper, block.lower - x, x - block.upper]
    parts.append(np.abs(x - np.rint(x))[block.integer])
    return max(*(float(p.max(initial=0.0)) for p in parts), problem_of(block).condition_residual(x))


def solved(block, weights, *, maximize=True):
    backend = registry().get("backend", "highs")
    with backend.load(problem_of(block, weights, maximize=maximize), Options(gap=0.0)) as session:
        return session.solve(lambda event: None, lambda: False)


@pytest.mark.parametrize("module", [sos1, indicator, complementarity])
def test_doctests_print_the_blocks(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


@pytest.mark.parametrize(("formulation", "steps"), PAIRS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_optimum_after_every_chain_equals_enumeration(formulation, steps, kind, skip):
    rng = np.random.default_rng(len(kind))
    net = chain([(4, kind), (3, "relu"), (2, "none")], 2, rng, skip=skip)
    weights, low, high = rng.normal(size=2), -np.ones(2), np.ones(2)
    source = block_of(net, formulation, low, high)
    block, recover = lowered(source, steps)
    assert not block.needs & ~(Feature.LINEAR | Feature.INTEGER)
    for up in (True, False):
        solution = solved(block, weights, maximize=up)
        want = enumerate_optimum(net, low, high, weights, maximize=up)
        assert solution.status == "optimal"
        assert solution.objective == pytest.approx(want, abs=1e-6)
        back = recover(solution.x)
        assert worst(source, back) <= 1e-6
        assert weights @ back[source.outputs] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("formulation", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_solve_lowers_by_itself_and_says_so(formulation, kind):
    rng = np.random.default_rng(len(kind) + 1)
    net = chain([(4, kind), (3, "relu"), (1, "none")], 2, rng)
    low, high = -np.ones(2), np.ones(2)
    result = nn.maximize(net, (low, high), formulation=formulation, gap=0.0, backend="highs")
    want = enumerate_optimum(net, low, high, np.ones(1))
    assert result.status == "optimal"
    assert result.objective == pytest.approx(want, abs=1e-6)
    assert result.bound == pytest.approx(want, abs=1e-6)
    assert result.certificate.ok
    text = {"sos1": "sos1 -> binary", "indicator": "indicator -> bigm"}
    expected = text.get(formulation, "complementarity -> sos1 -> binary") + " for highs"
    assert result.plan[0].chain == expected
    assert expected in str(result.plan[0])


@pytest.mark.parametrize("formulation", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_fixed_inputs_give_the_forward_pass(formulation, kind):
    rng = np.random.default_rng(3)
    net = chain([(6, kind), (5, kind), (3, "none")], 3, rng, skip=True)
    bounds = nn.tighten(net, (-2 * np.ones(3), 2 * np.ones(3)))
    x = rng.uniform(-2, 2, 3)
    for k in range(3):
        for solve in (nn.maximize, nn.minimize):
            result = solve(
                net,
                (x, x),
                objective=np.eye(3)[k],
                formulation=formulation,
                bounds=bounds,
                heuristics="none",
                backend="highs",
            )
            assert result.objective == pytest.approx(net(x)[k], abs=1e-6)


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.booleans(), st.floats(0.01, 4.0))
@settings(max_examples=60, deadline=None)
def test_every_forward_pass_is_feasible_before_and_after_lowering(seed, kind, skip, radius):
    rng = np.random.default_rng(seed)
    net = chain([(5, kind), (4, "relu"), (4, kind), (2, "none")], 3, rng, skip=skip)
    centre = rng.normal(size=(4, 3))
    box = (centre - radius, centre + radius)
    states = [net.forward({"x": rng.uniform(*box)}) for _ in range(10)]
    for formulation, steps in PAIRS:
        source = block_of(net, formulation, *box)
        block, recover = lowered(source, steps)
        assert not source.needs & ~registry().get("formulation", formulation).emits
        for state in states:
            point = block.fill(state)
            assert worst(source, source.fill(state)) <= 1e-9
            assert worst(block, point) <= 2e-9
            assert np.array_equal(recover(point), source.fill(state))
            assert np.array_equal(point[block.outputs], state[net.outputs[0].name].ravel())


@pytest.mark.parametrize("formulation", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_names_are_unique_also_after_lowering(formulation, kind):
    net = chain([(6, kind), (5, "clip"), (2, "none")], 3, np.random.default_rng(5))
    source = block_of(net, formulation, -3 * np.ones((2, 3)), 3 * np.ones((2, 3)))
    for steps in CHAINS[formulation]:
        names = lowered(source, steps)[0].names("net")
        assert len(set(names)) == len(names) == lowered(source, steps)[0].n_columns


def open_ended(net):
    """Bounds of a one-neuron network that say nothing about input, pre-activation and output."""
    wide = {name: np.full((1, spec.size), np.inf) for name, spec in net.tensors.items()}
    return Bounds(net, {k: -v for k, v in wide.items()}, wide)


@pytest.mark.parametrize("formulation", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_infinite_bounds_are_no_obstacle_until_a_number_is_needed(formulation, kind):
    net = chain([(2, kind), (1, "none")], 1, np.random.default_rng(2))
    part = registry().get("formulation", formulation)
    assert not part.needs_finite_bounds
    block = emit_block(net, open_ended(net), {node.name: part for node in net.activations})
    assert np.isfinite(block.matrix.data).all()
    for x in (-3.0, 0.0, 40.0):
        assert worst(block, block.fill(net.forward({"x": np.full((1, 1), x)}))) <= 1e-9
    for steps in CHAINS[formulation]:
        with pytest.raises(BoxError, match=rf"{net.activations[0].name}\."):
            lowered(block, steps)


def test_big_m_forms_still_refuse_infinite_bounds():
    net = chain([(2, "relu"), (1, "none")], 1, np.random.default_rng(2))
    for name in ("two_row", "slack", "triangle"):
        part = registry().get("formulation", name)
        with pytest.raises(BoxError, match="relu_0"):
            emit_block(net, open_ended(net), {"relu_0": part})


def test_lowered_sos1_is_the_slack_form():
    """Same rows, so the same relaxation: nothing is lost on a solver without sets."""
    net = chain([(6, "relu"), (5, "leaky"), (1, "none")], 3, np.random.default_rng(8))
    box = (-np.ones(3), np.ones(3))
    slack = block_of(net, "slack", *box)
    for formulation, steps in PAIRS:
        block = lowered(block_of(net, formulation, *box), steps)[0]
        assert block.binaries == slack.binaries
        relaxed = [replace(b, integer=np.zeros(b.n_columns, dtype=bool)) for b in (block, slack)]
        ours, theirs = (solved(b, np.ones(1)).objective for b in relaxed)
        assert ours == pytest.approx(theirs, abs=1e-7)


def test_max_needs_no_binary_as_a_set():
    node = chain([(3, "max"), (1, "none")], 2, np.random.default_rng(0))
    assert block_of(node, "sos1", -np.ones(2), np.ones(2)).binaries == 0
    assert block_of(node, "indicator", -np.ones(2), np.ones(2)).binaries > 0


def test_stable_neurons_cost_nothing():
    for form in (sos1.Sets(), indicator.Indicator(), complementarity.Complementarity()):
        text = show(form, low=0.5, high=2.0)
        assert "sos1" not in text and "=>" not in text and "relu." not in text


def test_mixed_with_big_m_per_layer():
    net = chain([(3, "relu"), (3, "abs"), (2, "clip"), (1, "none")], 2, np.random.default_rng(1))
    choice = {"relu_0": "sos1", "abs_1": "two_row", "clip_2": "indicator"}
    result = nn.maximize(net, (-np.ones(2), np.ones(2)), formulation=choice, gap=0.0, backend="highs")
    want = enumerate_optimum(net, -np.ones(2), np.ones(2), np.ones(1))
    assert result.objective == pytest.approx(want, abs=1e-6)
    assert "sos1 -> binary" in result.plan[0].chain and "indicator -> bigm" in result.plan[0].chain
