"""What observers hear of; sent through the ``nnembed_event`` hook."""

from __future__ import annotations

from dataclasses import dataclass, field

from nnembed.aliases import Array


@dataclass(frozen=True)
class Event:
    """Base of all events; `seconds` since the start of the call."""

    seconds: float


@dataclass(frozen=True)
class BoundsTightened(Event):
    """A bound tightener has finished."""

    method: str
    unstable: int


@dataclass(frozen=True)
class BlockEmitted(Event):
    """A network has become rows and columns."""

    name: str
    rows: int
    columns: int
    binaries: int
    nonzeros: int


@dataclass(frozen=True)
class HeuristicFinished(Event):
    """A heuristic has returned its best point (`objective` is None when it found none)."""

    name: str
    objective: float | None


@dataclass(frozen=True)
class Incumbent(Event):
    """The best known objective or the proven bound has changed; `x` is the new point, from sessions that have it."""

    objective: float | None
    bound: float | None
    source: str
    x: Array | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Solved(Event):
    """The solver has stopped."""

    status: str
    objective: float | None
    bound: float | None
