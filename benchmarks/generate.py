"""Train the small networks that stand in for the yardstick's, and write them as ONNX; ``python generate.py FOLDER``.

Needs scikit-learn. Deterministic up to its version.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Layers = Sequence[tuple[np.ndarray, np.ndarray]]


def write_chain(path: Path, layers: Layers) -> None:
    """Write a float32 chain of Gemm and Relu; weights are (out, in)."""
    nodes: list[Any] = []
    initializers = []
    for k, (weights, bias) in enumerate(layers):
        source = "x" if k == 0 else f"h{k}"
        target = "y" if k == len(layers) - 1 else f"z{k + 1}"
        initializers += [
            numpy_helper.from_array(weights.astype(np.float32), f"w{k}"),
            numpy_helper.from_array(bias.astype(np.float32), f"b{k}"),
        ]
        nodes.append(helper.make_node("Gemm", [source, f"w{k}", f"b{k}"], [target], f"gemm{k}", transB=1))
        if target != "y":
            nodes.append(helper.make_node("Relu", [target], [f"h{k + 1}"], f"relu{k}"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", int(size)])
        for name, size in (("x", layers[0][0].shape[1]), ("y", len(layers[-1][1])))
    ]
    graph = helper.make_graph(nodes, path.stem, ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def layers_of(model: Any) -> Layers:
    """Return the layers of a scikit-learn MLP."""
    return [(w.T, b) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]


def peaks(folder: Path) -> list[dict[str, Any]]:
    """Regressor of a smooth bumpy function of two inputs."""
    from sklearn.neural_network import MLPRegressor

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 2))
    u, v = 3 * x[:, 0], 3 * x[:, 1]
    y = (
        3 * (1 - u) ** 2 * np.exp(-(u**2) - (v + 1) ** 2)
        - 10 * (u / 5 - u**3 - v**5) * np.exp(-(u**2) - v**2)
        - np.exp(-((u + 1) ** 2) - v**2) / 3
    )
    net = MLPRegressor(hidden_layer_sizes=(12, 12), random_state=0, max_iter=150).fit(x, y)
    write_chain(folder / "peaks_12x2.onnx", layers_of(net))
    return [{"name": "peaks_12x2", "net": "peaks_12x2", "family": "trained", "lb": [-1] * 2, "ub": [1] * 2, "c": [1]}]


def digits(folder: Path) -> list[dict[str, Any]]:
    """Classifier of 8x8 digits; the runner-up is to overtake the true class in a small box."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    images, labels = load_digits(return_X_y=True)
    images = images / 16
    net = MLPClassifier(hidden_layer_sizes=(30, 30), random_state=0, max_iter=60).fit(images[100:], labels[100:])
    write_chain(folder / "digits_30x2.onnx", layers_of(net))
    tasks = []
    scores = net.predict_proba(images[:1])[0]
    runner_up = int(np.argsort(scores)[-2])
    for eps in (0.05, 0.1):
        weights = np.zeros(10)
        weights[runner_up], weights[labels[0]] = 1, -1
        low, high = np.clip(images[0] - eps, 0, 1), np.clip(images[0] + eps, 0, 1)
        sides = {"lb": low.tolist(), "ub": high.tolist(), "c": weights.tolist()}
        tasks.append({"name": f"digits_30x2_i0_e{eps}", "net": "digits_30x2", "family": "digits", **sides})
    return tasks


def scale(folder: Path) -> list[dict[str, Any]]:
    """Random 784-256x4-10, every neuron unstable: for building, not for solving."""
    rng = np.random.default_rng(0)
    sizes = [784, 256, 256, 256, 256, 10]
    layers = [(rng.normal(0, np.sqrt(2 / n), (m, n)), np.zeros(m)) for n, m in pairwise(sizes)]
    name = "scale_784-256x4-10"
    write_chain(folder / f"{name}.onnx", layers)
    weights = np.eye(10)[0].tolist()
    return [{"name": name, "net": name, "family": "scale", "lb": [-1] * 784, "ub": [1] * 784, "c": weights}]


def main() -> None:
    """Write everything beside the folder first, so that an interrupted run leaves no half of it."""
    folder = Path(sys.argv[1])
    folder.parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", message="Stochastic Optimizer")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        tasks = [*peaks(made), *digits(made), *scale(made)]
        (made / "tasks.json").write_text(json.dumps(tasks))
        if folder.exists():
            for item in made.iterdir():
                item.replace(folder / item.name)
        else:
            made.replace(folder)


if __name__ == "__main__":
    main()
