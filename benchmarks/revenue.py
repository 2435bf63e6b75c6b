"""Prices of 5 products in 20 stores that maximise price x predicted demand: how far the gap closes on HiGHS.

    python revenue.py FILE      train the demand network and write it

The market is invented; demand falls with the own price, rises with that of the others and differs by store.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

STORES, PRODUCTS, TRAITS = 20, 5, 2
GAP = 0.01
HIDDEN = (16, 16)
_PRICE = np.array([3.0, 4.0, 5.0, 6.5, 8.0])
_ELASTICITY = 3 * np.array([2.2, 1.8, 2.5, 1.5, 2.0])
_TASTE = np.array([0.3, -0.3, 0.3, -0.3, 0.0])


def demand(price: np.ndarray, traits: np.ndarray) -> np.ndarray:
    """Return units sold per row and product."""
    raised = price / _PRICE - 1
    others = 1 + 0.5 * (raised.mean(1, keepdims=True) - raised / PRODUCTS)
    own = np.exp(-_ELASTICITY * raised)
    return 40 * own * others * (0.7 + 0.6 * traits[:, :1]) * (1 + _TASTE * traits[:, 1:])


def train(path: Path) -> None:
    """Train on random prices within 30 % and write the network, scaling of inputs and outputs inside its weights."""
    from generate import layers_of, write_chain
    from sklearn.neural_network import MLPRegressor

    rng = np.random.default_rng(1)
    price, traits = _PRICE * (1 + rng.uniform(-0.3, 0.3, (8000, PRODUCTS))), rng.uniform(0, 1, (8000, TRAITS))
    x, y = np.hstack([price, traits]), demand(price, traits)
    shift, scale, mean, spread = x.mean(0), x.std(0), y.mean(0), y.std(0)
    net = MLPRegressor(hidden_layer_sizes=HIDDEN, random_state=0, max_iter=150)
    layers = list(layers_of(net.fit((x - shift) / scale, (y - mean) / spread)))
    (first, bias), (last, end) = layers[0], layers[-1]
    layers[0] = first / scale, bias - first @ (shift / scale)
    layers[-1] = spread[:, None] * last, spread * end + mean
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        write_chain(made := Path(scratch) / path.name, layers)
        made.replace(path)


def demand_network() -> Path:
    """Return the file of the demand network, trained on first use in a process of its own."""
    sizes = "x".join(map(str, HIDDEN))
    path = Path(tempfile.gettempdir()) / "nnembed-bench-revenue-1" / f"demand_{PRODUCTS + TRAITS}-{sizes}.onnx"
    if not path.is_file():
        subprocess.run([sys.executable, __file__, str(path)], check=True)
    return path


def build(network: Any, band: float, today: np.ndarray, traits: np.ndarray) -> Any:
    """Return the model: prices within a band around today's, stock of each product, and two products on a ladder."""
    import pandas as pd
    import xarray as xr

    import nnembed as nn

    store, product = pd.RangeIndex(STORES, name="store"), pd.RangeIndex(PRODUCTS, name="product")
    stock = xr.DataArray(1.05 * network(np.hstack([today, traits])).sum(0), coords=[product])
    seen = xr.DataArray(traits, dims=["store", "trait"], coords={"store": store})
    now = xr.DataArray(today, coords=[store, product])
    model = nn.Model()
    price = model.add_variables(now * (1 - band), now * (1 + band), name="price")
    units = model.embed(network, [price, seen], name="demand")
    units = units.rename(output="product").assign_coords(product=product)
    model.add_constraints(units.sum("store") <= stock, name="stock")
    cheap, dear = (price.sel(product=p, drop=True) for p in (0, 1))
    model.add_constraints(dear - cheap >= 0.5, name="ladder")
    model.add_objective((price * units).sum(), sense="max")
    return model


def measure(band: float, limit: float) -> dict[str, Any]:
    """Solve on HiGHS and one thread, and return what was proved.

    Parameters
    ----------
    band : float
        How far a price may be from today's, as a part of it.
    limit : float
        Wall seconds of the solve.
    """
    from meter import Meter
    from ours import IMPORTS, LINOPY, preload

    import nnembed as nn

    path = demand_network()
    preload((*IMPORTS, *LINOPY))
    rng = np.random.default_rng(2)
    today = _PRICE * (1 + rng.uniform(-0.05, 0.05, (STORES, PRODUCTS)))
    traits = rng.uniform(0, 1, (STORES, TRAITS))
    meter = Meter()
    with meter.phase("load"):
        network = nn.load(path)
    with meter.phase("build"):
        model = build(network, band, today, traits)
    with meter.phase("solve"):
        result = model.solve(backend="highs", gap=GAP, time_limit=limit, progress=False)
    record = {"status": result.status, "objective": result.objective, "bound": result.bound, "gap": result.gap}
    record["today"] = float((today * network(np.hstack([today, traits]))).sum())
    if result.values is not None and result.certificate is not None:
        price, units = result.values["price"].values, result.values["demand"].values
        predicted = network(np.hstack([price, traits]))
        record["residual"] = float((np.abs(units - predicted) / (1 + np.abs(predicted))).max())
        record["certificate"] = result.certificate.ok
    return meter.record() | record


if __name__ == "__main__":
    train(Path(sys.argv[1]))
