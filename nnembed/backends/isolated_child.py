"""The far end of `Isolated`: a process that holds one solver session and does as it is told.

Messages are pickled tuples with their length in front. The main thread reads them; one further thread works on those
that change or solve the problem, in order, so that a stop and an offered point arrive while the solver runs. When the
other end is gone, the process ends, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import struct
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import IO, Any

from nnembed.errors import InputError, NnembedError
from nnembed.protocols import Session, Solution

#: Exit code of a process that had an answer but could not send it.
SPEECHLESS = 71
_HEAD = struct.Struct("<Q")


def write_frame(stream: IO[bytes], frame: bytes) -> None:
    """Write one message."""
    stream.write(_HEAD.pack(len(frame)))
    stream.write(frame)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Return the next message; None at the end, also when the other end broke off in the middle."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (size,) = _HEAD.unpack(head)
    frame = stream.read(size)
    return frame if len(frame) == size else None


def serve(memory: int) -> None:
    """Do as the other end says until it is gone; never returns.

    Parameters
    ----------
    memory : int
        Most bytes of address space this process may use; 0 means no limit.
    """
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other end, which tells us to stop
        reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # what solvers print must not get between the messages
        if memory:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        _Server(writer).run(reader)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)  # a solver on the other thread must not keep the process alive


class _Server:
    """One session, and the two threads that use it."""

    def __init__(self, writer: IO[bytes]):
        self._writer, self._lock = writer, threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="solver")
        self._stack = contextlib.ExitStack()
        self._session: Any = None
        self._stop = threading.Event()
        self._cuts: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, reader: IO[bytes]) -> None:
        """Handle messages until there are no more."""
        while (frame := read_frame(reader)) is not None:
            name, *content = pickle.loads(frame)
            if name == "stop":
                self._stop.set()
            elif name == "cuts":
                self._cuts.put(content[0])
            elif name == "inject":
                self._session.inject(*content)
            elif name == "close":
                self._worker.submit(self._close)  # nobody waits for an answer
            else:
                if name == "solve":
                    self._stop.clear()
                self._worker.submit(self._answer, name, content).add_done_callback(self._reply)

    # ---- on the solver's thread ---------------------------------------------------------------

    def _answer(self, name: str, content: list[Any]) -> bytes:
        """Do what a message says and return the reply, ready to be sent."""
        session = self._session
        result: Any = None
        if name == "load":
            self._load(*content)
        elif name == "solve":
            result = self._solve(session, *content)
        elif name == "set_start":
            session.set_start(*content[:2], strong=content[2])
        elif name == "separate":
            session.separate(self._separate)
        else:
            result = getattr(session, name)(*content)
        return pickle.dumps(("done", result))

    def _load(self, parcel: bytes, deadline: float | None) -> None:
        self._close()
        try:
            backend, problem, options = pickle.loads(parcel)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"the solver cannot be brought into a process of its own: {error}; define its class in a module that "
                "can be imported, not in a script, or use isolated=False"
            ) from error
        left = None if deadline is None else max(0.0, deadline - time.time())
        session: Session = backend.load(problem, replace(options, time_limit=left))
        self._session = self._stack.enter_context(session)

    def _close(self) -> None:
        self._session = None
        self._stack.close()

    def _solve(self, session: Session, offered: list[Any]) -> Solution:
        for x in offered:
            session.inject(x)
        return session.solve(lambda event: self._send(pickle.dumps(("event", event))), self._stop.is_set)

    def _separate(self, x: Any) -> Any:
        self._send(pickle.dumps(("cuts", x)))
        return self._cuts.get()

    def _send(self, frame: bytes) -> None:
        with self._lock:
            write_frame(self._writer, frame)

    def _reply(self, done: Future[bytes]) -> None:
        """Send a result or what went wrong; a process that cannot do that must not leave the other end waiting."""
        sent = False
        try:
            error = done.exception()
            ours = isinstance(error, NnembedError)
            told = ("failed", type(error).__name__, str(error), ours)
            self._send(done.result() if error is None else pickle.dumps(told))
            sent = True
        finally:
            if not sent:
                os._exit(SPEECHLESS)
