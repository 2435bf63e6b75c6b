"""Networks for the studies: trained here with Adam and L1 proximal steps, deterministic, kept in a temporary folder.

Classifiers of scikit-learn's bundled digits, and regressors of smooth functions of 2 to 10 inputs. NumPy does the
training, so that the same seed gives the same network wherever NumPy rounds alike.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from generate import Layers, write_chain

import nnembed as nn

_STEPS, _BATCH, _RATE = 1500, 64, 3e-3


@dataclass(frozen=True)
class Recipe:
    """How to train one network.

    Attributes
    ----------
    kind : str
        "digits", or a function to learn: "peaks" (2 inputs), "ackley", "waves" (any number).
    inputs, width, depth : int
        Depth counts hidden layers.
    l1 : float
        Weight of the sum of absolute weights beside the mean loss.
    seed : int
    """

    kind: str
    inputs: int
    width: int
    depth: int
    l1: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Unique name."""
        penalty = f"_l1-{self.l1:g}" if self.l1 else ""
        return f"{self.kind}{self.inputs}_{self.width}x{self.depth}{penalty}_s{self.seed}"


@dataclass(frozen=True)
class Instance:
    """Maximise ``weights @ network(x)`` over a box."""

    name: str
    network: nn.Network
    box: tuple[np.ndarray, np.ndarray]
    weights: np.ndarray


@cache
def samples(kind: str, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, k) and targets: labels (n,) for digits, values (n, 1) else."""
    if kind == "digits":
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        return images / 16, labels
    x = np.random.default_rng(1).uniform(-1, 1, (4000, inputs))
    if kind == "peaks":
        u, v = 3 * x[:, 0], 3 * x[:, 1]
        y = (
            3 * (1 - u) ** 2 * np.exp(-(u**2) - (v + 1) ** 2)
            - 10 * (u / 5 - u**3 - v**5) * np.exp(-(u**2) - v**2)
            - np.exp(-((u + 1) ** 2) - v**2) / 3
        )
    elif kind == "ackley":
        y = 20 * np.exp(-0.4 * np.sqrt((x**2).mean(axis=1))) + np.exp(np.cos(2 * np.pi * x).mean(axis=1))
    else:
        phase = np.random.default_rng(2).normal(size=(inputs, 6))
        y = np.sin(2 * x @ phase / np.sqrt(inputs)).sum(axis=1)
    y = (y - y.mean()) / y.std()
    return x, y[:, None]


def trained(recipe: Recipe) -> Layers:
    """Return the layers, weights (out, in) and biases, from the cache if they are there."""
    folder = Path(os.environ.get("NNEMBED_STUDY_CACHE") or Path(tempfile.gettempdir()) / "nnembed-study-1")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{recipe.name}.npz"
    if not path.exists():
        layers = _train(recipe)
        handle, scratch = tempfile.mkstemp(dir=folder, suffix=".npz")
        os.close(handle)
        np.savez(scratch, **{f"{k}_{i}": a for i, pair in enumerate(layers) for k, a in zip("wb", pair, strict=True)})
        Path(scratch).replace(path)
    with np.load(path) as kept:
        return [(kept[f"w_{i}"], kept[f"b_{i}"]) for i in range(recipe.depth + 1)]


def _train(recipe: Recipe) -> Layers:
    x, y = samples(recipe.kind, recipe.inputs)
    rng = np.random.default_rng(recipe.seed)
    widths = [recipe.inputs, *[recipe.width] * recipe.depth, 10 if recipe.kind == "digits" else 1]
    parameters = [rng.normal(size=(m, n)) * np.sqrt(2 / n) for n, m in pairwise(widths)]
    parameters += [np.zeros(m) for m in widths[1:]]
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    deep = recipe.depth + 1
    for step in range(1, _STEPS + 1):
        batch = rng.integers(len(x), size=_BATCH)
        gradients = _gradients(parameters[:deep], parameters[deep:], x[batch], y[batch])
        rate = _RATE * (1 - step / (_STEPS + 1))
        for k, gradient in enumerate(gradients):
            first[k] += 0.1 * (gradient - first[k])
            second[k] += 0.001 * (gradient**2 - second[k])
            pace = rate / (np.sqrt(second[k] / (1 - 0.999**step)) + 1e-4)
            parameters[k] = parameters[k] - pace * first[k] / (1 - 0.9**step)
            if k < deep and recipe.l1:  # the proximal step in the metric of Adam's step
                shrunk = np.abs(parameters[k]) - pace * recipe.l1
                parameters[k] = np.sign(parameters[k]) * np.maximum(shrunk, 0.0)
    return list(zip(parameters[:deep], parameters[deep:], strict=True))


def _gradients(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray
) -> list[np.ndarray]:
    """Return the gradients of the mean loss: cross entropy for labels, squares for values."""
    layers = [x]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(np.maximum(layers[-1] @ w.T + b, 0))
    out = layers[-1] @ weights[-1].T + biases[-1]
    if y.ndim == 1:
        share = np.exp(out - out.max(axis=1, keepdims=True))
        delta = share / share.sum(axis=1, keepdims=True) - np.eye(out.shape[1])[y]
    else:
        delta = 2 * (out - y)
    delta = delta / len(x)
    for_weights, for_biases = [], []
    for w, inside in zip(reversed(weights), reversed(layers), strict=True):
        for_weights.append(delta.T @ inside)
        for_biases.append(delta.sum(axis=0))
        delta = (delta @ w) * (inside > 0)
    return [*reversed(for_weights), *reversed(for_biases)]


def network(recipe: Recipe, decimals: int | None = None) -> nn.Network:
    """Return the network as it is read from ONNX, weights in float32 or rounded to decimals before."""
    layers = trained(recipe)
    if decimals is not None:
        layers = [(np.round(w, decimals), np.round(b, decimals)) for w, b in layers]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{recipe.name}.onnx"
        write_chain(path, layers)
        return nn.load(path)


def accuracy(net: nn.Network, recipe: Recipe) -> float:
    """Return the share of digits classified right, or the coefficient of determination."""
    x, y = samples(recipe.kind, recipe.inputs)
    found: Any = net(x)
    if recipe.kind == "digits":
        return float((found.argmax(axis=1) == y).mean())
    return float(1 - ((found - y) ** 2).mean() / y.var())


def digit_instance(net: nn.Network, image: int, eps: float | None) -> Instance:
    """Let the runner-up overtake the true class in a ball around an image, or on the whole box without `eps`."""
    x, labels = samples("digits", 64)
    scores = np.array(net(x[image]), float)
    label = labels[image]
    scores[label] = -np.inf
    weights = np.zeros(10)
    weights[int(scores.argmax())], weights[label] = 1.0, -1.0
    radius = 1.0 if eps is None else eps
    box = np.clip(x[image] - radius, 0, 1), np.clip(x[image] + radius, 0, 1)
    where = "whole" if eps is None else f"e{eps:g}"
    return Instance(f"{net.name}_i{image}_{where}", net, box, weights)


def regressor_instance(net: nn.Network, share: float = 1.0) -> Instance:
    """Find the largest value over the cube ``[-share, share]^k``."""
    k = net.inputs[0].size
    return Instance(f"{net.name}_c{share:g}", net, (np.full(k, -share), np.full(k, share)), np.ones(1))
