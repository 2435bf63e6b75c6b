"""The user's own rows beside the relaxation of a network."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.bounds.box import Region
from nnembed.bounds.interval import gamma
from nnembed.bounds.lp_relaxation import Affines, Relaxation, widen
from nnembed.matrices import relabel, stack

_ROUNDS = 8


def join(lp: Relaxation, region: Region, *, outputs: bool) -> None:
    """Add the columns and rows of a region and tie the inputs to them, and the outputs if they have been written.

    Parameters
    ----------
    lp : Relaxation
        From the inputs of the network on.
    region : Region
    outputs : bool
    """
    x = np.concatenate(lp.inputs)
    lower, upper = _implied(region, _sides(lp, outputs=False), _sides(lp, outputs=True))
    far = np.isinf(lower) | np.isinf(upper)
    u = lp.columns(np.where(far, 0.0, lower), np.where(far, 0.0, upper))  # no row has those that are far
    reach = np.where(far, 0.0, np.maximum(np.abs(lower), np.abs(upper)))
    near = np.flatnonzero(abs(region.inputs) @ far == 0)
    ties, constant = region.inputs[near], region.constant[near]
    slack = 2 * gamma(int(np.diff(ties.indptr).max(initial=0)) + 2) * (abs(ties) @ reach + np.abs(constant))
    lp.add([lp.unit(x[near]), -relabel(ties, u, lp.width)], constant - slack, constant + slack)
    near = np.flatnonzero(abs(region.matrix) @ far == 0)
    lp.add([relabel(region.matrix[near], u, lp.width)], region.row_lower[near], region.row_upper[near])
    if outputs:
        _tie_outputs(lp, region, u)


def _sides(lp: Relaxation, *, outputs: bool) -> tuple[Array, Array]:
    """Return the bounds of all inputs or outputs, one after the other."""
    specs = lp.network.outputs if outputs else lp.network.inputs
    low, high = zip(*(lp.range(spec.name) for spec in specs), strict=True)
    return np.concatenate(low), np.concatenate(high)


def _tie_outputs(lp: Relaxation, region: Region, u: Index) -> None:
    parts = [lp.value(spec.name) for spec in lp.network.outputs]
    rows = Affines(
        stack([widen(p.matrix, lp.width) for p in parts], lp.width),
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("constant", "error", "size")),
    )
    named = np.flatnonzero(region.outputs >= 0)
    if len(named):
        lp.tie(rows.take(named), np.zeros(len(named)), [lp.unit(u[region.outputs[named]])])


def _implied(region: Region, inputs: tuple[Array, Array], outputs: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return bounds of the user's columns that follow from the rows and from the box of the inputs and outputs.

    A safe dual bound needs finite columns wherever a reduced cost is not exactly zero. A row that could take any
    value because of a column that stays infinite says nothing by itself and is left out.
    """
    matrix = sp.csr_array(sp.vstack([region.matrix, region.inputs], format="csr"))
    row_low = np.concatenate([region.row_lower, inputs[0] - region.constant])
    row_high = np.concatenate([region.row_upper, inputs[1] - region.constant])
    lower, upper = region.lower.copy(), region.upper.copy()
    named = region.outputs >= 0
    np.maximum.at(lower, region.outputs[named], outputs[0][named])
    np.minimum.at(upper, region.outputs[named], outputs[1][named])
    row, j, a = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices, matrix.data
    relative = 4 * gamma(int(np.diff(matrix.indptr).max(initial=0)) + 4)
    for _ in range(_ROUNDS):
        if np.isfinite(lower).all() and np.isfinite(upper).all():
            break
        least, below = _rest(np.where(a > 0, a * lower[j], a * upper[j]), row, len(row_low))
        most, above = _rest(np.where(a > 0, a * upper[j], a * lower[j]), row, len(row_low))
        with np.errstate(invalid="ignore"):
            top = row_high[row] - least + relative * (np.abs(row_high[row]) + below)
            bottom = row_low[row] - most - relative * (np.abs(row_low[row]) + above)
            over, under = np.where(a > 0, top, bottom) / a, np.where(a > 0, bottom, top) / a
            over, under = over + relative * np.abs(over), under - relative * np.abs(under)
        np.minimum.at(upper, j, np.where(np.isnan(over), np.inf, over))
        np.maximum.at(lower, j, np.where(np.isnan(under), -np.inf, under))
    return lower, upper


def _rest(part: Array, row: Array, n: int) -> tuple[Array, Array]:
    """Return, per nonzero, the sum of the other parts of its row (NaN where one is infinite), and its size."""
    far = ~np.isfinite(part)
    near = np.where(far, 0.0, part)
    total, size = np.bincount(row, near, n), np.bincount(row, np.abs(near), n)
    others = np.bincount(row, far, n)[row] - far
    return np.where(others > 0, np.nan, total[row] - near), size[row]
