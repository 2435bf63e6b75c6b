"""Ways to write an activation as columns and rows.

All of them are classes here, for ``formulation=``: ``Partition(parts=4)`` where ``"partition"`` would stand for the
default options. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnembed.lazy import loader

_WHERE = {
    "CRelu": "nnembed.formulations.crelu",
    "Complementarity": "nnembed.formulations.complementarity",
    "Dependency": "nnembed.formulations.dependency",
    "Extended": "nnembed.formulations.extended",
    "Hull": "nnembed.formulations.hull",
    "Ideal": "nnembed.formulations.ideal",
    "Indicator": "nnembed.formulations.indicator",
    "MaxExtended": "nnembed.formulations.maxout_extended",
    "MaxSplit": "nnembed.formulations.maxout_split",
    "Maxout": "nnembed.formulations.maxout",
    "Native": "nnembed.formulations.native",
    "OneHot": "nnembed.formulations.onehot",
    "Partition": "nnembed.formulations.partition",
    "RoundRows": "nnembed.formulations.round",
    "Sets": "nnembed.formulations.sos1",
    "Slack": "nnembed.formulations.bigm",
    "StepIdeal": "nnembed.formulations.step",
    "StepRows": "nnembed.formulations.step",
    "Triangle": "nnembed.formulations.triangle",
    "TwoRow": "nnembed.formulations.bigm",
    "WinnerRows": "nnembed.formulations.winner",
    "ZHat": "nnembed.formulations.zhat",
}

__all__ = [
    "CRelu",
    "Complementarity",
    "Dependency",
    "Extended",
    "Hull",
    "Ideal",
    "Indicator",
    "MaxExtended",
    "MaxSplit",
    "Maxout",
    "Native",
    "OneHot",
    "Partition",
    "RoundRows",
    "Sets",
    "Slack",
    "StepIdeal",
    "StepRows",
    "Triangle",
    "TwoRow",
    "WinnerRows",
    "ZHat",
]

if TYPE_CHECKING:
    from nnembed.formulations.bigm import Slack, TwoRow
    from nnembed.formulations.complementarity import Complementarity
    from nnembed.formulations.crelu import CRelu
    from nnembed.formulations.dependency import Dependency
    from nnembed.formulations.extended import Extended
    from nnembed.formulations.hull import Hull
    from nnembed.formulations.ideal import Ideal
    from nnembed.formulations.indicator import Indicator
    from nnembed.formulations.maxout import Maxout
    from nnembed.formulations.maxout_extended import MaxExtended
    from nnembed.formulations.maxout_split import MaxSplit
    from nnembed.formulations.native import Native
    from nnembed.formulations.onehot import OneHot
    from nnembed.formulations.partition import Partition
    from nnembed.formulations.round import RoundRows
    from nnembed.formulations.sos1 import Sets
    from nnembed.formulations.step import StepIdeal, StepRows
    from nnembed.formulations.triangle import Triangle
    from nnembed.formulations.winner import WinnerRows
    from nnembed.formulations.zhat import ZHat


__getattr__ = loader(__name__, _WHERE)


def __dir__() -> list[str]:
    return sorted(__all__)
