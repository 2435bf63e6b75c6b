"""Operators that only move entries: one numpy function each, on constants or on positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nnembed.ir.linear import LinearOperator, Selection
from nnembed.readers.context import ReadContext, Symbol
from nnembed.readers.operators import Positions, positions
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import AnyArray, check_count

Move = Callable[[AnyArray], AnyArray]


def moved(context: ReadContext, move: Move) -> Result:
    """Apply a numpy function that moves entries; what numpy refuses is not valid ONNX."""
    try:
        return context.rearrange(move)
    except (ValueError, IndexError) as error:
        return context.refuse(f"{error}; the file is not valid ONNX")


@reads("Flatten", folds=True)
def _flatten(context: ReadContext) -> Result:
    shape = context.operand(0).shape
    axis = context.attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        context.refuse(f"attribute axis is {axis} for data of shape {shape}; the file is not valid ONNX")
    axis = axis + len(shape) if axis < 0 else axis
    return moved(context, lambda a: a.reshape(math.prod(shape[:axis]), math.prod(shape[axis:])))


@reads("Reshape", folds=True)
def _reshape(context: ReadContext) -> Result:
    wanted = context.integers("shape", 1)
    if wanted is None:
        context.refuse("it has no shape; the file is not valid ONNX")
    old = context.operand(0).shape
    if not context.attribute("allowzero", 0):
        if any(d == 0 and i >= len(old) for i, d in enumerate(wanted)):
            context.refuse(f"shape {wanted} copies an axis that data of shape {old} does not have")
        wanted = [old[i] if d == 0 else d for i, d in enumerate(wanted)]
    return moved(context, lambda a: a.reshape(wanted))


@reads("Transpose", folds=True)
def _transpose(context: ReadContext) -> Result:
    order = context.attribute("perm", None)
    return moved(context, lambda a: a.transpose(order))


@reads("Squeeze", folds=True)
def _squeeze(context: ReadContext) -> Result:
    rank = len(context.operand(0).shape)
    axes = context.integers("axes", 1)
    chosen = None if axes is None else tuple(context.axis(a, rank) for a in axes)
    return moved(context, lambda a: np.squeeze(a, chosen))


@reads("Unsqueeze", folds=True)
def _unsqueeze(context: ReadContext) -> Result:
    axes = context.integers("axes", 1)
    if axes is None:
        context.refuse("it has no axes; the file is not valid ONNX")
    return moved(context, lambda a: np.expand_dims(a, tuple(axes)))


@reads("Expand", since=8, folds=True)
def _expand(context: ReadContext) -> Result:
    shape = tuple(context.integers("shape", 1) or ())
    try:
        full = np.broadcast_shapes(context.operand(0).shape, shape)
    except ValueError as error:
        context.refuse(f"{error}; the file is not valid ONNX")
    check_count(math.prod(full), f"the result of node {context.name!r}")
    return moved(context, lambda a: np.broadcast_to(a, full))


@reads("Tile", since=6, folds=True)
def _tile(context: ReadContext) -> Result:
    repeats = [int(r) for r in context.constant(1, "repeats")]
    size = math.prod(context.operand(0).shape) * math.prod(repeats)
    check_count(size, f"the result of node {context.name!r}")
    return moved(context, lambda a: np.tile(a, repeats))


@reads("Slice", folds=True)
def _slice(context: ReadContext) -> Result:
    shape = context.operand(0).shape
    starts, ends = context.integers("starts", 1), context.integers("ends", 2)
    if starts is None or ends is None:
        context.refuse("it has no starts or ends; the file is not valid ONNX")
    axes = context.integers("axes", 3)
    axes = list(range(len(starts))) if axes is None else [context.axis(a, len(shape)) for a in axes]
    steps = context.integers("steps", 4) or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        context.refuse(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not fit")
    cut = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = _cut(shape[axis], start, end, step)
    return moved(context, lambda a: a[tuple(cut)])


def _cut(n: int, start: int, end: int, step: int) -> slice:
    """Return the slice; an end in front of the first entry is None to numpy."""
    first, stop, stride = slice(start, end, step).indices(n)
    return slice(first, None if stop < 0 else stop, stride)


@reads("Gather", folds=True)
def _gather(context: ReadContext) -> Result:
    shape = context.operand(0).shape
    axis = context.axis(context.attribute("axis", 0), len(shape))
    index = context.constant(1, "the index")
    if index.size and not -shape[axis] <= index.min() <= index.max() < shape[axis]:
        context.refuse(f"an index lies outside axis {axis} of length {shape[axis]}; the file is not valid ONNX")
    check_count(math.prod(shape) // max(shape[axis], 1) * index.size, f"the result of node {context.name!r}")
    return moved(context, lambda a: np.take(a, index, axis))


@reads("Split", folds=True)
def _split(context: ReadContext) -> Result:
    shape, parts = context.operand(0).shape, len(context.node.output)
    axis = context.axis(context.attribute("axis", 0), len(shape))
    sizes = context.integers("split", 1)
    if sizes is None:
        declared = context.attribute("num_outputs", parts)
        piece = -(-shape[axis] // parts)
        sizes = [max(0, min(piece, shape[axis] - k * piece)) for k in range(parts)]
        if declared != parts or (context.opset < 18 and shape[axis] % parts):
            context.refuse(
                f"axis {axis} of length {shape[axis]} does not split into {declared} parts for {parts} outputs"
            )
    if len(sizes) != parts or sum(sizes) != shape[axis] or min(sizes) < 0:
        context.refuse(f"axis {axis} of length {shape[axis]} does not split into {sizes} for {parts} outputs")
    ends = np.cumsum(sizes)
    lead = (slice(None),) * axis
    cuts = [(*lead, slice(int(end - size), int(end))) for size, end in zip(sizes, ends, strict=True)]
    return [context.rearrange(lambda a, cut=cut: a[cut]) for cut in cuts]  # type: ignore[misc]


@reads("Concat", folds=True)
def _concat(context: ReadContext) -> Result:
    operands = [context.operand(k) for k in range(len(context.inputs))]
    axis = context.axis(context.attribute("axis", 1), len(operands[0].shape))
    sizes = [math.prod(v.shape) for v in operands]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    try:
        pieces = [positions(v.shape) + o for v, o in zip(operands, offsets, strict=False)]
        joined = np.concatenate(pieces, axis)
    except ValueError as error:
        context.refuse(f"{error}; the file is not valid ONNX")
    if not any(isinstance(v, Symbol) for v in operands):
        return np.concatenate(operands, axis)  # type: ignore[arg-type]
    return _join(context, operands, joined)


def _join(context: ReadContext, operands: list[AnyArray | Symbol], joined: Positions) -> Symbol:
    """Return the tensor whose entry i is entry ``joined[i]`` of the flat operands one after another."""
    sizes = [math.prod(v.shape) for v in operands]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    flat = joined.ravel()
    bias = np.zeros(joined.size)
    terms: list[tuple[Symbol, LinearOperator]] = []
    for value, offset, size in zip(operands, offsets, sizes, strict=False):
        mine = (flat >= offset) & (flat < offset + size)
        if isinstance(value, Symbol):
            terms.append((value, Selection(np.where(mine, flat - offset, -1), size)))
        else:
            bias[mine] = value.astype(float).ravel()[flat[mine] - offset]
    return context.affine(terms, bias.reshape(joined.shape), joined.shape, moves=True)


@reads("Pad")
def _pad(context: ReadContext) -> Result:
    x = context.symbol(0)
    mode = str(context.attribute("mode", "constant"))
    pads = _pads(context, len(x.shape))
    check_count(
        math.prod(n + max(b, 0) + max(e, 0) for n, (b, e) in zip(x.shape, pads, strict=True)), "a padded tensor"
    )
    cut = tuple(slice(max(-b, 0), n - max(-e, 0)) for n, (b, e) in zip(x.shape, pads, strict=True))
    grow: Any = [(max(b, 0), max(e, 0)) for b, e in pads]
    if mode in ("reflect", "edge", "wrap"):
        return moved(context, lambda a: np.pad(a[cut], grow, mode))  # type: ignore[call-overload]
    if mode != "constant":
        context.refuse(f"attribute mode is {mode!r}, which the standard does not know")
    value = context.optional(2, "the padding value")
    number = float(context.attribute("value", 0.0) if value is None or not value.size else value.ravel()[0])
    index = np.pad(x.positions[cut], grow, constant_values=-1)
    if not number:
        return context.select(x, index)
    return context.affine([(x, Selection(index.ravel(), x.size))], np.where(index < 0, number, 0.0), index.shape)


def _pads(context: ReadContext, rank: int) -> list[tuple[int, int]]:
    """Return (before, after) per axis."""
    flat = context.integers("pads", 1)
    if flat is None:
        flat = list(context.attribute("paddings", [0] * 2 * rank))  # the name at opset 1
    chosen = context.optional(3, "axes") if context.opset >= 18 else None
    axes = list(range(rank)) if chosen is None else [context.axis(int(a), rank) for a in chosen.ravel()]
    if len(flat) != 2 * len(axes):
        context.refuse(f"{len(flat)} pads for {len(axes)} axes; the file is not valid ONNX")
    pads = [(0, 0)] * rank
    for axis, before, after in zip(axes, flat[: len(axes)], flat[len(axes) :], strict=True):
        pads[axis] = (before, after)
    return pads
