"""The backend: what Gurobi accepts and can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnembed.errors import UnsupportedFeature
from nnembed.features import Availability, Capability, Feature, missing

from nnembed_gurobi.licence import licence_state

if TYPE_CHECKING:
    from nnembed.options import Options
    from nnembed.problem import Problem
    from nnembed.protocols import Session


class Gurobi:
    """Gurobi through gurobipy; the licence that comes with ``pip install gurobipy`` takes small problems only."""

    name = "gurobi"
    summary = "Gurobi: commercial MIQP solver that takes ReLU rows; small problems without a licence of one's own"
    accepts = (
        Feature.LINEAR
        | Feature.INTEGER
        | Feature.SOS1
        | Feature.INDICATOR
        | Feature.RELU
        | Feature.QUADRATIC_OBJECTIVE
        | Feature.NONCONVEX
    )
    capabilities = (
        Capability.MIP_START
        | Capability.INJECT_POINT
        | Capability.INCUMBENT_EVENT
        | Capability.INTERRUPT
        | Capability.HOT_LP
        | Capability.DUALS
        | Capability.CUTS
        | Capability.CONFLICT
    )

    def available(self) -> Availability:
        """Return whether gurobipy is installed and what licence it will find, judged by files and variables only."""
        return licence_state()

    def load(self, problem: Problem, options: Options) -> Session:
        """Hand the problem over by arrays.

        Raises
        ------
        UnsupportedFeature
            If the problem has something in it that is not in `accepts`.
        Unavailable
            If there is no valid licence, or the problem is too large for it; found before anything is built.
        UnknownName, InputError
            If a solver option does not exist or has a value Gurobi refuses.
        """
        if lacking := missing(problem.needs, self.accepts):
            raise UnsupportedFeature(
                f"Gurobi does not take {', '.join(lacking)}, which this problem needs; choose another backend="
            )
        from nnembed_gurobi.session import GurobiSession

        return GurobiSession(problem, options)
