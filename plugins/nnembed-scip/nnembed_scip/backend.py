"""The backend: what SCIP accepts and can do, and which session a problem gets."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from nnembed.errors import UnsupportedFeature
from nnembed.features import Availability, Capability, Feature, missing

if TYPE_CHECKING:
    from nnembed.options import Options
    from nnembed.problem import Problem
    from nnembed.protocols import Session


class Scip:
    """SCIP through PySCIPOpt.

    A problem without integers, sets, indicators and quadratic terms goes to SoPlex alone, which restarts from its last
    basis and has duals; given any `solver_options`, it goes to SCIP, whose parameters they are.
    """

    name = "scip"
    summary = "SCIP: free MINLP solver with SOS1 and indicator rows"
    accepts = (
        Feature.LINEAR
        | Feature.INTEGER
        | Feature.SOS1
        | Feature.INDICATOR
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
        """Return whether PySCIPOpt is installed."""
        return Availability.FULL if importlib.util.find_spec("pyscipopt") else Availability.NOT_FOUND

    def load(self, problem: Problem, options: Options) -> Session:
        """Hand the problem over.

        Raises
        ------
        UnsupportedFeature
            If the problem has something in it that is not in `accepts`.
        UnknownName, InputError
            If a solver option does not exist or has a value SCIP refuses.
        """
        if lacking := missing(problem.needs, self.accepts):
            raise UnsupportedFeature(
                f"SCIP does not take {', '.join(lacking)}, which this problem needs; choose another backend="
            )
        if problem.needs == Feature.LINEAR and not options.solver_options:
            from nnembed_scip.linear import SoplexSession

            return SoplexSession(problem, options)
        from nnembed_scip.session import ScipSession

        return ScipSession(problem, options)
