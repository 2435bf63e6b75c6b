"""Bounds of network outputs on the pieces of a partition: CROWN on the box with one variable restricted.

A product of a decision with a prediction is relaxed piece by piece; what counts is the range of the prediction on the
piece, not on the whole box. With it the error of a piece shrinks with the square of its width.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.bounds.backward import Crown
from nnembed.bounds.box import Bounds
from nnembed.options import Budget
from nnembed.problem import Placement, Problem


def output_bounds(problem: Problem, factor: Index, low: Array, high: Array, other: Index) -> tuple[Array, Array]:
    """Return bounds of columns while another column is restricted.

    Parameters
    ----------
    problem : Problem
    factor : int array (k,)
        The restricted columns, to ``low <= x <= high`` (arrays (k,)).
    other : int array (k,)
        The columns to bound.

    Returns
    -------
    two arrays (k,), never wider than the problem's own bounds
    """
    lower, upper = problem.lower[other].copy(), problem.upper[other].copy()
    for placement in problem.placements:
        outputs = placement.columns[placement.block.outputs]
        where = np.full(problem.n_columns, -1)
        where[outputs] = np.arange(len(outputs))
        driver = np.full(problem.n_columns, -1)
        driver[placement.drivers] = np.arange(len(placement.drivers))
        mine = np.flatnonzero((where[other] >= 0) & (driver[factor] >= 0))
        if len(mine):
            found = _on_pieces(problem, placement, driver[factor[mine]], low[mine], high[mine], where[other[mine]])
            lower[mine], upper[mine] = np.maximum(lower[mine], found[0]), np.minimum(upper[mine], found[1])
    return lower, upper


def _on_pieces(
    problem: Problem, placement: Placement, driver: Index, low: Array, high: Array, place: Index
) -> tuple[Array, Array]:
    """Return bounds of outputs `place` (in block order), each on its own box."""
    network, batch = placement.embedding.network, placement.block.batch
    entry, point, output = _locate([s.size for s in network.outputs], batch, place)
    k = len(driver)
    box_low = np.repeat(problem.lower[placement.drivers][:, None], k, axis=1)
    box_high = np.repeat(problem.upper[placement.drivers][:, None], k, axis=1)
    box_low[driver, np.arange(k)] = np.maximum(box_low[driver, np.arange(k)], low)
    box_high[driver, np.arange(k)] = np.minimum(box_high[driver, np.arange(k)], high)
    inputs_low, inputs_high = _inputs(placement, box_low, box_high)
    lows, highs, start = {}, {}, 0
    for spec in network.inputs:
        rows = start + point[:, None] * spec.size + np.arange(spec.size)
        lows[spec.name] = inputs_low[rows, np.arange(k)[:, None]]
        highs[spec.name] = inputs_high[rows, np.arange(k)[:, None]]
        start += batch * spec.size
    bounds = Crown().tighten(network, Bounds(network, lows, highs, (k,)), Budget())
    below, above = np.empty(k), np.empty(k)
    for i, spec in enumerate(network.outputs):
        some = output == i
        below[some] = bounds.low[spec.name][some, entry[some]]
        above[some] = bounds.high[spec.name][some, entry[some]]
    return below, above


def _inputs(placement: Placement, low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds (inputs, k) of the block's inputs for boxes (drivers, k), rounded outward."""
    positive, negative = placement.matrix.maximum(0), placement.matrix.minimum(0)
    constant = placement.constant[:, None]
    below = positive @ low + negative @ high + constant
    above = positive @ high + negative @ low + constant
    size = abs(placement.matrix) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(constant)
    single = (np.diff(sp.csr_array(placement.matrix).indptr) <= 1)[:, None] & (constant == 0)
    pad = np.where(single, 0.0, 1e-12 * size)
    return below - pad, above + pad


def _locate(sizes: list[int], batch: int, place: Index) -> tuple[Index, Index, Index]:
    """Return entry, point and output number of places in block order."""
    starts = np.cumsum([0, *(batch * s for s in sizes)])
    output = np.searchsorted(starts, place, side="right") - 1
    size = np.asarray(sizes)[output]
    point, entry = np.divmod(place - starts[output], size)
    return entry, point, output
