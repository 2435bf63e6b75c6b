"""Checks of surrogates (provisional): a twin has the network's shape, and its error bound holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.box import Bounds, input_bounds
from nnembed.bounds.interval import Interval
from nnembed.ir.network import Network
from nnembed.options import Budget
from nnembed.protocols import Surrogate
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.networks import chain

_SAMPLES = 10_000


def _case() -> tuple[Network, Bounds, Array]:
    """Return a network, bounds on a box and calibration samples."""
    network = chain([(12, "relu"), (10, "relu"), (2, "none")], 4, np.random.default_rng(9))
    low, high = -np.ones(4), np.full(4, 0.5)
    bounds = Interval().tighten(network, input_bounds(network, (low, high)), Budget())
    return network, bounds, np.random.default_rng(1).uniform(low, high, (200, 4))


def _built(surrogate: Surrogate, config: Config) -> tuple[Network, Bounds, Any]:
    network, bounds, samples = _case()
    twin = surrogate.build(network, bounds, samples, config.budget)
    assert hasattr(twin, "network") and hasattr(twin, "error_bound"), "a twin has a network and an error_bound"
    return network, bounds, twin


@since("0.1")
def check_surrogate_declares(surrogate: Surrogate, config: Config = DEFAULT) -> None:
    """Check: name, words and soundness are there and of the right type."""
    assert surrogate.name and surrogate.summary, "name and summary must be there"
    assert isinstance(surrogate.sound, bool), "sound must be True or False"


@since("0.1")
def check_twin_has_the_same_shape(surrogate: Surrogate, config: Config = DEFAULT) -> None:
    """Check: inputs and outputs of the twin are those of the network, by name and shape."""
    network, _, twin = _built(surrogate, config)
    for ours, theirs in ((network.inputs, twin.network.inputs), (network.outputs, twin.network.outputs)):
        assert [(s.name, s.shape) for s in ours] == [(s.name, s.shape) for s in theirs], (
            "inputs or outputs were changed"
        )


@since("0.1")
def check_error_bound(surrogate: Surrogate, config: Config = DEFAULT) -> None:
    """Check: no sample of the box has an error beyond the claimed bound."""
    network, bounds, twin = _built(surrogate, config)
    if twin.error_bound is None or not surrogate.sound:
        raise Unmet("no error bound is claimed for the whole box")
    low, high = bounds.low["x"][0], bounds.high["x"][0]
    rng = np.random.default_rng(2)
    points = rng.uniform(low, high, (_SAMPLES, network.input_size))
    corners = np.where(rng.random(points.shape) < 0.5, low, high)
    points = np.concatenate([points, corners])
    error = np.abs(network(points) - twin.network(points)).max(axis=0)
    claimed = np.broadcast_to(np.asarray(getattr(twin.error_bound, "value", twin.error_bound), float), error.shape)
    assert (error <= claimed + 1e-9).all(), f"errors of {error.tolist()} on samples, {claimed.tolist()} are claimed"


@since("0.1")
def check_twin_is_deterministic(surrogate: Surrogate, config: Config = DEFAULT) -> None:
    """Check: the same network, samples and seed give the same twin."""
    first, second = (_built(surrogate, config)[2].network for _ in range(2))
    assert first.digest == second.digest, "two runs with the same seed give different twins"
