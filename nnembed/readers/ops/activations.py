"""Piecewise-linear functions applied entry by entry, and what is the identity at inference."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.ir.nodes import Clip, absolute, leaky_relu, relu
from nnembed.readers.context import ReadContext, Symbol
from nnembed.readers.ops.arithmetic import combine
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import element_type, is_float, numpy_type

_LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": float(np.finfo(np.float32).max)}


@reads("Relu")
def _relu(context: ReadContext) -> Result:
    x = context.symbol(0)
    return context.apply(lambda name, source, out: relu(name, source, out, x.size), x)


def _leaky(context: ReadContext, slope: Array) -> Symbol:
    """Return the leaky ReLU of operand 0 with one slope per entry."""
    x = context.symbol(0)
    if not slope.any():
        return context.apply(lambda name, source, out: relu(name, source, out, x.size), x)
    return context.apply(lambda name, source, out: leaky_relu(name, source, out, slope), x)


@reads("LeakyRelu")
def _leaky_relu(context: ReadContext) -> Result:
    return _leaky(context, np.full(context.symbol(0).size, float(context.attribute("alpha", 0.01))))


@reads("PRelu")
def _prelu(context: ReadContext) -> Result:
    x = context.symbol(0)
    slope = context.constant(1, "the slope").astype(float)
    if context.opset < 7 and slope.size > 1:  # one slope per channel, before there was broadcasting
        slope = slope.reshape(-1, *(1,) * (len(x.shape) - 2))
    try:
        slope = np.broadcast_to(slope, x.shape)
    except ValueError:
        context.refuse(f"a slope of shape {slope.shape} does not broadcast to {x.shape}; the file is not valid ONNX")
    return _leaky(context, slope.ravel().copy())


@reads("Abs")
def _abs(context: ReadContext) -> Result:
    x = context.symbol(0)
    return context.apply(lambda name, source, out: absolute(name, source, out, x.size), x)


@reads("HardSigmoid")
def _hard_sigmoid(context: ReadContext) -> Result:
    alpha, beta = context.attribute("alpha", 0.2), context.attribute("beta", 0.5)
    shifted = combine(context, [context.symbol(0), np.asarray(beta)], [alpha, 1.0])
    return _clipped(context, shifted, 0.0, 1.0)


@reads("Clip")
def _clip(context: ReadContext) -> Result:
    x = context.symbol(0)
    if not is_float(x.dtype):
        context.refuse(f"it computes with {x.dtype} numbers; cast the network's input to float32 before it")
    if context.opset < 11:
        lower, upper = context.attribute("min", -np.inf), context.attribute("max", np.inf)
    else:
        lower, upper = _limit(context, 1, "min", -np.inf), _limit(context, 2, "max", np.inf)
    largest = _LARGEST.get(x.dtype, np.finfo(np.float64).max)
    lower = -np.inf if lower <= -largest else float(lower)
    upper = np.inf if upper >= largest else float(upper)
    if np.isnan(lower) or np.isnan(upper) or lower == np.inf or upper == -np.inf:
        context.refuse(f"its bounds are [{lower}, {upper}]; clip to numbers")
    return _clipped(context, x, lower, upper)


def _limit(context: ReadContext, position: int, what: str, default: float) -> float:
    value = context.optional(position, what)
    if value is None:
        return default
    if value.size != 1:
        context.refuse(f"{what} has shape {value.shape}; the standard asks for one number")
    return float(value.ravel()[0])


def _clipped(context: ReadContext, x: Symbol, lower: float, upper: float) -> Symbol:
    """Return ``min(max(x, lower), upper)``; a bound that is infinite leaves a ReLU."""
    if lower > upper:  # the standard: min(max(x, lower), upper)
        return combine(context, [x, np.full(x.shape, upper)], [0.0, 1.0])
    if np.isfinite(lower) and np.isfinite(upper):
        bounds = np.full(x.size, lower), np.full(x.size, upper)
        return context.apply(lambda name, source, out: Clip(name, (source,), out, *bounds), x)
    if np.isinf(lower) and np.isinf(upper):
        return context.select(x, x.positions)
    sign, edge = (1.0, lower) if np.isfinite(lower) else (-1.0, upper)
    shift = np.full(x.shape, edge)
    gap = x if (sign, edge) == (1.0, 0.0) else combine(context, [x, shift], [sign, -sign])
    rest = context.apply(lambda name, source, out: relu(name, source, out, x.size), gap)
    return rest if gap is x else combine(context, [rest, shift], [sign, 1.0])


# ---- the identity at inference ----------------------------------------------------------------------


@reads("Identity", folds=True)
def _identity(context: ReadContext) -> Result:
    return context.rearrange(lambda a: a)


@reads("Dropout", folds=True)
def _dropout(context: ReadContext) -> Result:
    if context.opset < 7 and not context.attribute("is_test", 0):
        context.refuse("attribute is_test is 0 (training mode); export the model for inference")
    training = context.optional(2, "training_mode") if context.opset >= 12 else None
    if training is not None and training.any():
        context.refuse("training_mode is true, so the result is random; export the model for inference (model.eval())")
    if context.wanted(1):
        context.refuse("its mask output is used; export the model for inference")
    return context.rearrange(lambda a: a)


@reads("Cast")
def _cast(context: ReadContext) -> Result:
    code: Any = context.attribute("to", 0)
    if isinstance(code, str):  # opset below 6
        import onnx

        code = onnx.TensorProto.DataType.Value(code)
    return _as_type(context, element_type(code))


@reads("CastLike", since=15)
def _cast_like(context: ReadContext) -> Result:
    like, value = str(context.operand(1).dtype), context.operand(0)
    if not isinstance(value, Symbol):
        return value.astype(numpy_type(like))
    return _as_type(context, like)


def _as_type(context: ReadContext, target: str) -> Symbol:
    x = context.symbol(0)
    if target == x.dtype or (target in ("float32", "float64") and x.dtype != "string"):
        return Symbol(x.tensor, x.shape, target)
    if x.dtype == "bool" and numpy_type(target).kind in "iu":
        return Symbol(x.tensor, x.shape, target)
    if not is_float(target):
        context.refuse(f"casting the network's data to {target} truncates it; leave it in floating point")
    if target not in context.model_types:
        context.refuse(
            f"casting the network's data to {target} rounds it in a {'/'.join(sorted(context.model_types))} model; "
            "convert the model to float32"
        )
    return Symbol(x.tensor, x.shape, target)
