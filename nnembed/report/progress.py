"""A live line on the terminal while a network is bounded, written down and optimised."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from nnembed.events import BlockEmitted, BoundsTightened, Event, HeuristicFinished, Incumbent, Solved

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_QUIET_SECONDS = 1.0  # between two lines of a log


@dataclass(frozen=True)
class State:
    """What the line shows; replaced as a whole, because events may come from a solver's thread."""

    phase: str = "starting"
    objective: float | None = None
    bound: float | None = None
    source: str = ""

    @property
    def gap(self) -> float | None:
        """Relative distance of bound and objective; None while one of them is missing."""
        return relative_gap(self.objective, self.bound)

    def after(self, event: Event) -> State:
        """Return the state once `event` has happened."""
        match event:
            case BoundsTightened():
                return replace(self, phase=f"bounds ({event.method}): {event.unstable:,} unstable")
            case BlockEmitted():
                size = f"{event.rows:,} rows, {event.columns:,} columns, {event.binaries:,} binaries"
                return replace(self, phase=f"{event.name}: {size}")
            case HeuristicFinished():
                found = "no point" if event.objective is None else f"{event.objective:.6g}"
                return replace(self, phase=f"heuristic {event.name}: {found}")
            case Incumbent():
                return replace(self._with(event.objective, event.bound), phase="solving", source=event.source)
            case Solved():
                return replace(self._with(event.objective, event.bound), phase=event.status)
        return self

    def _with(self, objective: float | None, bound: float | None) -> State:
        return replace(
            self,
            objective=self.objective if objective is None else objective,
            bound=self.bound if bound is None else bound,
        )

    def parts(self) -> list[str]:
        """Return the pieces of the line, without title and time."""
        parts = [self.phase]
        if self.objective is not None:
            parts.append(f"incumbent {self.objective:.6g}")
        if self.bound is not None:
            parts.append(f"bound {self.bound:.6g}")
        if self.gap is not None:
            parts.append(f"gap {self.gap:.2%}")
        return parts


def relative_gap(objective: float | None, bound: float | None) -> float | None:
    """Return ``|bound - objective| / |objective|`` where both are finite numbers, else None."""
    if objective is None or bound is None:
        return None
    difference = abs(bound - objective)
    if not difference < float("inf"):
        return None
    return difference / max(abs(objective), 1e-10) if difference else 0.0


class Progress:
    """A listener that shows one live line; a log of lines where the stream is no terminal.

    Parameters
    ----------
    title : str
        What is being done.
    stream : text file or None
        Where to write; standard error by default.
    """

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.state = State()
        self._stream = stream if stream is not None else sys.stderr
        self._started = time.perf_counter()
        self._live: Live | None = None
        self._spoken = -_QUIET_SECONDS

    def __enter__(self) -> Progress:
        """Start the display."""
        self._started = time.perf_counter()
        if _is_terminal(self._stream):
            self._live = _start_live(self._line, self._stream)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Take the line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        self.state = self.state.after(event)
        if self._live is None:
            self._log(event)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def _log(self, event: Event) -> None:
        if isinstance(event, Incumbent) and self.elapsed - self._spoken < _QUIET_SECONDS:
            return
        if self._stream is None or _is_terminal(self._stream):
            return
        self._spoken = self.elapsed
        with contextlib.suppress(OSError, ValueError):  # a reader that has gone must not end the solve
            self._stream.write(f"{self.title}: {', '.join(self.state.parts())}, {self.elapsed:.1f} s\n")
            self._stream.flush()

    def _line(self) -> Text:
        from rich.text import Text

        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(self.title, style="bold")
        for part in self.state.parts():
            line.append(" | ", style="dim")
            line.append(part)
        line.append(" | ", style="dim")
        return line.append(f"{self.elapsed:.1f} s", style="cyan")


def _start_live(line: Callable[[], Text], stream: TextIO) -> Live | None:
    """Return a running live display, or None when the user already runs one on this terminal."""
    from rich.console import Console
    from rich.errors import LiveError
    from rich.live import Live

    live = Live(
        console=Console(file=stream),
        get_renderable=line,
        refresh_per_second=5,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    try:
        live.start()
    except LiveError:
        return None
    return live


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


@contextlib.contextmanager
def show(progress: bool | None, title: str, stream: TextIO | None = None) -> Iterator[Callable[[Event], None]]:
    """Yield a listener of events that shows progress.

    Parameters
    ----------
    progress : bool or None
        True shows it always (as a log where the stream is no terminal), False never, None on a terminal only.
    title : str
        What is being done.
    stream : text file or None
        Where to write; standard error by default.
    """
    target = stream if stream is not None else sys.stderr
    if progress is False or target is None or (progress is None and not _is_terminal(target)):
        yield _ignore
        return
    with Progress(title, target) as listener:
        yield listener


def _ignore(event: Event) -> None:
    """Hear and say nothing."""
