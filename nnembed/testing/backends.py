"""Checks of solver backends: right answers, bounds on the right side, honest features and capabilities."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from nnembed.errors import NnembedError
from nnembed.events import Event, Incumbent
from nnembed.features import Availability, Capability, Feature, missing
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Session, Solution
from nnembed.testing.blocks import violation
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.problems import INF, Known, edges, endless, hard, hopeless, integral, linear, make

STATUSES = frozenset({"optimal", "feasible", "infeasible", "unbounded", "time_limit", "interrupted", "error"})


def usable(backend: Backend, needs: Feature = Feature.LINEAR) -> None:
    """Raise `Unmet` unless the solver is here and takes problems with these features."""
    state = backend.available()
    if not state:
        raise Unmet(f"{backend.name}: {state.reason}")
    if lacking := missing(needs, backend.accepts):
        raise Unmet(f"{backend.name} does not accept {', '.join(lacking)}")


def can(backend: Backend, capability: Capability) -> bool:
    """Return whether a capability is claimed."""
    return bool(capability & backend.capabilities)


def never() -> bool:
    """Return False: nobody asks the solver to stop."""
    return False


def run(session: Session, heard: list[Event] | None = None, stop: Callable[[], bool] = never) -> Solution:
    """Solve and keep the events."""
    return session.solve((lambda event: None) if heard is None else heard.append, stop)


def solved(backend: Backend, problem: Problem, heard: list[Event] | None = None, **options: object) -> Solution:
    """Load, solve and close; the gap is zero unless said otherwise."""
    with backend.load(problem, Options(**{"gap": 0.0, **options})) as session:  # type: ignore[arg-type]
        return run(session, heard)


def sane(problem: Problem, found: Solution, what: str, best: float | None, config: Config) -> None:
    """Check what must hold of any answer: vocabulary, feasibility, objective and the side of the bound."""
    assert found.status in STATUSES, f"{what}: status {found.status!r} is none of {', '.join(sorted(STATUSES))}"
    assert found.status != "error", f"{what}: the solver failed: {found.message}"
    if found.status in ("infeasible", "unbounded", "time_limit"):
        assert found.x is None, f"{what}: status {found.status!r} comes with a point"
    if found.status in ("optimal", "feasible"):
        assert found.x is not None and found.objective is not None, f"{what}: status {found.status!r} without a point"
    if found.x is not None:
        assert len(found.x) == problem.n_columns, f"{what}: the point has {len(found.x)} of {problem.n_columns} columns"
        worst, where = violation(problem, found.x)
        assert worst <= max(config.atol, 1e-6), f"{what}: the point violates {where}"
        value = problem.objective(found.x)
        assert found.objective is not None, f"{what}: a point without an objective"
        good = abs(found.objective - value) <= config.close(value)
        assert good, f"{what}: the objective is stated as {found.objective:.9g}, at the point it is {value:.9g}"
    sign = -1.0 if problem.maximize else 1.0
    if found.bound is not None and best is not None:
        assert not math.isnan(found.bound), f"{what}: the bound is not a number"
        wrong = sign * (found.bound - best)
        assert wrong <= config.close(best), f"{what}: the bound {found.bound:.9g} is beyond the optimum {best:.9g}"
    if found.bound is not None and found.objective is not None:
        wrong = sign * (found.bound - found.objective)
        assert wrong <= config.close(found.objective), f"{what}: bound {found.bound} beyond objective {found.objective}"


def right(known: Known, found: Solution, config: Config, what: str = "") -> None:
    """Check the answer to a problem whose answer is known."""
    what = what or known.name
    sane(known.problem, found, what, known.objective, config)
    assert found.status == known.status, f"{what}: status {found.status!r} ({found.message}), it is {known.status}"
    if known.objective is None:
        return
    assert found.objective is not None
    good = abs(found.objective - known.objective) <= config.close(known.objective)
    assert good, f"{what}: objective {found.objective:.9g}, the optimum is {known.objective:.9g}"
    if found.bound is not None:
        good = abs(found.bound - known.objective) <= 10 * config.close(known.objective)
        assert good, f"{what}: optimal with a bound of {found.bound:.9g}, the optimum is {known.objective:.9g}"


def _all_right(backend: Backend, problems: Iterable[Known], config: Config) -> None:
    for known in problems:
        if not missing(known.problem.needs, backend.accepts):
            right(known, solved(backend, known.problem), config)


def honest_events(known: Known, heard: list[Event], config: Config) -> None:
    """Check that incumbents exist and bounds are on the right side of the optimum."""
    sign = -1.0 if known.problem.maximize else 1.0
    for event in heard:
        if not isinstance(event, Incumbent) or known.objective is None:
            continue
        if event.bound is not None:
            wrong = sign * (event.bound - known.objective)
            assert wrong <= config.close(known.objective), (
                f"{known.name}: an event's bound {event.bound} is beyond the optimum"
            )
        if event.objective is not None:
            wrong = sign * (known.objective - event.objective)
            assert wrong <= config.close(known.objective), (
                f"{known.name}: an event's objective {event.objective} is too good"
            )


# ---- answers ----------------------------------------------------------------------------------------


@since("0.1")
def check_backend_declares(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: name, words, features, capabilities and availability are there and of the right type."""
    assert backend.name and backend.name.isprintable(), "name must be a word"
    assert backend.summary, "summary must be a sentence"
    assert isinstance(backend.accepts, Feature) and Feature.LINEAR in backend.accepts, "accepts must contain LINEAR"
    assert isinstance(backend.capabilities, Capability), "capabilities must be a Capability"
    assert isinstance(backend.available(), Availability), "available() must return an Availability"


@since("0.1")
def check_linear_problems(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: LPs of both senses, with equalities, ranges and an offset."""
    usable(backend)
    _all_right(backend, linear(), config)


@since("0.1")
def check_integer_problems(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: MILPs whose optimum was found by trying all points."""
    usable(backend, Feature.INTEGER)
    _all_right(backend, integral(), config)


@since("0.1")
def check_edge_problems(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: no rows, no columns, empty rows, free columns."""
    usable(backend)
    _all_right(backend, edges(), config)


@since("0.1")
def check_infeasible_and_unbounded(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: infeasible and unbounded are told apart, and come without a point."""
    usable(backend)
    _all_right(backend, hopeless(), config)


@since("0.1")
def check_repeated_and_zero_entries(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: repeated entries of a row are added up (or refused), zero entries do no harm."""
    usable(backend)
    matrix = sp.csr_array((np.array([1.0, 2.0, 0.0, 1.0]), np.array([0, 0, 1, 1]), np.array([0, 4])), shape=(1, 2))
    base = make([[0, 0]], [-INF], [6], [0, 0], [9, 1], [1, 1], maximize=True)
    known = Known("3 x + y <= 6 in four entries", replace(base, matrix=matrix), objective=1 + 5 / 3)
    try:
        found = solved(backend, known.problem)
    except NnembedError:
        return
    right(known, found, config)


# ---- limits -----------------------------------------------------------------------------------------


@since("0.1")
def check_limits(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: time limits are kept, and what is known then is right."""
    usable(backend, Feature.INTEGER)
    for known, seconds in ((hard(), 0.0), (hard(), 0.5), (Known("", endless()), 0.5)):
        began = time.perf_counter()
        heard: list[Event] = []
        found = solved(backend, known.problem, heard, time_limit=seconds)
        spent = time.perf_counter() - began
        what = f"limit of {seconds} s"
        assert spent <= seconds + config.grace, f"{what}: took {spent:.2f} s"
        assert found.status in ("optimal", "feasible", "time_limit"), f"{what}: status {found.status!r}"
        sane(known.problem, found, what, known.objective, config)
        honest_events(known, heard, config)


@since("0.1")
def check_same_seed_same_answer(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: one thread and one seed give one answer."""
    usable(backend, Feature.INTEGER)
    first, second = (solved(backend, integral()[3].problem, threads=1, seed=7) for _ in range(2))
    assert first.x is not None and second.x is not None
    assert np.array_equal(first.x, second.x), "two runs with the same seed end at different points"


@since("0.1")
def check_unknown_option(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: an option the solver does not have is an error of nnembed that names it."""
    usable(backend)
    try:
        solved(backend, linear()[0].problem, solver_options={"no_such_option": 1})
    except NnembedError as error:
        assert "no_such_option" in str(error), f"the error must name the option: {error}"
        return
    raise AssertionError("an option that does not exist is ignored without a word")
