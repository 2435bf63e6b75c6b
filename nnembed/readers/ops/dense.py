"""Matrix products with a constant factor, and normalisation by constants."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnembed.aliases import Array
from nnembed.ir.linear import LinearOperator
from nnembed.readers.context import ReadContext, Symbol
from nnembed.readers.operators import Positions, broadcast_positions, contraction, positions, scaled
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import AnyArray

_BOTH = "it multiplies two tensors that both depend on the input, which is not piecewise linear"


def product(context: ReadContext, left: AnyArray | Positions, right: AnyArray | Positions, n_in: int) -> LinearOperator:
    """Return the operator of ``left @ right``; the side of integer positions is the symbolic one.

    Both sides have at least two axes; leading axes broadcast.
    """
    a, b = left[..., :, None, :], right.swapaxes(-1, -2)[..., None, :, :]  # (..., m, 1, k) and (..., 1, n, k)
    columns, weights = (a, b) if left.dtype == np.intp else (b, a)
    return contraction(columns, weights, n_in, f"node {context.name!r}")


def _two_sides(context: ReadContext, a: AnyArray | Symbol, b: AnyArray | Symbol) -> tuple[Symbol, AnyArray, AnyArray]:
    """Return the symbolic operand and both sides as arrays: positions for it, floats for the constant."""
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        context.refuse(_BOTH)
    if isinstance(a, Symbol):
        assert not isinstance(b, Symbol)
        return a, a.positions, b.astype(float)
    assert isinstance(b, Symbol)
    return b, a.astype(float), b.positions


@reads("MatMul")
def _matmul(context: ReadContext) -> Result:
    x, left, right = _two_sides(context, context.operand(0), context.operand(1))
    if not left.ndim or not right.ndim:
        context.refuse("an operand is a single number; the file is not valid ONNX")
    wide_left = left[None, :] if left.ndim == 1 else left
    wide_right = right[:, None] if right.ndim == 1 else right
    if wide_left.shape[-1] != wide_right.shape[-2]:
        context.refuse(f"shapes {left.shape} and {right.shape} do not multiply; the file is not valid ONNX")
    try:
        lead = np.broadcast_shapes(wide_left.shape[:-2], wide_right.shape[:-2])
    except ValueError:
        context.refuse(f"shapes {left.shape} and {right.shape} do not multiply; the file is not valid ONNX")
    shape = lead + ((left.shape[-2],) if left.ndim > 1 else ()) + ((right.shape[-1],) if right.ndim > 1 else ())
    return context.affine([(x, product(context, wide_left, wide_right, x.size))], 0.0, shape)


@reads("Gemm")
def _gemm(context: ReadContext) -> Result:
    alpha, beta = float(context.attribute("alpha", 1.0)), float(context.attribute("beta", 1.0))
    a, b = context.operand(0), context.operand(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        context.refuse(f"operands of shape {a.shape} and {b.shape}; both must have two axes, insert a Flatten")
    flip = context.attribute("transA", 0), context.attribute("transB", 0)
    (m, k), (k_b, n) = (s[::-1] if f else s for s, f in zip((a.shape, b.shape), flip, strict=True))
    if k != k_b:
        context.refuse(f"operands of shape {a.shape} and {b.shape} do not multiply; the file is not valid ONNX")
    terms: list[tuple[Symbol, LinearOperator]] = []
    bias: Array = np.zeros((m, n))
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        x, left, right = _two_sides(context, a, b)
        left, right = (s.T if f else s for s, f in zip((left, right), flip, strict=True))
        left, right = (s if s.dtype == np.intp else _times(alpha, s) for s in (left, right))
        terms.append((x, product(context, left, right, x.size)))
    else:
        left, right = (s.astype(float).T if f else s.astype(float) for s, f in zip((a, b), flip, strict=True))
        bias = alpha * (left @ right)
    if context.given(2):
        _add_c(context, context.operand(2), beta, terms, bias)
    return context.affine(terms, bias, (m, n))


def _times(factor: float, weights: AnyArray) -> AnyArray:
    return weights if factor == 1.0 else factor * weights


def _add_c(
    context: ReadContext, c: AnyArray | Symbol, beta: float, terms: list[tuple[Symbol, LinearOperator]], bias: Array
) -> None:
    """Add ``beta * C`` to the terms or, in place, to the bias."""
    try:
        if isinstance(c, Symbol):
            terms.append((c, scaled(broadcast_positions(c.shape, bias.shape), beta, c.size)))
        else:
            bias += beta * c.astype(float)
    except ValueError:
        context.refuse(f"C of shape {c.shape} does not broadcast to {bias.shape}; the file is not valid ONNX")


@reads("BatchNormalization")
def _batch_normalization(context: ReadContext) -> Result:
    _check_inference(context)
    x = context.symbol(0)
    what = ("the scale", "the bias", "the mean", "the variance")
    scale, bias, mean, variance = (context.constant(k + 1, w).astype(float) for k, w in enumerate(what))
    spread = variance + float(context.attribute("epsilon", 1e-5))
    if (spread <= 0).any():
        context.refuse("variance + epsilon is not positive; the statistics are damaged")
    factor = scale / np.sqrt(spread)
    index = _statistic(context, x.shape, scale.size)
    operator = scaled(positions(x.shape), factor.ravel()[index], x.size)
    return context.affine([(x, operator)], (bias - mean * factor).ravel()[index], x.shape)


def _check_inference(context: ReadContext) -> None:
    cure = "export the model for inference (model.eval())"
    if context.opset < 7 and not context.attribute("is_test", 0):
        context.refuse(f"attribute is_test is 0 (training mode); {cure}")
    if context.attribute("training_mode", 0):
        context.refuse(f"attribute training_mode is 1, so it uses the statistics of the batch; {cure}")
    if any(context.wanted(k) for k in range(1, 5)):
        context.refuse(f"its running statistics are used as outputs; {cure}")


def _statistic(context: ReadContext, shape: tuple[int, ...], count: int) -> NDArray[np.intp]:
    """Return which statistic belongs to each entry: per channel, or per entry in the old non-spatial form."""
    if context.opset < 9 and not context.attribute("spatial", 1):
        per_point = shape[1:]
    else:
        per_point = (shape[1] if len(shape) > 1 else 1, *(1,) * (len(shape) - 2))
    if int(np.prod(per_point)) != count:
        context.refuse(f"{count} statistics for data of shape {shape}; the file is not valid ONNX")
    return np.broadcast_to(positions(per_point), shape)
