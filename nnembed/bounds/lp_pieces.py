r"""Activations as rows of a linear relaxation, with or without binaries.

An open kink is split into its two sides instead of getting a column for its output:

    g = r - s,   0 <= r <= U,   0 <= s <= -L,   -L r + U s <= -L U        y = right r - left s

These are the vertices (U, 0), (0, 0), (0, -L) and nothing more, hence the convex hull of (g, y) for every pair of
slopes; the long row of g stands there once, and the coefficients of the hull are the bounds themselves, unrounded.
With a binary z the last row becomes ``r <= U z, s <= -L (1 - z)``, which is exact. A clip that reaches both ends has
three parts ``g = lower - p + q + t, y = lower + q`` with ``p / (lower - L) + q / span <= 1`` and ``t / (U - upper) <=
q / span``; a maximum has ``x_i <= y <= x_i + M_i (1 - z_i), sum z = 1`` and ``y <= sum_i (x_i - l_i) + max_i l_i``; a
step is ``y = low + (high - low) z`` with ``L (1 - z) <= g <= U z``, which with a continuous z is the hull of its graph
and its limit at the threshold. A rounding is a step with several levels, see `stairs`; a winner is ``sum z = 1``,
``x_i - x_j >= m_ij (1 - z_i)`` with m_ij a proven bound of the difference.

Sources: Ehlers, ATVA 2017 (triangle); Serra, Tjandraatmadja and Ramalingam, ICML 2018 (both sides).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.bounds.backward import Backward, rivals
from nnembed.bounds.box import contenders, pairs
from nnembed.bounds.interval import UNIT, gamma
from nnembed.bounds.lp_relaxation import Affines, Relaxation, scale, widen
from nnembed.bounds.stairs import Stairs
from nnembed.formulations.bigm import top_two
from nnembed.ir.nodes import Clip, Kink, Max, Node, Round, Step, Winner


def emit(relaxation: Relaxation, node: Node) -> None:
    """Write an activation with the bounds its input has now; nothing for other nodes and for those not asked for."""
    if node.output not in relaxation.written or not isinstance(node, Kink | Clip | Step | Round | Max | Winner):
        return
    binary = node.output in relaxation.binaries
    layer = _Layer(relaxation, relaxation.value(node.inputs[0]), *relaxation.range(node.inputs[0]), binary)
    if isinstance(node, Max):
        result = _maximum(layer, node)
    elif isinstance(node, Kink):
        result = _kink(layer, node)
    elif isinstance(node, Step):
        result = _step(layer, node)
    elif isinstance(node, Round):
        result = _stairs(layer, node)
    elif isinstance(node, Winner):
        result = _winner(layer, node)
    else:
        result = _clip(layer, node)
    relaxation.define(node.output, result)


@dataclass(frozen=True, eq=False)
class _Layer:
    """The input of an activation: its rows and bounds, flat over the batch."""

    lp: Relaxation
    pre: Affines
    low: Array
    high: Array
    binary: bool


# ---- elementwise --------------------------------------------------------------------------------


def _kink(layer: _Layer, node: Kink) -> Affines:
    left, right = (np.tile(s, layer.lp.batch) for s in (node.left, node.right))
    opened = layer.lp.bounds.open(node).ravel()
    slope, zero = np.where(layer.low >= 0, right, left), np.zeros(len(opened))
    own = _split(layer, np.flatnonzero(opened), zero, left, right)
    reach = np.maximum(np.abs(left), np.abs(right)) * np.maximum(np.abs(layer.low), np.abs(layer.high))
    return _joined(layer, node, own, np.where(opened, 0.0, slope), zero, np.where(opened, reach, 0.0))


def _clip(layer: _Layer, node: Clip) -> Affines:
    low, high = layer.low, layer.high
    opened = layer.lp.bounds.open(node).ravel()
    floor, ceiling = (np.tile(s, layer.lp.batch) for s in (node.lower, node.upper))
    bottom, top = opened & (low < floor) & (high > floor), opened & (low < ceiling) & (high > ceiling)
    slope = np.where((low >= floor) & (high <= ceiling), 1.0, 0.0)
    constant = np.where(slope == 1, 0.0, np.where(bottom | (high <= floor), floor, ceiling))
    zero, one = np.zeros(len(low)), np.ones(len(low))
    own = _split(layer, np.flatnonzero(bottom & ~top), floor, zero, one)
    own += _split(layer, np.flatnonzero(top & ~bottom), ceiling, one, zero)
    own += _three(layer, np.flatnonzero(bottom & top), floor, ceiling)
    return _joined(layer, node, own, slope, constant, 2 * (np.abs(floor) + np.abs(ceiling)) * opened)


def _step(layer: _Layer, node: Step) -> Affines:
    lp = layer.lp
    below, above = (np.tile(s, lp.batch) for s in (node.low, node.high))
    opened = lp.bounds.open(node).ravel()
    i, jump = np.flatnonzero(opened), above - below
    own: list[tuple[Index, sp.csr_array]] = []
    if len(i):
        pre, least, most = layer.pre.take(i), layer.low[i], layer.high[i]
        none, zero = np.full(len(i), np.inf), np.zeros(len(i))
        z = lp.columns(zero, np.ones(len(i)), integer=layer.binary)
        slack = pre.error + 8 * UNIT * (np.abs(pre.constant) + np.abs(least) + np.abs(most) + pre.size)
        lp.add([pre.matrix, lp.unit(z, least)], least - pre.constant - slack, none)
        lp.add([pre.matrix, lp.unit(z, -most)], -none, slack - pre.constant)
        own.append((i, lp.unit(z, jump[i])))
    constant = np.where(opened | (layer.low < 0), below, above)
    return _joined(layer, node, own, np.zeros(len(opened)), constant, np.abs(jump) * opened)


def _stairs(layer: _Layer, node: Round) -> Affines:
    lp, shape = layer.lp, (layer.lp.batch, len(node.step))
    stairs = Stairs(node, layer.low.reshape(shape), layer.high.reshape(shape))
    opened = stairs.open.ravel()
    i, constant = np.flatnonzero(opened), stairs.bottom.ravel()
    own: list[tuple[Index, sp.csr_array]] = []
    if len(i):
        pre, side = layer.pre.take(i), stairs.sides(i)
        zero, none = np.zeros(len(i)), np.full(len(i), np.inf)
        q = lp.columns(zero, side.span, integer=layer.binary)
        size = np.abs(side.most) + side.rise * side.span + side.over + np.abs(side.least) + side.climb * side.span
        slack = pre.error + 8 * UNIT * (np.abs(pre.constant) + pre.size + size + side.under)
        upper, lower = [pre.matrix, lp.unit(q, -side.rise)], [pre.matrix, lp.unit(q, -side.climb)]
        if (k := np.flatnonzero(side.over)).size:
            z = lp.columns(zero[k], np.ones(len(k)), integer=layer.binary)
            lp.at_most([(z, side.span[k]), (q[k], -np.ones(len(k)))], zero[k])
            upper.append(lp.place([(k, lp.unit(z, -side.over[k]))], len(i)))
        if (k := np.flatnonzero(side.under)).size:
            w = lp.columns(zero[k], np.ones(len(k)), integer=layer.binary)
            lp.at_most([(q[k], np.ones(len(k))), (w, -side.span[k])], zero[k])
            lower.append(lp.place([(k, lp.unit(w, -side.under[k]))], len(i)))
        lp.add(upper, -none, side.most - pre.constant + slack)
        lp.add(lower, side.least - pre.constant - slack, none)
        own.append((i, lp.unit(q, stairs.height.ravel()[i])))
    reach = np.where(opened, (stairs.top - stairs.bottom).ravel(), 0.0)
    return _joined(layer, node, own, np.zeros(len(opened)), constant, reach)


def _joined(
    layer: _Layer, node: Node, own: list[tuple[Index, sp.csr_array]], slope: Array, constant: Array, reach: Array
) -> Affines:
    """Return ``slope * g + constant`` plus the rows of open neurons, whose own terms are at most `reach` in size."""
    lp, pre = layer.lp, layer.pre
    ends = np.maximum(*(np.abs(side) for side in lp.range(node.output)))
    size = np.maximum(ends, np.abs(slope) * pre.size) + np.abs(constant) + reach
    # A rounding in the row here and up to three in a forward pass.
    error = (1 + 4 * UNIT) * np.abs(slope) * pre.error + 8 * UNIT * size
    matrix = scale(pre.matrix, slope)
    matrix.eliminate_zeros()
    total = lp.place(own, len(slope)) + widen(matrix, lp.width)
    return Affines(sp.csr_array(total), slope * pre.constant + constant, error, size)


def _split(layer: _Layer, i: Index, threshold: Array, left: Array, right: Array) -> list[tuple[Index, sp.csr_array]]:
    """Write the two sides of kinks at `threshold`; return their places and ``right r - left s``."""
    if not len(i):
        return []
    lp, zero, one = layer.lp, np.zeros(len(i)), np.ones(len(i))
    up, down = _up(layer.high[i] - threshold[i]), _up(threshold[i] - layer.low[i])
    r, s = lp.columns(zero, up), lp.columns(zero, down)
    lp.tie(layer.pre.take(i), threshold[i], [lp.unit(r), lp.unit(s, -1.0)])
    if layer.binary:
        z = lp.columns(zero, one, integer=True)
        lp.at_most([(r, one), (z, -up)], zero)
        lp.at_most([(s, one), (z, down)], down)
    else:
        _hull(lp, (r, up), (s, down))
    rows = sp.csr_array(lp.unit(r, right[i]) + lp.unit(s, -left[i]))
    rows.eliminate_zeros()
    return [(i, rows)]


def _three(layer: _Layer, i: Index, floor: Array, ceiling: Array) -> list[tuple[Index, sp.csr_array]]:
    """Write the three parts of clips that reach both ends; return their places and the middle part."""
    if not len(i):
        return []
    lp, zero, one = layer.lp, np.zeros(len(i)), np.ones(len(i))
    up, down = _up(layer.high[i] - ceiling[i]), _up(floor[i] - layer.low[i])
    span = _up(ceiling[i] - floor[i])
    p, q, t = lp.columns(zero, down), lp.columns(zero, span), lp.columns(zero, up)
    lp.tie(layer.pre.take(i), floor[i], [lp.unit(p, -1.0), lp.unit(q), lp.unit(t)])
    if layer.binary:
        first, second = lp.columns(zero, one, integer=True), lp.columns(zero, one, integer=True)
        lp.at_most([(second, one), (first, -one)], zero)
        lp.at_most([(p, one), (first, down)], down)
        lp.at_most([(q, one), (first, -span)], zero)
        # The true span may be smaller than the rounded one, so the row is loosened by that.
        lp.at_most([(second, span), (q, -one)], 8 * UNIT * span)
        lp.at_most([(t, one), (second, -up)], zero)
    else:
        _hull(lp, (p, down), (q, span))
        lp.at_most([(t, span), (q, -up)], _up(8 * UNIT * span * up))
    return [(i, lp.unit(q))]


def _hull(lp: Relaxation, first: tuple[Index, Array], second: tuple[Index, Array]) -> None:
    """Write ``a / A + b / B <= 1`` for pairs of columns as ``B a + A b <= A B``, scaled by powers of two."""
    (a, most_a), (b, most_b) = first, second
    shift = -np.frexp(np.maximum(most_a, most_b))[1]
    x, y = np.ldexp(most_b, shift), np.ldexp(most_a, shift)
    lp.at_most([(a, x), (b, y)], _up(most_a * x))


# ---- maxima -------------------------------------------------------------------------------------


def _maximum(layer: _Layer, node: Max) -> Affines:
    lp, bounds = layer.lp, layer.lp.bounds
    alive = contenders(node, bounds.low[node.input], bounds.high[node.input])
    shift = (np.arange(lp.batch) * bounds.low[node.input].shape[1])[:, None, None]
    member = (shift + node.groups[None]).reshape(-1, node.groups.shape[1])
    alive = alive.reshape(member.shape)
    chosen = layer.pre.take(np.take_along_axis(member, alive.argmax(axis=1)[:, None], axis=1)[:, 0])
    several = np.flatnonzero(alive.sum(axis=1) > 1)
    if not len(several):
        return chosen
    owner = np.repeat(np.arange(len(several)), alive[several].sum(axis=1))
    y = _contest(layer, member[several][alive[several]], owner)
    keep = np.ones(len(member))
    keep[several] = 0.0
    size = np.maximum(*(np.abs(side) for side in lp.range(node.output)))
    size = np.where(keep == 1, np.maximum(size, chosen.size), size)
    matrix = scale(widen(chosen.matrix, lp.width), keep)
    matrix.eliminate_zeros()
    total = sp.csr_array(matrix + lp.place([(several, lp.unit(y))], len(member)))
    return Affines(total, chosen.constant * keep, chosen.error * keep, size)


def _winner(layer: _Layer, node: Winner) -> Affines:
    lp, bounds = layer.lp, layer.lp.bounds
    sweep = Backward(lp.network, dict(bounds.low), dict(bounds.high))
    alive, least = rivals(sweep, node, lp.network.nodes.index(node))
    shape, n = alive.shape, bounds.low[node.input].shape[1]
    sure = (alive & (alive.sum(axis=-1, keepdims=True) == 1)).ravel()
    alive &= alive.sum(axis=-1, keepdims=True) > 1
    point, group, place = np.nonzero(alive)
    known = sure.astype(float), np.zeros(len(sure)), np.ones(len(sure))
    if not len(point):
        return Affines(sp.csr_array((len(sure), lp.width)), *known)
    where = np.ravel_multi_index((point, group, place), shape)
    z = lp.columns(np.zeros(len(point)), np.ones(len(point)), integer=layer.binary)
    x = _members(layer, point * n + node.groups[group, place])
    owner = point * shape[1] + group
    first = np.unique(owner, return_index=True)[1]
    one = np.ones(len(first))
    lp.add([sp.csr_array((np.ones(len(z)), z, np.append(first, len(z))), shape=(len(first), lp.width))], one, one)
    i, j = pairs(owner)
    gap = least[point[i], group[i], place[i], place[j]]
    i, j, gap = i[gap < 0], j[gap < 0], gap[gap < 0]
    own, other = x.take(i), x.take(j)
    size = np.abs(own.constant) + np.abs(other.constant) - gap + own.size + other.size
    slack = own.error + other.error + 8 * UNIT * size
    matrix = sp.csr_array(widen(own.matrix, lp.width) - widen(other.matrix, lp.width))
    lp.add([matrix, lp.unit(z[i], gap)], gap - own.constant + other.constant - slack, np.full(len(i), np.inf))
    return Affines(lp.place([(where, lp.unit(z))], len(sure)), *known)


def _contest(layer: _Layer, flat: Index, owner: Index) -> Index:
    """Write the maxima of groups of members and return their columns."""
    lp, low, high = layer.lp, layer.low[flat], layer.high[flat]
    groups = int(owner[-1]) + 1
    floor = np.full(groups, -np.inf)
    np.maximum.at(floor, owner, low)
    best, second, holder = top_two(high, owner, groups)
    rival = np.where(np.arange(len(flat)) == holder[owner], second[owner], best[owner])
    reach = _up(np.maximum(rival - low, 0.0))
    y = lp.columns(floor, best)
    x = _members(layer, flat)
    z = lp.columns(np.zeros(len(flat)), np.ones(len(flat)), integer=layer.binary)
    none, slack = np.full(len(flat), -np.inf), x.error + 8 * UNIT * (np.abs(x.constant) + reach)
    lp.add([x.matrix, lp.unit(y[owner], -1.0)], none, slack - x.constant)
    lp.add([lp.unit(y[owner]), -widen(x.matrix, lp.width), lp.unit(z, reach)], none, x.constant + reach + slack)
    gather = sp.csr_array((np.ones(len(flat)), (owner, np.arange(len(flat)))), shape=(groups, len(flat)))
    lp.add([sp.csr_array(gather @ lp.unit(z))], np.ones(groups), np.ones(groups))
    side = gather @ (x.constant - low) + floor
    sizes = gather @ (np.abs(x.constant) + np.abs(low) + x.size) + np.abs(floor)
    loose = gather @ x.error + 2 * gamma(int(gather.sum(axis=1).max()) + 4) * sizes
    rows = sp.csr_array(gather @ widen(x.matrix, lp.width))
    lp.add([lp.unit(y), -rows], np.full(groups, -np.inf), side + loose)
    return y


def _members(layer: _Layer, flat: Index) -> Affines:
    """Return the members' rows; long ones, which are used several times, get a column (fewer nonzeros)."""
    lp = layer.lp
    distinct, where = np.unique(flat, return_inverse=True)
    rows = layer.pre.take(distinct)
    long = np.flatnonzero(np.diff(rows.matrix.indptr) > 3)
    if not len(long):
        return rows.take(where)
    columns = lp.columns(layer.low[distinct[long]], layer.high[distinct[long]])
    lp.tie(rows.take(long), np.zeros(len(long)), [lp.unit(columns)])
    keep = np.ones(len(distinct))
    keep[long] = 0.0
    short = scale(widen(rows.matrix, lp.width), keep)
    short.eliminate_zeros()
    matrix = sp.csr_array(short + lp.place([(long, lp.unit(columns))], len(distinct)))
    return Affines(matrix, rows.constant * keep, rows.error * keep, rows.size).take(where)


def _up(length: Array) -> Array:
    """Return a rounded difference or product rounded up."""
    out: Array = np.nextafter(length, np.inf)
    return out
