"""What ``bounds="auto"`` runs where, and that its bounds are proofs whatever it runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds import choose
from nnembed.testing import chain, enumerate_optimum


def network(inputs=20, width=40, layers=2, seed=0):
    return chain([(width, "relu")] * layers + [(2, "none")], inputs, np.random.default_rng(seed))


def methods(bounds):
    return [p.method for p in bounds.history]


def between(low, high, net, inputs):
    """Return bounds on a cube whose number of open neurons is in [low, high)."""
    for radius in np.geomspace(0.01, 3, 40):
        if low <= nn.tighten(net, (-radius * np.ones(inputs), radius * np.ones(inputs)), "crown").unstable < high:
            return nn.tighten(net, (-radius * np.ones(inputs), radius * np.ones(inputs)))
    raise AssertionError("no such cube")


def test_methods_by_open_neurons():
    net = network()
    assert methods(between(0, choose.SOME, net, 20)) == ["crown"]
    assert methods(between(choose.SOME, choose.MANY, net, 20)) == ["crown", "alpha-crown"]
    assert methods(between(choose.MANY, 1000, net, 20)) == ["crown", "fast-c2v"]


def test_many_boxes_and_large_networks_keep_to_crown():
    net = network()
    boxes = np.random.default_rng(0).normal(size=(3, 20))
    assert methods(nn.tighten(net, (boxes - 1, boxes + 1))) == ["crown"]
    same = np.zeros((3, 20))
    assert methods(nn.tighten(net, (same - 1, same + 1))) == ["crown", "fast-c2v"]  # one box
    wide = network(30, 300, 3)
    found = nn.tighten(wide, (-1.0, 1.0))
    assert choose.effort(found) > choose._HEAVY and methods(found) == ["crown"]


def test_a_single_layer_keeps_to_crown():
    assert methods(nn.tighten(network(20, 100, 1), (-1.0, 1.0))) == ["crown"]


def test_few_inputs_are_split_unless_attached():
    net = network(inputs=3)
    model = nn.ArrayModel(-np.ones(3), np.ones(3))
    ours = nn.embed(model, net, np.arange(3), name="ours", attach=False)
    assert methods(ours.bounds) == ["crown"]
    asked = nn.embed(model, net, np.arange(3), name="asked", attach=False, formulation="slack")
    attached = nn.embed(model, net, np.arange(3), name="attached")
    assert methods(asked.bounds) == methods(attached.bounds) == ["crown", "fast-c2v"]


def test_named_methods_always_run():
    net = network(inputs=2, width=3)
    assert methods(nn.tighten(net, (-1.0, 1.0), ("crown", "alpha-crown"))) == ["crown", "alpha-crown"]


def test_rows_and_cache(tmp_path):
    net = network()
    row = (np.ones((1, 20)), [-np.inf], [3.0])
    plain = nn.tighten(net, (-1.0, 1.0), cache=tmp_path)
    again = nn.tighten(net, (-1.0, 1.0), cache=tmp_path)
    rows = nn.tighten(net, (-1.0, 1.0), constraints=[row])
    assert [p.cached for p in again.history] == [False, True]
    assert methods(rows)[:2] == ["fbbt", "crown"]
    for tensor in plain.low:
        np.testing.assert_array_equal(plain.low[tensor], again.low[tensor])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.1, 0.5, 2.0]))
def test_bounds_are_proofs_and_no_wider_than_crown(seed, inputs, radius):
    net = network(inputs, 36, 2, seed)
    low, high = -radius * np.ones(inputs), radius * np.ones(inputs)
    auto, crown = nn.tighten(net, (low, high)), nn.tighten(net, (low, high), "crown")
    points = np.random.default_rng(seed).uniform(low, high, (300, inputs))
    state = net.forward({net.inputs[0].name: points})
    for tensor, values in state.items():
        pad = 1e-9 * (1 + np.abs(values))
        assert (auto.low[tensor] <= values + pad).all() and (values - pad <= auto.high[tensor]).all()
        assert (auto.low[tensor] >= crown.low[tensor]).all() and (auto.high[tensor] <= crown.high[tensor]).all()


@pytest.mark.parametrize("seed", range(6))
def test_answers_do_not_change(monkeypatch, seed):
    """With thresholds so low that the costlier methods run on networks that can be enumerated."""
    monkeypatch.setattr(choose, "SOME", 1)
    monkeypatch.setattr(choose, "MANY", 1 + 100 * (seed % 2))
    rng = np.random.default_rng(seed)
    net = chain([(4, "relu"), (4, "leaky"), (2, "none")], 3, rng)
    weights = rng.normal(size=2)
    want = enumerate_optimum(net, -np.ones(3), np.ones(3), weights)
    result = nn.maximize(net, (-1.0, 1.0), weights, formulation="two_row", gap=0.0)
    assert result.objective == pytest.approx(want, abs=1e-6) and result.bound == pytest.approx(want, abs=1e-6)
    assert methods(nn.tighten(net, (-1.0, 1.0)))[-1] == ("fast-c2v" if seed % 2 == 0 else "alpha-crown")
