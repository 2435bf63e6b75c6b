"""The near end of `Isolated`: starting the other process, talking to it, and telling how it ended."""

from __future__ import annotations

import json
import pickle
import queue
import signal
import subprocess
import sys
import threading
import weakref
from multiprocessing.spawn import get_executable
from typing import IO, Any

from nnembed.backends.isolated_child import SPEECHLESS, read_frame, write_frame

#: What helps against most losses, for the end of a message.
SMALLER = "embed a smaller network or fewer points, or choose another backend="
_PARTING = 2.0  # seconds that an idle process gets to end by itself
_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from nnembed.backends.isolated_child import serve; serve(int(sys.argv[2]))"
)


class Process:
    """A child process, with a thread for each direction so that neither end ever waits for a full pipe."""

    def __init__(self, memory: int):
        path = json.dumps([p for p in sys.path if isinstance(p, str)])
        command = [_executable(), "-c", _PROGRAM, path, str(memory)]
        # A session of its own: Ctrl-C in the terminal must not reach it.
        popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._popen = popen
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._sessions = 0
        assert popen.stdin is not None and popen.stdout is not None
        for target, arguments in ((_pump, (self._out, popen.stdin)), (_listen, (popen.stdout, self._in))):
            threading.Thread(target=target, args=arguments, daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, popen, self._out)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._popen.poll() is None

    @property
    def fresh(self) -> bool:
        """Whether it has had one session at most."""
        return self._sessions <= 1

    def send(self, *message: Any) -> None:
        """Send a message; never waits."""
        self._sessions += message[0] == "load"
        self._out.put(pickle.dumps(message))

    def receive(self, seconds: float) -> tuple[Any, ...]:
        """Return the next message, ("silence",) when none comes in time, ("end",) when none will come any more."""
        try:
            return self._in.get(timeout=seconds)
        except queue.Empty:
            if self.alive:
                return ("silence",)
        try:
            return self._in.get(timeout=0.5)  # said before it died
        except queue.Empty:
            return ("end",)

    def code(self) -> int | None:
        """Return how the process ended; minus the signal where it was one, None if it still runs."""
        try:
            return self._popen.wait(timeout=_PARTING)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Kill the process."""
        self._popen.kill()
        self._finalizer()


def _executable() -> str:
    found = get_executable()
    return found.decode() if isinstance(found, bytes) else str(found)


def _pump(source: queue.SimpleQueue[bytes | None], stream: IO[bytes]) -> None:
    """Write messages until None comes or the other end is gone."""
    try:
        while (frame := source.get()) is not None:
            write_frame(stream, frame)
        stream.close()
    except OSError:
        return


def _listen(stream: IO[bytes], target: queue.SimpleQueue[tuple[Any, ...]]) -> None:
    """Read messages until the other end is gone."""
    try:
        with stream:
            while (frame := read_frame(stream)) is not None:
                target.put(pickle.loads(frame))
    finally:
        target.put(("end",))


def _end(popen: subprocess.Popen[bytes], out: queue.SimpleQueue[bytes | None]) -> None:
    """End a process: it goes when its input ends, else it is killed."""
    out.put(None)
    try:
        popen.wait(timeout=_PARTING)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def obituary(code: int | None) -> str:
    """Say in words how a process ended, and what to do."""
    if code is None:
        return f"fell silent and was killed; {SMALLER}"
    if code == SPEECHLESS:
        return f"could not hand over its answer, probably out of memory; give it more, {SMALLER}"
    if code >= 0:
        return f"ended by itself with exit code {code}; see what it printed, or choose another backend="
    names = {s.value: s.name for s in signal.Signals}
    who = f"signal {-code} ({names.get(-code, 'unknown')})"
    if names.get(-code) == "SIGKILL":
        return f"was killed by {who}, probably out of memory; give it more, {SMALLER}"
    if names.get(-code) == "SIGABRT":
        return f"gave up with {who}, often for lack of memory; give it more, {SMALLER}"
    if names.get(-code) in ("SIGTERM", "SIGHUP", "SIGINT", "SIGXCPU"):
        return f"was ended by {who} from outside; start it again"
    return f"crashed with {who}, a fault of the solver; try other solver_options or formulation=, or another backend="
