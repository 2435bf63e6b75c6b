"""Bounds of every tensor over a box.

The methods are classes here, for ``bounds=`` and ``methods=``: ``Lp(min_rate=0)`` where ``"lp"`` would
stand for the default options. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnembed.lazy import loader

_WHERE = {
    "AlphaCrown": "nnembed.bounds.alpha",
    "Crown": "nnembed.bounds.backward",
    "FastC2V": "nnembed.bounds.hull_sweep",
    "Fbbt": "nnembed.bounds.propagate",
    "Interval": "nnembed.bounds.interval",
    "Lp": "nnembed.bounds.lp",
    "Mip": "nnembed.bounds.mip",
    "OptC2V": "nnembed.bounds.hull_lp",
    "Rolling": "nnembed.bounds.mip",
}

__all__ = [
    "AlphaCrown",
    "Crown",
    "FastC2V",
    "Fbbt",
    "Interval",
    "Lp",
    "Mip",
    "OptC2V",
    "Rolling",
]

if TYPE_CHECKING:
    from nnembed.bounds.alpha import AlphaCrown
    from nnembed.bounds.backward import Crown
    from nnembed.bounds.hull_lp import OptC2V
    from nnembed.bounds.hull_sweep import FastC2V
    from nnembed.bounds.interval import Interval
    from nnembed.bounds.lp import Lp
    from nnembed.bounds.mip import Mip, Rolling
    from nnembed.bounds.propagate import Fbbt


__getattr__ = loader(__name__, _WHERE)


def __dir__() -> list[str]:
    return sorted(__all__)
