"""Small networks with every node kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Clip, Max, Node, Round, Step, Winner, absolute, leaky_relu, relu

#: the continuous ones
KINDS = ("relu", "leaky", "steep", "abs", "clip", "max", "none")
#: those that jump
JUMPS = ("step", "round", "winner")


def activation(kind: str, name: str, source: str, output: str, n: int, rng: np.random.Generator) -> Node:
    """Return an activation layer by a short name; ``steep`` is a leaky ReLU with slopes above one and below zero.

    A ``step`` goes up or down, neuron by neuron; a ``round`` has three levels and stairs of several sizes; a ``winner``
    has groups of up to three members.
    """
    if kind == "relu":
        return relu(name, source, output, n)
    if kind == "leaky":
        return leaky_relu(name, source, output, np.full(n, 0.1))
    if kind == "steep":
        return leaky_relu(name, source, output, rng.uniform(-2, 2, n))
    if kind == "abs":
        return absolute(name, source, output, n)
    if kind == "clip":
        return Clip(name, (source,), output, rng.uniform(-1, 0, n), rng.uniform(0.1, 1, n))
    if kind == "step":
        return Step(name, (source,), output, rng.normal(size=n), rng.normal(size=n))
    if kind == "round":
        sizes = rng.choice([0.25, 0.3, 1.0], n), rng.choice([0.5, 0.7, 1.0], n)
        low = rng.integers(-2, 1, n).astype(float)
        return Round(name, (source,), output, *sizes, low, low + 2, rng.choice(["even", "even", "down", "up"]))
    if kind == "winner":
        count = max(1, n // 3)
        return Winner(name, (source,), output, np.arange(n)[: min(n, 3 * count)].reshape(count, -1))
    if kind == "max":
        groups = np.stack([rng.choice(n, size=min(3, n), replace=True) for _ in range(max(1, n // 2))])
        return Max(name, (source,), output, groups)
    raise ValueError(f"unknown kind {kind!r}; one of {(*KINDS, *JUMPS)}")


def chain(layers: Sequence[tuple[int, str]], n_in: int, rng: np.random.Generator, *, skip: bool = False) -> Network:
    """Return a random network of affine layers, each followed by an activation.

    Parameters
    ----------
    layers : sequence of (width, kind)
        Kind as in `activation`, or "none".
    n_in : int
        Inputs.
    rng : Generator
    skip : bool
        Feed the input into every affine layer as well, so that the graph is no chain.
    """
    tensors = {"x": TensorSpec("x", (n_in,))}
    nodes: list[Node] = []
    current, size = "x", n_in
    for i, (width, kind) in enumerate(layers):
        pre, post = f"pre_{i}", f"post_{i}"
        sources = (current, "x") if skip and i else (current,)
        operators = tuple(Dense(rng.normal(size=(width, tensors[s].size)) / np.sqrt(size)) for s in sources)
        nodes.append(Affine(f"affine_{i}", sources, pre, operators, rng.normal(size=width) * 0.3))
        tensors[pre] = TensorSpec(pre, (width,))
        current, size = pre, width
        if kind != "none":
            node = activation(kind, f"{kind}_{i}", pre, post, width, rng)
            size = node.evaluate(np.zeros(width)).size
            nodes.append(node)
            tensors[post] = TensorSpec(post, (size,))
            current = post
    return Network((tensors["x"],), (tensors[current],), tuple(nodes), tensors, name="chain")


def random_network(seed: int, *, inputs: int = 2, width: int = 4, kinds: Sequence[str] = ("relu", "relu")) -> Network:
    """Return a small random network with one output and the given hidden activations."""
    rng = np.random.default_rng(seed)
    return chain([(width, kind) for kind in kinds] + [(1, "none")], inputs, rng)


def reference_networks() -> dict[str, Network]:
    """Return small networks by name that cover every node kind, alone, mixed and with a skip connection.

    Two or three inputs named ``x``, at most ten neurons, so that `enumerate_optimum` takes each of them.
    """
    found = {}
    for kind in (*KINDS[:-1], *JUMPS):
        sizes = (2, 2) if kind in ("clip", "round") else (3, 2)
        layers = [(sizes[0], kind), (sizes[1], kind), (2, "none")]
        found[kind] = chain(layers, 2, np.random.default_rng(len(kind)))
    rng = np.random.default_rng(11)
    found["affine"] = chain([(2, "none")], 2, rng)
    found["mixed"] = chain([(2, "relu"), (2, "abs"), (4, "max"), (1, "none")], 3, rng, skip=True)
    found["skip"] = chain([(3, "relu"), (3, "leaky"), (2, "none")], 2, rng, skip=True)
    return found
