"""Proven differences of networks: never below what points show, zero for equal networks, tight for small changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnembed.bounds.box import input_bounds
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine
from nnembed.options import Budget
from nnembed.surrogates import difference
from nnembed.surrogates.difference import difference_bounds, error_bound
from nnembed.surrogates.magnitude import Magnitude
from nnembed.testing.networks import KINDS, chain, reference_networks

#: Networks whose activations have slopes everywhere; others are compared side by side only.
BY_SLOPES = {"relu", "leaky", "steep", "abs", "clip", "max", "affine", "mixed", "skip"}


def changed(network: Network, rng, size: float) -> Network:
    """Return the network with every dense weight and bias moved a little."""
    nodes = []
    for node in network.nodes:
        if isinstance(node, Affine):
            moved = tuple(
                Dense(m.weight + size * rng.normal(size=m.shape)) if isinstance(m, Dense) else m for m in node.operators
            )
            nodes.append(replace(node, operators=moved, bias=node.bias + size * rng.normal(size=node.bias.shape)))
        else:
            nodes.append(node)
    return replace(network, nodes=tuple(nodes))


def with_output(network: Network, name: str) -> Network:
    """Return the network with its output renamed."""
    spec, last = replace(network.outputs[0], name=name), network.nodes[-1]
    tensors = {n: s for n, s in network.tensors.items() if n != last.output} | {name: spec}
    return replace(network, nodes=(*network.nodes[:-1], replace(last, output=name)), outputs=(spec,), tensors=tensors)


def on_samples(network, twin, low, high, rng, count=4000):
    points = rng.uniform(low, high, (count, network.input_size))
    points[: count // 2] = np.where(rng.random((count // 2, network.input_size)) < 0.5, low, high)
    flat, _ = network.flatten(points)
    return network.flat_outputs(network.forward(flat)) - twin.flat_outputs(twin.forward(flat))


kinds = st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**6), kinds, st.booleans(), st.floats(0.01, 3.0), st.sampled_from([0.0, 1e-6, 0.05, 0.5, None]))
def test_no_point_is_outside(seed, layers, skip, radius, size):
    rng = np.random.default_rng(seed)
    network = chain([(int(rng.integers(2, 8)), kind) for kind in layers] + [(2, "none")], 3, rng, skip=skip)
    middle = rng.normal(size=3)
    low, high = middle - radius * rng.random(3), middle + radius * rng.random(3)
    bounds = input_bounds(network, (low, high))
    twin = Magnitude(rng.random()).build(network, bounds, None, Budget()).network if size is None else None
    twin = changed(network, rng, size) if twin is None else twin
    seen = on_samples(network, twin, low, high, rng)
    weights = rng.normal(size=(3, 2))
    for rows in (None, weights):
        lo, hi = difference_bounds(network, twin, bounds, Budget(), rows)
        found = seen if rows is None else seen @ weights.T
        room = 1e-12 * (1 + np.abs(found).max())
        assert (lo[0] <= found.min(axis=0) + room).all()
        assert (hi[0] >= found.max(axis=0) - room).all()


@pytest.mark.parametrize("name", sorted(reference_networks()))
def test_each_way_by_itself_is_sound(name):
    network, rng = reference_networks()[name], np.random.default_rng(3)
    low, high = -np.ones(network.input_size), np.ones(network.input_size)
    bounds = input_bounds(network, (low, high))
    for twin in (
        changed(network, rng, 0.02),
        changed(network, rng, 1.0),
        Magnitude(0.4).build(network, bounds, None, Budget()).network,
    ):
        seen = on_samples(network, twin, low, high, rng)
        own = difference._bounded(network, bounds, Budget())
        theirs = difference._bounded(twin, replace(bounds, network=twin), Budget())
        rows = np.eye(network.output_size)
        ways = [difference._side_by_side(own, theirs, rows, Budget(), Budget().start())]
        pairs = difference.aligned(network, twin)
        if name not in BY_SLOPES:
            assert pairs is None
        else:
            ways.append(difference._Differences(own, theirs, pairs).outputs(rows))
            ways.append(difference._Differences(theirs, own, difference.aligned(twin, network)).outputs(-rows))
        for lo, hi in ways:
            assert (lo <= seen.min(axis=0) + 1e-12).all()
            assert (hi >= seen.max(axis=0) - 1e-12).all()


def test_ranges_inside_hold_too():
    network, rng = (
        chain([(8, "relu"), (8, "leaky"), (6, "max"), (5, "clip"), (2, "none")], 4, np.random.default_rng(5)),
        np.random.default_rng(6),
    )
    twin = changed(network, rng, 0.1)
    low, high = -np.ones(4), np.ones(4)
    bounds = input_bounds(network, (low, high))
    own = difference._bounded(network, bounds, Budget())
    theirs = difference._bounded(twin, replace(bounds, network=twin), Budget())
    found = difference._Differences(own, theirs, difference.aligned(network, twin))
    points = {"x": rng.uniform(low, high, (5000, 4))}
    ours, others = network.forward(points), twin.forward(points)
    for name in ours:
        gap = others[name] - ours[name]
        assert (found.low[name][0] <= gap.min(axis=0) + 1e-12).all(), name
        assert (found.high[name][0] >= gap.max(axis=0) - 1e-12).all(), name


def test_equal_networks_do_not_differ():
    network = chain([(20, "relu"), (20, "relu"), (3, "none")], 5, np.random.default_rng(0))
    bounds = input_bounds(network, (-np.ones(5), np.ones(5)))
    assert (error_bound(network, replace(network), bounds, Budget()) <= 1e-13).all()


def test_small_changes_have_small_bounds():
    rng = np.random.default_rng(1)
    network = chain([(50, "relu"), (50, "relu"), (2, "none")], 8, rng)
    bounds = input_bounds(network, (-np.ones(8), np.ones(8)))
    twin = changed(network, rng, 1e-4)
    seen = np.abs(on_samples(network, twin, -np.ones(8), np.ones(8), rng)).max()
    assert error_bound(network, twin, bounds, Budget()).max() < 40 * seen


def test_batches_are_bounded_box_by_box():
    rng = np.random.default_rng(2)
    network = chain([(10, "relu"), (10, "abs"), (2, "none")], 3, rng)
    low = rng.uniform(-1, 0, (5, 3))
    high = low + rng.random((5, 1))
    twin = changed(network, rng, 0.1)
    together = difference_bounds(network, twin, input_bounds(network, (low, high)), Budget())
    for k in range(5):
        alone = difference_bounds(network, twin, input_bounds(network, (low[k], high[k])), Budget())
        np.testing.assert_allclose(together[0][k], alone[0][0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(together[1][k], alone[1][0], rtol=1e-6, atol=1e-9)


def test_networks_of_different_build_are_compared_side_by_side():
    rng = np.random.default_rng(4)
    network = chain([(6, "relu"), (2, "none")], 3, rng)
    ours = with_output(network, "y")
    twin = with_output(chain([(4, "relu"), (4, "relu"), (2, "none")], 3, rng), "y")
    assert difference.aligned(ours, twin) is None
    bounds = input_bounds(ours, (-np.ones(3), np.ones(3)))
    lo, hi = difference_bounds(ours, twin, bounds, Budget())
    seen = on_samples(ours, twin, -np.ones(3), np.ones(3), rng)
    assert (lo[0] <= seen.min(axis=0) + 1e-12).all()
    assert (hi[0] >= seen.max(axis=0) - 1e-12).all()


def test_nothing_is_proved_on_an_infinite_box():
    network = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    assert error_bound(network, network, input_bounds(network, (-np.inf, np.inf), finite=False), Budget()) is None
