"""Constants, and what a shape is known to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnembed.readers.context import ReadContext
from nnembed.readers.registry import Result, reads
from nnembed.readers.tensors import AnyArray, sparse_to_array


@reads("Constant", folds=True)
def _constant(context: ReadContext) -> Result:
    given = [a.name for a in context.node.attribute]
    if len(given) != 1:
        context.refuse(f"attributes {given}; exactly one value is expected")
    name = given[0]
    value: Any = context.attribute(name, None)
    if name == "value":
        return np.asarray(value)
    if name == "sparse_value":
        return sparse_to_array(value, context.folder)
    kinds: dict[str, Any] = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64}
    kinds |= {"value_ints": np.int64, "value_string": object, "value_strings": object}
    if name not in kinds:
        context.refuse(f"attribute {name} is unknown to the standard")
    constant: AnyArray = np.array(value, dtype=kinds[name])
    return constant


@reads("Shape", folds=True)
def _shape(context: ReadContext) -> Result:
    shape = context.operand(0).shape
    end = context.attribute("end", len(shape))
    return np.array(shape[slice(context.attribute("start", 0), end)], dtype=np.int64)


@reads("Size", folds=True)
def _size(context: ReadContext) -> Result:
    return np.array(int(np.prod(context.operand(0).shape, dtype=np.int64)), dtype=np.int64)
