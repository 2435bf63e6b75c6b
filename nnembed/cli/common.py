"""What all commands share: their options, the form of their answers, exit codes and the two output streams."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from rich.console import Console

    from nnembed.tables import Table

NetArgument = Annotated[Path, typer.Argument(metavar="NET", help="An ONNX file.", show_default=False)]
BoxOption = Annotated[
    str,
    typer.Option(
        "--box",
        metavar="FILE|LO,HI",
        help="The box of the inputs: two numbers for all entries, or a .json, .npz or .csv file.",
        show_default=False,
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result in one line, show no progress.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of everything random.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Solver threads.")]
TimeOption = Annotated[
    float | None,
    typer.Option("--time-limit", min=0.0, metavar="SECONDS", help="Wall-clock seconds.", show_default="none"),
]


class ExitCode(IntEnum):
    """How a command ends."""

    DONE = 0
    WRONG_USE = 2
    NO_ANSWER = 3
    CHECK_FAILED = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Shared:
    """The options every command takes."""

    json: bool = False
    quiet: bool = False
    seed: int = 0
    threads: int = 1
    time_limit: float | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def progress(self) -> bool | None:
        """Whether to show progress: never for machines, else where there is a terminal."""
        return False if self.json or self.quiet else None

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.perf_counter() - self.started


@dataclass(frozen=True)
class Report:
    """What a command has found.

    Attributes
    ----------
    facts : mapping
        For ``--json``; `answer` fills in the keys every object has.
    line : str
        For ``--quiet``.
    show : callable
        Prints everything for people.
    code : ExitCode
        How the command ends.
    complaint : str
        One line for standard error when something is wrong.
    """

    facts: Mapping[str, Any]
    line: str
    show: Callable[[Console], None]
    code: ExitCode = ExitCode.DONE
    complaint: str = ""


def execute(shared: Shared, work: Callable[[], Report]) -> int:
    """Do the work of a command, print its report in the form asked for and return the exit code."""
    with _reserved_output(shared.json):
        report = work()
    try:
        if shared.json:
            print_json({"seconds": shared.elapsed, **report.facts})
        elif shared.quiet:
            write_line(report.line)
        else:
            report.show(make_console())
        flush()
    except BrokenPipeError:  # a reader such as `head` has seen enough; the exit code still tells how it went
        abandon_output()
    if report.complaint:
        complain(report.complaint)
    return int(report.code)


def print_json(facts: Mapping[str, Any]) -> None:
    """Print one object; every one has the keys of a result, null where they make no sense."""
    base = {"status": "ok", "objective": None, "bound": None, "gap": None, "certificate": None, "seconds": None}
    write_line(json.dumps(plain({**base, **facts}), allow_nan=False, ensure_ascii=True))


def plain(value: Any) -> Any:
    """Return `value` made of what JSON knows; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return str(value)


def records(table: Table) -> list[dict[str, Any]]:
    """Return the rows of a table as objects keyed by its columns."""
    keys = [c.replace(" ", "_") for c in table.columns]
    return [dict(zip(keys, row, strict=True)) for row in table.rows]


def make_console() -> Console:
    """Return a console on standard output; wide enough for tables when it is no terminal."""
    from rich.console import Console

    class Quiet(Console):
        """A console that leaves the end of a pipe to us instead of exiting."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    console = Quiet(highlight=False)
    return console if console.is_terminal else Quiet(highlight=False, width=120)


def write_line(text: str) -> None:
    """Write a line to standard output, if there is one."""
    if sys.stdout is not None:
        sys.stdout.write(f"{text}\n")


def flush() -> None:
    """Empty the buffer of standard output, if there is one."""
    if sys.stdout is not None:
        sys.stdout.flush()


def abandon_output() -> None:
    """Give up standard output so that Python does not stumble over it again when it leaves."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def complain(message: str) -> None:
    """Write one line to standard error."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"nnembed: {one_line(message)}\n")
        sys.stderr.flush()


def one_line(message: str) -> str:
    """Return a message of several lines as one."""
    return "; ".join(part for part in (line.strip().removeprefix("- ") for line in message.splitlines()) if part)


def shorten(values: Sequence[float] | np.ndarray, most: int = 12) -> str:
    """Return numbers as text, the middle left out when there are many."""
    flat = np.asarray(values, float).ravel()
    if len(flat) <= most:
        return "[" + ", ".join(f"{v:.6g}" for v in flat) + "]"
    head, tail = (", ".join(f"{v:.6g}" for v in part) for part in (flat[: most - 3], flat[-2:]))
    return f"[{head}, ..., {tail}] ({len(flat):,} values; --json has all)"


def number(value: float | None) -> str:
    """Return a number as text, a dash where there is none."""
    return "-" if value is None else f"{value:.9g}"


@contextlib.contextmanager
def _reserved_output(wanted: bool) -> Iterator[None]:
    """Send what libraries print on standard output to standard error meanwhile, C code included."""
    if not wanted or sys.stdout is None or sys.stderr is None:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        try:
            out, err = sys.__stdout__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
            saved = os.dup(out)
        except (AttributeError, OSError, ValueError):  # no file behind the streams: nothing to protect
            yield
            return
        try:
            os.dup2(err, out)
            yield
        finally:
            _flush_c_streams()
            os.dup2(saved, out)
            os.close(saved)


def _flush_c_streams() -> None:
    """Empty the buffers of C's own streams, which Python does not see."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # no such handle on this platform
        ctypes.CDLL(None).fflush(None)
