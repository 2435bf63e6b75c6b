"""Help for testing formulations, bounds and solvers: small networks and optima found without a MILP.

The conformance kit for plugins grows here.
"""

from __future__ import annotations

from nnembed.testing.enumerate import enumerate_optimum
from nnembed.testing.networks import chain, random_network

__all__ = ["chain", "enumerate_optimum", "random_network"]
