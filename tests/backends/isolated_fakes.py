"""Solvers that come to grief after a first point, for `test_isolated`; a module, so that another process can import it.

Each behaves like HiGHS until it is to solve a problem with integers.
"""

import ctypes
import os
import signal
import time

import numpy as np

from nnembed.backends.highs import Highs, HighsSession
from nnembed.errors import InputError, SolverError
from nnembed.events import Event, Incumbent


class Doomed(Highs):
    """HiGHS until the first point of a problem with integers; then `end` happens."""

    name = "doomed"
    summary = "a solver that does not survive"

    def __init__(self, end, *, load=False, point=True, always=False):
        self.end, self.at_load, self.tell_point, self.always = end, load, point, always

    def load(self, problem, options):
        if self.at_load and (self.always or problem.integer.any()):
            ENDS[self.end](None)
        return DoomedSession(problem, options, self)


class DoomedSession(HighsSession):
    def __init__(self, problem, options, backend):
        super().__init__(problem, options)
        self.backend = backend

    def solve(self, on_event, should_stop):
        if not self._problem.integer.any() and not self.backend.always:
            return super().solve(on_event, should_stop)
        found = super().solve(lambda event: None, should_stop)
        sign = -1.0 if self._problem.maximize else 1.0
        if found.x is not None:
            point = found.x if self.backend.tell_point else None
            on_event(Incumbent(0.0, found.objective, found.objective - sign * 0.5, "doomed", point))
        ENDS[self.backend.end](should_stop)
        raise AssertionError("unreachable")


def kill(should_stop):
    os.kill(os.getpid(), signal.SIGKILL)


def crash(should_stop):
    ctypes.string_at(0)


def leave(should_stop):
    os._exit(3)


def sleep(should_stop):
    while True:
        time.sleep(0.05)


def allocate(should_stop):
    hoard = []
    while True:
        hoard.append(np.empty(20_000_000))


def blunder(should_stop):
    raise ZeroDivisionError("a slip of the solver")


def give_up(should_stop):
    raise SolverError("numbers beyond everything")


def refuse(should_stop):
    raise InputError("gap must be a prime number")


def chatter(should_stop):
    print("not a message", flush=True)
    os.write(1, b"\x00" * 64)
    os._exit(5)


ENDS = {f.__name__: f for f in (kill, crash, leave, sleep, allocate, blunder, give_up, refuse, chatter)}


class Mute(Highs):
    """Cannot travel: holds an open thing."""

    name = "mute"

    def __init__(self):
        self.handle = open(os.devnull)  # noqa: SIM115, PTH123


class Talkative(Highs):
    """Sends an event that only its own module knows, and prints."""

    name = "talkative"

    def load(self, problem, options):
        print("hello")
        return TalkativeSession(problem, options)


class TalkativeSession(HighsSession):
    def solve(self, on_event, should_stop):
        on_event(Event(0.0))
        print("still here", flush=True)
        return super().solve(on_event, should_stop)
