"""Random ReLU networks of the literature on walks: PyTorch's default initialisation, reproduced without PyTorch.

Shapes are written ``100-500x3``: 100 inputs, three hidden layers of 500, one output, to be maximised over the unit box.

    python benchmarks/walk_nets.py --onnx folder --shapes 100-500x3 10-100x1 --seeds 50 51

writes them as ONNX files, with the weights in single precision as they were drawn.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # behind everything: an installed nnembed wins

from nnembed.aliases import Array
from nnembed.errors import InputError
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Node, relu


def sizes_of(shape: str) -> list[int]:
    """Return the layer widths of a shape, inputs and output included; ``10-100-1`` lists them one by one."""
    if match := re.fullmatch(r"(\d+)-(\d+)x(\d+)", shape):
        inputs, width, depth = map(int, match.groups())
        return [inputs, *[width] * depth, 1]
    if not re.fullmatch(r"\d+(-\d+)+", shape):
        raise InputError(f"{shape!r} is no shape; write it like '100-500x3' or '100-50-20-1'")
    return [int(part) for part in shape.split("-")]


def random_weights(sizes: list[int], seed: int) -> list[tuple[Array, Array]]:
    """Return float32 (weight, bias) per layer, every entry uniform in +-1/sqrt(fan in), as ``torch.manual_seed``."""
    state = np.random.RandomState(seed)
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        k = np.float32(1.0 / np.sqrt(fan_in))
        draws = state.randint(0, 2**32, size=fan_out * fan_in + fan_out, dtype=np.uint32)
        unit = (draws & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)
        entries = unit * (2 * k) - k
        layers.append((entries[: fan_out * fan_in].reshape(fan_out, fan_in), entries[fan_out * fan_in :]))
    return layers


def random_net(shape: str, seed: int) -> Network:
    """Return the network of a shape and seed, without reference model."""
    sizes = sizes_of(shape)
    tensors = {"x": TensorSpec("x", (sizes[0],))}
    nodes: list[Node] = []
    layers, current = random_weights(sizes, seed), "x"
    for i, (weight, bias) in enumerate(layers):
        pre, post = f"pre_{i}", f"post_{i}"
        dense = Dense(weight.astype(float))
        nodes.append(Affine(f"affine_{i}", (current,), pre, (dense,), bias.astype(float)))
        tensors[pre] = TensorSpec(pre, (len(bias),))
        current = pre
        if i < len(layers) - 1:
            nodes.append(relu(f"relu_{i}", pre, post, len(bias)))
            tensors[post] = TensorSpec(post, (len(bias),))
            current = post
    return Network((tensors["x"],), (tensors[current],), tuple(nodes), tensors, name=f"{shape}_{seed}")


def write(folder: Path, shape: str, seed: int) -> Path:
    """Write one network as ONNX, the batch of its input and output open, and return the file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    layers, current = random_weights(sizes_of(shape), seed), "x"
    nodes, constants = [], []
    for i, (weight, bias) in enumerate(layers):
        last = i == len(layers) - 1
        constants += [numpy_helper.from_array(weight, f"W{i}"), numpy_helper.from_array(bias, f"b{i}")]
        pre = "y" if last else f"pre{i}"
        nodes.append(helper.make_node("Gemm", [current, f"W{i}", f"b{i}"], [pre], transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [pre], [f"post{i}"]))
        current = f"post{i}"
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])]
        for name, size in (("x", layers[0][0].shape[1]), ("y", layers[-1][0].shape[0]))
    ]
    graph = helper.make_graph(nodes, f"{shape}_{seed}", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{shape}_{seed}.onnx"
    onnx.save(model, path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Write files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, metavar="DIR", required=True, help="where the files go")
    parser.add_argument("--shapes", nargs="+", default=["10-100x1", "100-100x2", "100-500x3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[50])
    given = parser.parse_args(arguments)
    for shape in given.shapes:
        for seed in given.seeds:
            print(write(given.onnx, shape, seed))


if __name__ == "__main__":
    main()
