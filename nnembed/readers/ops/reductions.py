"""Sums, means and extremes over axes."""

from __future__ import annotations

import math

import numpy as np

from nnembed.readers.context import ReadContext, Symbol
from nnembed.readers.operators import Positions, weighted_rows
from nnembed.readers.ops.arithmetic import combine
from nnembed.readers.ops.pooling import largest
from nnembed.readers.registry import Result, reads


def _reduced(context: ReadContext) -> tuple[Symbol, Positions | None, tuple[int, ...]]:
    """Return the data, the positions that meet in each entry of the result, and its shape.

    The positions are None where nothing is reduced.
    """
    x = context.symbol(0)
    rank = len(x.shape)
    axes = context.integers("axes", 1)
    if not axes:
        if context.attribute("noop_with_empty_axes", 0):
            return x, None, x.shape
        axes = list(range(rank))
    gone = sorted({context.axis(a, rank) for a in axes})
    kept = [a for a in range(rank) if a not in gone]
    moved = x.positions.transpose(*kept, *gone).reshape(math.prod(x.shape[a] for a in kept), -1)
    if not moved.shape[1]:
        context.refuse(f"it reduces an empty tensor of shape {x.shape}")
    if context.attribute("keepdims", 1):
        return x, moved, tuple(1 if a in gone else n for a, n in enumerate(x.shape))
    return x, moved, tuple(x.shape[a] for a in kept)


def _summed(context: ReadContext, mean: bool) -> Symbol:
    x, columns, shape = _reduced(context)
    if columns is None:
        return x
    weight = 1.0 / columns.shape[1] if mean else 1.0
    return context.affine([(x, weighted_rows(columns, weight, x.size))], 0.0, shape)


@reads("ReduceSum")
def _reduce_sum(context: ReadContext) -> Result:
    return _summed(context, mean=False)


@reads("ReduceMean")
def _reduce_mean(context: ReadContext) -> Result:
    return _summed(context, mean=True)


@reads("ReduceMax")
def _reduce_max(context: ReadContext) -> Result:
    x, groups, shape = _reduced(context)
    return x if groups is None else largest(context, x, groups, shape)


@reads("ReduceMin")
def _reduce_min(context: ReadContext) -> Result:
    x, groups, shape = _reduced(context)
    if groups is None:
        return x
    best = largest(context, combine(context, [x], [-1.0]), np.ascontiguousarray(groups), shape)
    return combine(context, [best], [-1.0])
