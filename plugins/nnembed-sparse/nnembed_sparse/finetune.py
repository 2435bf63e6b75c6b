"""Finetuning of what was kept with torch, for networks of dense layers; off unless asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnembed.aliases import Array
from nnembed.errors import Unavailable, UnsupportedFeature
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink

from nnembed_sparse.calibration import Calibration
from nnembed_sparse.loss import CrossEntropy, Squared
from nnembed_sparse.pruner import Pruned

_BATCH = 128
_RATE = 1e-3


def finetuned(calibration: Calibration, pruned: Pruned, epochs: int, seed: int) -> Array:
    """Return the weights after `epochs` of Adam; zeros stay zero; never worse than before on the samples.

    Raises
    ------
    Unavailable
        If torch is not installed.
    UnsupportedFeature
        If the network has other layers than dense ones with activations of two pieces or clips.
    """
    layout = pruned.layout
    _refuse_others(layout.network)
    torch = _torch()
    torch.manual_seed(seed)
    keep = torch.tensor(np.concatenate([pruned.vector[: layout.count] != 0, np.ones(layout.size - layout.count, bool)]))
    vector = torch.tensor(pruned.vector, dtype=torch.float64, requires_grad=True)
    inputs = {name: torch.tensor(x) for name, x in calibration.inputs.items()}
    optimiser = torch.optim.Adam([vector], lr=_RATE)
    best, value = pruned.vector, calibration.value(layout.rebuilt(pruned.vector))
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(calibration))
        for at in range(0, len(order), _BATCH):
            index = order[at : at + _BATCH]
            optimiser.zero_grad()
            y = _forward(torch, pruned, vector * keep, {name: x[index] for name, x in inputs.items()})
            _loss(torch, calibration.chosen(index), y).backward()
            optimiser.step()
        trial = (vector * keep).detach().numpy().copy()
        if (found := calibration.value(layout.rebuilt(trial))) < value:
            best, value = trial, found
    return best


def _torch() -> Any:
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise Unavailable("finetune= needs torch; pip install nnembed-sparse[finetune], or leave finetune=0") from None
    return torch


def _refuse_others(network: Network) -> None:
    for node in network.nodes:
        if isinstance(node, Affine) and all(isinstance(op, Dense) for op in node.operators):
            continue
        if not isinstance(node, Kink | Clip):
            raise UnsupportedFeature(f"finetune= is for dense layers, {node.name!r} is another one; leave finetune=0")


def _forward(torch: Any, pruned: Pruned, vector: Any, state: dict[str, Any]) -> Any:
    layout = pruned.layout
    weights = {(p.node, p.operator): (p, c) for p, c in zip(layout.weights, layout.centres, strict=True)}
    biases = {p.node: p for p in layout.biases}
    for k, node in enumerate(layout.network.nodes):
        if isinstance(node, Affine):
            total = torch.tensor(node.bias)
            if k in biases:
                total = total + vector[biases[k].span]
            for i, source in enumerate(node.inputs):
                part, centre = weights[k, i]
                w = vector[part.span].reshape(part.rows, part.columns)
                start = torch.tensor(layout.start[part.span].reshape(part.rows, part.columns))
                total = total + state[source] @ w.T + (start - w) @ torch.tensor(centre[0])
            state[node.output] = total
            continue
        g = state[node.inputs[0]]
        if isinstance(node, Kink):
            state[node.output] = torch.where(g > 0, torch.tensor(node.right) * g, torch.tensor(node.left) * g)
        elif isinstance(node, Clip):
            state[node.output] = torch.clamp(g, torch.tensor(node.lower), torch.tensor(node.upper))
    return torch.cat([state[spec.name] for spec in layout.network.outputs], dim=1)


def _loss(torch: Any, calibration: Calibration, y: Any) -> Any:
    loss = calibration.loss
    if isinstance(loss, CrossEntropy):
        return -(torch.tensor(loss.target) * torch.log_softmax(y / loss.temperature, dim=1)).sum(dim=1).mean()
    assert isinstance(loss, Squared)
    return (((y - torch.tensor(loss.target)) / torch.tensor(loss.scale)) ** 2).sum(dim=1).mean() / 2
