"""Options are frozen dataclasses; a running clock is made from a budget."""

from __future__ import annotations

import math
import numbers
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnembed.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


def refuse_no_number(
    name: str, value: object, wanted: str, *, least: float = 0, whole: bool = False, optional: bool = False
) -> None:
    """Raise an error that names the option unless `value` is a number (a whole one) of at least `least`.

    Raises
    ------
    InputError
    """
    if value is None and optional:
        return
    fits = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if not fits or not value >= least:  # type: ignore[operator]
        raise InputError(f"{name}={value!r}; give {wanted}")


@dataclass(frozen=True)
class Budget:
    """How much a step may spend.

    Parameters
    ----------
    seconds : float or None
        Wall-clock seconds; None means no limit, 0 is allowed and stops at once.
    threads : int
        Solver threads.
    seed : int
        Seed of everything random.
    lps : int or None
        Linear programs (or mixed-integer ones) a bound tightener may solve; None means no limit.
    layer_seconds : float or None
        Wall-clock seconds a bound tightener may spend on one layer.
    executor : concurrent.futures.Executor or None
        Where work that splits is run; None means in this process.
    """

    seconds: float | None = None
    threads: int = 1
    seed: int = 0
    lps: int | None = None
    layer_seconds: float | None = None
    executor: Executor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be a budget."""
        refuse_no_number("seconds", self.seconds, "a number >= 0 or None for no limit", optional=True)
        refuse_no_number("threads", self.threads, "a whole number >= 1", least=1, whole=True)
        refuse_no_number("lps", self.lps, "a number of programs >= 0 or None for no limit", optional=True)
        refuse_no_number("layer_seconds", self.layer_seconds, "seconds >= 0 or None for no limit", optional=True)

    def start(self) -> Clock:
        """Start the clock of this budget."""
        return Clock(self)


@dataclass
class Clock:
    """A budget that is running."""

    budget: Budget
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def remaining(self) -> float:
        """Seconds left; infinite without a limit, never negative."""
        if self.budget.seconds is None:
            return float("inf")
        return max(0.0, self.budget.seconds - self.elapsed)

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return self.remaining <= 0


@dataclass(frozen=True)
class Options:
    """Options of `solve`, `maximize` and `minimize`.

    Attributes
    ----------
    backend : str or Backend
        Name of a registered solver or an instance of the protocol.
    formulation : str, Formulation or mapping layer name -> either
        ``"auto"`` lets the plan choose per layer.
    bounds : str, tuple of str or Bounds
        Bound tighteners to run in order of cost; ``"auto"`` is CROWN, and more where it pays.
    heuristics : str or tuple of str
        ``"auto"``, ``"none"`` or names.
    start : object
        A point to start from: an input array, a Result, or None.
    time_limit : float or None
        Wall-clock seconds for the whole call.
    gap : float
        Relative gap at which the solver may stop.
    threads, seed : int
        Solver threads and random seed.
    executor : concurrent.futures.Executor or None
        Where work that splits is run; None means in this process.
    progress : bool or None
        Show progress; None means when the terminal is interactive.
    tolerance : float
        Residual a certificate accepts, relative to ``1 + |y|``.
    isolated : bool
        Run the solver in a process of its own.
    surrogate : str, Surrogate or None
        Twins to search on.
    target : float or None
        Objective at which to stop.
    """

    backend: Any = "auto"
    formulation: Any = "auto"
    bounds: Any = "auto"
    heuristics: Any = "auto"
    start: Any = None
    time_limit: float | None = None
    gap: float = 1e-4
    threads: int = 1
    seed: int = 0
    executor: Executor | None = None
    progress: bool | None = None
    tolerance: float = 1e-5
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    isolated: bool = False
    surrogate: Any = None
    target: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that no step could use."""
        refuse_no_number("time_limit", self.time_limit, "seconds >= 0 or None for no limit", optional=True)
        refuse_no_number("gap", self.gap, "a relative gap >= 0, for example 1e-4")
        refuse_no_number("tolerance", self.tolerance, "a residual >= 0, for example 1e-5")
        refuse_no_number("threads", self.threads, "a whole number >= 1", least=1, whole=True)
        refuse_no_number("seed", self.seed, "a whole number >= 0", whole=True)
        if not hasattr(self.solver_options, "items"):
            raise InputError(f"solver_options={self.solver_options!r}; give a dict of the solver's own options by name")
        wanted = "the objective at which to stop, or None"
        refuse_no_number("target", self.target, wanted, least=-math.inf, optional=True)

    @property
    def budget(self) -> Budget:
        """The budget these options allow."""
        return Budget(self.time_limit, self.threads, self.seed, executor=self.executor)
