"""Proven lower bounds on linear programs from any row duals, rounded outward.

For ``min c x, rl <= A x <= ru, l <= x <= u`` and any y

    c x  =  y A x + (c - A' y) x  >=  sum_i (y_i > 0 ? y_i rl_i : y_i ru_i)  +  sum_j min over [l_j, u_j] of d_j x_j

with ``d = c - A' y``. No property of y is used, so it may come from a simplex that stopped early, works with tolerances
or has scaled the rows; only the strength of the bound depends on it. d is computed up to
``gamma_n (|c| + |A|' |y|)``, which costs that much times the larger end of column j; the last sum has its own error.

Source: Neumaier and Shcherbina, Math. Programming 99 (2004).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.bounds.interval import UNIT, gamma
from nnembed.bounds.lp_relaxation import Program


class SafeDual:
    """One program, prepared for many objectives."""

    def __init__(self, program: Program):
        self._program = program
        self._down = sp.csr_array(program.matrix.T)
        self._size = abs(self._down)
        self._relative = gamma(int(np.diff(self._down.indptr).max(initial=0)) + 4)
        with np.errstate(invalid="ignore"):
            self._reach = np.maximum(np.abs(program.lower), np.abs(program.upper))
        self._open_low, self._open_high = np.isinf(program.lower), np.isinf(program.upper)

    def bound(self, cost: Array, y: Array) -> float:
        """Return a lower bound on ``cost @ x`` over the program; ``-inf`` where `y` gives none.

        Parameters
        ----------
        cost : array (columns,)
        y : array (rows,)
            Any numbers; entries that would need an infinite side of their row count as zero.
        """
        program = self._program
        side = np.where(y > 0, program.row_lower, program.row_upper)
        usable = np.isfinite(side) & np.isfinite(y)
        y, side = np.where(usable, y, 0.0), np.where(usable, side, 0.0)
        d = cost - self._down @ y
        slack = self._relative * (np.abs(cost) + self._size @ np.abs(y))
        if not self._closed(d, slack):
            return -np.inf
        end = np.where(d > 0, program.lower, program.upper)
        end = np.where(np.isinf(end), 0.0, end)  # the reduced cost is exactly zero there
        loss = slack * np.where(np.isinf(self._reach), np.abs(end), self._reach)
        rows, columns = y * side, d * end
        total = float(rows.sum() + columns.sum() - loss.sum())
        size = float(np.abs(rows).sum() + np.abs(columns).sum() + loss.sum())
        bound = total - gamma(len(rows) + 2 * len(columns) + 4) * size - 4 * UNIT * abs(total)
        return bound if np.isfinite(bound) else -np.inf

    def _closed(self, d: Array, slack: Array) -> bool:
        """Return whether no column runs to infinity in the direction that its reduced cost may have."""
        falls, rises = d - slack < 0, d + slack > 0
        return not ((self._open_high & falls) | (self._open_low & rises)).any()
