"""Networks back into ONNX files."""

from __future__ import annotations

from pathlib import Path

from nnembed.errors import InputError
from nnembed.ir.network import Network
from nnembed.keywords import explicit
from nnembed.readers import load as read
from nnembed.report.files import write_atomic


@explicit
def save(network: Network, path: str | Path) -> float:
    """Write a network to an ONNX file, after reading it back and comparing.

    Parameters
    ----------
    network : Network
        As loaded, or changed: pruned, rewritten.
    path : path
        The file; written whole or not at all.

    Returns
    -------
    float
        Largest difference between the file, run by onnxruntime (else onnx's reference evaluator), and the network in
        float64, on 64 random points: the file holds float32 weights unless the network came with float64.

    Raises
    ------
    InputError
        If the network cannot be written.
    SelfCheckFailed
        If the file computes something else; nothing is written then.
    """
    from nnembed.hooks.manager import registry
    from nnembed.ir.check import compare
    from nnembed.writers.graph import to_onnx

    if not isinstance(network, Network):
        raise InputError(f"save needs a network from nnembed.load or nnembed.surrogate, got {type(network).__name__}")
    blob = to_onnx(network).SerializeToString()
    written = read(blob, check=False, readers=registry().readers())
    assert written.reference is not None  # a network that was read has its file
    difference = compare(network, written.reference, 64, 0)
    write_atomic(path, blob)
    return difference
