"""``TransformationFactory("nnembed.embed")``: importing this module registers it with Pyomo."""

from __future__ import annotations

from typing import Any

from pyomo.common.config import ConfigDict, ConfigValue
from pyomo.core.base.transformation import Transformation, TransformationFactory

from nnembed.errors import InputError


@TransformationFactory.register("nnembed.embed", doc="Write a trained network into the model as one block (nnembed).")
class EmbedNetwork(Transformation):  # type: ignore[misc]
    """Apply `nnembed.embed` to a model.

    Options are those of `nnembed.embed`: ``network``, ``inputs`` (its `x`), ``name``, ``formulation``, ``bounds`` and
    ``attach``. The outputs are then ``model.<name>.outputs``.
    """

    CONFIG = ConfigDict("nnembed.embed")
    CONFIG.declare("network", ConfigValue(description="Network, or what nnembed.load takes"))
    CONFIG.declare("inputs", ConfigValue(description="the network's inputs"))
    CONFIG.declare("name", ConfigValue(default=None, domain=str, description="name of the block"))
    CONFIG.declare("formulation", ConfigValue(default="auto", description="name, or a dict layer -> name"))
    CONFIG.declare("bounds", ConfigValue(default="auto", description="bound methods, or finished Bounds"))
    CONFIG.declare("attach", ConfigValue(default=True, domain=bool, description="write the rows into the model"))

    def _apply_to(self, model: Any, **options: Any) -> None:
        import nnembed

        chosen = self.CONFIG(options).value()
        network, inputs = chosen.pop("network"), chosen.pop("inputs")
        if network is None or inputs is None:
            raise InputError("nnembed.embed needs network= and inputs=")
        if not isinstance(network, nnembed.Network):
            network = nnembed.load(network)
        nnembed.embed(model, network, inputs, **chosen)

    def _create_using(self, model: Any, **options: Any) -> Any:
        raise InputError(
            "nnembed.embed cannot create a copy: its inputs are variables of the original; clone() the model, take the "
            "variables from the clone and use apply_to"
        )
