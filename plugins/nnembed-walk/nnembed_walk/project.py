"""Projection of many points onto a box and linear rows over the drivers, in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array
from nnembed.heuristics.scene import Scene

_NEWTON = 60
_CLOSE = 1e-13  # distance of a row from its side, relative
_EXACT = 1e-11, 20_000  # several rows: distance relative to their sides at which points rest, and steps at most
_ROUGH = 1e-6, 60  # the same on the way of a climb
_FREE = 10_000_000  # multiplications that a projection may take after its time is over, so that there is a point at all
_DENSE = 0.2  # share of entries from which on products are quicker without a list of them
_EIGEN = 500  # rows or drivers up to which the steepest direction of the rows is computed and not only bounded


class Projection:
    """The nearest points of ``lower <= x <= upper, low <= A x <= high``, by ascent on the rows' multipliers.

    One row: its multiplier is found by bracketed Newton steps, the box being part of each; exact. Several: accelerated
    steps on all multipliers of all points at once; each point begins its run-up anew where it would go back. Where rows
    are nearly dependent the steps may end first: of 1500 random polytopes one, 2e-4 outside. What is outside by more
    than 1e-7 is no answer, but goes to a region's linear program.
    Rows that involve outputs of networks are not seen.

    Parameters
    ----------
    scene : Scene
    stop : callable
        Polled by projections onto several rows; they end where they are when it says so.

    Attributes
    ----------
    rows : CSR array (rows, drivers)
    low, high : arrays (rows,)
    """

    def __init__(self, scene: Scene, stop: Callable[[], bool] = lambda: False):
        self.lower, self.upper, self._stop = scene.lower, scene.upper, stop
        self.rows, self.low, self.high = driver_rows(scene)

    def __call__(self, points: Array) -> None:
        """Move points (s, drivers) in place."""
        self._move(points, None, _EXACT)

    def following(self) -> Callable[[Array], None]:
        """Return a rougher projection for the steps of one climb, which begins at the multipliers of the last step."""
        if len(self.low) <= 1:
            return self
        dual = np.zeros((0, len(self.low)))

        def project(points: Array) -> None:
            nonlocal dual
            if len(dual) != len(points):
                dual = np.zeros((len(points), len(self.low)))
            self._move(points, dual, _ROUGH)

        return project

    def _move(self, points: Array, dual: Array | None, accuracy: tuple[float, int]) -> None:
        if len(self.low) == 1:
            points[:] = self._onto_row(points.astype(float))
        elif len(self.low):
            dual = np.zeros((len(points), len(self.low))) if dual is None else dual
            points[:] = self._onto_rows(points.astype(float), dual, accuracy)
        np.clip(points, self.lower.astype(points.dtype), self.upper.astype(points.dtype), out=points)

    def excess(self, points: Array) -> Array:
        """Return how far each row (s, rows) is above (positive) or below (negative) its sides."""
        value = (self.rows @ points.T).T
        return np.maximum(value - self.high, 0.0) + np.minimum(value - self.low, 0.0)

    # ---- several rows -------------------------------------------------------------------------

    @cached_property
    def _scaled(self) -> tuple[Array | sp.csr_array, Array, Array, float]:
        """The rows with norm one, their sides, and the square of their largest singular value, or a little more."""
        norm = np.sqrt(self._norm)
        norm[norm == 0] = 1.0
        rows = sp.csr_array(sp.diags_array(1 / norm) @ self.rows)
        low, high = self.low / norm, self.high / norm
        if min(rows.shape) <= _EIGEN:
            gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            steep = float(np.linalg.eigvalsh(gram.toarray())[-1])
        else:
            steep = float(abs(rows).sum(axis=0).max() * abs(rows).sum(axis=1).max())
        return rows.toarray() if rows.nnz >= _DENSE * np.prod(rows.shape) else rows, low, high, max(steep, 1e-300)

    def _onto_rows(self, target: Array, dual: Array, accuracy: tuple[float, int]) -> Array:
        """Return the nearest points; `dual` is where their multipliers begin and end."""
        near = np.clip(target, self.lower, self.upper)
        moved = np.flatnonzero((np.abs(self.excess(near)) > 1e-10).any(axis=1) | (dual != 0).any(axis=1))
        if not len(moved):
            return near
        close, most = accuracy
        rows, low, high, steep = self._scaled
        ends = np.abs(np.stack([low, high]))
        close = close * (1 + np.where(np.isfinite(ends), ends, 0.0).max(axis=0))
        free = max(1, int(_FREE / (2 * len(moved) * max(self.rows.nnz, 1))))
        part, old, ahead, run = target[moved], dual[moved], dual[moved], np.ones(len(moved))
        for turn in range(1, most + 1):
            value = steep * ahead + np.clip(part - ahead @ rows, self.lower, self.upper) @ rows.T
            new = (value - np.clip(value, low, high)) / steep
            gap, step = new - ahead, new - old
            back = (gap * step).sum(axis=1) < 0
            longer = np.where(back, 1.0, 0.5 * (1 + np.sqrt(1 + 4 * run * run)))
            ahead = new + np.where(back, 0.0, (run - 1) / longer)[:, None] * step
            old, run = new, longer
            if turn % 8 == 0 or turn == most:
                rest = (steep * np.abs(gap) <= close).all(axis=1)
                dual[moved] = old
                if rest.all() or (turn >= free and self._stop()):
                    break
                if rest.any():
                    go = ~rest
                    moved, part, old, ahead, run = moved[go], part[go], old[go], ahead[go], run[go]
        found: Array = np.clip(target - dual @ rows, self.lower, self.upper)
        return found

    # ---- one row ------------------------------------------------------------------------------

    @cached_property
    def _norm(self) -> Array:
        return np.asarray((self.rows**2).sum(axis=1)).ravel()

    def _onto_row(self, target: Array) -> Array:
        x = np.clip(target, self.lower, self.upper)
        if (np.abs(self.excess(x)) <= 1e-9).all():
            return x
        row = self.rows.toarray()[0]
        return np.clip(target - self._multiplier(target, row, 0)[:, None] * row, self.lower, self.upper)

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
