"""``nnembed surrogate``: a smaller twin of a network, as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    records,
    shorten,
)
from nnembed.cli.values import read_box, read_samples

if TYPE_CHECKING:
    from rich.console import Console

MethodOption = Annotated[
    str,
    typer.Option("--method", help='Surrogate, options after a colon: "magnitude:scope=global"; see `nnembed plugins`.'),
]
SparsityOption = Annotated[
    float | None,
    typer.Option("--sparsity", help="Share of the weights to take away; default: the method's.", show_default=False),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the twin (ONNX).")]
TwinBoxOption = Annotated[
    str | None,
    typer.Option("--box", metavar="LO,HI|FILE", help="Where to prove how far the twin may be off.", show_default=False),
]
SamplesOption = Annotated[
    str | None,
    typer.Option(
        "--samples",
        metavar="FILE",
        help="Points that matter to the method and in its report: a .npy, .npz, .csv or .json file.",
        show_default=False,
    ),
]


def surrogate(
    net: NetArgument,
    out: OutOption,
    *,
    method: MethodOption = "magnitude",
    sparsity: SparsityOption = None,
    box: TwinBoxOption = None,
    samples: SamplesOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: TimeOption = None,
) -> int:
    """Make a smaller twin of a network, prove how far it may be off, and write it to a file."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    return execute(shared, lambda: _surrogate(shared, net, out, What(method, sparsity, box, samples)))


@dataclass(frozen=True)
class What:
    """Which twin is made, and on which box and points."""

    method: str
    sparsity: float | None
    box: str | None
    samples: str | None


def _surrogate(shared: Shared, path: Path, out: Path, what: What) -> Report:
    import nnembed

    sides = None if what.box is None else read_box(what.box)
    network = nnembed.load(path)
    samples = None if what.samples is None else read_samples(network, what.samples)
    twin = nnembed.surrogate(
        network,
        what.method,
        sparsity=what.sparsity,
        box=sides,
        samples=samples,
        time_limit=shared.time_limit,
        threads=shared.threads,
        seed=shared.seed,
    )
    rounding = nnembed.save(twin.network, out)
    report, error = twin.report, twin.error_bound
    assert report is not None
    facts: dict[str, Any] = {
        "command": "surrogate",
        "network": str(path),
        "out": str(out),
        "method": what.method,
        "samples": None if samples is None else len(next(iter(samples.values()))),
        "sparsity": report.sparsity,
        "weights": report.weights,
        "nonzeros": report.nonzeros,
        "layers": records(report.summary()),
        "facts": dict(report.facts),
        "error_bound": error,
        "rounding": rounding,
        "seed": shared.seed,
        "threads": shared.threads,
    }
    proof = "no box, nothing proved" if error is None else f"off by at most {error.max(initial=0.0):.6g} on the box"
    line = f"{out}: {report.nonzeros} of {report.weights} weights, {proof}"

    def show(console: Console) -> None:
        console.print(report.summary())
        if error is not None:
            console.print(f"error at most {shorten(error)} on the box", markup=False, soft_wrap=True)
        console.print(f"{line}; the file differs by {rounding:.2g} through rounding", markup=False, soft_wrap=True)

    return Report(facts, line, show)
