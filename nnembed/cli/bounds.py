"""``nnembed bounds``: what each method proves about the neurons on a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnembed.cli.common import (
    BoxOption,
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
    str | None,
    typer.Option(
        "--methods",
        metavar="A,B,...",
        help="Methods, each run on what the ones before it found; by default all that need no solver.",
        show_default="all quick ones",
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", min=0.0, metavar="S", help="Seconds for each method.", show_default="none"),
]
ProgramsOption = Annotated[
    int | None,
    typer.Option("--lps", min=0, metavar="N", help="Linear programs that each method may solve.", show_default="none"),
]
CacheFlag = Annotated[
    bool,
    typer.Option("--cache", help="Look for bounds in, and keep them in, a folder beside NET; take up unfinished ones."),
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Processes that share the work.")]
_MOST_OUTPUTS = 12
_QUICK = 20  # the most a method may cost to be run without being asked for


@dataclass(frozen=True)
class Rung:
    """What is known once a method has run: totals, and one record per layer."""

    method: str
    seconds: float
    unstable: int
    neurons: int
    width: float
    layers: tuple[dict[str, Any], ...]
    programs: int = 0
    finished: bool = True
    cached: bool = False


@dataclass(frozen=True)
class Effort:
    """What each method may use."""

    seconds: float | None = None
    programs: int | None = None
    folder: Path | None = None
    workers: int = 1


def bounds(
    net: NetArgument,
    box: BoxOption,
    *,
    methods: MethodsOption = None,
    seconds: SecondsOption = None,
    lps: ProgramsOption = None,
    cache: CacheFlag = False,
    workers: WorkersOption = 1,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: TimeOption = None,
) -> int:
    """Show the bound ladder: per method and layer the width, the decided and undecided neurons, and the time."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    effort = Effort(seconds, lps, net.with_name(f"{net.name}.nnembed-bounds") if cache else None, workers)
    return execute(shared, lambda: _bounds(shared, net, box, methods, effort))


def _bounds(shared: Shared, path: Path, box: str, methods: str | None, effort: Effort) -> Report:
    import nnembed

    names = _by_cost(methods)
    sides = read_box(box)
    network = nnembed.load(path)
    rungs, last = _climb(shared, network, sides, names, effort)
    left_out = names[len(rungs) :]
    note = f"not run within the time limit: {', '.join(left_out)}" if left_out else ""
    line = "; ".join(f"{r.method}: {r.unstable} of {r.neurons} undecided, {r.seconds:.3g} s" for r in rungs)

    def show(console: Console) -> None:
        for table in _tables(network, rungs, last, note):
            console.print(table)

    return Report(_facts(path, rungs, last, names), line, show)


def _by_cost(methods: str | None) -> tuple[str, ...]:
    """Return the names of the methods in the order in which they run."""
    from nnembed.bounds.ladder import uses_region
    from nnembed.hooks.manager import registry

    book = registry()
    if methods is None:
        known = book.parts("bound tightener")
        cheap = {n: m for n, m in known.items() if m.cost <= _QUICK and not (uses_region(m) and m.cost < 10)}
        return tuple(sorted(cheap, key=lambda name: cheap[name].cost))
    names = dict.fromkeys(part.strip() for part in methods.split(",") if part.strip())
    if not names:
        raise InputError('--methods names nothing; give for example "interval,crown"')
    return tuple(sorted(names, key=lambda name: book.get("bound tightener", name).cost))


def _climb(
    shared: Shared, network: Network, sides: Any, names: tuple[str, ...], effort: Effort
) -> tuple[list[Rung], Bounds]:
    """Run the first method, and the others while there is time; return what each added, and the last bounds."""
    from nnembed.bounds.box import input_bounds
    from nnembed.bounds.cache import cache_at
    from nnembed.bounds.ladder import climb
    from nnembed.hooks.manager import registry
    from nnembed.options import Budget

    book, cache = registry(), cache_at(effort.folder)
    best = input_bounds(network, sides)
    rungs: list[Rung] = []
    with _executor(effort.workers) as executor:
        for name in names:
            left = None if shared.time_limit is None else max(0.0, shared.time_limit - shared.elapsed)
            if left == 0.0 and rungs:
                break
            seconds = min((s for s in (left, effort.seconds) if s is not None), default=None)
            budget = Budget(seconds, shared.threads, shared.seed, effort.programs, executor=executor)
            found = climb(best, [book.get("bound tightener", name)], budget, cache=cache)
            rungs.append(_rung(found, name, len(best.history)))
            best = found
    return rungs, best


def _executor(workers: int) -> Any:
    """Return a pool of processes as a context, nothing for one worker."""
    import contextlib
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    if workers == 1:
        return contextlib.nullcontext()
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _rung(found: Bounds, method: str, before: int) -> Rung:
    own = found.history[before:]
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
    return Rung(
        method,
        sum(p.seconds for p in own),
        found.unstable,
        sum(f["neurons"] for f in layers),
        mean,
        tuple(layers),
        sum(p.lps for p in own),
        all(p.finished for p in own[-1:]),
        any(p.cached for p in own),
    )


def _facts(path: Path, rungs: list[Rung], last: Bounds, names: tuple[str, ...]) -> dict[str, Any]:
    steps = [
        {
            "method": r.method,
            "own_seconds": r.seconds,
            "programs": r.programs,
            "finished": r.finished,
            "cached": r.cached,
            "neurons": r.neurons,
            "unstable": r.unstable,
            "stable": r.neurons - r.unstable,
            "mean_output_width": r.width,
            "layers": r.layers,
        }
        for r in rungs
    ]
    facts: dict[str, Any] = {"command": "bounds", "status": "ok" if len(rungs) == len(names) else "time_limit"}
    facts |= {"network": str(path), "methods": steps, "sound": last.sound}
    specs = last.network.outputs
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
    total = [(_name(r), r.seconds, r.programs, r.neurons - r.unstable, r.unstable, r.width) for r in rungs]
    methods = Table(
        f"bounds of {network.name}",
        ("method", "seconds", "programs", "decided", "undecided", "mean output width"),
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


def _name(rung: Rung) -> str:
    """Return a method with what has to be said of its run."""
    notes = ["from the cache"] if rung.cached else []
    notes += [] if rung.finished else ["not finished"]
    return f"{rung.method} ({', '.join(notes)})" if notes else rung.method
