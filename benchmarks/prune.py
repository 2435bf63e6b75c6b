"""Pruning the small MNIST network of the pruning papers: accuracy and CPU seconds, method by method.

    python -m benchmarks.prune --seeds 0 1 2 3 4 --methods magnitude surgeon obc multi --sparsities 0.9 0.95 0.98
    python -m benchmarks.prune --random

The 10,000 test images are split into random halves: calibrated on one, judged on the other. ``--random`` prunes the
random networks of the heuristics' test bed without data, and says the error of the outputs on points of the box.
"""

from __future__ import annotations

import argparse
import gzip
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import nnembed as nn
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Node, relu

DATA = Path(os.environ.get("NNEMBED_DATA", Path(__file__).parents[2] / "shared" / "data"))
SHAPES = ([10, 100, 1], [100, 100, 100, 1], [100, 200, 200, 200, 1])
POINTS = 5000


def images() -> tuple[Any, Any]:
    """Return the 10,000 images, flat and in [0, 1], and their labels."""
    folder = DATA / "mnist_test"
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    x = np.frombuffer(raw, np.uint8).reshape(-1, 784) / 255.0
    return x, np.frombuffer(labels, np.uint8).astype(np.int64)


def accuracy(network: Network, x: Any, labels: Any) -> float:
    """Return the per cent of samples whose largest output is their label's."""
    return 100.0 * float((network(x).argmax(axis=1) == labels).mean())


def random_network(shape: list[int], seed: int) -> Network:
    """Return a network with the initialisation of the heuristics' test bed."""
    generator = np.random.RandomState(seed)
    tensors = {"x": TensorSpec("x", (shape[0],))}
    nodes: list[Node] = []
    source = "x"
    for i, (fan_in, width) in enumerate(pairwise(shape)):
        k = np.float32(1 / np.sqrt(fan_in))
        weight, bias = (_uniform(generator, n, k) for n in (width * fan_in, width))
        pre, post = f"pre_{i}", f"post_{i}"
        nodes.append(Affine(f"affine_{i}", (source,), pre, (Dense(weight.reshape(width, fan_in)),), bias))
        tensors[pre], source = TensorSpec(pre, (width,)), pre
        if i < len(shape) - 2:
            nodes.append(relu(f"relu_{i}", pre, post, width))
            tensors[post], source = TensorSpec(post, (width,)), post
    return Network((tensors["x"],), (tensors[source],), tuple(nodes), tensors, name="x".join(map(str, shape)))


def _uniform(generator: np.random.RandomState, n: int, k: np.float32) -> Any:
    draws = generator.randint(0, 2**32, size=n, dtype=np.uint32) & np.uint32(2**24 - 1)
    return (draws.astype(np.float32) * np.float32(2.0**-24) * (k + k) - k).astype(float)


def mnist_rows(methods: list[str], sparsities: list[float], seeds: list[int]) -> Iterator[tuple[Any, ...]]:
    """Yield (method, sparsity, seed, accuracy, recall balance, CPU seconds)."""
    network = nn.load(DATA / "mlpnet" / "mlpnet.onnx")
    x, labels = images()
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(x))
        own, judged = np.sort(order[: len(x) // 2]), np.sort(order[len(x) // 2 :])
        yield "dense", 0.0, seed, accuracy(network, x[judged], labels[judged]), 1.0, 0.0
        for method in methods:
            for sparsity in sparsities:
                started = time.process_time()
                twin = nn.surrogate(network, method, sparsity=sparsity, samples=x[own], labels=labels[own])
                spent = time.process_time() - started
                assert twin.report is not None
                balance = None if twin.report.agreement is None else twin.report.agreement.balance
                yield method, sparsity, seed, accuracy(twin.network, x[judged], labels[judged]), balance, spent


def random_rows(methods: list[str], sparsities: list[float], seeds: list[int]) -> Iterator[tuple[Any, ...]]:
    """Yield (shape, method, sparsity, seed, root mean square error over the spread of the output, CPU seconds)."""
    for shape in SHAPES:
        for seed in seeds:
            network = random_network(shape, seed)
            points = np.random.default_rng(seed).random((POINTS, shape[0]))
            points[::2] = points[::2].round()
            truth = network(points)
            for method in methods:
                for sparsity in sparsities:
                    started = time.process_time()
                    part = nn.surrogate(network, method, sparsity=sparsity, box=(0.0, 1.0), seed=1)
                    spent = time.process_time() - started
                    error = float(np.sqrt(((part.network(points) - truth) ** 2).mean()) / truth.std())
                    yield network.name, method, sparsity, seed, error, spent


def means(rows: list[tuple[Any, ...]], keys: int, columns: tuple[str, ...]) -> str:
    """Return a Markdown table of means over the seeds; the seed follows the first `keys` columns."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for row in rows:
        groups.setdefault(row[:keys], []).append(row[keys + 1 :])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for key, found in groups.items():
        values = np.array(found, float)
        text = [f"{m:.4g}" for m in values.mean(axis=0)]
        text[0] += f" ({values[:, 0].min():.4g} to {values[:, 0].max():.4g})"
        lines.append("| " + " | ".join([*map(str, key), *text]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", default=["magnitude", "surgeon", "obc", "multi"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.9, 0.95, 0.98])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--random", action="store_true", help="random networks without data instead")
    told = parser.parse_args()
    measure = random_rows if told.random else mnist_rows
    rows = []
    for row in measure(told.methods, told.sparsities, told.seeds):
        print(*row, flush=True)
        rows.append(row)
    if told.random:
        print(means(rows, 3, ("network", "method", "sparsity", "error (range)", "CPU s")))
    else:
        print(means(rows, 2, ("method", "sparsity", "accuracy % (range)", "recall balance", "CPU s")))


if __name__ == "__main__":
    main()
