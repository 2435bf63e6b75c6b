"""Random ReLU networks of the literature on walks: PyTorch's default initialisation, reproduced without PyTorch.

Shapes are written ``100-500x3``: 100 inputs, three hidden layers of 500, one output, to be maximised over the unit box.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

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
