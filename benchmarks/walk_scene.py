"""The maximisation of a network's output over the unit box, as heuristics see it."""

from __future__ import annotations

from typing import Any

import numpy as np


def scene_of(network: Any, limit: float | None = None) -> Any:
    """Return the scene; the bounds of the network are computed here, in a fifth of the limit as `nn.maximize` does."""
    from nnembed.embedding import embeddings_of
    from nnembed.engine.embed import embed_for
    from nnembed.heuristics.scene import Scene
    from nnembed.hosts.arrays import ArrayHost, ArrayModel
    from nnembed.options import Budget, Options
    from nnembed.problem import Overlay, overlay

    n = network.inputs[0].size
    model = ArrayModel(np.zeros(n), np.ones(n), maximize=True)
    budget = Budget(None if limit is None else 0.2 * limit)
    embed_for(Options(), model, network, np.arange(n), attach=False, budget=budget)
    model.cost = np.r_[np.zeros(n), 1.0]
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in embeddings_of(model).values()]
    return Scene(overlay(ArrayHost().compile(model), layers))
