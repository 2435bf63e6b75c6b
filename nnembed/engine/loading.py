"""Loading networks with the readers of all plugins."""

from __future__ import annotations

from typing import Any

from nnembed.hooks.manager import registry
from nnembed.ir.network import Network
from nnembed.keywords import explicit


@explicit
def load(source: Any, *, check: bool = True) -> Network:
    """Load a trained network from an ONNX model.

    Parameters
    ----------
    source : str, Path, bytes, file object or onnx.ModelProto
        The model; a path may end in ``.gz``. Weights saved beside the model need a path.
    check : bool
        Compare with the original model on random points: onnxruntime if it is installed, else onnx's reference
        evaluator.

    Returns
    -------
    Network

    Raises
    ------
    ModelFileError
        If the file cannot be used. `UnsupportedOperators` lists every operator without an exact reading at once,
        `ExternalDataError` says what is wrong with weights beside the file, `SelfCheckFailed` that the network as
        read and the original disagree.
    """
    from nnembed.readers import load as read

    return read(source, check=check, readers=registry().readers())
