"""``nnembed demo``: the pricing example from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnembed.cli.common import (
    JsonFlag,
    QuietFlag,
    Report,
    SeedOption,
    Shared,
    ThreadsOption,
    execute,
    make_console,
    records,
)
from nnembed.cli.optimize import ending, result_facts, result_line

if TYPE_CHECKING:
    from rich.console import Console

PictureOption = Annotated[
    Path, typer.Option("--picture", metavar="FILE", help="Where to write the picture (.png, .svg, .pdf).")
]
DemoTime = Annotated[float, typer.Option("--time-limit", min=0.0, metavar="SECONDS", help="Wall-clock seconds.")]


def demo(
    *,
    picture: PictureOption = Path("nnembed_demo.png"),
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: DemoTime = 60.0,
) -> int:
    """Set the prices of 20 stores against a trained demand network, with HiGHS; print the decision, write a picture."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    return execute(shared, lambda: _demo(shared, picture, time_limit))


def _demo(shared: Shared, picture: Path, time_limit: float) -> Report:
    from rich.console import Console

    from nnembed.demo import run_demo

    silent = shared.json or shared.quiet
    console = Console(quiet=True) if silent else make_console()
    done = run_demo(picture=picture, seed=shared.seed, threads=shared.threads, time_limit=time_limit, console=console)
    code, complaint = ending(done.result)
    facts = {
        "command": "demo",
        **result_facts(done.result),
        "seconds": done.seconds,
        "picture": None if done.picture is None else str(done.picture),
        "table": records(done.table),
    }

    def show(console: Console) -> None:
        """Everything was printed while it happened."""

    return Report(facts, result_line(done.result), show, code, complaint)
