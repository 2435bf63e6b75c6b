"""No solver at all: what heuristics and bounds of networks find is the answer."""

from __future__ import annotations

from collections.abc import Callable

from nnembed.aliases import Array, Index
from nnembed.errors import UnsupportedFeature
from nnembed.events import Event
from nnembed.features import Availability, Capability, Feature
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Solution

NAME = "none"


class NoSolver:
    """The backend ``"none"``: takes every problem and proves nothing.

    It is no registered backend, because nothing that looks for a solver is to find it.
    """

    name = NAME
    summary = "no solver: heuristics and the networks' own bounds only"
    accepts = Feature.LINEAR | Feature.INTEGER | Feature.QUADRATIC_OBJECTIVE | Feature.NONCONVEX
    capabilities = Capability.NONE

    def available(self) -> Availability:
        """Return that it is there."""
        return Availability.FULL

    def load(self, problem: Problem, options: Options) -> NoSession:
        """Return a session that knows no answer."""
        return NoSession()


class NoSession:
    """A session of no solver."""

    def __enter__(self) -> NoSession:
        return self

    def __exit__(self, *exc: object) -> None:
        """There is nothing to free."""

    def close(self) -> None:
        """There is nothing to free."""

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Return that nothing is known."""
        return Solution(
            "interrupted" if should_stop() else "time_limit", message="no solver was asked (backend='none')"
        )

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Bounds do not matter to what is not solved."""

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Refuse; starts are not taken."""
        raise _refusal("starts")

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Costs cannot be changed."""
        raise _refusal("other costs")

    def add_rows(self, matrix: object, lower: Array, upper: Array) -> None:
        """Rows cannot be added."""
        raise _refusal("rows")

    def inject(self, x: Array) -> None:
        """Points are not taken."""
        raise _refusal("points")

    def interrupt(self) -> None:
        """Nothing runs."""
        raise _refusal("interrupts")


def _refusal(what: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"backend='none' takes no {what}, there is no solver behind it; choose another backend=")
