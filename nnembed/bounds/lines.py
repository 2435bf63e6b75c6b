"""Linear functions below and above an activation on a proven pre-activation range.

The graph of a piecewise-linear function lies below a line of slope s exactly when the offset is at least the largest
``f(p) - s p`` over its breakpoints and both ends; so any slope is admissible, also one with rounding errors, and the
offset is computed from the vertices and moved outward by its own rounding error. A step has both of its values at the
threshold: its own and the limit from below; so has a rounding at each of its jumps (see `stairs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.interval import UNIT
from nnembed.bounds.stairs import Stairs
from nnembed.ir.nodes import Activation, Clip, Kink, Relu, Round, Step


@dataclass(frozen=True, eq=False)
class Lines:
    """``lower_slope g + lower_offset <= f(g) <= upper_slope g + upper_offset``; arrays (batch, n)."""

    lower_slope: Array
    lower_offset: Array
    upper_slope: Array
    upper_offset: Array


def lines(node: Activation, low: Array, high: Array) -> Lines:
    """Return the lines of CROWN: the chord on one side, the closer of the two slopes on the other.

    Source: Zhang et al., NeurIPS 2018 (adaptive lower slope); Singh et al., POPL 2019.
    """
    if isinstance(node, Relu):
        return _relu_lines(low, high)
    if isinstance(node, Step):
        return _step_lines(node, low, high)
    if isinstance(node, Round):
        return _stair_lines(Stairs(node, low, high))
    if isinstance(node, Kink):
        vertices = np.stack([low, np.clip(0.0, low, high), high])
        lower, upper, open_ = _kink_slopes(node, low, high)
    elif isinstance(node, Clip):
        vertices = np.stack([low, np.clip(node.lower, low, high), np.clip(node.upper, low, high), high])
        lower, upper, open_ = _clip_slopes(node, low, high)
    else:
        raise TypeError(f"no lines for {node.kind}")
    values = np.stack([node.evaluate(v) for v in vertices])
    lower_offset = _offset(vertices, values, lower, open_, -1.0)
    return Lines(lower, -lower_offset, upper, _offset(vertices, values, upper, open_, 1.0))


def _relu_lines(low: Array, high: Array) -> Lines:
    """Return the lines of ReLU: the lower one goes through zero, so its offset is exact."""
    open_ = (low < 0) & (high > 0)
    active = (low >= 0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        chord = high / (high - low)
    # The chord's offset is the larger gap at the two ends; both are sums of non-negative terms up to one rounding each.
    gap = np.maximum(-chord * low, high - chord * high) + 8 * UNIT * np.maximum(high, -low)
    lower = np.where(open_, (high > -low).astype(float), active)
    return Lines(lower, np.zeros(low.shape), np.where(open_, chord, active), np.where(open_, gap, 0.0))


def _offset(vertices: Array, values: Array, slope: Array, open_: np.ndarray, sign: float) -> Array:
    """Return the smallest valid ``sign * offset``; decided neurons have an exact one."""
    gap = sign * (values - slope * vertices)
    pad = 4 * UNIT * (np.abs(values) + np.abs(slope * vertices))
    best: Array = np.where(open_, (gap + pad).max(axis=0), 0.0)
    flat = ~open_ & (slope == 0)
    best[flat] = sign * values[0][flat]
    return best


def _kink_slopes(node: Kink, low: Array, high: Array) -> tuple[Array, Array, np.ndarray]:
    left, right = np.broadcast_to(node.left, low.shape), np.broadcast_to(node.right, low.shape)
    open_ = (low < 0) & (high > 0) & (left != right)
    with np.errstate(invalid="ignore", divide="ignore"):
        chord = (right * high - left * low) / (high - low)
    closer = np.where(high > -low, right, left)
    known = np.where(low >= 0, right, left)
    convex = right > left
    lower = np.where(open_, np.where(convex, closer, chord), known)
    upper = np.where(open_, np.where(convex, chord, closer), known)
    return lower, upper, open_


def _clip_slopes(node: Clip, low: Array, high: Array) -> tuple[Array, Array, np.ndarray]:
    floor, ceiling = np.broadcast_to(node.lower, low.shape), np.broadcast_to(node.upper, low.shape)
    bottom, top = (low < floor) & (high > floor), (low < ceiling) & (high > ceiling)
    open_ = bottom | top
    inside = (low >= floor) & (high <= ceiling)
    a, b = np.maximum(low, floor), np.minimum(high, ceiling)  # the sloped part in reach
    with np.errstate(invalid="ignore", divide="ignore"):
        above = np.where(bottom, (b - floor) / (b - low), np.where(ceiling - low > high - ceiling, 1.0, 0.0))
        below = np.where(top, (ceiling - a) / (high - a), np.where(high - floor > floor - low, 1.0, 0.0))
    known = np.where(inside, 1.0, 0.0)
    return np.where(open_, below, known), np.where(open_, above, known), open_


def _step_lines(node: Step, low: Array, high: Array) -> Lines:
    """Return the lines of a step: level, or through the corner at the threshold, whichever leaves the smaller area."""
    below, above = np.broadcast_to(node.low, low.shape), np.broadcast_to(node.high, low.shape)
    open_ = (low < 0) & (high >= 0) & (below != above)
    known = np.where(low >= 0, above, below)
    zero = np.zeros(low.shape)
    vertices = np.stack([low, zero, zero, high])
    values = np.where(open_, np.stack([below, below, above, above]), known)
    lower, upper = step_slopes(node, low, high)
    rising = above > below
    wider = high > -low  # the side of the threshold on which a level line is far from the graph
    lower = np.where(open_ & (wider == rising), lower, 0.0)
    upper = np.where(open_ & (wider != rising), upper, 0.0)
    lower_offset = _offset(vertices, values, lower, open_, -1.0)
    return Lines(lower, -lower_offset, upper, _offset(vertices, values, upper, open_, 1.0))


def _stair_lines(stairs: Stairs) -> Lines:
    vertices, values = stairs.corners()
    lower, upper = stairs.slopes()
    lower_offset = _offset(vertices, values, lower, stairs.open, -1.0)
    return Lines(lower, -lower_offset, upper, _offset(vertices, values, upper, stairs.open, 1.0))


def step_slopes(node: Step, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the steepest useful slopes of lines below and above open steps, (batch, n) each.

    They lead from the corner at the threshold to the other value at one end of the range; where that end is so near
    that the slope would be wild, to a point further out.
    """
    jump = np.broadcast_to(node.high - node.low, low.shape)
    reach = np.maximum(1e-3 * np.maximum(-low, high), 1e-9)
    left, right = jump / np.maximum(-low, reach), jump / np.maximum(high, reach)
    return np.where(jump > 0, right, left), np.where(jump > 0, left, right)
