"""The maximisation of a network's output over the unit box, as heuristics see it."""

from __future__ import annotations

from typing import Any

import numpy as np


def scene_of(network: Any) -> Any:
    """Return the scene; the bounds of the network are computed here."""
    from nnembed.embedding import embeddings_of
    from nnembed.engine.embed import embed
    from nnembed.heuristics.scene import Scene
    from nnembed.hosts.arrays import ArrayHost, ArrayModel
    from nnembed.problem import Overlay, overlay

    n = network.inputs[0].size
    model = ArrayModel(np.zeros(n), np.ones(n), maximize=True)
    embed(model, network, np.arange(n), attach=False)
    model.cost = np.r_[np.zeros(n), 1.0]
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in embeddings_of(model).values()]
    return Scene(overlay(ArrayHost().compile(model), layers))
