"""The built-in choice of formulations: its rules, its reasons, and answers that do not depend on it."""

from __future__ import annotations

import numpy as np
import pytest

import nnembed as nn
from nnembed.features import Feature
from nnembed.formulations.auto import nnembed_choose_formulation
from nnembed.options import Options
from nnembed.testing import chain, enumerate_optimum


def network(layers, inputs, seed=0):
    return chain([*layers, (1, "none")], inputs, np.random.default_rng(seed))


def chosen(net, radius=1.0, backend="auto", points=1):
    box = -radius * np.ones((points, net.input_size)), radius * np.ones((points, net.input_size))
    bounds = nn.tighten(net, box, "crown")
    options = Options(backend=backend)
    return [nnembed_choose_formulation(net, bounds, n.name, Feature.LINEAR, options) for n in net.activations]


def test_small_networks_have_the_fewest_columns_and_large_ones_the_fewest_nonzeros():
    assert [name for name, _ in chosen(network([(8, "relu")] * 2, 3))] == ["two_row"] * 2
    assert [name for name, _ in chosen(network([(60, "relu")] * 2, 30))] == ["slack"] * 2
    points = [name for name, _ in chosen(network([(8, "relu")] * 2, 3), points=500)]
    assert points == ["two_row"] * 2  # many points are not a large network


def test_reasons_by_kind():
    kinds = "leaky", "abs", "clip", "max", "relu"
    found = chosen(network([(6, kind) for kind in kinds], 3))
    assert [name for name, _ in found] == ["slack", "slack", "two_row", "two_row", "two_row"]
    assert all(reason for _, reason in found)
    assert "every neuron is stable" in chosen(network([(6, "relu")], 3), radius=1e-9)[0][1]


@pytest.mark.parametrize(("layers", "inputs", "name"), [(1, 40, "ideal"), (2, 40, "slack"), (1, 3, "two_row")])
def test_cuts_for_one_wide_layer_with_scip_only(layers, inputs, name):
    net = network([(80, "relu")] * layers, inputs)
    assert chosen(net, backend="scip")[0][0] == name
    assert chosen(net)[0][0] != "ideal" and chosen(net, backend="highs")[0][0] != "ideal"


def test_the_solver_reaches_the_choice():
    """`maximize` tells the choice its backend, by name or as an object, and the plan prints the reason."""
    pytest.importorskip("pyscipopt")
    scip = pytest.importorskip("nnembed_scip")
    from nnembed.hooks.manager import registry

    named = ["scip"] if "scip" in registry().parts("backend") else []  # else the plugin is not installed
    net = network([(60, "relu")], 20)
    low, high = -0.2 * np.ones(20), 0.2 * np.ones(20)
    for backend in (*named, scip.Scip()):
        result = nn.maximize(net, (low, high), backend=backend, time_limit=0)
        (line,) = result.plan[0].lines
        assert line.formulation == "ideal" and "SCIP gains" in line.reason, line
    assert "ideal" not in str(nn.maximize(net, (low, high), backend="highs", time_limit=0).plan[0])


@pytest.mark.parametrize("seed", range(4))
def test_answers_do_not_depend_on_the_choice(monkeypatch, seed):
    from nnembed.formulations import auto

    rng = np.random.default_rng(seed)
    net = chain([(5, "relu"), (3, "relu"), (2, "none")], 3, rng)
    weights = rng.normal(size=2)
    want = enumerate_optimum(net, -np.ones(3), np.ones(3), weights)
    for dense in (0, 10**6):
        monkeypatch.setattr(auto, "_DENSE", dense)
        model = nn.ArrayModel(-np.ones(3), np.ones(3), maximize=True)
        embedding = nn.embed(model, net, np.arange(3), name="net")
        cost = np.zeros(model.n_columns)
        cost[np.asarray(embedding.outputs).ravel()] = weights
        model.cost = cost
        result = nn.solve(model, gap=0.0)
        assert {line.formulation for line in result.plan[0].lines} == {"slack" if dense == 0 else "two_row"}
        assert result.objective == pytest.approx(want, abs=1e-6)
