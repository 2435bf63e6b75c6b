"""Checks of solver backends: how sessions behave towards observers, other threads, and what is offered on the way."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np

from nnembed.events import Event, Incumbent
from nnembed.features import Capability, Feature
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Solution
from nnembed.testing.backends import can, never, right, run, sane, solved, usable
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.problems import Known, endless, integral, linear, make


@since("0.1")
def check_observer_that_fails(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: what `on_event` or `should_stop` raises ends the solve and is heard."""
    usable(backend, Feature.INTEGER)

    def fails(*ignored: Event) -> bool:
        raise ZeroDivisionError("observer")

    observed = (fails, never) if can(backend, Capability.INCUMBENT_EVENT) else None
    asked = ((lambda event: None), fails) if can(backend, Capability.INTERRUPT) else None
    for what, pair in (("on_event", observed), ("should_stop", asked)):
        if pair is None:
            continue
        with backend.load(endless(), Options(time_limit=10.0)) as session:
            began = time.perf_counter()
            try:
                session.solve(*pair)
            except ZeroDivisionError:
                spent = time.perf_counter() - began
                assert spent <= 5 + config.grace, f"{what}: its error was heard after {spent:.1f} s only"
                continue
        raise AssertionError(f"what {what} raises is lost")


@since("0.1")
def check_events_in_order(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: time goes forward, incumbents get better, and the last one is what is returned."""
    usable(backend, Feature.INTEGER)
    if not can(backend, Capability.INCUMBENT_EVENT):
        raise Unmet(f"{backend.name} does not claim INCUMBENT_EVENT")
    heard: list[Event] = []
    problem = endless(30, 8)
    found = solved(backend, problem, heard, time_limit=3.0)
    told = [e for e in heard if isinstance(e, Incumbent)]
    seconds = [e.seconds for e in told]
    assert seconds == sorted(seconds), "events come with times that go back"
    values = [e.objective for e in told if e.objective is not None]
    assert values == sorted(values), "incumbents of a maximisation get smaller"
    assert found.objective is not None and values, "a search of seconds told no incumbent"
    assert values[-1] >= found.objective - config.close(found.objective), (
        f"the last incumbent told is {values[-1]:.9g}, returned is {found.objective:.9g}"
    )


@since("0.1")
def check_injected_points_are_used(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: a better point, offered while the solver runs, is soon its incumbent."""
    usable(backend, Feature.INTEGER)
    if not (can(backend, Capability.INJECT_POINT) and can(backend, Capability.INCUMBENT_EVENT)):
        raise Unmet(f"{backend.name} does not claim INJECT_POINT and INCUMBENT_EVENT")
    problem = endless()
    better = solved(backend, problem, time_limit=2.0).x
    if better is None:
        raise Unmet(f"{backend.name} finds no point of its own in 2 s")
    better = np.rint(better)
    goal, heard = problem.objective(better), list[Event]()
    with backend.load(problem, Options(time_limit=10.0 + config.grace)) as session:

        def on_event(event: Event) -> None:
            if not heard:
                session.inject(better)
            heard.append(event)

        found = session.solve(on_event, lambda: _reached(heard, goal))
    assert found.objective is not None and found.objective >= goal - config.close(goal), (
        f"a point of {goal:.9g} was offered at the first event, {found.objective} came back"
    )


def _reached(heard: list[Event], goal: float) -> bool:
    told = [e.objective for e in heard if isinstance(e, Incumbent) and e.objective is not None]
    return bool(told) and max(told) >= goal - 1e-6


@since("0.1")
def check_stopped_before(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: a solver that is told to stop from the first moment stops, in linear problems as well."""
    usable(backend)
    if not can(backend, Capability.INTERRUPT):
        raise Unmet(f"{backend.name} does not claim INTERRUPT")
    for problem in (linear()[0].problem, endless()):
        if problem.integer.any() and Feature.INTEGER not in backend.accepts:
            continue
        with backend.load(problem, Options(time_limit=20.0)) as session:
            began = time.perf_counter()
            found = run(session, None, lambda: True)
            spent = time.perf_counter() - began
        assert spent <= 1 + config.grace, f"told to stop at once, the solver went on for {spent:.1f} s"
        assert found.status in ("interrupted", "optimal"), f"told to stop at once: status {found.status!r}"
        sane(problem, found, "told to stop at once", None, config)


@since("0.1")
def check_ctrl_c(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: Ctrl-C, as `nnembed.solve` handles it, ends the search and keeps what is known."""
    from nnembed.engine.interrupt import stop_on_interrupt

    usable(backend, Feature.INTEGER)
    if not can(backend, Capability.INTERRUPT) or threading.current_thread() is not threading.main_thread():
        raise Unmet(f"{backend.name} does not claim INTERRUPT, or this is not the main thread")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise Unmet("this process ignores Ctrl-C")
    problem = endless()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    with backend.load(problem, Options(time_limit=30.0)) as session, stop_on_interrupt() as stopped:
        timer.start()
        began = time.perf_counter()
        found = run(session, None, stopped)
        spent = time.perf_counter() - began
    assert spent <= 0.5 + config.grace, f"after Ctrl-C the solver went on for {spent - 0.5:.1f} s"
    assert found.status == "interrupted", f"after Ctrl-C: status {found.status!r}"
    sane(problem, found, "after Ctrl-C", None, config)


@since("0.1")
def check_two_threads(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: two sessions that solve at the same time, each on a thread of its own, are both right."""
    usable(backend, Feature.INTEGER)
    known = integral()[3:5]
    found: dict[int, Solution] = {}

    def work(k: int, problem: Problem) -> None:
        found[k] = solved(backend, problem)

    threads = [threading.Thread(target=work, args=(k, this.problem)) for k, this in enumerate(known)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, this in enumerate(known):
        assert k in found, f"{this.name}: the solve on a thread of its own ended with an error"
        right(this, found[k], config, f"{this.name}, on a thread of its own")


@since("0.1")
def check_binary_can_be_widened(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: an integer column between 0 and 1 is one like all others; its bounds can be widened."""
    usable(backend, Feature.INTEGER)
    problem = make([[1.0]], [-np.inf], [9.5], [0], [1], [1], [1], maximize=True)
    wide = make([[1.0]], [-np.inf], [9.5], [-2], [12], [1], [1], maximize=True)
    with backend.load(problem, Options(gap=0.0)) as session:
        right(Known("a binary", problem, objective=1.0), run(session), config)
        session.set_bounds(np.array([0]), np.array([-2.0]), np.array([12.0]))
        right(Known("a binary, widened", wide, objective=9.0), run(session), config)
