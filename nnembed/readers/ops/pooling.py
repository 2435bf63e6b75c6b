"""Pools: the largest or the mean entry of windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnembed.ir.nodes import Max
from nnembed.readers.context import ReadContext, Symbol
from nnembed.readers.operators import Positions, positions, weighted_rows
from nnembed.readers.ops.convolution import Windows, windows
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import check_count


def members(context: ReadContext, x: Symbol) -> tuple[Positions, Windows]:
    """Return the entries of every window, (n_out, k) flat positions, -1 in the padding, -2 behind it."""
    if len(x.shape) < 3:
        context.refuse(f"data of shape {x.shape}; a pool needs channels and at least one spatial axis")
    written: Sequence[int] = context.attribute("kernel_shape", ())
    kernel = tuple(int(k) for k in written)
    if len(kernel) != len(x.shape) - 2 or min(kernel) < 1:
        context.refuse(f"attribute kernel_shape is {list(kernel)} for data of shape {x.shape}")
    at = windows(context, x.shape[2:], kernel)
    _check_auto_pad(context, at)
    taps = _taps(at)
    images = x.shape[0] * x.shape[1]
    check_count(images * taps.size, f"the windows of node {context.name!r}")
    offset = (np.arange(images) * math.prod(at.size))[:, None, None]
    return np.where(taps >= 0, taps + offset, taps).reshape(-1, taps.shape[1]), at


def _check_auto_pad(context: ReadContext, at: Windows) -> None:
    """Refuse the two cases of SAME padding where onnxruntime does not do what the standard says."""
    auto = str(context.attribute("auto_pad", "NOTSET"))
    axes = zip(at.size, at.kernel, at.strides, at.out_size, strict=True)
    gap = any((out - 1) * s + k < n for n, k, s, out in axes)  # it crops where nothing is to be padded
    if auto.startswith("SAME") and (gap or max(at.dilations) > 1):  # it leaves dilations out
        context.refuse(f"runtimes disagree on auto_pad={auto!r} with these strides or dilations; write the pads out")


def _taps(at: Windows) -> Positions:
    """Return the members of the windows over one image, (windows, k)."""
    starts = [np.arange(n) * s for n, s in zip(at.out_size, at.strides, strict=True)]
    steps = [np.arange(k) * d for k, d in zip(at.kernel, at.dilations, strict=True)]
    rank = len(at.size)
    flat: Positions = np.zeros((1,) * (2 * rank), dtype=np.intp)
    padding = np.zeros((1,) * (2 * rank), dtype=bool)
    behind = np.zeros((1,) * (2 * rank), dtype=bool)
    for axis, (n, (before, after)) in enumerate(zip(at.size, at.pads, strict=True)):
        place = starts[axis][:, None] + steps[axis] - before
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = place.shape
        place = place.reshape(shape)
        flat = flat * n + place
        padding = padding | (place < 0) | (place >= n)
        behind = behind | (place >= n + after)
    flat = np.where(behind, -2, np.where(padding, -1, flat))
    return flat.reshape(math.prod(at.out_size), -1)


def largest(context: ReadContext, x: Symbol, groups: Positions, shape: tuple[int, ...]) -> Symbol:
    """Return the largest member of each group; -1 never wins."""
    first = np.take_along_axis(groups, (groups >= 0).argmax(axis=1)[:, None], axis=1)
    if (first < 0).any():
        context.refuse("a window lies in the padding altogether; reduce pads")
    groups = np.where(groups >= 0, groups, first)
    if groups.shape[1] == 1:
        return context.select(x, groups.reshape(shape))
    return context.add(lambda name, out: Max(name, (x.tensor,), out, groups), shape, x.dtype)


@reads("MaxPool")
def _max_pool(context: ReadContext) -> Result:
    if context.wanted(1):
        context.refuse("its output Indices is used; positions of maxima are not piecewise linear")
    x = context.symbol(0)
    groups, at = members(context, x)
    return largest(context, x, groups, (*x.shape[:2], *at.out_size))


@reads("AveragePool")
def _average_pool(context: ReadContext) -> Result:
    x = context.symbol(0)
    columns, at = members(context, x)
    counted = columns >= (-1 if context.attribute("count_include_pad", 0) else 0)
    count = counted.sum(axis=1, keepdims=True)
    if not (columns >= 0).any(axis=1).all():
        context.refuse("a window lies in the padding altogether; reduce pads")
    operator = weighted_rows(columns, 1.0 / count, x.size)
    return context.affine([(x, operator)], 0.0, (*x.shape[:2], *at.out_size))


def _whole(context: ReadContext) -> tuple[Symbol, Positions, tuple[int, ...]]:
    """Return the data, one window per channel over all of it, and the shape of the result."""
    x = context.symbol(0)
    if len(x.shape) < 3:
        context.refuse(f"data of shape {x.shape}; a pool needs channels and at least one spatial axis")
    shape = (*x.shape[:2], *(1,) * (len(x.shape) - 2))
    return x, positions((math.prod(x.shape[:2]), math.prod(x.shape[2:]))), shape


@reads("GlobalAveragePool")
def _global_average_pool(context: ReadContext) -> Result:
    x, columns, shape = _whole(context)
    return context.affine([(x, weighted_rows(columns, 1.0 / columns.shape[1], x.size))], 0.0, shape)


@reads("GlobalMaxPool")
def _global_max_pool(context: ReadContext) -> Result:
    x, columns, shape = _whole(context)
    return largest(context, x, columns, shape)
