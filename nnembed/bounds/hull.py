"""The most violated facet of the convex hull of one ReLU neuron over its input box, vectorised over neurons.

For ``y = max(0, w.x + b)`` over a box let ``wl_i`` be the end of side i where ``w_i x_i`` is least and ``wu_i`` the
other one. With a binary z the hull is described by ``y >= 0, y >= w.x + b`` and, for every set I of inputs,

    y <= sum_I w_i (x_i - wl_i (1 - z)) + (b + sum_notI w_i wu_i) z                                (`ideal_cut`),

the smaller term input by input being the most violated one. Without z, with ``l(I) = b + sum_I w_i wl_i +
sum_notI w_i wu_i``, it is, for every I and h with ``l(I) >= 0 > l(I + h)``,

    y <= sum_I w_i (x_i - wl_i) + l(I) (x_h - wl_h) / (wu_h - wl_h)                                (`projected_cut`);

the most violated one takes inputs by ``(x_i - wl_i) / (wu_i - wl_i)``, smallest first. Over one-hot blocks (x_B in a
simplex) ``y <= b z + sum_B [t_B z + sum_{j in B} max(0, w_j - t_B) x_j]`` for any t (`simplex_cut`).

Every cut holds in real arithmetic for the numbers that are returned: constants are rounded outward. Tiny coefficients,
below 1e-6 of the largest, are replaced by the largest value of their term, so the range of the coefficients of a cut is
at most 1e6; a cut that cannot be had within that range has violation minus infinity.

Sources: Anderson, Huchette, Ma, Tjandraatmadja, Vielma, Mathematical Programming 183 (2020); Tjandraatmadja et al.,
NeurIPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.interval import gamma

RANGE = 1e6  # of the coefficients of a cut, 1 of y included


@dataclass(frozen=True, eq=False)
class _Neurons:
    """Neurons with their inputs in a rectangle (k, d); short rows are filled up with weights of zero.

    Attributes
    ----------
    weight, least, most : array (k, d)
        Weight, and the ends of the input's range where ``w x`` is least and largest.
    x : array (k, d)
    size : array (k,)
        The largest of ``|b| + sum |w_i x_i|``: what rounding errors are relative to.
    """

    weight: Array
    least: Array
    most: Array
    x: Array
    size: Array
    source: Any  # the weights as they were passed
    places: tuple[Index, Index] | None  # of the stored entries of sparse weights in the rectangle

    def like_weights(self, coefficients: Array) -> Any:
        """Return coefficients (k, d) in the form of the weights: an array (k, n), or CSR with the same entries."""
        if self.places is None:
            return coefficients
        m = self.source
        return sp.csr_array((coefficients[self.places], m.indices, m.indptr), shape=m.shape)

    @property
    def slack(self) -> Array:
        """How far a constant made of sums over the inputs may be off."""
        return 4 * gamma(self.weight.shape[1] + 8) * self.size


def ideal_cut(
    weights: Any, bias: Array, low: Array, high: Array, x: Array, y: Array, z: Array
) -> tuple[Array, Any, Array, Array]:
    """Return per neuron the most violated cut ``y <= coef_x . x + coef_z z + constant`` of the ideal formulation.

    Parameters
    ----------
    weights : array (k, n) or CSR array (k, n)
    bias : array (k,)
    low, high : arrays (n,) or (k, n)
        Finite box of the inputs.
    x : array (n,) or (k, n); y, z : arrays (k,)
        The point to cut off.

    Returns
    -------
    violation : array (k,)
        ``y`` less the right-hand side at the point; not positive where nothing is violated.
    coef_x : like weights; coef_z, constant : arrays (k,)
    """
    k = _neurons(weights, bias, low, high, x)
    on = k.weight * (k.x - k.least * (1.0 - z)[:, None])
    chosen = (on < k.weight * k.most * z[:, None]) & _large(np.abs(k.weight), k.weight != 0)
    coef_x = np.where(chosen, k.weight, 0.0)
    coef_z = bias + (k.weight * np.where(chosen, k.least, k.most)).sum(axis=1) + k.slack
    constant = -(coef_x * k.least).sum(axis=1) + k.slack
    coef_z, constant = _without_tiny(coef_z, constant, coef_x)
    rest = y - ((coef_x * k.x).sum(axis=1) + coef_z * z + constant)
    return _refused(rest, coef_x, coef_z), k.like_weights(coef_x), coef_z, constant


def projected_cut(weights: Any, bias: Array, low: Array, high: Array, x: Array, y: Array) -> tuple[Array, Any, Array]:
    """Return per neuron the most violated upper facet ``y <= coef_x . x + constant`` of the hull in (x, y).

    Parameters and results as in `ideal_cut`. Of a neuron that is active on all of the box it is ``w.x + b``, of one
    that is inactive 0.
    """
    k = _neurons(weights, bias, low, high, x)
    width = k.most - k.least
    reach = np.maximum(k.weight * width, 0.0)
    share = np.divide(k.x - k.least, width, out=np.zeros_like(k.x), where=width != 0)
    order = np.argsort(share, axis=1, kind="stable")
    sorted_reach = np.take_along_axis(reach, order, axis=1)
    top = bias + (k.weight * k.most).sum(axis=1)  # l of no input
    after = top[:, None] - np.cumsum(sorted_reach, axis=1)
    turn = np.argmax(after < 0, axis=1)  # position of h; inputs before it are in I
    rows = np.arange(len(bias))
    inactive = top <= 0
    active = ~inactive & (after[:, -1] >= 0)
    last = rows, order[rows, turn]
    inside = np.zeros(k.weight.shape, dtype=bool)
    np.put_along_axis(inside, order, np.arange(k.weight.shape[1]) < turn[:, None], axis=1)
    inside[active], inside[inactive] = True, False
    passed = np.where(turn > 0, after[rows, np.maximum(turn, 1) - 1], top)
    coef = np.where(inside, k.weight, 0.0)
    partial = ~active & ~inactive
    coef[last] = np.where(partial, passed / np.where(partial, width[last], 1.0), coef[last])
    kept = np.where(_large(np.abs(coef), coef != 0), coef, 0.0)
    base = np.where(active[:, None], 0.0, k.least)
    constant = ((coef - kept) * (k.most - base) - kept * base).sum(axis=1) + np.where(active, bias, 0.0)
    # Where rounding has decided a neuron's state the true l is less than the slack off the sign it seems to have.
    constant = constant + 2 * k.slack
    return _refused(y - ((kept * k.x).sum(axis=1) + constant), kept), k.like_weights(kept), constant


def simplex_cut(
    weights: Array, bias: Array, low: Array, high: Array, blocks: Index, x: Array, y: Array, z: Array
) -> tuple[Array, Array, Array, Array]:
    """Return as `ideal_cut` the most violated cut where blocks of inputs lie in simplices.

    Parameters
    ----------
    weights : array (k, n)
    low, high : arrays (n,) or (k, n)
        Box of the inputs that are in no block.
    blocks : int array (n,)
        Number of the block of each input, whose members are at least zero and sum to one; -1 for an input in no block.
    """
    free = blocks < 0
    outside = np.where(free, weights, 0.0)
    box = np.where(free, low, 0.0), np.where(free, high, 0.0)
    _, coef_x, coef_z, constant = ideal_cut(outside, np.zeros(len(bias)), *box, x, y, z)
    members = np.flatnonzero(~free)
    members = members[np.argsort(blocks[members], kind="stable")]
    found, starts, which = np.unique(blocks[members], return_index=True, return_inverse=True)
    w = weights[:, members]
    threshold = _thresholds(w, np.broadcast_to(x, weights.shape)[:, members], z, starts, which)
    rise = np.maximum(w - threshold[:, which], 0.0)
    # Dropping a rise that is tiny beside 1 raises the threshold instead: the largest dropped one is added to it.
    tiny = np.where(rise <= np.maximum(1.0, rise.max(axis=1, initial=0.0))[:, None] / RANGE, rise, 0.0)
    lift = np.maximum.reduceat(tiny, starts, axis=1) if len(starts) else np.zeros((len(w), 0))
    threshold = threshold + lift
    coef_x[:, members] = np.where(tiny > 0, 0.0, rise) * (1 + gamma(4))
    size = np.abs(bias) + np.abs(threshold).sum(axis=1) + np.abs(coef_z)
    coef_z = coef_z + bias + threshold.sum(axis=1) + gamma(len(found) + 8) * size
    coef_z, constant = _without_tiny(coef_z, constant, coef_x)
    rest = y - ((coef_x * x).sum(axis=1) + coef_z * z + constant)
    return _refused(rest, coef_x, coef_z), coef_x, coef_z, constant


def _thresholds(w: Array, x: Array, z: Array, starts: Index, which: Index) -> Array:
    """Return per neuron and block the weight at which mass z is used up, filling by descending weight."""
    if not len(starts):
        return np.zeros((len(w), 0))
    order = np.lexsort((-w, np.broadcast_to(which, w.shape)), axis=-1)
    total = np.cumsum(np.take_along_axis(x, order, axis=1), axis=1)
    before = np.where(starts > 0, total[:, np.maximum(starts, 1) - 1], 0.0)
    full = (total - before[:, which]) >= z[:, None]
    ends = np.append(starts[1:], w.shape[1]) - 1
    place = np.where(full, np.arange(w.shape[1]), ends[which])
    first = np.minimum.reduceat(place, starts, axis=1)
    return np.take_along_axis(np.take_along_axis(w, order, axis=1), first, axis=1)


def _neurons(weights: Any, bias: Array, low: Array, high: Array, x: Array) -> _Neurons:
    if sp.issparse(weights):
        lengths = np.diff(weights.indptr)
        row = np.repeat(np.arange(weights.shape[0]), lengths)
        column = np.arange(weights.nnz) - np.repeat(weights.indptr[:-1], lengths)
        w = np.zeros((weights.shape[0], max(1, int(lengths.max(initial=0)))))
        w[row, column] = weights.data
        places: tuple[Index, Index] | None = (row, column)
        lo, hi, point = (_gathered(a, weights, row, column, w.shape) for a in (low, high, x))
    else:
        w, places = np.asarray(weights, float), None
        lo, hi, point = (np.broadcast_to(a, w.shape) for a in (low, high, x))
    used = w != 0
    lo, hi, point = (np.where(used, a, 0.0) for a in (lo, hi, point))  # also an infinite side nobody reads
    least, most = np.where(w >= 0, lo, hi), np.where(w >= 0, hi, lo)
    size = np.abs(bias) + (np.abs(w) * np.maximum(np.abs(lo), np.abs(hi))).sum(axis=1)
    return _Neurons(w, least, most, point, size, weights, places)


def _gathered(values: Array, weights: sp.csr_array, row: Index, column: Index, shape: tuple[int, int]) -> Array:
    out = np.zeros(shape)
    out[row, column] = values[weights.indices] if np.ndim(values) == 1 else values[row, weights.indices]
    return out


def _large(sizes: Array, used: Mask) -> Mask:
    """Return which coefficients are not tiny beside the largest of the row, and beside 1, the coefficient of y."""
    most = np.maximum(1.0, np.where(used, sizes, 0.0).max(axis=1, initial=0.0))
    return used & (sizes * RANGE >= most[:, None])


def _without_tiny(coef_z: Array, constant: Array, coef_x: Array) -> tuple[Array, Array]:
    """Replace a tiny coefficient of z by the largest value of its term, z being between zero and one."""
    most = np.maximum(1.0, np.abs(coef_x).max(axis=1, initial=0.0))
    tiny = np.abs(coef_z) * RANGE < most
    lifted = constant + np.where(tiny, np.maximum(coef_z, 0.0), 0.0)
    return np.where(tiny, 0.0, coef_z), np.where(tiny, np.nextafter(lifted, np.inf), constant)


def _refused(violation: Array, coef_x: Array, coef_z: Array | None = None) -> Array:
    """Return minus infinity where the coefficients, 1 of y included, span too many orders of magnitude."""
    most = np.abs(coef_x).max(axis=1, initial=0.0)
    if coef_z is not None:
        most = np.maximum(most, np.abs(coef_z))
    return np.where(np.isfinite(violation) & (most <= RANGE), violation, -np.inf)
