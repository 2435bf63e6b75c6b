"""ONNX tensors as numpy arrays; sizes are checked before memory is taken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnembed.errors import ExternalDataError, ModelFileError

AnyArray = NDArray[Any]
LIMIT = 2**27  # entries of one tensor: 1 GiB of float64

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_READABLE = (*_FLOATS, "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def is_float(dtype: str) -> bool:
    """Return whether the element type is one of the floating-point types networks are read in."""
    return dtype in _FLOATS


def element_type(code: int) -> str:
    """Return numpy's name of an ONNX element type.

    Raises
    ------
    ModelFileError
        If the type is unknown.
    """
    import onnx

    if code not in onnx.TensorProto.DataType.values() or code == onnx.TensorProto.UNDEFINED:
        raise ModelFileError(f"element type {code} is unknown to onnx {onnx.__version__}; upgrade onnx")
    if code == onnx.TensorProto.STRING:
        return "string"
    name = str(onnx.TensorProto.DataType.Name(code)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return the numpy type of a name; bfloat16 is not numpy's own."""
    if dtype == "bfloat16":
        import onnx

        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
    return np.dtype(dtype)


def check_count(count: int, what: str) -> None:
    """Refuse sizes nobody embeds; `count` comes from the file.

    Raises
    ------
    ModelFileError
        If `count` is larger than the limit.
    """
    if count > LIMIT:
        raise ModelFileError(f"{what} would have {count} entries; nothing above {LIMIT} is read")


def to_array(tensor: Any, folder: Path | None) -> AnyArray:
    """Return an ONNX tensor in its own element type.

    Parameters
    ----------
    tensor : onnx.TensorProto
    folder : Path or None
        Where external data must lie.

    Raises
    ------
    ModelFileError
        If the stored numbers do not fill the declared shape.
    ExternalDataError
        If numbers are stored elsewhere and not in full inside `folder`.
    """
    import onnx
    from onnx import numpy_helper

    label = f"tensor {tensor.name!r}" if tensor.name else "a tensor"
    count = _count(tensor, label)
    if tensor.data_type == onnx.TensorProto.STRING:
        if len(tensor.string_data) != count:
            raise ModelFileError(f"{label}: {len(tensor.string_data)} strings stored for {count} entries")
        return np.array(list(tensor.string_data), dtype=object).reshape(tuple(tensor.dims))
    itemsize = _itemsize(tensor, label)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor = _with_external(tensor, itemsize * count, folder)
    else:
        _check_stored(tensor, itemsize, count, label)
    array: AnyArray = numpy_helper.to_array(tensor)
    return array


def sparse_to_array(sparse: Any, folder: Path | None) -> AnyArray:
    """Return a sparse ONNX tensor as a full array.

    Raises
    ------
    ModelFileError
        If it is too large or an index lies outside.
    """
    values, indices = to_array(sparse.values, folder), to_array(sparse.indices, folder)
    shape = tuple(int(d) for d in sparse.dims)
    check_count(math.prod(shape), f"sparse tensor {sparse.values.name!r}")
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), shape, mode="raise")
    out = np.zeros(math.prod(shape), dtype=values.dtype)
    if len(indices) and (indices.min() < 0 or indices.max() >= out.size):
        raise ModelFileError(f"sparse tensor {sparse.values.name!r} has an index outside its shape {shape}")
    out[indices] = values
    return out.reshape(shape)


def _count(tensor: Any, label: str) -> int:
    if any(d < 0 for d in tensor.dims):
        raise ModelFileError(f"{label} has a negative dimension {list(tensor.dims)}; the file is damaged")
    count = math.prod(tensor.dims)
    check_count(count, label)
    return count


def _itemsize(tensor: Any, label: str) -> int:
    name = element_type(tensor.data_type)
    if name == "bfloat16":  # not a type of numpy itself
        return 2
    if name not in _READABLE:
        raise ModelFileError(f"{label} holds {name} numbers, which are not read; convert the model to float32")
    return np.dtype(name).itemsize


def _check_stored(tensor: Any, itemsize: int, count: int, label: str) -> None:
    from onnx import helper

    if tensor.HasField("raw_data"):
        stored, want, unit = len(tensor.raw_data), count * itemsize, "bytes"
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        stored, want, unit = len(getattr(tensor, field)), count, "numbers"
    if stored != want:
        raise ModelFileError(
            f"{label} of shape {tuple(tensor.dims)} needs {want} {unit} but stores {stored}; the file is damaged, "
            "export or fetch it again"
        )


def _with_external(tensor: Any, size: int, folder: Path | None) -> Any:
    """Return a copy of `tensor` with its numbers read from the file beside the model."""
    import onnx

    path, offset = _locate(tensor, size, folder)
    with path.open("rb") as stream:
        stream.seek(offset)
        raw = stream.read(size)
    if len(raw) != size:
        raise ExternalDataError(f"tensor {tensor.name!r}: {path} ended early; fetch it again")
    return onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=raw)


def _locate(tensor: Any, size: int, folder: Path | None) -> tuple[Path, int]:
    """Return file and offset of external numbers after every check that needs no reading."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    label, location = f"tensor {tensor.name!r}", entries.get("location", "")
    if folder is None:
        raise ExternalDataError(
            f"{label} is stored outside the model, in {location!r}; pass the path of the (uncompressed) .onnx file, "
            "so that the file beside it can be found"
        )
    if not location or "\0" in location:
        raise ExternalDataError(f"{label} is stored outside the model but names no file; save the model again")
    path = (folder / location).resolve()
    inside = path.is_relative_to(folder.resolve())
    if Path(location).is_absolute() or ".." in Path(location).parts or not inside:
        raise ExternalDataError(
            f"{label} points to {location!r}, outside the model's folder {folder}; weights are only read from "
            "inside it: move the file there and save the model with a relative location"
        )
    if not path.is_file():
        raise ExternalDataError(f"{label}: its file {path} is missing; copy it beside the model")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError as error:
        raise ExternalDataError(f"{label}: offset or length is not a number; save the model again") from error
    there = path.stat().st_size
    if offset < 0 or length != size or offset + size > there:
        raise ExternalDataError(
            f"{label} of shape {tuple(tensor.dims)} needs {size} bytes at offset {offset} of {path}, which has {there} "
            f"bytes (declared length {length}); the files do not belong together, fetch both again"
        )
    return path, offset


def each_tensor(model: Any) -> list[Any]:
    """Return every tensor of a model, those in attributes and subgraphs included."""
    found: list[Any] = []
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            found += graph.initializer
            found += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            found += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
            graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    return found


def check_external(model: Any, folder: Path | None) -> bool:
    """Check where all external tensors lie before anything is loaded; return whether there are any.

    Raises
    ------
    ExternalDataError
        Naming the tensor and the file.
    """
    import onnx

    outside = [t for t in each_tensor(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in outside:
        label = f"tensor {tensor.name!r}"
        if tensor.data_type == onnx.TensorProto.STRING:
            raise ExternalDataError(f"{label} holds strings outside the model, which ONNX does not allow")
        _locate(tensor, _itemsize(tensor, label) * _count(tensor, label), folder)
    return bool(outside)
