"""Running bound tighteners over the distinct boxes of a batch, in order of cost, until the budget ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nnembed.aliases import Index
from nnembed.bounds.box import Bounds
from nnembed.errors import InputError
from nnembed.options import Budget
from nnembed.protocols import BoundTightener

if TYPE_CHECKING:
    from nnembed.bounds.cache import BoundCache


def uses_region(method: BoundTightener) -> bool:
    """Return whether a tightener looks at the region of the bounds it is given."""
    return bool(getattr(method, "uses_region", False))


def distinct(bounds: Bounds, tensors: Iterable[str] | None = None) -> tuple[Bounds, Index]:
    """Return the bounds of each distinct input box once, and which of them each point has.

    Parameters
    ----------
    bounds : Bounds
    tensors : iterable of str or None
        The tensors whose bounds make points the same; None means the inputs, which is right as long as all bounds
        follow from the box.
    """
    if bounds.batch == 1:
        return bounds, np.zeros(1, dtype=np.intp)
    names = [spec.name for spec in bounds.network.inputs] if tensors is None else list(tensors)
    boxes = np.concatenate([np.hstack([bounds.low[n], bounds.high[n]]) for n in names], axis=1)
    _, first, which = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
    return bounds.repeat(first, (len(first),)), which.reshape(-1)


def climb(
    start: Bounds,
    methods: Sequence[BoundTightener],
    budget: Budget,
    tell: Callable[[str, float, int], None] = lambda *_: None,
    cache: BoundCache | None = None,
) -> Bounds:
    """Return bounds narrowed by `methods` in order of cost.

    Parameters
    ----------
    start : Bounds
        At least the inputs; a batch with repeated boxes is worked on once per distinct box. A region joins the points:
        then methods that use it see them all, the others each distinct one.
    methods : sequence of BoundTightener
        The first one always runs, so that every tensor is bounded. One that has ``pays(bounds)`` is left out where
        that is false for what the methods before it have found.
    budget : Budget
    tell : callable
        Hears (method, seconds since the start, unstable neurons) after each method.
    cache : BoundCache or None
        Where results are looked for first and kept.
    """
    clock = budget.start()
    joined = start.region is not None
    bounds, which = (start, np.arange(start.batch)) if joined else distinct(start)
    for method in sorted(methods, key=lambda m: m.cost):
        if clock.expired and bounds.complete:
            break
        pays: Callable[[Bounds], bool] | None = getattr(method, "pays", None)
        if pays is not None and bounds.complete and not pays(bounds):
            continue
        rest = budget if budget.seconds is None else replace(budget, seconds=clock.remaining)
        bounds = _step(method, bounds, rest) if cache is None else cache.through(method, bounds, rest, _step)
        if not bounds.complete:
            raise InputError(
                f"bound method {method.name!r} needs bounds of all tensors first; put 'interval' before it"
            )
        tell(method.name, clock.elapsed, bounds.unstable)
    return bounds if joined or start.batch == 1 else bounds.repeat(which, start.lead)


def _step(method: BoundTightener, bounds: Bounds, budget: Budget) -> Bounds:
    """Run one method; one that knows nothing of regions sees boxes only."""
    if bounds.region is None or uses_region(method):
        return method.tighten(bounds.network, bounds, budget)
    # What a region has done to one point need not hold for another with the same box: all bounds count.
    few, which = distinct(replace(bounds, region=None), bounds.low)
    found = method.tighten(bounds.network, few, budget)
    return replace(found.repeat(which, bounds.lead), region=bounds.region)
