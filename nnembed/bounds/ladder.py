"""Running bound tighteners over the distinct boxes of a batch, in order of cost, until the budget ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from nnembed.bounds.box import Bounds
from nnembed.errors import InputError
from nnembed.options import Budget
from nnembed.protocols import BoundTightener


def distinct(bounds: Bounds) -> tuple[Bounds, np.ndarray]:
    """Return the bounds of each distinct input box once, and which of them each point has."""
    if bounds.batch == 1:
        return bounds, np.zeros(1, dtype=np.intp)
    names = [spec.name for spec in bounds.network.inputs]
    boxes = np.concatenate([np.hstack([bounds.low[n], bounds.high[n]]) for n in names], axis=1)
    _, first, which = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
    return bounds.repeat(first, (len(first),)), which.reshape(-1)


def climb(
    start: Bounds,
    methods: Sequence[BoundTightener],
    budget: Budget,
    tell: Callable[[str, float, int], None] = lambda *_: None,
) -> Bounds:
    """Return bounds narrowed by `methods` in order of cost.

    Parameters
    ----------
    start : Bounds
        At least the inputs; a batch with repeated boxes is worked on once per distinct box.
    methods : sequence of BoundTightener
        The first one always runs, so that every tensor is bounded.
    budget : Budget
    tell : callable
        Hears (method, seconds since the start, unstable neurons) after each method.
    """
    clock = budget.start()
    bounds, which = distinct(start)
    for method in sorted(methods, key=lambda m: m.cost):
        if clock.expired and bounds.complete:
            break
        left = None if budget.seconds is None else clock.remaining
        bounds = method.tighten(bounds.network, bounds, replace(budget, seconds=left))
        if not bounds.complete:
            raise InputError(
                f"bound method {method.name!r} needs bounds of all tensors first; put 'interval' before it"
            )
        tell(method.name, clock.elapsed, bounds.unstable)
    return bounds if start.batch == 1 else bounds.repeat(which, start.lead)
