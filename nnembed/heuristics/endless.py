"""Objectives without a best value: the variable that lets them grow for ever, by name."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Mask
from nnembed.backends.highs import Highs
from nnembed.errors import BoxError
from nnembed.events import Event
from nnembed.matrices import canonical
from nnembed.options import Options
from nnembed.problem import Problem

_EXACT = 1e-12  # part of its terms by which a row may seem to move along a direction that keeps it


def no_best_value(problem: Problem, column: int) -> BoxError:
    """Return the error that names a column without which the objective would have a best value."""
    return BoxError(
        f"the objective has no best value: variable {problem.column_name(column)} may grow for ever; give it bounds "
        "or a row"
    )


def endless_column(problem: Problem, seconds: float | None) -> int | None:
    """Return a column that lets the objective grow for ever from any point there is, None where none is found.

    A linear program over the directions in which variables of the user's own may go without end. Networks do not
    change along them, nor do products in the objective, so that they lead on from every point of the problem.

    Parameters
    ----------
    seconds : float or None
        Wall-clock limit.
    """
    free = np.flatnonzero(_free(problem))
    sign = 1.0 if problem.maximize else -1.0
    gain = sign * problem.cost[free]
    if not (gain != 0).any():
        return None
    part = canonical(sp.csr_array(problem.matrix[:, free]))
    size = abs(part).max(axis=1).toarray().ravel()
    rows = np.flatnonzero(size > 0)
    scaled = canonical(sp.csr_array(sp.diags_array(1.0 / size[rows]) @ part[rows]))
    low = np.where(np.isfinite(problem.row_lower[rows]), 0.0, -np.inf)
    high = np.where(np.isfinite(problem.row_upper[rows]), 0.0, np.inf)
    way = Problem(
        scaled,
        low,
        high,
        np.where(np.isfinite(problem.lower[free]), 0.0, -1.0),
        np.where(np.isfinite(problem.upper[free]), 0.0, 1.0),
        np.zeros(len(free), dtype=bool),
        -gain / np.abs(gain).max(),
    )
    with Highs().load(way, Options(time_limit=seconds)) as session:
        found = session.solve(_unheard, lambda: False).x
    if found is None:
        return None
    step = np.where(np.abs(found) > 1e-9, found, 0.0)
    if not _leads_on(scaled, low, high, gain, step):
        return None
    return int(free[np.argmax(gain * step)])


def _leads_on(matrix: sp.csr_array, low: Array, high: Array, gain: Array, step: Array) -> bool:
    """Return whether a direction gains and breaks no row, without a solver's tolerances."""
    move, pad = matrix @ step, _EXACT * (abs(matrix) @ np.abs(step))
    kept = (move >= low - pad).all() and (move <= high + pad).all()
    return bool(kept and gain @ step > 1e-9 * (np.abs(gain) @ np.abs(step)))


def _free(problem: Problem) -> Mask:
    """Return the mask of columns without a bound that no network, product or condition knows."""
    free = ~(np.isfinite(problem.lower) & np.isfinite(problem.upper))
    for placement in problem.placements:
        free[placement.columns] = False
        free[placement.drivers] = False
    if problem.quadratic is not None:
        free[np.unique(sp.coo_array(problem.quadratic).coords)] = False
    rows = (indicators.matrix.indices for indicators in problem.indicators)
    for group in (*problem.sos1, *problem.complementarities, *problem.relus, *rows):
        free[group] = False
    return free


def _unheard(event: Event) -> None:
    """Hear nothing of the linear program."""
