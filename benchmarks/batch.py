"""One network at many points, each with a box of its own, through `nnembed.embed`."""

from __future__ import annotations

from typing import Any

import numpy as np
from meter import Meter
from ours import IMPORTS, LINOPY, Observer, preload

import nnembed as nn
from nnembed.hooks.manager import registry
from nnembed.ir.network import Network
from nnembed.testing import chain


def embed(points: int, way: str) -> dict[str, Any]:
    """Measure embedding a random 10-32-32-1 network at a number of points, in arrays or in an `nnembed.Model`."""
    preload((*IMPORTS, *LINOPY) if way == "nnembed:model" else IMPORTS)
    network = chain([(32, "relu"), (32, "relu"), (1, "none")], 10, np.random.default_rng(0))
    lower = np.random.default_rng(1).uniform(-1, 0, (points, 10))
    put = in_model if way == "nnembed:model" else in_arrays
    put(network, lower[:1] - 1)  # what is imported or set up once is not part of the work
    meter = Meter()
    observer = Observer(meter)
    registry().plugins.register(observer)
    meter.restart()
    embedding = put(network, lower)
    meter.lap("attach")
    block = embedding.block
    sizes = {"rows": block.n_rows, "columns": block.n_columns, "binaries": int(block.binaries)}
    forms = sorted({line.formulation for line in embedding.plan.lines})
    return meter.record() | sizes | {"unstable": observer.unstable, "forms": forms}


def in_arrays(network: Network, lower: np.ndarray) -> Any:
    """Embed in a model of plain arrays."""
    model = nn.ArrayModel(lower.ravel(), lower.ravel() + 1)
    return nn.embed(model, network, np.arange(lower.size).reshape(lower.shape), attach=False)


def in_model(network: Network, lower: np.ndarray) -> Any:
    """Embed in a `nnembed.Model`, the variables made as well."""
    import pandas as pd

    model = nn.Model()
    points, features = pd.RangeIndex(len(lower), name="point"), pd.RangeIndex(lower.shape[1], name="feature")
    x = model.add_variables(lower, lower + 1, coords=[points, features], name="x")
    return nn.embed(model, network, x, attach=False)
