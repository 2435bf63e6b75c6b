"""Projection of many points onto a box and linear rows over the drivers, in place."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array
from nnembed.heuristics.scene import Scene

_SWEEPS = 12
_NEWTON = 60
_CLOSE = 1e-13  # distance of a row from its side, relative


class Projection:
    """The nearest points of ``lower <= x <= upper, low <= A x <= high``, by coordinate ascent on the rows' multipliers.

    For one row the result is exact: the box is part of each step, which finds the multiplier by bracketed Newton steps.
    Rows that involve outputs of networks are not seen.

    Attributes
    ----------
    rows : CSR array (rows, drivers)
    low, high : arrays (rows,)
    """

    def __init__(self, scene: Scene):
        self.lower, self.upper = scene.lower, scene.upper
        self.rows, self.low, self.high = driver_rows(scene)
        self._dense = self.rows.toarray() if self.rows.shape[0] <= 400 else None
        self._norm = np.asarray((self.rows**2).sum(axis=1)).ravel()

    def __call__(self, points: Array) -> None:
        """Move points (s, drivers) in place."""
        if self.rows.shape[0]:
            points[:] = self._onto_rows(points.astype(float))
        np.clip(points, self.lower.astype(points.dtype), self.upper.astype(points.dtype), out=points)

    def excess(self, points: Array) -> Array:
        """Return how far each row (s, rows) is above (positive) or below (negative) its sides."""
        value = (self.rows @ points.T).T
        return np.maximum(value - self.high, 0.0) + np.minimum(value - self.low, 0.0)

    def _onto_rows(self, target: Array) -> Array:
        x, dual = np.clip(target, self.lower, self.upper), np.zeros((len(target), self.rows.shape[0]))
        free = target.copy()  # target minus all multipliers times their rows
        for _ in range(1 if self.rows.shape[0] == 1 else _SWEEPS):
            excess = np.abs(self.excess(x)).max(axis=0)
            active = np.flatnonzero((excess > 1e-10) | (dual != 0).any(axis=0))
            if not len(active) or (excess <= 1e-9).all():
                break
            for r in active:
                row = self._row(int(r))
                free += dual[:, r, None] * row
                dual[:, r] = self._multiplier(free, row, int(r))
                free -= dual[:, r, None] * row
            x = np.clip(free, self.lower, self.upper)
        return x

    def _row(self, r: int) -> Array:
        return self._dense[r] if self._dense is not None else self.rows[[r]].toarray()[0]

    def _multiplier(self, free: Array, row: Array, r: int) -> Array:
        """Return the multiplier of one row for each point: zero, or where the row meets its side within the box."""
        value = np.clip(free, self.lower, self.upper) @ row
        side = np.where(value > self.high[r], self.high[r], self.low[r])
        off = (value > self.high[r]) | (value < self.low[r])
        found = np.zeros(len(free))
        if not off.any():
            return found
        part, goal = free[off], side[off]
        square = row * row
        lo, hi = np.full(len(part), -np.inf), np.full(len(part), np.inf)
        t = (value[off] - goal) / self._norm[r]
        for turn in range(_NEWTON):
            x = part - t[:, None] * row
            inside = (x > self.lower) & (x < self.upper)
            error = np.clip(x, self.lower, self.upper) @ row - goal
            if (np.abs(error) <= _CLOSE * (1 + np.abs(goal))).all():
                break
            lo, hi = np.where(error > 0, np.maximum(lo, t), lo), np.where(error < 0, np.minimum(hi, t), hi)
            curve = inside @ square
            new = t + error / np.where(curve > 0, curve, self._norm[r])
            held = np.isfinite(lo) & np.isfinite(hi)
            new = np.where(held, new, t + (new - t) * 2.0**turn)  # until it is bracketed, ever further
            bad = held & ((new <= lo) | (new >= hi) | (turn % 3 == 2))
            middle = 0.5 * (np.where(bad, lo, 0.0) + np.where(bad, hi, 0.0))
            t = np.where(error == 0, t, np.where(bad, middle, new))
        found[off] = t
        return found


def driver_rows(scene: Scene) -> tuple[sp.csr_array, Array, Array]:
    """Return the rows over drivers only, with their sides."""
    k = len(scene.drivers)
    if scene.side is None:
        return sp.csr_array((0, k)), np.zeros(0), np.zeros(0)
    matrix, low, high = scene.side
    place = np.searchsorted(scene.visible, scene.drivers)
    written = np.ones(len(scene.visible), dtype=bool)
    written[place] = False
    pattern = sp.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
    own = np.flatnonzero((pattern @ written.astype(float)) == 0)
    part = sp.csr_array(sp.csc_array(matrix[own])[:, place])
    return part, low[own], high[own]


def has_output_rows(scene: Scene) -> bool:
    """Return whether a row over visible columns involves an output of a network."""
    return scene.side is not None and driver_rows(scene)[0].shape[0] < scene.side[0].shape[0]
