"""Branch and bound over the decisions of one small component, many boxes at a time; see `nnembed.engine.boxes`.

Source: Horst and Tuy, Global Optimization (1996), for branch and bound over boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.engine.boxes import PAD, BoxBound, Boxes
from nnembed.engine.parts import Part, tightened

_BATCH = 512  # boxes bounded at a time
_WORK = 2e8  # multiplications per batch, about: keeps batches of large networks short
_POOL = 100  # points kept of one part


@dataclass(eq=False)
class Tree:
    """The leaves of one part: boxes that together cover every allowed point."""

    part: Part
    low: Array = field(init=False)
    high: Array = field(init=False)
    bound: Array = field(init=False)
    cut: Index = field(init=False)
    best: Array | None = None  # x of the best point known for the present prices
    value: float = np.inf
    pool: Array = field(init=False)  # x of good points at present and earlier prices, (s, k + m)

    def __post_init__(self) -> None:
        """Start with one box."""
        part, n = self.part, len(self.part.cost)
        work = sum(sum(t.size for t in port.network.tensors.values()) ** 2 for port in part.ports)
        self._batch = int(np.clip(_WORK / (1 + work), 4, _BATCH))
        self._price, self.pool = np.zeros(n), np.zeros((0, n))
        self.low, self.high = part.lower[None].copy(), part.upper[None].copy()
        self.bound, self.cut, self._x_low, self._x_high = self._bounded(self.low, self.high)
        self._fresh = np.ones(1, dtype=bool)

    @property
    def lower(self) -> float:
        """The proven bound: no allowed point is below; infinite when there is none."""
        return float(self.bound.min(initial=np.inf))

    @property
    def gap(self) -> float:
        """How far the best point is above the bound."""
        return max(0.0, self.value - self.lower) if len(self.bound) else 0.0

    def price(self, price: Array) -> None:
        """Change the prices: all bounds by what the change can be worth on the box, the lowest ones by new bounds."""
        change, self._price = price - self._price, price
        drop = np.minimum(change * self._x_low, change * self._x_high)
        size = np.abs(change) * np.maximum(np.abs(self._x_low), np.abs(self._x_high))
        self.bound = self.bound + drop.sum(axis=1) - PAD * (1 + np.abs(self.bound) + size.sum(axis=1))
        self._fresh[:] = False
        known = self.pool
        self.best, self.value = None, np.inf
        if len(known):
            self._offer(known)
        self._renew(np.argsort(self.bound, kind="stable")[: self._batch])

    def split(self, tolerance: float) -> bool:
        """Split the leaves with the lowest bounds; return whether there was one to split."""
        useful = self.bound < self.value - tolerance
        if len(stale := np.flatnonzero(useful & ~self._fresh)):
            self._renew(stale[np.argsort(self.bound[stale], kind="stable")[: self._batch]])
            useful = self.bound < self.value - tolerance
        wide = (self.high > self.low).any(axis=1)
        ready = np.flatnonzero(useful & self._fresh & wide)
        if not len(ready):
            return bool((useful & ~self._fresh).any())
        self.divide(ready[np.argsort(self.bound[ready], kind="stable")[: self._batch]])
        return True

    def divide(self, chosen: Index) -> None:
        """Put both halves in the place of leaves."""
        keep = np.ones(len(self.bound), dtype=bool)
        keep[chosen] = False
        low, high, parent = self._children(chosen)
        bound, *rest = self._bounded(low, high)
        new = (low, high, np.maximum(bound, self.bound[chosen][parent]), *rest, np.ones(len(low), dtype=bool))
        old = (self.low, self.high, self.bound, self.cut, self._x_low, self._x_high, self._fresh)
        joined = [np.concatenate([o[keep], n]) for o, n in zip(old, new, strict=True)]
        self.low, self.high, self.bound, self.cut, self._x_low, self._x_high, self._fresh = joined

    def renew(self, chosen: Index) -> None:
        """Bound leaves with the present prices where that was not done yet."""
        self._renew(chosen[~self._fresh[chosen]])

    def _renew(self, chosen: Index) -> None:
        """Bound leaves again, with the present prices."""
        bound, self.cut[chosen], _, _ = self._bounded(self.low[chosen], self.high[chosen])
        self.bound[chosen] = np.maximum(bound, self.bound[chosen])
        self._fresh[chosen] = True

    def _children(self, chosen: Index) -> tuple[Array, Array, Index]:
        """Return both halves of boxes, tightened by the rows, without empty ones; and whose halves they are."""
        part, j, r = self.part, self.cut[chosen], np.arange(len(chosen))
        low, high = self.low[chosen], self.high[chosen]
        middle = 0.5 * (low[r, j] + high[r, j])
        whole = part.integer[j]
        left_high, right_low = high.copy(), low.copy()
        left_high[r, j] = np.where(whole, np.floor(middle), middle)
        right_low[r, j] = np.where(whole, np.floor(middle) + 1, middle)
        low, high = tightened(part, np.concatenate([low, right_low]), np.concatenate([left_high, high]))
        kept = np.flatnonzero((low <= high).all(axis=1))
        return low[kept], high[kept], kept % len(chosen)

    def _bounded(self, low: Array, high: Array) -> tuple[Array, Index, Array, Array]:
        """Return bounds, columns to cut at and ranges of x."""
        bound, cut = np.empty(len(low)), np.empty(len(low), dtype=np.intp)
        x_low, x_high = (np.empty((len(low), len(self._price))) for _ in range(2))
        for i in range(0, len(low), self._batch):
            some = slice(i, i + self._batch)
            boxes = Boxes(self.part, low[some], high[some])
            box = BoxBound(boxes, self._price)
            bound[some], cut[some] = box.bound, box.cut
            x_low[some], x_high[some] = boxes.range
            points = np.concatenate([box.point, boxes.centre])
            points[:, self.part.integer] = np.rint(points[:, self.part.integer])
            good = self.part.allowed(points)
            if good.any():
                self._offer(self.part.evaluate(points[good]))
        return bound, cut, x_low, x_high

    def _offer(self, x: Array) -> None:
        """Remember the best points; they are good ones at other prices too."""
        values = self.part.value(x, self._price)
        order = np.argsort(values, kind="stable")
        if values[order[0]] < self.value:
            self.best, self.value = x[order[0]], float(values[order[0]])
            self.pool = np.concatenate([x[order[:2]], self.pool])[:_POOL]
