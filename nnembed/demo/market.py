"""The market of the pricing example: 20 stores, 3 coffees and the network that knows their demand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

NETWORK = Path(__file__).with_name("demand.onnx")
STORES = Path(__file__).with_name("stores.json")
TRAITS = ("income", "visitors", "rival")


def load_market() -> xr.Dataset:
    """Return the stores and coffees of the example.

    Returns
    -------
    xarray.Dataset
        ``today`` (store, coffee): the prices as they are, in euros. ``traits`` (store, trait): income in thousand
        euros a year, visitors a week, price of the rival in euros. ``margin`` (coffee): euros earned per bag.
        ``stock`` (coffee): bags that can be delivered a week. The network takes the three prices and the three
        traits of a store and returns the bags of each coffee sold there in a week.
    """
    import xarray as xr

    data = json.loads(STORES.read_text(encoding="utf-8"))
    stores, coffees = data["stores"], data["coffees"]
    return xr.Dataset(
        {
            "today": (("store", "coffee"), [row["today"] for row in stores]),
            "traits": (("store", "trait"), [[float(row[trait]) for trait in TRAITS] for row in stores]),
            "margin": ("coffee", [row["margin"] for row in coffees]),
            "stock": ("coffee", [float(row["stock"]) for row in coffees]),
        },
        coords={
            "store": [row["store"] for row in stores],
            "coffee": [row["coffee"] for row in coffees],
            "trait": list(TRAITS),
        },
    )
