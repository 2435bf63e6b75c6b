"""``nnembed inspect``: what a network is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnembed.cli.common import (
    JsonFlag,
    NetArgument,
    QuietFlag,
    Report,
    SeedOption,
    Shared,
    ThreadsOption,
    TimeOption,
    execute,
)

if TYPE_CHECKING:
    from rich.console import Console

    from nnembed.report.describe import Description

HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="OUT", help="Also write a page to look at.", show_default=False)
]


def inspect(
    net: NetArgument,
    *,
    html: HtmlOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: TimeOption = None,
) -> int:
    """Show what a network is: layers, sizes, and which operators are exact, piecewise linear, relaxed or refused."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    return execute(shared, lambda: _inspect(net, html))


def _inspect(path: Path, html: Path | None) -> Report:
    from nnembed.hooks.manager import registry
    from nnembed.report.describe import describe
    from nnembed.report.files import write_atomic
    from nnembed.report.html import page

    about = describe(path, registry().readers())
    if html is not None:
        write_atomic(html, page(about).encode())

    def show(console: Console) -> None:
        _show(console, about)
        if html is not None:
            console.print(f"page written to {html}", markup=False, soft_wrap=True)

    facts = {"command": "inspect", "network": str(path), **about.facts(), "html": None if html is None else str(html)}
    return Report(facts, about.line, show)


def _show(console: Console, about: Description) -> None:
    console.print(about.table())
    console.print(about.operator_table())
    if about.network is not None:
        console.print(about.network.summary())
    for problem in about.refused:
        console.print(f"refused: {problem}", style="red", markup=False, soft_wrap=True)
