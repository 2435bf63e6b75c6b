"""What jumps: comparisons, rounding, quantisation, and the position of the largest entry.

A comparison is a step of the difference of its sides, so equal sides are told apart exactly; its result is a tensor of
zeros and ones of type bool, which other operators take after a Cast.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.ir.nodes import Round, Step, Winner
from nnembed.readers.context import ReadContext, Symbol
from nnembed.readers.operators import Positions, scaled, weighted_rows
from nnembed.readers.ops.arithmetic import combine
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import AnyArray, check_count, element_type, is_float, numpy_type

_WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16)}


# ---- comparisons -----------------------------------------------------------------------------------


def _step(context: ReadContext, g: Symbol, low: float, high: float) -> Symbol:
    """Return `high` where ``g >= 0`` and `low` elsewhere, as truth values."""
    sides = np.full(g.size, low), np.full(g.size, high)
    return context.add(lambda name, out: Step(name, (g.tensor,), out, *sides), g.shape, "bool")


def _compared(context: ReadContext, sign: float, low: float, high: float) -> Symbol:
    """Return a step of ``sign * (first - second)``."""
    g = combine(context, [context.operand(0), context.operand(1)], [sign, -sign])
    return _step(context, g, low, high)


@reads("GreaterOrEqual", since=12)
def _greater_or_equal(context: ReadContext) -> Result:
    return _compared(context, 1.0, 0.0, 1.0)


@reads("LessOrEqual", since=12)
def _less_or_equal(context: ReadContext) -> Result:
    return _compared(context, -1.0, 0.0, 1.0)


@reads("Less", since=7)
def _less(context: ReadContext) -> Result:
    return _compared(context, 1.0, 1.0, 0.0)


@reads("Greater", since=7)
def _greater(context: ReadContext) -> Result:
    return _compared(context, -1.0, 1.0, 0.0)


@reads("Not")
def _not(context: ReadContext) -> Result:
    x = context.symbol(0)
    return context.affine([(x, scaled(x.positions, -1.0, x.size))], 1.0, x.shape, moves=True)


@reads("Sign")
def _sign(context: ReadContext) -> Result:
    x = context.symbol(0)
    up, down = combine(context, [x], [1.0]), combine(context, [x], [-1.0])
    parts = [_step(context, up, 0.0, 1.0), _step(context, down, 1.0, 0.0)]
    numbers = [Symbol(part.tensor, part.shape, x.dtype) for part in parts]
    return combine(context, [*numbers, np.full(x.shape, -1.0)], [1.0, 1.0, 1.0])


# ---- rounding --------------------------------------------------------------------------------------


def _rounded(context: ReadContext, rule: str) -> Symbol:
    x = context.symbol(0)
    one, far = np.ones(x.size), np.full(x.size, np.inf)
    return context.apply(lambda name, source, out: Round(name, (source,), out, one, one, -far, far, rule), x)


@reads("Round", since=11)
def _round(context: ReadContext) -> Result:
    return _rounded(context, "even")


@reads("Floor")
def _floor(context: ReadContext) -> Result:
    return _rounded(context, "down")


@reads("Ceil")
def _ceil(context: ReadContext) -> Result:
    return _rounded(context, "up")


def _spread(context: ReadContext, value: AnyArray, shape: tuple[int, ...], what: str) -> Array:
    """Return a scale or zero point, one number or one per slice of an axis, for every entry."""
    if context.attribute("block_size", 0):
        context.refuse("attribute block_size is set; quantise per tensor or per axis")
    numbers = value.astype(float)
    if numbers.size != 1:
        axis = context.axis(context.attribute("axis", 1), len(shape))
        if numbers.ndim != 1 or context.opset < 13 or numbers.size != shape[axis]:
            context.refuse(f"{what} has shape {value.shape} for data of shape {shape}; the file is not valid ONNX")
        numbers = numbers.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return np.broadcast_to(numbers.reshape(()) if numbers.size == 1 else numbers, shape).ravel()


def _scale(context: ReadContext, shape: tuple[int, ...]) -> tuple[Array, AnyArray | None, Array]:
    """Return scale, zero point as it stands in the file, and zero point, per entry."""
    scale = _spread(context, context.constant(1, "the scale"), shape, "the scale")
    if not (np.isfinite(scale) & (scale > 0)).all():
        context.refuse("its scale is not above zero; quantise the model again")
    zero = context.optional(2, "the zero point")
    return scale, zero, np.zeros(len(scale)) if zero is None else _spread(context, zero, shape, "the zero point")


@reads("QuantizeLinear", since=10)
def _quantize(context: ReadContext) -> Result:
    x = context.symbol(0)
    if not is_float(x.dtype):
        context.refuse(f"it quantises {x.dtype} numbers; only floating point is read")
    scale, given, zero = _scale(context, x.shape)
    code: int = context.attribute("output_dtype", 0)
    dtype = str(given.dtype) if given is not None else element_type(code) if code else "uint8"
    if dtype not in _WHOLE:
        context.refuse(f"it quantises to {dtype}; only {', '.join(sorted(_WHOLE))} are read")
    if context.attribute("precision", 0):
        context.refuse("attribute precision asks for a division in another type; leave it out")
    limits = np.iinfo(dtype)
    low, high = limits.min - zero, limits.max - zero
    one, source = np.ones(x.size), x.tensor
    level = context.add(lambda name, out: Round(name, (source,), out, scale, one, low, high), x.shape, dtype)
    if not zero.any():
        return level
    return context.affine(
        [(level, scaled(level.positions, 1.0, level.size))], zero.reshape(x.shape), x.shape, moves=True
    )


@reads("DequantizeLinear", since=10, folds=True)
def _dequantize(context: ReadContext) -> Result:
    x = context.operand(0)
    scale, _, zero = _scale(context, x.shape)
    code: int = context.attribute("output_dtype", 0)
    dtype = element_type(code) if code else str(context.constant(1, "the scale").dtype)
    if not isinstance(x, Symbol):  # quantised weights
        kind, gap = numpy_type(dtype), x.astype(float) - zero.reshape(x.shape)
        return np.asarray(gap.astype(kind) * scale.reshape(x.shape).astype(kind))
    number = Symbol(x.tensor, x.shape, dtype)
    bias = (-scale * zero).reshape(x.shape)
    return context.affine([(number, scaled(x.positions, scale.reshape(x.shape), x.size))], bias, x.shape)


# ---- winners ---------------------------------------------------------------------------------------


def _winners(context: ReadContext, x: Symbol, groups: Positions, dtype: str) -> Symbol:
    """Return the one-hot winners of groups (m, k), in the shape of the groups."""
    if not is_float(x.dtype):
        context.refuse(f"it compares {x.dtype} numbers; cast the network's input to float32 before it")
    check_count(groups.size, f"the result of node {context.name!r}")
    groups = np.ascontiguousarray(groups)
    return context.add(lambda name, out: Winner(name, (x.tensor,), out, groups), groups.shape, dtype)


def _position(context: ReadContext, x: Symbol) -> Symbol:
    """Return the position of the largest entry along the axis."""
    axis = context.axis(context.attribute("axis", 0), len(x.shape))
    last = bool(context.attribute("select_last_index", 0))
    groups = np.moveaxis(x.positions, axis, -1).reshape(-1, x.shape[axis]) if x.shape else x.positions.reshape(1, 1)
    places = np.arange(groups.shape[1], dtype=float)
    if last:
        groups, places = groups[:, ::-1], places[::-1]
    won = _winners(context, x, groups, "int64")
    shape = (*x.shape[:axis], *((1,) if context.attribute("keepdims", 1) else ()), *x.shape[axis + 1 :])
    rows = weighted_rows(won.positions, places[None], won.size)
    return context.affine([(won, rows)], 0.0, shape if x.shape else (), moves=True)


@reads("ArgMax")
def _arg_max(context: ReadContext) -> Result:
    return _position(context, context.symbol(0))


@reads("ArgMin")
def _arg_min(context: ReadContext) -> Result:
    return _position(context, combine(context, [context.symbol(0)], [-1.0]))


@reads("Hardmax")
def _hardmax(context: ReadContext) -> Result:
    x = context.symbol(0)
    if context.opset < 13:  # everything from the axis on is one group
        axis = context.axis(context.attribute("axis", 1), len(x.shape))
        groups: Any = x.positions.reshape(math.prod(x.shape[:axis]), -1)
    else:
        axis = context.axis(context.attribute("axis", -1), len(x.shape))
        groups = np.moveaxis(x.positions, axis, -1).reshape(-1, x.shape[axis])
    won = _winners(context, x, groups, x.dtype)
    return context.select(won, np.argsort(groups.ravel()).reshape(x.shape))
