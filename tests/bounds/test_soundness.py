"""Bounds are proofs: no sampled point is ever outside, and narrower methods never widen."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.ir.linear import Convolution, Selection
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Max, relu
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]


def assert_inside(net, bounds, points):
    state = net.forward({"x": points})
    for name, low in bounds.low.items():
        assert (state[name] >= low[0]).all(), name
        assert (state[name] <= bounds.high[name][0]).all(), name


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(KINDS), st.booleans(), st.floats(0.0, 5.0))
@settings(max_examples=120, deadline=None)
def test_samples_and_corners_stay_inside(seed, first, second, skip, radius):
    rng = np.random.default_rng(seed)
    net = chain([(8, first), (7, second), (6, "relu"), (2, "none")], 4, rng, skip=skip)
    centre = rng.normal(size=4)
    low, high = centre - radius * rng.uniform(size=4), centre + radius * rng.uniform(size=4)
    corners = np.array(list(product(*zip(low, high, strict=True))))
    points = np.vstack([rng.uniform(low, high, (2000, 4)), corners])
    for methods in ("interval", "crown", ("interval", "crown")):
        assert_inside(net, nn.tighten(net, (low, high), methods), points)


def conv_net(rng):
    """4x4 images, a convolution, a max pool over overlapping windows, a residual sum of two branches."""
    conv = Convolution(rng.normal(size=(2, 1, 2, 2)), (4, 4), (1, 1), (1, 1), ((1, 0), (0, 1)))
    n = conv.shape[0]
    grid = np.arange(n).reshape(2, 4, 4)
    windows = np.stack([grid[:, i : i + 3, j : j + 3].ravel() for i in (0, 1) for j in (0, 1)], axis=1)
    pool = Max("pool", ("r",), "p", windows)
    k = len(windows)
    sizes = {"x": 16, "c": n, "r": n, "p": k, "s": k, "q": k, "y": 1}
    tensors = {name: TensorSpec(name, (size,)) for name, size in sizes.items()}
    picks = Selection(rng.permutation(n)[:k], n)
    from nnembed.ir.linear import Dense

    nodes = (
        Affine("conv", ("x",), "c", (conv,), rng.normal(size=n)),
        relu("relu", "c", "r", n),
        pool,
        Affine("sum", ("p", "r"), "s", (Selection(np.arange(k), k), picks), rng.normal(size=k) - 1),
        relu("relu2", "s", "q", k),
        Affine("out", ("q",), "y", (Dense(rng.normal(size=(1, k))),), np.zeros(1)),
    )
    return Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="conv")


def test_convolution_pool_and_residual():
    rng = np.random.default_rng(0)
    net = conv_net(rng)
    for radius in (0.01, 0.3, 2.0):
        low, high = -radius * np.ones(16), radius * np.ones(16)
        interval, crown = (nn.tighten(net, (low, high), m) for m in ("interval", "crown"))
        assert_inside(net, crown, rng.uniform(low, high, (5000, 16)))
        assert crown.unstable <= interval.unstable
        assert (crown.high["y"] - crown.low["y"] <= interval.high["y"] - interval.low["y"]).all()


@given(st.integers(0, 10**6), st.sampled_from(KINDS))
@settings(max_examples=25, deadline=None)
def test_a_batch_of_boxes_is_each_box_alone(seed, kind):
    rng = np.random.default_rng(seed)
    net = chain([(6, kind), (6, "relu"), (2, "none")], 3, rng)
    low = rng.normal(size=(2, 3, 3))
    high = low + rng.uniform(0, 1, size=(2, 3, 3))
    low[1, 2], high[1, 2] = low[0, 0], high[0, 0]
    together = nn.tighten(net, (low, high))
    assert together.lower[net.outputs[0].name].shape == (2, 3, 2)
    for i, j in product(range(2), range(3)):
        alone = nn.tighten(net, (low[i, j], high[i, j]))
        for name in alone.low:
            # Rows that another box needs are computed for all, so a batch may be tighter, never looser.
            assert (together.lower[name][i, j] >= alone.lower[name] - 1e-9).all()
            assert (together.upper[name][i, j] <= alone.upper[name] + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_width_box_is_the_forward_pass(kind):
    rng = np.random.default_rng(5)
    net = chain([(6, kind), (6, kind), (2, "none")], 3, rng)
    x = rng.normal(size=3)
    bounds = nn.tighten(net, (x, x))
    state = net.forward({"x": x[None]})
    for name, value in state.items():
        assert bounds.low[name] == pytest.approx(value, abs=1e-9)
        assert bounds.high[name] == pytest.approx(value, abs=1e-9)


def test_bounds_enclose_the_exact_range():
    rng = np.random.default_rng(11)
    net = chain([(4, "relu"), (3, "relu"), (1, "none")], 2, rng)
    low, high = -np.ones(2), np.ones(2)
    bounds = nn.tighten(net, (low, high))
    name = net.outputs[0].name
    assert bounds.low[name][0, 0] <= enumerate_optimum(net, low, high, np.ones(1), maximize=False)
    assert bounds.high[name][0, 0] >= enumerate_optimum(net, low, high, np.ones(1))


def test_outward_rounding_catches_cancellation():
    """0.1 + 0.2 - 0.3 is not zero in floating point; the bound must contain the real and the computed value."""
    from nnembed.ir.linear import Dense

    x, y = TensorSpec("x", (3,)), TensorSpec("y", (1,))
    net = Network((x,), (y,), (Affine("a", ("x",), "y", (Dense(np.ones((1, 3))),), np.zeros(1)),), {"x": x, "y": y})
    point = np.array([0.1, 0.2, -0.3])
    bounds = nn.tighten(net, (point, point))
    assert bounds.low["y"][0, 0] < 0 < bounds.high["y"][0, 0]
    assert bounds.high["y"][0, 0] < 1e-14


def test_exact_zeros_stay_stable():
    """A pass-through of non-negative values is provably active, rounding or not."""
    from nnembed.ir.linear import Dense

    tensors = {n: TensorSpec(n, (2,)) for n in ("x", "a", "b", "c", "d")}
    rng = np.random.default_rng(0)
    nodes = (
        Affine("in", ("x",), "a", (Dense(rng.normal(size=(2, 2))),), np.zeros(2)),
        relu("r1", "a", "b", 2),
        Affine("through", ("b",), "c", (Dense(np.array([[1.0, 2.0], [0.0, 1.0]])),), np.zeros(2)),
        relu("r2", "c", "d", 2),
    )
    net = Network((tensors["x"],), (tensors["d"],), nodes, tensors)
    bounds = nn.tighten(net, (-np.ones(2), np.ones(2)))
    assert not bounds.open(nodes[3]).any()


def test_no_time_still_bounds_everything():
    rng = np.random.default_rng(2)
    net = chain([(6, "relu"), (6, "relu"), (2, "none")], 3, rng)
    bounds = nn.tighten(net, (-np.ones(3), np.ones(3)), ("interval", "crown"), nn.Budget(seconds=0))
    assert bounds.complete
    assert [p.method for p in bounds.history] == ["interval"]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((-np.inf, 1.0), ["x[0]", "infinite"]),
        ((np.array([0, 0, 2.0]), 1.0), ["x[2]", "empty"]),
        ((np.array([0, np.nan, 0]), 1.0), ["x[1]", "not a number"]),
        ((np.zeros(4), 1.0), ["expects shape", "(4,)"]),
        (3.0, ["pair"]),
        (({"z": 0.0}, 1.0), ["'z'"]),
    ],
)
def test_bad_boxes_name_input_and_entry(box, words):
    net = chain([(3, "relu"), (1, "none")], 3, np.random.default_rng(0))
    with pytest.raises(nn.InputError) as caught:
        nn.tighten(net, box)
    for word in words:
        assert word in str(caught.value)


def test_unknown_method_suggests_the_closest():
    net = chain([(3, "relu"), (1, "none")], 3, np.random.default_rng(0))
    with pytest.raises(nn.UnknownName, match="did you mean 'crown'"):
        nn.tighten(net, (0.0, 1.0), "crwon")
