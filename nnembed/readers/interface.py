"""Inputs and outputs of a graph, and their batch axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnembed.errors import ModelFileError
from nnembed.ir.network import TensorSpec
from nnembed.readers.tensors import check_count, element_type, is_float


@dataclass(frozen=True)
class Slot:
    """An input or output of the original model.

    Attributes
    ----------
    spec : TensorSpec
        As the network has it, without the batch axis.
    shape : tuple of int
        Full ONNX shape with the batch axis, if any, set to 1.
    batched : bool
        Whether the leading axis is the batch axis.
    symbolic : bool
        Whether the file leaves that axis open.
    fixed : bool
        Whether it is an output that depends on no input.
    """

    spec: TensorSpec
    shape: tuple[int, ...]
    batched: bool
    symbolic: bool
    fixed: bool = False


def read_inputs(graph: Any) -> tuple[Slot, ...]:
    """Return the inputs that are not initializers.

    An open leading axis of a tensor of rank two or more is the batch axis, and so is one of length 1.

    Raises
    ------
    ModelFileError
        If another axis is open or the element type is not a real number.
    """
    fixed = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    slots = tuple(_slot(value) for value in graph.input if value.name not in fixed)
    if not slots:
        raise ModelFileError("the graph has no inputs, only constants; there is nothing to embed")
    return slots


def _slot(value: Any) -> Slot:
    if not value.type.HasField("tensor_type"):
        raise ModelFileError(f"input {value.name!r} is not a tensor; export the network with plain tensor inputs")
    dtype = element_type(value.type.tensor_type.elem_type) if value.type.tensor_type.elem_type else "undefined"
    if not is_float(dtype) and dtype.lstrip("u") not in ("int8", "int16", "int32", "int64"):
        raise ModelFileError(
            f"input {value.name!r} holds {dtype} values; only real and integer numbers can be embedded"
        )
    if not value.type.tensor_type.HasField("shape"):
        raise ModelFileError(
            f"input {value.name!r} declares no shape; set it, for example with onnx.tools.update_model_dims"
        )
    dims = value.type.tensor_type.shape.dim
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims]
    symbolic = len(sizes) > 1 and sizes[0] is None
    if symbolic:
        sizes[0] = 1
    for axis, size in enumerate(sizes):
        if size is None:
            label = f" ({dims[axis].dim_param!r})" if dims[axis].dim_param else ""
            raise ModelFileError(
                f"input {value.name!r}: axis {axis}{label} of {len(sizes)} has no fixed length, and only a leading "
                "batch axis may be open; fix it, for example with "
                "onnxruntime.tools.onnx_model_utils.make_dim_param_fixed or onnx.tools.update_model_dims"
            )
    shape = tuple(s for s in sizes if s is not None)
    if 0 in shape:
        raise ModelFileError(f"input {value.name!r} of shape {shape} is empty; export the network with its real sizes")
    check_count(math.prod(shape), f"input {value.name!r}")
    batched = len(shape) > 1 and shape[0] == 1
    return Slot(TensorSpec(value.name, shape[1:] if batched else shape, dtype), shape, batched, symbolic)


def output_slot(name: str, shape: tuple[int, ...], dtype: str, inputs: tuple[Slot, ...], *, fixed: bool) -> Slot:
    """Return an output as the network has it: without the batch axis that the inputs have."""
    batched = any(s.batched for s in inputs) and len(shape) > 0 and shape[0] == 1
    symbolic = batched and any(s.symbolic for s in inputs)
    return Slot(TensorSpec(name, shape[1:] if batched else shape, dtype), shape, batched, symbolic, fixed)
