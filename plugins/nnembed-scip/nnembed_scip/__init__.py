"""SCIP as a solver for nnembed.

>>> import nnembed as nn
>>> result = nn.maximize(net, (lower, upper), backend="scip")  # doctest: +SKIP
"""

from __future__ import annotations

from nnembed_scip.backend import Scip

__all__ = ["Scip"]
