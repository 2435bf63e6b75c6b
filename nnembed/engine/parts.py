"""One small component of a problem: few decisions, the networks that read them, an objective over both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.ir.network import Network


@dataclass(frozen=True, eq=False)
class Port:
    """One batch point of one network: ``inputs = matrix @ v + constant``; `outputs` are places in the part's y."""

    network: Network
    matrix: Array
    constant: Array
    outputs: Index


@dataclass(frozen=True, eq=False)
class Part:
    """A component: minimise ``cost @ x + x Q x / 2`` over x = (v, y(v)), v in a box, rows over v.

    Attributes
    ----------
    columns : int array (k,), outputs : int array (m,)
        Problem columns of v and y.
    lower, upper : arrays (k,)
    integer : bool array (k,)
    cost : array (k + m,), square : array (k + m, k + m), symmetric
    rows : array (r, k), row_lower, row_upper : arrays (r,)
    """

    columns: Index
    outputs: Index
    ports: tuple[Port, ...]
    lower: Array
    upper: Array
    integer: np.ndarray
    cost: Array
    square: Array
    rows: Array
    row_lower: Array
    row_upper: Array

    @property
    def k(self) -> int:
        """Number of free columns."""
        return len(self.columns)

    def evaluate(self, v: Array) -> Array:
        """Return x = (v, y(v)) for points (s, k)."""
        x = np.zeros((len(v), self.k + len(self.outputs)))
        x[:, : self.k] = v
        for port in self.ports:
            state = port.network.forward(split_entries(port.network, v @ port.matrix.T + port.constant))
            x[:, self.k + port.outputs] = np.concatenate([state[s.name] for s in port.network.outputs], axis=1)
        return x

    def value(self, x: Array, price: Array) -> Array:
        """Return the objective at points (s, k + m) with `price` added to the costs."""
        total: Array = x @ (self.cost + price) + 0.5 * ((x @ self.square) * x).sum(axis=1)
        return total

    def allowed(self, v: Array) -> np.ndarray:
        """Return which points (s, k) satisfy rows and bounds and are integral."""
        box = (v >= self.lower - 1e-9) & (v <= self.upper + 1e-9)
        value = v @ self.rows.T
        size = 1e-7 * (1 + np.abs(value))
        inside = (value >= self.row_lower - size) & (value <= self.row_upper + size)
        whole = (np.abs(v - np.rint(v)) <= 1e-9) | ~self.integer
        return np.asarray(np.concatenate([box, inside, whole], axis=1).all(axis=1))


def split_entries(network: Network, flat: Array) -> dict[str, Array]:
    """Return (s, n) per input from (s, all inputs)."""
    edges = np.cumsum([s.size for s in network.inputs])[:-1]
    return {s.name: part for s, part in zip(network.inputs, np.split(flat, edges, axis=1), strict=True)}


def tightened(part: Part, low: Array, high: Array) -> tuple[Array, Array]:
    """Return boxes (s, k) narrowed once by every row and rounded to integers; empty ones have low > high."""
    low, high = low.copy(), high.copy()
    for a, least, most in zip(part.rows, part.row_lower, part.row_upper, strict=True):
        for sign, side in ((1.0, most), (-1.0, -least)):
            used = np.flatnonzero(a)
            if not np.isfinite(side) or not len(used):
                continue
            c = sign * a[used]
            ends = np.minimum(c * low[:, used], c * high[:, used])
            total = ends.sum(axis=1, keepdims=True)
            size = np.abs(ends).sum(axis=1, keepdims=True) + abs(side)
            room = (side - total + ends + 1e-9 * (1 + size)) / c
            low[:, used] = np.where(c < 0, np.maximum(low[:, used], room), low[:, used])
            high[:, used] = np.where(c > 0, np.minimum(high[:, used], room), high[:, used])
    whole = part.integer
    low[:, whole], high[:, whole] = np.ceil(low[:, whole] - 1e-6), np.floor(high[:, whole] + 1e-6)
    return low, high
