"""All useful lines below and above an activation: where there is a choice, they turn about a breakpoint.

A convex neuron (ReLU) lies above every line through its breakpoint with a slope between its two slopes, a concave one
below; a clip has such a choice at either end, a step at its two corners, a staircase at its first and last one. A share
t between zero and one names the line, so one number per neuron is what slopes are optimised over; the other side is the
chord of `lines`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnembed.aliases import Array, Mask
from nnembed.bounds.box import contenders
from nnembed.bounds.interval import UNIT, gamma
from nnembed.bounds.lines import lines, step_slopes
from nnembed.bounds.stairs import Stairs
from nnembed.ir.nodes import Activation, Clip, Kink, Max, Round, Step


@dataclass(frozen=True, eq=False)
class Family:
    """The lines ``(slope + t turn) g + offset + t shift``; all arrays (2, batch, n), below first, above second.

    Every line with t in [0, 1] is valid up to `error`.

    Attributes
    ----------
    start : array
        The t of the line of CROWN.
    error : array (batch, n)
        What the rounding of slope, offset and one product may add up to on the neuron's range.
    """

    slope: Array
    turn: Array
    offset: Array
    shift: Array
    start: Array
    error: Array

    @cached_property
    def one_sided(self) -> bool:
        """Whether no line above has a choice, nor any offset: all neurons are convex and break at zero."""
        return not (self.turn[1].any() or self.shift.any() or self.offset[0].any())


def family(node: Activation, low: Array, high: Array) -> Family:
    """Return the lines of an activation on proven pre-activation ranges (batch, n)."""
    fixed = lines(node, low, high)
    slope = np.stack([fixed.lower_slope, fixed.upper_slope])
    offset = np.stack([fixed.lower_offset, fixed.upper_offset])
    if isinstance(node, Kink):
        free, pivot, least, most = _kink_freedom(node, low, high)
        level = pivot
    elif isinstance(node, Step):
        free, level, least, most = _step_freedom(node, low, high)
        pivot = np.zeros(free.shape)
    elif isinstance(node, Round):
        free, pivot, level, most = _stair_freedom(Stairs(node, low, high))
        least = np.zeros(free.shape)
    else:
        assert isinstance(node, Clip)
        free, pivot, least, most = _clip_freedom(node, low, high, slope)
        level = pivot
    turn = np.where(free, most - least, 0.0)
    start = np.divide(slope - least, turn, out=np.zeros_like(slope), where=turn > 0)
    base = np.where(free, least, slope)
    pad = 8 * UNIT * np.abs(pivot) * (1 + np.abs(most)) * np.array([-1.0, 1.0])[:, None, None]
    offset = np.where(free, level - base * pivot + pad, offset)
    shift = np.where(free, -turn * pivot, 0.0)
    size = np.maximum(np.abs(low), np.abs(high))
    steepest = np.maximum(np.abs(base), np.abs(base + turn)).max(axis=0)
    furthest = np.maximum(np.abs(offset), np.abs(offset + shift)).max(axis=0)
    error = gamma(20) * (steepest * size + furthest)
    return Family(base, turn, offset, shift, np.clip(start, 0.0, 1.0), error)


def _kink_freedom(node: Kink, low: Array, high: Array) -> tuple[Mask, Array, Array, Array]:
    """Return where there is a choice, the breakpoint, and the least and largest slope; (2, batch, n) each."""
    open_ = (low < 0) & (high > 0)
    free = np.stack([open_ & (node.right > node.left), open_ & (node.right < node.left)])
    least = np.broadcast_to(np.minimum(node.left, node.right), free.shape)
    most = np.broadcast_to(np.maximum(node.left, node.right), free.shape)
    return free, np.zeros((2, *low.shape)), least, most


def _step_freedom(node: Step, low: Array, high: Array) -> tuple[Mask, Array, Array, Array]:
    """Return where there is a choice, the values at the corners, and the least and largest slope."""
    open_ = (low < 0) & (high >= 0) & (node.low != node.high)
    steepest = np.stack(step_slopes(node, low, high))
    corners = np.stack([np.minimum(node.low, node.high), np.maximum(node.low, node.high)])[:, None]
    level = np.broadcast_to(corners, steepest.shape)
    return np.stack([open_, open_]), level, np.minimum(steepest, 0.0), np.maximum(steepest, 0.0)


def _stair_freedom(stairs: Stairs) -> tuple[Mask, Array, Array, Array]:
    """Return where there is a choice, the corners (argument and value) lines turn about, and the largest slope."""
    free = np.stack([stairs.open, stairs.open])
    pivot, level = np.stack([stairs.first, stairs.last]), np.stack([stairs.bottom, stairs.top])
    return free, np.where(free, pivot, 0.0), np.where(free, level, 0.0), np.stack(stairs.freedom())


def _clip_freedom(node: Clip, low: Array, high: Array, slope: Array) -> tuple[Mask, Array, Array, Array]:
    floor, ceiling = np.broadcast_to(node.lower, low.shape), np.broadcast_to(node.upper, low.shape)
    bottom, top = (low < floor) & (high > floor), (low < ceiling) & (high > ceiling)
    # Open at both ends: the chord is the steepest line that touches only the breakpoint.
    most = np.stack([np.where(top, slope[0], 1.0), np.where(bottom, slope[1], 1.0)])
    return np.stack([bottom, top]), np.stack([floor, ceiling]), np.zeros((2, *low.shape)), most


@dataclass(frozen=True, eq=False)
class Peaks:
    """Linear functions below and above maxima, with one share t per group.

    Below lies the mean of two members, ``(1 - t) first + t last``: the one with the best lower bound and the one with
    the best upper bound. Above lies, for every level c from the best lower bound on, ``c + sum_i rise_i (x_i - low_i)``
    with rise_i the slope of the chord of ``max(x_i - c, 0)``; levels end at the second best upper bound, where the
    function is below the constant that CROWN takes. Members that cannot win take no part; a sure winner stands alone.

    Attributes
    ----------
    members : five arrays (batch, groups, k)
        First, last (one at the member, else zero), low, high, and one over the member's width (zero: no part).
    sure : mask (batch, groups)
    least, span : array (batch, groups)
        The level is ``least + t span``.
    start : array (2, batch, groups)
    """

    members: tuple[Array, Array, Array, Array, Array]
    sure: Mask
    least: Array
    span: Array
    start: Array


def peaks(node: Max, low: Array, high: Array) -> Peaks:
    """Return the functions below and above maxima of proven ranges (batch, n)."""
    alive = contenders(node, low, high)
    low, high = low[:, node.groups], high[:, node.groups]
    place = np.arange(low.shape[-1])
    tops = np.where(alive, high, -np.inf)
    first = (place == low.argmax(axis=-1)[..., None]).astype(float)
    last = (place == tops.argmax(axis=-1)[..., None]).astype(float)
    sure = alive.sum(axis=-1) == 1
    least = low.max(axis=-1)
    second = np.sort(tops, axis=-1)[..., -2] if low.shape[-1] > 1 else least
    span = np.where(sure, 0.0, np.maximum(second - least, 0.0))
    scale = np.divide(1.0 + 16 * UNIT, high - low, out=np.zeros_like(low), where=alive & (high > low))
    return Peaks(
        (first, last, low, high, scale), sure, least, span, np.stack([np.zeros_like(span), np.ones_like(span)])
    )
