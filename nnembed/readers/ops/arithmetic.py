"""Sums, differences, products with constants; maxima and minima."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnembed.aliases import Array
from nnembed.ir.linear import LinearOperator, Selection
from nnembed.ir.nodes import Max, relu
from nnembed.readers.context import ReadContext, Symbol
from nnembed.readers.operators import broadcast_positions, positions, scaled
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import AnyArray

Operand = AnyArray | Symbol
Term = tuple[Symbol, LinearOperator]


def _pair(context: ReadContext) -> tuple[Operand, Operand]:
    """Return both operands; before opset 7 broadcasting was asked for by attributes."""
    a, b = context.operand(0), context.operand(1)
    if context.opset >= 7 or a.shape == b.shape:
        return a, b
    if not context.attribute("broadcast", 0):
        context.refuse(f"shapes {a.shape} and {b.shape} differ and 'broadcast' is 0; the file is not valid ONNX")
    last = len(a.shape) - len(b.shape)
    axis = context.attribute("axis", last)
    if not 0 <= axis <= last:
        context.refuse(f"attribute axis is {axis} for shapes {a.shape} and {b.shape}; the file is not valid ONNX")
    shape = (*b.shape, *(1,) * (last - axis))
    return a, (Symbol(b.tensor, shape, b.dtype) if isinstance(b, Symbol) else b.reshape(shape))


def joint_shape(context: ReadContext, operands: Sequence[Operand]) -> tuple[int, ...]:
    """Return the broadcast shape of all operands."""
    try:
        return np.broadcast_shapes(*(v.shape for v in operands))
    except ValueError:
        return context.refuse(f"shapes {[v.shape for v in operands]} do not broadcast; the file is not valid ONNX")


def combine(context: ReadContext, operands: Sequence[Operand], factors: Sequence[ArrayLike]) -> Symbol:
    """Return ``sum_k factors[k] * operands[k]`` with broadcasting; constants go into the bias."""
    shape = joint_shape(context, operands)
    terms: list[Term] = []
    bias: Any = np.zeros(shape)
    for value, factor in zip(operands, factors, strict=True):
        if isinstance(value, Symbol):
            terms.append((value, scaled(broadcast_positions(value.shape, shape), factor, value.size)))
        else:
            bias = bias + np.asarray(factor, float) * value.astype(float)
    return context.affine(terms, bias, shape)


@reads("Add")
def _add(context: ReadContext) -> Result:
    return combine(context, _pair(context), (1.0, 1.0))


@reads("Sub")
def _sub(context: ReadContext) -> Result:
    return combine(context, _pair(context), (1.0, -1.0))


@reads("Sum")
def _sum(context: ReadContext) -> Result:
    operands = [context.operand(k) for k in range(len(context.inputs))]
    return combine(context, operands, [1.0] * len(operands))


@reads("Mean")
def _mean(context: ReadContext) -> Result:
    operands = [context.operand(k) for k in range(len(context.inputs))]
    return combine(context, operands, [1.0 / len(operands)] * len(operands))


@reads("Neg")
def _neg(context: ReadContext) -> Result:
    return combine(context, [context.symbol(0)], [-1.0])


def _scale(context: ReadContext, x: Symbol, factor: AnyArray) -> Symbol:
    shape = joint_shape(context, (x, factor))
    operator = scaled(broadcast_positions(x.shape, shape), np.broadcast_to(factor, shape), x.size)
    return context.affine([(x, operator)], 0.0, shape)


@reads("Mul")
def _mul(context: ReadContext) -> Result:
    a, b = _pair(context)
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        context.refuse("it multiplies two tensors that both depend on the input, which is not piecewise linear")
    x, factor = (a, b) if isinstance(a, Symbol) else (b, a)
    assert isinstance(x, Symbol)
    assert not isinstance(factor, Symbol)
    return _scale(context, x, factor.astype(float))


@reads("Div")
def _div(context: ReadContext) -> Result:
    a, b = _pair(context)
    if isinstance(b, Symbol):
        context.refuse("it divides by a tensor that depends on the input, which is not piecewise linear")
    assert isinstance(a, Symbol)
    if not b.all():
        context.refuse("it divides by a constant that contains zero")
    return _scale(context, a, 1.0 / b.astype(float))


@reads("Where", since=9)
def _where(context: ReadContext) -> Result:
    a, b = context.operand(1), context.operand(2)
    if isinstance(context.operand(0), Symbol):
        return _chosen(context, context.symbol(0), a, b)
    choice = context.constant(0, "the condition").astype(bool)
    shape = joint_shape(context, (choice, a, b))
    choice = np.broadcast_to(choice, shape)
    terms: list[Term] = []
    bias = np.zeros(shape)
    for value, chosen in ((a, choice), (b, ~choice)):
        if isinstance(value, Symbol):
            index = np.where(chosen, broadcast_positions(value.shape, shape), -1).ravel()
            terms.append((value, Selection(index, value.size)))
        else:
            bias = bias + np.where(chosen, value.astype(float), 0.0)
    return context.affine(terms, bias, shape, moves=True)


def _chosen(context: ReadContext, choice: Symbol, a: Operand, b: Operand) -> Symbol:
    """Return one of two constants, by a condition of zeros and ones."""
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        context.refuse(
            "both its condition and what it chooses from depend on the input, which is no product with a constant; "
            "choose between constants, or use Max, Min or Relu"
        )
    shape = joint_shape(context, (choice, a, b))
    no, gap = (np.broadcast_to(v, shape) for v in (b.astype(float), a.astype(float) - b.astype(float)))
    operator = scaled(broadcast_positions(choice.shape, shape), gap, choice.size)
    return context.affine([(Symbol(choice.tensor, choice.shape, str(a.dtype)), operator)], no, shape)


# ---- maxima ----------------------------------------------------------------------------------------


def larger(context: ReadContext, operands: Sequence[Operand], sign: float) -> Symbol:
    """Return ``sign * max_k(sign * operand_k)``: the maximum, or with sign -1 the minimum."""
    shape = joint_shape(context, operands)
    symbols = [v for v in operands if isinstance(v, Symbol)]
    constants = [sign * v.astype(float) for v in operands if not isinstance(v, Symbol)]
    floor: Array | None = None
    if constants:
        floor = np.broadcast_to(np.maximum.reduce(np.broadcast_arrays(*constants)), shape)
        floor = None if np.isneginf(floor).all() else floor
    if len(symbols) == 1:
        return _above(context, symbols[0], floor, sign, shape)
    joined = _joined(context, symbols, floor, sign, shape)
    n = int(np.prod(shape, dtype=np.int64))
    groups = positions((len(symbols) + (floor is not None), n)).T.copy()
    best = context.add(lambda name, out: Max(name, (joined.tensor,), out, groups), shape, joined.dtype)
    return best if sign > 0 else combine(context, [best], [sign])


def _above(context: ReadContext, x: Symbol, floor: Array | None, sign: float, shape: tuple[int, ...]) -> Symbol:
    """Return ``sign * max(sign * x, floor)`` as a ReLU: ``floor + max(sign * x - floor, 0)``."""
    if floor is None:
        return combine(context, [x, np.zeros(shape)], [1.0, 1.0])
    gap = combine(context, [x, floor], [sign, -1.0])
    rest = context.apply(lambda name, source, out: relu(name, source, out, gap.size), gap)
    if sign > 0 and not floor.any():
        return rest
    return combine(context, [rest, floor], [sign, sign])


def _joined(
    context: ReadContext, symbols: Sequence[Symbol], floor: Array | None, sign: float, shape: tuple[int, ...]
) -> Symbol:
    """Return all operands, each broadcast to `shape`, one after another."""
    n, count = int(np.prod(shape, dtype=np.int64)), len(symbols) + (floor is not None)
    terms: list[Term] = []
    for k, x in enumerate(symbols):
        index = np.full((count, n), -1)
        index[k] = broadcast_positions(x.shape, shape).ravel()
        terms.append((x, scaled(index, sign, x.size)))
    bias = np.zeros((count, n))
    if floor is not None:
        bias[-1] = floor.ravel()
    return context.affine(terms, bias, (count, n))


@reads("Max")
def _max(context: ReadContext) -> Result:
    return larger(context, [context.operand(k) for k in range(len(context.inputs))], 1.0)


@reads("Min")
def _min(context: ReadContext) -> Result:
    return larger(context, [context.operand(k) for k in range(len(context.inputs))], -1.0)
