"""ONNX files become networks here, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nnembed.errors import ModelFileError, UnsupportedOperators
from nnembed.protocols import OpReader
from nnembed.readers.registry import BuiltinReader, builtin_readers, reads

if TYPE_CHECKING:
    from nnembed.ir.network import Network
    from nnembed.readers.files import Original
    from nnembed.readers.graph import GraphReader, NodeRecord

__all__ = ["BuiltinReader", "builtin_readers", "load", "reads", "survey"]


def load(source: Any, *, check: bool = True, readers: Iterable[OpReader] | None = None) -> Network:
    """Load a trained network.

    Parameters
    ----------
    source : str, Path, bytes, file object or onnx.ModelProto
        The ONNX model; a path may end in ``.gz``. Weights saved beside the model need a path.
    check : bool
        Compare with the original model on random points (onnxruntime, else onnx's reference evaluator).
    readers : iterable of OpReader, optional
        Operator readers; the built-in ones by default.

    Returns
    -------
    Network

    Raises
    ------
    ModelFileError
        If the file cannot be used; `UnsupportedOperators` lists every operator without an exact reading,
        `ExternalDataError` says what is wrong with weights beside the file, `SelfCheckFailed` that the network as read
        and the original disagree.
    """
    from dataclasses import replace

    from nnembed.ir.simplify import simplify
    from nnembed.readers.reference import OriginalModel

    original, reader = _read(source, readers)
    network, outputs = _labelled(original, reader.network)
    path = original.path if reader.external else None
    reference = OriginalModel(original.blob, path, reader.inputs, outputs)
    network = replace(simplify(network), reference=reference)
    if check:
        _labelled(original, lambda: network.self_check(samples=16))
    return network


def survey(source: Any, *, readers: Iterable[OpReader] | None = None) -> list[NodeRecord]:
    """Say for every node of a model whether it is read exactly, and why not.

    Parameters
    ----------
    source, readers
        As in `load`.

    Returns
    -------
    list of NodeRecord
        In the order of the file.

    Raises
    ------
    ModelFileError
        If the file as a whole cannot be used; refused operators are in the result instead.
    """
    return _read(source, readers)[1].records


def _read(source: Any, readers: Iterable[OpReader] | None) -> tuple[Original, GraphReader]:
    from nnembed.readers.files import open_model
    from nnembed.readers.graph import GraphReader

    original = open_model(source)

    def walk() -> GraphReader:
        reader = GraphReader(original, builtin_readers() if readers is None else readers)
        reader.run()
        return reader

    return original, _labelled(original, walk)


def _labelled(original: Original, step: Any) -> Any:
    """Run a step; its errors say which file they are about."""
    try:
        return step()
    except UnsupportedOperators:
        raise
    except ModelFileError as error:
        raise type(error)(f"{original.label}: {error}") from error
