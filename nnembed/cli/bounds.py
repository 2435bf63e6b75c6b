"""``nnembed bounds``: what each method proves about the neurons on a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

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
)
from nnembed.cli.values import read_box
from nnembed.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from nnembed.bounds.box import Bounds
    from nnembed.ir.network import Network
    from nnembed.tables import Table

MethodsOption = Annotated[
    str, typer.Option("--methods", metavar="A,B,...", help="Methods, each run on what the ones before it found.")
]
_MOST_OUTPUTS = 12


@dataclass(frozen=True)
class Rung:
    """What is known once a method has run: totals, and one record per layer."""

    method: str
    seconds: float
    unstable: int
    neurons: int
    width: float
    layers: tuple[dict[str, Any], ...]


def bounds(
    net: NetArgument,
    box: BoxOption,
    *,
    methods: MethodsOption = "interval,crown",
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: TimeOption = None,
) -> int:
    """Show the bound ladder: per method and layer the width, the decided and undecided neurons, and the time."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    return execute(shared, lambda: _bounds(shared, net, box, methods))


def _bounds(shared: Shared, path: Path, box: str, methods: str) -> Report:
    import nnembed

    names = _by_cost(methods)
    sides = read_box(box)
    network = nnembed.load(path)
    rungs, last = _climb(shared, network, sides, names)
    if last is None:
        text = "no bounds within the time limit; give more with --time-limit"
        return Report(_facts(path, rungs, None, names), text, lambda console: None, ExitCode.NO_ANSWER, text)
    left_out = names[len(rungs) :]
    note = f"not run within the time limit: {', '.join(left_out)}" if left_out else ""
    line = "; ".join(f"{r.method}: {r.unstable} of {r.neurons} undecided, {r.seconds:.3g} s" for r in rungs)

    def show(console: Console) -> None:
        for table in _tables(network, rungs, last, note):
            console.print(table)

    return Report(_facts(path, rungs, last, names), line, show)


def _by_cost(methods: str) -> tuple[str, ...]:
    """Return the names of the methods in the order in which they run."""
    from nnembed.hooks.manager import registry

    names = dict.fromkeys(part.strip() for part in methods.split(",") if part.strip())
    if not names:
        raise InputError('--methods names nothing; give for example "interval,crown"')
    book = registry()
    return tuple(sorted(names, key=lambda name: book.get("bound tightener", name).cost))


def _climb(shared: Shared, network: Network, sides: Any, names: tuple[str, ...]) -> tuple[list[Rung], Bounds | None]:
    """Run ever longer prefixes of the methods while there is time; return what each added, and the last bounds."""
    import nnembed
    from nnembed.options import Budget

    rungs: list[Rung] = []
    best: Bounds | None = None
    for count in range(1, len(names) + 1):
        left = None if shared.time_limit is None else max(0.0, shared.time_limit - shared.elapsed)
        budget = Budget(seconds=left, threads=shared.threads, seed=shared.seed)
        found = nnembed.tighten(network, sides, methods=names[:count], budget=budget)
        done = [p for p in found.history if p.method == names[count - 1]]
        if not found.complete or not done:
            break
        best = found
        rungs.append(_rung(found, names[count - 1], done[-1].seconds))
    return rungs, best


def _rung(found: Bounds, method: str, seconds: float) -> Rung:
    layers: list[dict[str, Any]] = []
    for node in found.network.activations:
        opened = found.open(node)
        width = found.high[node.inputs[0]] - found.low[node.inputs[0]]
        undecided = int(opened.sum())
        fact: dict[str, Any] = {"layer": node.name, "kind": node.kind, "neurons": opened.size}
        fact |= {"stable": opened.size - undecided, "unstable": undecided}
        fact |= {"mean_width": float(width.mean()), "max_width": float(width.max(initial=0.0))}
        layers.append(fact)
    outputs = [found.high[s.name] - found.low[s.name] for s in found.network.outputs]
    mean = sum(float(w.sum()) for w in outputs) / max(1, sum(w.size for w in outputs))
    return Rung(method, seconds, found.unstable, sum(f["neurons"] for f in layers), mean, tuple(layers))


def _facts(path: Path, rungs: list[Rung], last: Bounds | None, names: tuple[str, ...]) -> dict[str, Any]:
    steps = [
        {
            "method": r.method,
            "own_seconds": r.seconds,
            "neurons": r.neurons,
            "unstable": r.unstable,
            "stable": r.neurons - r.unstable,
            "mean_output_width": r.width,
            "layers": r.layers,
        }
        for r in rungs
    ]
    facts: dict[str, Any] = {"command": "bounds", "status": "ok" if len(rungs) == len(names) else "time_limit"}
    facts |= {"network": str(path), "methods": steps, "sound": None, "outputs": None}
    if last is not None:
        specs = last.network.outputs
        facts["sound"] = last.sound
        facts["outputs"] = {s.name: {"lower": last.lower[s.name], "upper": last.upper[s.name]} for s in specs}
    return facts


def _tables(network: Network, rungs: list[Rung], last: Bounds, note: str) -> list[Table]:
    from nnembed.tables import Table

    head = ["layer", "kind", "neurons"]
    for r in rungs:
        head += [f"{r.method}: undecided", "mean width"]
    rows = []
    for place, layer in enumerate(rungs[0].layers):
        row: list[object] = [layer["layer"], layer["kind"], layer["neurons"]]
        for r in rungs:
            row += [r.layers[place]["unstable"], r.layers[place]["mean_width"]]
        rows.append(row)
    total = [
        (r.method, r.seconds, r.neurons - r.unstable, r.unstable, r.width) for r in rungs
    ]  # fmt: skip
    methods = Table(
        f"bounds of {network.name}",
        ("method", "seconds", "decided", "undecided", "mean output width"),
        total,
        note or "every bound is a proof" if last.sound else "NOT a proof: a method without guarantee took part",
    )
    tables = [methods]
    if rows:
        tables.append(Table("layers", head, rows))
    entries = [
        (f"{s.name}[{i}]", float(lo), float(hi))
        for s in network.outputs
        for i, (lo, hi) in enumerate(zip(last.low[s.name][0], last.high[s.name][0], strict=True))
    ]
    if last.batch == 1 and len(entries) <= _MOST_OUTPUTS:
        tables.append(Table("outputs", ("output", "lower", "upper"), entries))
    return tables
