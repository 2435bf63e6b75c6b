"""Nodes whose operands are all constant, and what the standard itself says about a node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnembed.readers.context import Refused, Symbol
from nnembed.readers.tensors import AnyArray, check_count, element_type

_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
_SMALL = 1024  # operands up to this size can decide the shape of a result


@dataclass(frozen=True)
class Outline:
    """Element type and shape of an output as the standard infers it; None where it cannot."""

    dtype: str
    shape: tuple[int, ...] | None


def find_schema(domain: str, op_type: str, opset: int) -> Any:
    """Return the standard's definition of an operator, None for a domain the standard does not know.

    Raises
    ------
    Refused
        If the operator does not exist, or no longer, at this opset.
    """
    import onnx
    from onnx import defs

    if domain not in ("", "ai.onnx.ml"):
        return None
    try:
        schema = defs.get_schema(op_type, opset, domain)
    except defs.SchemaError:
        raise Refused(f"operator set {opset} has no such operator; the file is not valid ONNX") from None
    if schema.deprecated:
        raise Refused(
            f"the operator is deprecated in operator set {opset}; use onnx.version_converter ({onnx.__version__})"
        )
    return schema


def check_form(schema: Any, node: Any) -> None:
    """Refuse a number of operands, and attributes, that the standard does not know, and attributes of the wrong kind.

    Raises
    ------
    Refused
    """
    if not schema.min_input <= len(node.input) <= schema.max_input:
        raise Refused(f"it has {len(node.input)} operands, operator set {schema.since_version} asks for another number")
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None:
            raise Refused(f"attribute {attribute.name!r} is unknown to operator set {schema.since_version}; remove it")
        if attribute.type != int(known.type.value):
            raise Refused(f"attribute {attribute.name!r} has the wrong type; the standard asks for {known.type.name}")


def clashing_types(schema: Any, node: Any, inputs: Sequence[AnyArray | Symbol | None]) -> str | None:
    """Return a description of two operands whose types must be equal and are not, else None."""
    seen: dict[str, tuple[str, str]] = {}
    for position, (name, value) in enumerate(zip(node.input, inputs, strict=True)):
        if value is None:
            continue
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        if position >= len(schema.inputs) - 1 and not formal.is_homogeneous:
            continue
        variable, dtype = formal.type_str, str(value.dtype)
        if variable in seen and seen[variable][1] != dtype:
            other, first = seen[variable]
            return f"{other!r} is {first} and {name!r} is {dtype}"
        seen.setdefault(variable, (name, dtype))
    return None


def outline(
    schema: Any, node: Any, inputs: Sequence[AnyArray | Symbol | None], opsets: Mapping[str, int]
) -> list[Outline]:
    """Infer the outputs of a node, and refuse sizes nobody embeds before memory is taken.

    Raises
    ------
    Refused
        If the standard's own inference rejects the node.
    ModelFileError
        If a result is too large.
    """
    from onnx import helper, numpy_helper, shape_inference

    types, data = {}, {}
    for name, value in zip(node.input, inputs, strict=True):
        if value is None or value.dtype == object:
            continue
        code = _code(str(value.dtype))
        types[name] = helper.make_tensor_type_proto(code, value.shape)
        if isinstance(value, np.ndarray) and value.size <= _SMALL and value.ndim <= 1:
            data[name] = numpy_helper.from_array(value, name)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    if any(name and name not in types for name in node.input):
        return []
    try:
        found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    except (shape_inference.InferenceError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise Refused(f"the standard's shape inference rejects it ({reason}); the file is not valid ONNX") from None
    outlines = [_outline(found.get(name)) for name in node.output]
    for name, result in zip(node.output, outlines, strict=True):
        if result.shape is not None:
            check_count(math.prod(result.shape), f"tensor {name!r}")
    return outlines


def _outline(proto: Any) -> Outline:
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.elem_type:
        return Outline("float32", None)
    dtype = element_type(proto.tensor_type.elem_type)
    dims = proto.tensor_type.shape.dim
    known = proto.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims)
    return Outline(dtype, tuple(d.dim_value for d in dims) if known else None)


def _code(dtype: str) -> int:
    """Return ONNX's number of an element type."""
    import onnx

    name = {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
    return int(onnx.TensorProto.DataType.Value(name))


def fold(node: Any, inputs: Sequence[AnyArray | None], opsets: Mapping[str, int]) -> list[AnyArray]:
    """Evaluate a node with constant operands by onnx's reference evaluator.

    Raises
    ------
    Refused
        If it is random, has a subgraph, or cannot be evaluated.
    """
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    if node.op_type in _RANDOM:
        raise Refused("its result is random; replace it by a constant")
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        raise Refused("it has subgraphs (control flow); simplify the model first, for example with onnxsim")
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    ins = [
        helper.make_tensor_value_info(n, _code(str(v.dtype)), v.shape) for n, v in feeds.items() if v.dtype != object
    ]
    outs = [helper.make_tensor_value_info(n, 1, None) for n in node.output if n]
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        model = helper.make_model(helper.make_graph([node], "fold", ins, outs), opset_imports=imports)
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, feeds)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise Refused(f"its constant value cannot be computed ({type(error).__name__}: {error})") from None
    found = iter(results)
    return [np.asarray(next(found)) if name else np.zeros(0) for name in node.output]
