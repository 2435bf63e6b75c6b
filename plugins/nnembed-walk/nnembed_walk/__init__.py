"""Good points of problems with networks in seconds, by walks over the networks' linear regions.

>>> import nnembed as nn
>>> result = nn.maximize(net, (lower, upper), heuristics="walk", time_limit=10)  # doctest: +SKIP
"""

from __future__ import annotations

from nnembed.protocols import Heuristic

from nnembed_walk.ascent import GradientWalk, PerturbedWalk
from nnembed_walk.portfolio import Walk
from nnembed_walk.relax import RelaxWalk
from nnembed_walk.sample import SampleLp, SampleMip

__all__ = ["GradientWalk", "PerturbedWalk", "RelaxWalk", "SampleLp", "SampleMip", "Walk", "heuristics"]


def heuristics() -> list[Heuristic]:
    """Return one of each, as registered."""
    return [
        Walk(),
        GradientWalk(),
        PerturbedWalk("ppga"),
        PerturbedWalk("ppga-lr", valve=True),
        RelaxWalk(),
        SampleLp(),
        SampleMip(),
    ]
