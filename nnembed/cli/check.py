"""``nnembed check``: can this file be used, and is it read rightly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnembed.cli.common import (
    ExitCode,
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
from nnembed.errors import SelfCheckFailed, UnsupportedOperators

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="Random points compared with the reference.")]


def check(
    net: NetArgument,
    *,
    samples: SamplesOption = 64,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: TimeOption = None,
) -> int:
    """Load a network and compare it with the reference runtime; list every operator that cannot be read, at once."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    return execute(shared, lambda: _check(shared, net, samples))


def _check(shared: Shared, path: Path, samples: int) -> Report:
    import nnembed

    try:
        network = nnembed.load(path)
        difference = network.self_check(samples=samples, seed=shared.seed)
    except UnsupportedOperators as error:
        return _refused(path, error)
    except SelfCheckFailed as error:
        facts = _facts(path, "self_check_failed", None, ())
        return Report(facts, "self-check failed", lambda console: None, ExitCode.CHECK_FAILED, str(error))
    reference = network.reference.name if network.reference is not None else "none"
    line = f"{path}: read exactly, largest difference to {reference} on {samples} points {difference:.3g}"
    facts = {**_facts(path, "ok", difference, ()), "reference": reference, "samples": samples}

    def show(console: Console) -> None:
        console.print(network.summary())
        console.print(line, markup=False, soft_wrap=True)

    return Report(facts, line, show)


def _refused(path: Path, error: UnsupportedOperators) -> Report:
    count = len(error.problems)
    line = f"{path}: {count} node(s) cannot be read exactly"

    def show(console: Console) -> None:
        for problem in error.problems:
            console.print(f"  - {problem}", markup=False, soft_wrap=True)

    complaint = f"{line}; replace these operators before export, or ask for a reader plugin"
    return Report(_facts(path, "unsupported", None, error.problems), line, show, ExitCode.WRONG_USE, complaint)


def _facts(path: Path, status: str, difference: float | None, problems: tuple[str, ...]) -> dict[str, Any]:
    return {
        "command": "check",
        "network": str(path),
        "status": status,
        "max_difference": difference,
        "problems": problems,
    }
