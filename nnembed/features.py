"""What parts need and offer, as data."""

from __future__ import annotations

import enum


class Feature(enum.Flag):
    """What a block, a problem or a solver contains or accepts."""

    NONE = 0
    LINEAR = enum.auto()
    INTEGER = enum.auto()
    SOS1 = enum.auto()
    INDICATOR = enum.auto()
    COMPLEMENTARITY = enum.auto()
    RELU = enum.auto()
    QUADRATIC_OBJECTIVE = enum.auto()
    QUADRATIC_ROWS = enum.auto()
    NONCONVEX = enum.auto()  # a quadratic objective with integers in the problem, or of any curvature


class Capability(enum.Flag):
    """What a solver session can do beyond solving once."""

    NONE = 0
    MIP_START = enum.auto()
    INJECT_POINT = enum.auto()
    INCUMBENT_EVENT = enum.auto()
    INTERRUPT = enum.auto()
    HOT_LP = enum.auto()
    LAZY_ROWS = enum.auto()
    RAY = enum.auto()
    DUALS = enum.auto()
    CUTS = enum.auto()  # rows offered at the fractional points of the search
    CONFLICT = enum.auto()  # an irreducible set of rows and bounds that cannot hold together


class Availability(enum.IntEnum):
    """Whether a part can be used on this machine; truthy when it can."""

    NOT_FOUND = 0
    BAD_VERSION = -1
    NO_LICENSE = -2
    LIMITED_LICENSE = 1
    FULL = 2

    def __bool__(self) -> bool:
        """Return True when usable, possibly within limits."""
        return self.value > 0

    @property
    def reason(self) -> str:
        """The state in words."""
        return {
            Availability.NOT_FOUND: "package not installed",
            Availability.BAD_VERSION: "installed version does not fit",
            Availability.NO_LICENSE: "no licence found",
            Availability.LIMITED_LICENSE: "size-limited licence",
            Availability.FULL: "ready",
        }[self]


def missing(needs: Feature, offers: Feature) -> list[str]:
    """Return the names of the features in `needs` that `offers` lacks."""
    return [f.name or str(f) for f in needs & ~offers]
