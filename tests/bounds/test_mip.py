"""Bounds from mixed-integer programs: proofs up to the tolerances of a solver, at least as narrow as linear ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.bounds.box import Region
from nnembed.bounds.lp import Lp
from nnembed.bounds.mip import Mip, Rolling
from nnembed.features import Feature
from nnembed.testing import chain, enumerate_optimum

KINDS = ["relu", "leaky", "steep", "abs", "clip", "max"]


def start(net, low, high):
    return nn.tighten(net, (low, high), ("interval", "crown"))


def assert_inside(net, bounds, points):
    state = net.forward({"x": points})
    for name, low in bounds.low.items():
        assert (state[name] >= low[0]).all(), name
        assert (state[name] <= bounds.high[name][0]).all(), name


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(KINDS), st.sampled_from([None, 1, 2]))
@settings(max_examples=6, deadline=None)
def test_samples_stay_inside(seed, first, second, window):
    rng = np.random.default_rng(seed)
    net = chain([(4, first), (4, second), (3, "relu"), (2, "none")], 3, rng)
    low, high = -rng.uniform(0.2, 2, 3), rng.uniform(0.2, 2, 3)
    share = rng.uniform(size=(4000, 3))
    share[::2] = np.round(share[::2])
    points = np.clip(low + share * (high - low), low, high)
    before = start(net, low, high)
    methods = [Mip(widths=True, outputs=True, window=window)]
    methods += [Rolling(window=window, widths=True, outputs=True)] if window else []
    for method in methods:
        after = method.tighten(net, before, nn.Budget())
        assert_inside(net, after, points)
        assert all((after.low[t] >= before.low[t]).all() for t in before.low)


def test_with_all_binaries_the_bounds_are_the_range():
    net = chain([(4, "relu"), (3, "relu"), (1, "none")], 2, np.random.default_rng(11))
    low, high = -np.ones(2), np.ones(2)
    after = Mip(widths=True, outputs=True).tighten(net, start(net, low, high), nn.Budget())
    y = net.outputs[0].name
    least, most = (enumerate_optimum(net, low, high, np.ones(1), maximize=up) for up in (False, True))
    assert after.low[y][0, 0] == pytest.approx(least, abs=1e-3)
    assert after.high[y][0, 0] == pytest.approx(most, abs=1e-3)
    assert after.low[y][0, 0] <= least
    assert after.high[y][0, 0] >= most


def hard():
    net = chain([(12, "relu"), (12, "relu"), (12, "relu"), (2, "none")], 3, np.random.default_rng(3))
    return net, Lp().tighten(net, start(net, -np.ones(3), np.ones(3)), nn.Budget())


def test_more_binaries_decide_more():
    net, linear = hard()
    counts = [m.tighten(net, linear, nn.Budget()).unstable for m in (Rolling(window=1), Mip(window=1), Mip())]
    assert linear.unstable >= counts[0] >= counts[1] >= counts[2]
    assert linear.unstable > counts[2]


def test_limits_and_history():
    net, linear = hard()
    one = Mip().tighten(net, linear, nn.Budget(lps=1))
    assert one.history[-1].method == "mip"
    assert one.history[-1].lps <= 1
    none = Mip().tighten(net, linear, nn.Budget(seconds=0))
    assert none.history[-1].lps == 0
    assert all(np.array_equal(none.low[t], linear.low[t]) for t in linear.low)


def test_rows_of_the_model_join():
    net, linear = hard()
    rows = Region(
        sp.csr_array(np.array([[1.0, 1.0, 1.0, 0.0, 0.0]])),
        np.array([2.5]),
        np.array([np.inf]),
        np.full(5, -np.inf),
        np.full(5, np.inf),
        sp.csr_array((np.ones(3), (np.arange(3), np.arange(3))), shape=(3, 5)),
        np.zeros(3),
        np.array([3, 4]),
    )
    after = Mip(outputs=True).tighten(net, replace(linear, region=rows), nn.Budget())
    points = np.random.default_rng(0).uniform(0.4, 1.0, (20000, 3))
    assert_inside(net, after, points[points.sum(axis=1) >= 2.5])
    assert (after.low["x"] >= 0.49).all()


@pytest.mark.parametrize("arguments", [{"seconds": 0.0}, {"window": 0}])
def test_refused_settings(arguments):
    for method in (Mip, Rolling):
        with pytest.raises(nn.InputError):
            method(**arguments)


def test_another_solver():
    from nnembed.hooks.manager import registry

    scip = registry().parts("backend").get("scip")
    if scip is None or not scip.available():
        pytest.skip("SCIP is not here")
    assert scip.accepts & Feature.INTEGER
    net, linear = hard()
    found = [Mip(backend=b).tighten(net, linear, nn.Budget()) for b in (scip, None)]
    assert found[0].unstable == found[1].unstable
