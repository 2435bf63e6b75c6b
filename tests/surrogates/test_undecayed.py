"""The undecayed score, against difference quotients of the loss; and that every report says it."""

from __future__ import annotations

import numpy as np
import pytest

import nnembed as nn
from nnembed.hooks.manager import registry
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine
from nnembed.surrogates.undecayed import undecayed_scores, undecayed_share
from nnembed.testing.networks import chain


def loss(network, x, labels):
    y = network(x)
    return float((np.log(np.exp(y).sum(axis=1)) - y[np.arange(len(y)), labels]).mean())


def changed(network, node, operator):
    nodes = list(network.nodes)
    old = nodes[node]
    nodes[node] = Affine(old.name, old.inputs, old.output, (operator,), old.bias)
    return Network(network.inputs, network.outputs, tuple(nodes), network.tensors)


def test_scores_are_the_change_of_the_loss_to_first_order():
    network = chain([(6, "relu"), (5, "leaky"), (3, "none")], 4, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    for (node, k), score in undecayed_scores(network, {"x": x}, labels).items():
        operator = network.nodes[node].operators[k]
        for entry in rng.integers(0, operator.weight.size, 5):
            step = np.zeros(operator.weight.size)
            step[entry] = 1e-6
            ahead, behind = (
                loss(changed(network, node, type(operator)(operator.weight + s * step.reshape(operator.weight.shape))),
                     x, labels)
                for s in (1, -1)
            )  # fmt: skip
            slope = (ahead - behind) / 2e-6
            assert score.ravel()[entry] == pytest.approx(abs(operator.weight.ravel()[entry] * slope), abs=1e-7)


def test_shares_are_of_what_was_pruned():
    network = chain([(8, "relu"), (6, "relu"), (2, "none")], 4, np.random.default_rng(3))
    points = {"x": np.random.default_rng(0).normal(size=(100, 4))}
    shares = []
    for sparsity in (0.0, 0.3, 0.7, 0.95):
        twin = nn.surrogate(network, sparsity=sparsity).network
        shares.append(undecayed_share(network, twin, points, None))
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[-1] < 1.0
    other = chain([(8, "relu"), (2, "none")], 4, np.random.default_rng(3))
    assert undecayed_share(network, other, points, None) is None


@pytest.mark.parametrize("method", sorted(registry().parts("surrogate")))
@pytest.mark.parametrize("labelled", [True, False])
def test_every_report_says_recall_balance_and_score(method, labelled):
    network = chain([(14, "relu"), (12, "relu"), (3, "none")], 5, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    noisy = np.where(rng.random(400) < 0.8, network(x).argmax(axis=1), rng.integers(0, 3, 400))
    twin = nn.surrogate(network, method, sparsity=0.6, samples=x, labels=noisy if labelled else None)
    assert 0 < twin.report.facts["undecayed"] < 1
    assert "undecayed" in str(twin.report)
    if labelled:
        assert np.isfinite(twin.report.agreement.balance)
        assert "recall balance" in str(twin.report)
    else:
        assert twin.report.agreement is None


def test_without_points_there_is_no_score():
    network = chain([(6, "relu"), (2, "none")], 3, np.random.default_rng(0))
    assert "undecayed" not in nn.surrogate(network).report.facts
    assert "undecayed" in nn.surrogate(network, box=(-1.0, 1.0)).report.facts


def test_float_labels_are_targets_for_surrogates_that_take_them():
    if "obc" not in registry().parts("surrogate"):
        pytest.skip("nnembed-sparse is not installed")
    network = chain([(6, "relu"), (2, "none")], 3, np.random.default_rng(0))
    x = np.random.default_rng(0).normal(size=(50, 3))
    twin = nn.surrogate(network, "obc", samples=x, labels=network(x) + 0.1)
    assert twin.report.agreement is None
    with pytest.raises(nn.InputError, match="labels do not fit"):
        nn.surrogate(network, "magnitude", samples=x, labels=network(x))
