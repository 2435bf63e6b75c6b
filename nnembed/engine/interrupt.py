"""Ctrl-C during a solve asks the solver to stop; a second one raises as always."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the user has asked to stop.

    Outside the main thread, where Python delivers no signals, it always says no; so it does in a process that was
    started to ignore the signal, as shells start jobs in the background.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is signal.SIG_IGN:
        yield lambda: False
        return
    asked = threading.Event()

    def handle(number: int, frame: object) -> None:
        if asked.is_set() and callable(previous):
            previous(number, frame)  # type: ignore[arg-type]
        asked.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
