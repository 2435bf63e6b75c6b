"""Random coupled models with products: HiGHS (products bounded here) against SCIP (products passed through)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import nnembed as nn
from nnembed.testing import chain

KINDS = ("free", "switches", "ladder", "two networks", "floor", "impossible", "cross", "several outputs", "own product")
GAP = 1e-3


def coupled_model(seed):
    """Return a model of 2 to 4 points whose structure follows the seed."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    outputs = 2 if kind == "several outputs" else 1
    layers = [(int(rng.integers(3, 7)), str(rng.choice(["relu", "abs"]))) for _ in range(int(rng.integers(1, 3)))]
    net = chain([*layers, (outputs, "none")], 2, rng)
    m = nn.Model()
    count = int(rng.integers(2, 5))
    shop = pd.RangeIndex(count, name="shop")
    whole = kind == "ladder"
    price = m.add_variables(-3 if whole else -1, 3 if whole else 1, coords=[shop], integer=whole, name="price")
    feature = xr.DataArray(rng.uniform(-1, 1, count), coords=[shop])
    units = m.embed(net, [price / 3 if whole else price, feature], name="demand")
    worth = (price * units).sum()
    total = units.sum()
    at = net(np.stack([rng.uniform(-1, 1, (500, count)), np.broadcast_to(feature, (500, count))], axis=-1))
    level = float(np.quantile(at.sum(axis=(1, 2)), rng.uniform(0.1, 0.7)))
    if kind == "switches":
        on = m.add_variables(binary=True, coords=[shop], name="on")
        m.add_constraints(price - 1.5 * on <= -0.5, name="up")
        m.add_constraints(price + 1.5 * on >= -0.5, name="down")
        m.add_constraints(on.sum() <= count - 1, name="few")
        worth = worth - 0.1 * on.sum()
    elif kind == "two networks":
        other = chain([(4, "relu"), (1, "none")], 1, rng)
        cost = m.embed(other, [price], name="cost")
        worth = worth - cost.sum() - 0.5 * (cost * cost).sum()
    elif kind == "floor":
        m.add_constraints(price.sum() >= 0.3 * count, name="floor")
    elif kind == "cross":
        worth = worth + price.isel(shop=0, drop=True) * price.isel(shop=1, drop=True)
    elif kind == "own product":
        on = m.add_variables(binary=True, coords=[shop], name="on")
        sold = nn.product(on, units.sel(output=0, drop=True), name="sold")
        worth, total = worth - 0.3 * sold.sum(), total - 0.5 * sold.sum()
    m.add_constraints(total <= level, name="stock")
    if kind == "impossible":
        m.add_constraints(total >= float(m.variables["demand"].lower.sum()) * 0 + level + 0.1, name="promised")
    m.add_objective(worth, sense="max" if rng.random() < 0.7 else "min")
    return m


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(72))
def test_highs_and_scip_agree(seed):
    pytest.importorskip("pyscipopt")
    pytest.importorskip("nnembed_scip")
    ours = coupled_model(seed).solve(backend="highs", gap=GAP, time_limit=300, progress=False)
    other = coupled_model(seed).solve(backend="scip", gap=GAP, time_limit=60, progress=False)
    assert ours.status in ("optimal", "infeasible")
    if "infeasible" in (ours.status, other.status):
        assert ours.status == "infeasible"
        assert other.status in ("infeasible", "time_limit")
        return
    assert ours.certificate.ok
    assert ours.gap <= GAP
    if other.objective is None:
        return
    sign = 1 if coupled_model(seed).objective.sense == "max" else -1
    slack = 1e-5 * (1 + abs(ours.objective))
    assert sign * other.objective <= sign * ours.bound + slack, "our bound cuts off SCIP's answer"
    assert sign * ours.objective <= sign * other.bound + slack, "SCIP's bound cuts off our answer"
