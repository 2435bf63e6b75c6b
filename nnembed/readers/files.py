"""Open ONNX files from anywhere: nothing is trusted before it is measured."""

from __future__ import annotations

import gzip
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nnembed.errors import ModelFileError

MAX_BYTES = 2**31 - 1  # protobuf's own limit
_OTHERS = {
    b"PK\x03\x04": "a zip archive (a PyTorch .pt or Keras .keras file?); export the network to ONNX first",
    b"\x89HDF": "an HDF5 file (Keras?); export the network to ONNX first, for example with tf2onnx",
    b"\x80": "a Python pickle; export the network to ONNX first, for example with skl2onnx or torch.onnx.export",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with 'git lfs pull'",
}


@dataclass(frozen=True, eq=False)
class Original:
    """An opened model.

    Attributes
    ----------
    model : onnx.ModelProto
        As in the file; external weights are not in it.
    blob : bytes
        The serialised model, for the runtime that replays it.
    path : Path or None
        Where it came from; external weights lie beside it.
    label : str
        How messages call it.
    """

    model: Any
    blob: bytes
    path: Path | None
    label: str

    @property
    def folder(self) -> Path | None:
        """The folder external weights must lie in; None when there is none."""
        if self.path is None or self.path.suffix == ".gz":
            return None
        return self.path.parent


def open_model(source: Any) -> Original:
    """Open an ONNX model.

    Parameters
    ----------
    source : str, Path, bytes, file object or onnx.ModelProto
        A path may end in ``.gz``.

    Raises
    ------
    ModelFileError
        If there is no complete ONNX model of less than 2 GiB; the message says what to do.
    """
    if hasattr(source, "SerializeToString"):
        return _from_proto(source)
    path: Path | None = None
    if isinstance(source, str | os.PathLike):
        path = Path(os.fspath(source))
        label, blob = str(path), _read_path(path)
    elif isinstance(source, bytes | bytearray | memoryview):
        label, blob = "the bytes given", bytes(source)
    elif hasattr(source, "read"):
        label = str(getattr(source, "name", "the file object given"))
        blob = _read_stream(source, label)
    else:
        raise ModelFileError(
            f"cannot load a network from {type(source).__name__}; "
            "pass a path, bytes, a file object or an onnx.ModelProto"
        )
    if blob[:2] == b"\x1f\x8b":
        blob = _gunzip(blob, label)
    return Original(_parse(blob, label), blob, path, label)


def _read_path(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelFileError(f"{path} is a folder; pass the .onnx file in it")
        _check_size(size, str(path))
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist; check the path (relative to {Path.cwd()})") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error


def _read_stream(stream: IO[bytes], label: str) -> bytes:
    blob = stream.read(MAX_BYTES + 1)
    if isinstance(blob, str):
        raise ModelFileError(f"{label} is opened as text; open it with mode 'rb'")
    _check_size(len(blob), label)
    return blob


def _gunzip(blob: bytes, label: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(blob)) as stream:
            plain = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError) as error:
        raise ModelFileError(f"{label} is a damaged gzip file ({error}); fetch it again") from error
    _check_size(len(plain), label)
    return plain


def _check_size(size: int, label: str) -> None:
    if size > MAX_BYTES:
        raise ModelFileError(
            f"{label} is larger than 2 GiB, the limit of an ONNX file; save the weights as external data "
            "(onnx.save(model, path, save_as_external_data=True))"
        )


def _parse(blob: bytes, label: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

    if not blob:
        raise ModelFileError(f"{label} is empty; export or fetch the model again")
    for magic, kind in _OTHERS.items():
        if blob.startswith(magic):
            raise ModelFileError(f"{label} is not an ONNX model but {kind}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(blob)
    except DecodeError as error:
        raise ModelFileError(
            f"{label} is not an ONNX model, or it is truncated ({len(blob)} bytes); export or fetch it again"
        ) from error
    _check_complete(model, label)
    return model


def _check_complete(model: Any, label: str) -> None:
    if not model.graph.output or not model.ir_version:
        raise ModelFileError(f"{label} holds no ONNX graph (truncated, or another format); export or fetch it again")
    if not model.opset_import:
        raise ModelFileError(
            f"{label} declares no operator set; it is truncated or was not written by an ONNX exporter"
        )


def _from_proto(model: Any) -> Original:
    import onnx
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped,unused-ignore]

    if not isinstance(model, onnx.ModelProto):
        raise ModelFileError(f"expected an onnx.ModelProto, got {type(model).__name__}; wrap a graph with make_model")
    try:
        blob = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelFileError(
            f"the onnx.ModelProto cannot be serialised ({error}); a model over 2 GiB must be saved with external data "
            "and loaded from its path"
        ) from error
    _check_size(len(blob), "the onnx.ModelProto")
    _check_complete(model, "the onnx.ModelProto")
    return Original(model, blob, None, "the onnx.ModelProto")
