"""Gurobi as a solver for nnembed.

>>> import nnembed as nn
>>> result = nn.maximize(net, (lower, upper), backend="gurobi")  # doctest: +SKIP
"""

from __future__ import annotations

from nnembed_gurobi.backend import Gurobi

__all__ = ["Gurobi"]
