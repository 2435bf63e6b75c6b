"""``nnembed optimize``: the largest or smallest output of a network on a box, with a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from nnembed.cli.common import (
    BoxOption,
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
    number,
    shorten,
)
from nnembed.cli.values import read_box, read_start, read_weights
from nnembed.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from nnembed.ir.network import TensorSpec

MinFlag = Annotated[bool, typer.Option("--min", help="Minimise instead of maximise.")]
OutputOption = Annotated[
    int | None, typer.Option("--output", metavar="K", help="Optimise output number K, from 0.", show_default=False)
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="LIST|FILE", help='Weights on all outputs, "1,0,-1" or a file.', show_default=False
    ),
]
BackendOption = Annotated[
    str, typer.Option("--backend", help="Solver, see `nnembed plugins`; none asks none: heuristics and a proven bound.")
]
FormulationOption = Annotated[str, typer.Option("--formulation", help="How activations become rows.")]
IsolatedFlag = Annotated[bool, typer.Option("--isolated", help="Run the solver in a process of its own.")]
HeuristicsOption = Annotated[
    str,
    typer.Option(
        "--heuristics",
        metavar="A,B,...",
        help="What looks for points first: auto, none or names; see `nnembed plugins`.",
    ),
]
SurrogateOption = Annotated[
    str | None,
    typer.Option(
        "--surrogate",
        help='Search on a sparser twin, such as "magnitude:0.5"; the answer is NET\'s.',
        show_default=False,
    ),
]
TargetOption = Annotated[
    float | None,
    typer.Option("--target", metavar="VALUE", help="Stop at the first point at least this good.", show_default=False),
]
StartOption = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="LIST|FILE",
        help="Inputs to start from: numbers, or a .npy, .npz, .csv or .json file.",
        show_default=False,
    ),
]
GapOption = Annotated[float, typer.Option("--gap", min=0.0, help="Relative gap at which to stop.")]


@dataclass(frozen=True)
class How:
    """What is optimised and by what means."""

    minimum: bool
    output: int | None
    weights: str | None
    backend: str
    formulation: str
    gap: float
    isolated: bool
    heuristics: str
    surrogate: str | None
    target: float | None
    start: str | None


def optimize(
    net: NetArgument,
    box: BoxOption,
    *,
    minimum: MinFlag = False,
    output: OutputOption = None,
    weights: WeightsOption = None,
    backend: BackendOption = "auto",
    formulation: FormulationOption = "auto",
    gap: GapOption = 1e-4,
    isolated: IsolatedFlag = False,
    heuristics: HeuristicsOption = "auto",
    surrogate: SurrogateOption = None,
    target: TargetOption = None,
    start: StartOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: TimeOption = None,
) -> int:
    """Find the largest (or smallest) output of a network on a box, and check the answer on the original network."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    how = How(
        minimum, output, weights, backend, formulation, gap, isolated, heuristics, surrogate, target, start
    )  # fmt: skip
    return execute(shared, lambda: _optimize(shared, net, box, how))


def _optimize(shared: Shared, path: Path, box: str, how: How) -> Report:
    import nnembed

    names = _names(how.heuristics)
    sides = read_box(box)
    network = nnembed.load(path)
    search = nnembed.minimize if how.minimum else nnembed.maximize
    result = search(
        network,
        sides,
        objective=read_weights(network, how.weights, how.output),
        backend=how.backend,
        formulation=how.formulation,
        time_limit=shared.time_limit,
        gap=how.gap,
        heuristics=names,
        surrogate=how.surrogate,
        target=how.target,
        start=None if how.start is None else read_start(network, how.start),
        isolated=how.isolated,
        threads=shared.threads,
        seed=shared.seed,
        progress=shared.progress,
    )
    code, complaint = ending(result)
    sense = "min" if how.minimum else "max"
    facts = {"command": "optimize", "network": str(path), "sense": sense, **result_facts(result)}
    facts |= {"x": result.x, "y": result.y, "seed": shared.seed, "threads": shared.threads}

    def show(console: Console) -> None:
        """Print the answer, its point and what went wrong for people."""
        from rich.markup import escape

        console.print(f"[bold]{sense}[/] of {escape(network.name)}: {escape(result_line(result))}")
        for word, value, specs in (("input", result.x, network.inputs), ("output", result.y, network.outputs)):
            for name, text in _points(value, specs):
                console.print(f"{word} {name} = {text}", markup=False, soft_wrap=True)
        if result.certificate is not None:
            console.print(result.certificate.summary())
        if result.message:
            console.print(result.message, markup=False, soft_wrap=True)

    return Report(facts, result_line(result), show, code, complaint)


def _names(heuristics: str) -> str | tuple[str, ...]:
    """Return the heuristics that ``--heuristics`` names."""
    names = tuple(dict.fromkeys(part.strip() for part in heuristics.split(",") if part.strip()))
    if not names:
        raise InputError('--heuristics names nothing; give auto, none or for example "forward,walk"')
    return names[0] if len(names) == 1 else names


def _points(value: Any, specs: tuple[TensorSpec, ...]) -> list[tuple[str, str]]:
    if value is None:
        return []
    by_name = value if isinstance(value, Mapping) else {specs[0].name: value}
    return [(name, shorten(np.asarray(v))) for name, v in by_name.items()]


# ---- any Result ---------------------------------------------------------------------------------


def result_facts(result: Any) -> dict[str, Any]:
    """Return what ``--json`` says of every result."""
    certificate = result.certificate
    return {
        "status": result.status,
        "objective": result.objective,
        "bound": result.bound,
        "gap": result.gap,
        "certificate": None if certificate is None else {"ok": certificate.ok, "residual": certificate.residual},
        "seconds": result.seconds,
        "message": result.message,
    }


def result_line(result: Any) -> str:
    """Return a result in one line."""
    parts = [result.status, f"objective {number(result.objective)}", f"bound {number(result.bound)}"]
    parts.append(f"gap {'-' if result.gap is None else format(result.gap, '.3g')}")
    if result.certificate is not None:
        verdict = "holds" if result.certificate.ok else "FAILS"
        parts.append(f"certificate {verdict} (residual {result.certificate.residual:.3g})")
    parts.append(f"{result.seconds:.3g} s")
    return ", ".join(parts)


def ending(result: Any) -> tuple[ExitCode, str]:
    """Return how a command with this result ends, and what to complain of."""
    if result.certificate is not None and not result.certificate.ok:
        why = f"the certificate does not hold (residual {result.certificate.residual:.3g}); do not use this answer"
        return ExitCode.CHECK_FAILED, f"{why}; {result.message}" if result.message else why
    if result.status == "error":
        why = f": {result.message}" if result.message else ""
        return ExitCode.CHECK_FAILED, f"the solver failed{why}; try another --backend or --formulation"
    if result.status in ("infeasible", "unbounded") or result.objective is not None:
        return ExitCode.DONE, ""
    if result.status == "interrupted":
        return ExitCode.INTERRUPTED, "interrupted before a first answer"
    return ExitCode.NO_ANSWER, "no answer within the time limit; give more with --time-limit"
