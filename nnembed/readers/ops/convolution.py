"""Convolutions, and the window geometry they share with pools."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nnembed.ir.linear import Convolution, Dense, LinearOperator
from nnembed.readers.context import ReadContext
from nnembed.readers.operators import repeated
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import check_count


@dataclass(frozen=True)
class Windows:
    """Where the windows of a convolution or pool lie; one entry per spatial axis each."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    out_size: tuple[int, ...]


def windows(context: ReadContext, size: tuple[int, ...], kernel: tuple[int, ...]) -> Windows:
    """Read strides, dilations, pads, auto_pad and ceil_mode by the standard's defaults."""
    rank = len(size)
    if not 1 <= rank <= 3:
        context.refuse(f"{rank} spatial axes; 1, 2 and 3 are read")
    strides = _per_axis(context, "strides", [1] * rank)
    dilations = _per_axis(context, "dilations", [1] * rank)
    flat = _per_axis(context, "pads", [0] * (2 * rank), least=0)
    pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
    auto, ceil = str(context.attribute("auto_pad", "NOTSET")), bool(context.attribute("ceil_mode", 0))
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        context.refuse(f"attribute auto_pad is {auto!r}, which the standard does not know")
    if auto != "NOTSET" and any(flat):
        context.refuse(f"attributes auto_pad={auto!r} and pads exclude each other; remove one")
    if auto.startswith("SAME"):
        pads = tuple(_same(n, r, s, auto) for n, r, s in zip(size, reach, strides, strict=True))
    axes = zip(size, reach, strides, pads, strict=True)
    out_size = tuple(_count(n, r, s, p, ceil) for n, r, s, p in axes)
    if min(out_size) < 1:
        context.refuse(f"a window of {reach} does not fit into data of spatial shape {size}")
    check_count(math.prod(out_size) * math.prod(kernel), f"the windows of node {context.name!r}")
    return Windows(size, tuple(kernel), strides, dilations, pads, out_size)


def _per_axis(context: ReadContext, name: str, default: list[int], least: int = 1) -> tuple[int, ...]:
    value = tuple(int(v) for v in context.attribute(name, default))
    if len(value) != len(default) or min(value) < least:
        context.refuse(f"attribute {name} is {list(value)}; {len(default)} numbers of at least {least} are expected")
    return value


def _same(n: int, reach: int, stride: int, auto: str) -> tuple[int, int]:
    total = max(0, (-(-n // stride) - 1) * stride + reach - n)
    small = total // 2
    return (small, total - small) if auto == "SAME_UPPER" else (total - small, small)


def _count(n: int, reach: int, stride: int, pad: tuple[int, int], ceil: bool) -> int:
    room = n + sum(pad) - reach
    if room < 0 and not ceil:
        return 0
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= n + pad[0] else count  # no window starts behind the data


@reads("Conv")
def _conv(context: ReadContext) -> Result:
    x = context.symbol(0)
    kernel = context.constant(1, "the kernel").astype(float)
    groups = int(context.attribute("group", 1))
    if len(x.shape) < 3 or kernel.ndim != len(x.shape):
        context.refuse(f"data of shape {x.shape} and a kernel of shape {kernel.shape}; the file is not valid ONNX")
    if list(context.attribute("kernel_shape", kernel.shape[2:])) != list(kernel.shape[2:]):
        context.refuse(f"attribute kernel_shape contradicts the kernel's shape {kernel.shape}")
    if groups < 1 or kernel.shape[0] % groups or kernel.shape[1] * groups != x.shape[1]:
        context.refuse(f"{x.shape[1]} channels, {groups} groups and a kernel of shape {kernel.shape} do not fit")
    at = windows(context, x.shape[2:], kernel.shape[2:])
    operator = repeated(_operator(kernel, at, groups), x.shape[0])
    shape = (x.shape[0], kernel.shape[0], *at.out_size)
    bias = context.optional(2, "the bias")
    wide = np.zeros(1) if bias is None else bias.astype(float).reshape(-1, *(1,) * len(at.size))
    return context.affine([(x, operator)], wide, shape)


def _operator(kernel: np.ndarray[tuple[int, ...], np.dtype[np.float64]], at: Windows, groups: int) -> LinearOperator:
    """Return the convolution; one that sees the whole image once is a dense layer."""
    if groups == 1 and at.kernel == at.size and set(at.out_size) == {1} and not np.any(at.pads):
        return Dense(kernel.reshape(kernel.shape[0], -1))
    return Convolution(kernel, at.size, at.strides, at.dilations, at.pads, groups)
