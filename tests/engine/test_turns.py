"""Two threads that take turns."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from nnembed.engine import turns as module
from nnembed.engine.turns import Turns


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "_DELAY", 0.05)
    monkeypatch.setattr(module, "_SHORTEST", 0.01)


def solver(turns, seconds, busy):
    """Do as a solver does: work, and ask every millisecond."""
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        busy.append(("solver", time.perf_counter()))
        time.sleep(0.001)
        turns.give()


def test_only_one_works_at_a_time_and_the_share_is_kept(quick):
    turns, busy, over = Turns(), [], threading.Event()

    def help_along():
        turns.pause()
        while not over.is_set():
            busy.append(("heuristic", time.perf_counter()))
            time.sleep(0.001)
            turns.pause()

    thread = threading.Thread(target=help_along, daemon=True)
    thread.start()
    solver(turns, 1.0, busy)
    over.set()
    turns.end()
    thread.join(timeout=5)
    assert not thread.is_alive()
    who = [name for name, _ in sorted(busy, key=lambda entry: entry[1])]
    changes = sum(a != b for a, b in itertools.pairwise(who))
    assert 2 <= changes <= 60  # whole turns, not one step each
    assert 0.02 <= turns.used <= 0.3


def test_whoever_never_comes_back_does_not_stop_the_solver(quick):
    turns, done = Turns(), threading.Event()

    def stubborn():
        turns.pause()
        done.wait(5)

    thread = threading.Thread(target=stubborn, daemon=True)
    thread.start()
    began, busy = time.perf_counter(), []
    solver(turns, 0.5, busy)
    assert time.perf_counter() - began < 2.0 and len(busy) > 50
    done.set()
    turns.end()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_nobody_waits_after_the_end():
    turns = Turns()
    turns.end()
    began = time.perf_counter()
    turns.pause()
    turns.give()
    assert time.perf_counter() - began < 0.1


def test_an_end_between_two_steps_of_a_pause_wakes_it():
    class Late(threading.Event):
        """Lets the solver's thread end everything just before it is cleared."""

        def clear(self):
            turns.end()
            super().clear()

    turns = Turns()
    turns._mine = Late()
    thread = threading.Thread(target=turns.pause, daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert not thread.is_alive()
