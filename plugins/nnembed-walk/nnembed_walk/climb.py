"""Batched projected Adam ascent: all points of a batch climb at once, with steps that fall to zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from nnembed.aliases import Array

Field = Callable[[Array, Array], Array]
Projection = Callable[[Array], None]


def climb(
    field: Field,
    start: Any,
    width: Array,
    project: Projection,
    steps: int,
    step: Array | float,
    stop: Callable[[], bool],
    momentum: float = 0.9,
    fall: float = 1.0,
) -> tuple[Array, Array, bool]:
    """Return the best point that each climber has met, its score, and whether the climb was finished.

    Parameters
    ----------
    field : callable
        Writes the slopes of points into its second argument and returns their scores.
    start : array (s, k)
        In the precision that the field computes in.
    width : array (k,)
        Side lengths of the box; steps are relative to them.
    project : callable
        Moves points in place to where they are allowed.
    steps : int
    step : float or array (s,)
        Length of each climber's first step, relative to the box; it falls to zero.
    stop : callable
        Polled at every step.
    momentum : float
        0: every step goes where the slope points now, in long steps from corner to corner, which on networks finds
        better places than the smooth paths of 0.9.
    fall : float
        Power with which steps fall, 1 linearly.
    """
    dtype = start.dtype.type
    stride = np.broadcast_to(np.asarray(step, dtype), len(start))[:, None] * width.astype(dtype)
    x, best = start.copy(), start.copy()
    slope, first, second = (np.zeros_like(x) for _ in range(3))
    work, wide = np.empty_like(x), width.astype(dtype)
    top = np.full(len(x), -np.inf)
    for t in range(steps + 1):
        score = field(x, slope)
        better = score > top
        if better.any():
            top[better] = score[better]
            best[better] = x[better]
        if t == steps or stop():
            break
        slope *= wide
        if momentum:
            first *= dtype(momentum)
            first += np.multiply(slope, dtype(1 - momentum), out=work)
        else:
            first = slope
        second *= dtype(0.999)
        np.multiply(slope, slope, out=work)
        second += np.multiply(work, dtype(0.001), out=work)
        size = (1 - t / steps) ** fall / (1 - momentum ** (t + 1)) * np.sqrt(1 - 0.999 ** (t + 1))
        np.sqrt(second, out=work)
        work += dtype(1e-30)
        np.divide(first, work, out=work)
        work *= stride
        work *= dtype(size)
        x += work
        project(x)
    return best, top, t == steps
