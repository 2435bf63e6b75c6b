"""What was decided: prices and predicted bags before and after, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nnembed.aliases import Array
from nnembed.tables import Table

if TYPE_CHECKING:
    import xarray as xr

    from nnembed.ir.network import Network

_HEADS = ("store", "coffee", "old price", "new price", "bags before", "bags after")
_CENT = 0.005  # smaller differences are rounding


@dataclass(frozen=True, eq=False)
class Decision:
    """New prices for a market.

    Attributes
    ----------
    network : Network
        Predicts the bags sold from prices and traits of a store.
    market : xarray.Dataset
        As from `load_market`.
    new : array (store, coffee)
        The prices decided.
    """

    network: Network
    market: xr.Dataset
    new: Array

    @property
    def old(self) -> Array:
        """Prices as they were, (store, coffee)."""
        return np.asarray(self.market.today.values, float)

    @cached_property
    def changed(self) -> np.ndarray:
        """Mask (store, coffee) of the prices that change by a cent or more."""
        return np.abs(self.new - self.old) > _CENT

    @cached_property
    def bags(self) -> tuple[Array, Array]:
        """Bags a week that the network predicts at the old and at the new prices, (store, coffee) each."""
        traits = self.market.traits.values
        old, new = (self.network(np.hstack([price, traits])) for price in (self.old, self.new))
        return old, new

    @property
    def margin_before(self) -> float:
        """Euros a week at the old prices."""
        return float((self.bags[0] * self.market.margin.values).sum())

    def table(self) -> Table:
        """Return one row per store and coffee, in numbers."""
        return Table("prices", _HEADS, self._rows(np.ones_like(self.changed)))

    def changes(self) -> Table:
        """Return the prices that change, as text."""
        rows = [(s, c, f"{p:.2f}", f"{q:.2f}", f"{a:.1f}", f"{b:.1f}") for s, c, p, q, a, b in self._rows(self.changed)]
        rest = f"the other {(~self.changed).sum()} prices stay; bags a week as the network predicts"
        return Table(f"{len(rows)} prices change (EUR)", _HEADS, rows, rest)

    def totals(self) -> Table:
        """Return mean price and bags of each coffee over all stores, as text."""
        prices = zip(self.old.mean(axis=0), self.new.mean(axis=0), strict=True)
        bags = zip(*(b.sum(axis=0) for b in self.bags), strict=True)
        rows = [
            (str(coffee), f"{p:.2f}", f"{q:.2f}", f"{a:.0f}", f"{b:.0f}", f"{stock:.0f}")
            for coffee, (p, q), (a, b), stock in zip(
                self.market.coffee.values, prices, bags, self.market.stock.values, strict=True
            )
        ]
        heads = ("coffee", "mean old price", "mean new price", "bags before", "bags after", "stock")
        return Table("all stores together", heads, rows)

    def _rows(self, mask: np.ndarray) -> list[Sequence[object]]:
        stores, coffees = self.market.store.values, self.market.coffee.values
        return [
            (str(stores[i]), str(coffees[j]), *(round(float(a[i, j]), 2) for a in (self.old, self.new, *self.bags)))
            for i, j in np.argwhere(mask)
        ]
