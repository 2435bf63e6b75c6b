"""Measure heuristics side by side on random ReLU networks, to be maximised over the unit box.

    python benchmarks/walk.py                                     a few shapes and seeds, 10 s each
    python benchmarks/walk.py --shapes 100-500x3 --seeds 53 54 --limit 60
    python benchmarks/walk.py --full                              the 90 instances of the literature
    python benchmarks/walk.py --wide                              the 180 instances of the one on pruned networks
    python benchmarks/walk.py --steps                             region programs: a step, and written anew
    python benchmarks/walk.py --methods walk auto highs --cpu     CPU seconds as the clock, on a busy machine
    python benchmarks/walk.py --report                            print the tables of the last run again
    python benchmarks/walk.py --report --plot pictures            and draw the best values over time

Every run is a process of its own on one thread, its clock starts before the network is embedded. Values are the
network's own in float64. Methods are the registered heuristics by name, alone; `auto` is `nnembed.maximize` as it is,
`highs` the same without heuristics. Results go to a file line by line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # behind everything: an installed nnembed wins

_SHAPES = ("10-100x1", "100-100x2", "100-500x3", "1000-50x2")
_FULL = tuple(f"{n}-{width}x{depth}" for n in (10, 100, 1000) for depth in (1, 2, 3) for width in (100, 500))
_WIDE = tuple(f"{n}-{w}x{d}" for n in (100, 1000, 10000) for d in (2, 3, 4, 5) for w in (50, 100, 200))
_METHODS = (
    "forward", "gradient-walk", "ppga", "ppga-lr", "relax-walk", "sample-lp", "sample-mip", "walk", "auto", "highs"
)  # fmt: skip
_TIMES = (1.0, 10.0, 60.0)
_GRACE = 120.0  # seconds on top of ten times the limit after which a run counts as hung
_BUSY = 8.0  # wall seconds per CPU second at most
_TIE = 1e-6  # relative: values that close win together

Record = dict[str, Any]


# ---- one run ----------------------------------------------------------------------------------------


def alone(network: Any, method: str, limit: float, began: float) -> tuple[list[tuple[float, float]], float | None]:
    """Run one heuristic; return when which value was reached, and a proven bound that was not timed."""
    import numpy as np
    from walk_scene import scene_of

    import nnembed as nn
    from nnembed.engine.dual_side import DualSide
    from nnembed.hooks.manager import registry
    from nnembed.options import Options

    scene = scene_of(network, limit)
    heuristic = registry().get("heuristic", method)
    budget = nn.Budget(max(0.0, limit - (time.perf_counter() - began)))
    trace, best = [], -math.inf
    for candidate in heuristic.run(scene, None, budget, np.random.default_rng(0)):
        value = float(np.ravel(network(candidate.inputs["drivers"]["x"]))[0])
        if value > best:
            best = value
            trace.append((time.perf_counter() - began, value))
    options = Options()
    return trace, DualSide(scene.problem, lambda: False, options, options.budget.start()).improve(5.0)


def whole(network: Any, method: str, limit: float, began: float) -> tuple[list[tuple[float, float]], float | None]:
    """Run a solve; return when which value was reached, and its bound."""
    import nnembed as nn

    heuristics = "auto" if method == "auto" else "none"
    result = nn.maximize(network, (0, 1), heuristics=heuristics, time_limit=limit, progress=False)
    late = time.perf_counter() - began - result.seconds  # what came before the call
    trace, best = [], -math.inf
    entries = [(h.seconds, h.objective) for h in result.history if h.objective is not None]
    if result.objective is not None:
        entries = [e for e in entries if e[1] <= result.objective + 1e-9] + [(result.seconds, result.objective)]
    for seconds, value in entries:
        if value > best:
            best = value
            trace.append((seconds + late, value))
    return trace, result.bound


def roomy(session: Any, at_most: float = math.inf) -> None:
    """Give HiGHS so many wall seconds that CPU seconds run out first on a busy machine, but not for ever."""
    left = _BUSY * min(session._clock.remaining, at_most)
    session._option("time_limit", left + (session._highs.getRunTime() if math.isfinite(left) else 0.0))


def one(shape: str, seed: int, method: str, limit: float, cpu: bool) -> Record:
    """Run one method on one network in this process."""
    if cpu:
        time.perf_counter = time.process_time  # before anything reads it
        from nnembed.backends.highs import HighsSession

        HighsSession._limit = roomy  # its own clock is the wall's; ours interrupts it
    from walk_nets import random_net

    import nnembed as nn

    nn.maximize(random_net("2-3x1", 0), (0, 1), time_limit=5, progress=False)  # imports are not what is measured
    network = random_net(shape, seed)
    began, spent = time.perf_counter(), time.process_time()
    trace, bound = (whole if method in ("auto", "highs") else alone)(network, method, limit, began)
    return {
        "shape": shape, "seed": seed, "method": method, "limit": limit, "clock": "cpu" if cpu else "wall",
        "trace": trace, "bound": bound, "cpu": time.process_time() - spent,
    }  # fmt: skip


def run(shape: str, seed: int, method: str, given: argparse.Namespace) -> Record:
    """Run one method on one network in a process of its own."""
    command = [sys.executable, str(HERE / "walk.py"), "--one", method, "--shapes", shape, "--seeds", str(seed)]
    command += ["--limit", str(given.limit), *(["--cpu"] if given.cpu else [])]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    head = {"shape": shape, "seed": seed, "method": method, "limit": given.limit}
    try:
        done = subprocess.run(
            command, env=os.environ | single, capture_output=True, text=True, check=False,
            timeout=_GRACE + 10 * given.limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return head | {"error": "hung"}
    if done.returncode:
        return head | {"error": (done.stderr.strip().splitlines() or ["ended without a word"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


# ---- tables and pictures ----------------------------------------------------------------------------


def at(record: Record, seconds: float) -> float:
    """Return the best value by then, minus infinity where there was none."""
    return max((value for when, value in record.get("trace", ()) if when <= seconds), default=-math.inf)


def shown(value: float | None) -> str:
    """Return a value with four decimals."""
    return "-" if value is None or math.isinf(value) else f"{value:.4f}"


def distinct(records: Sequence[Record], key: str, first: Sequence[str] = ()) -> list[Any]:
    """Return the values of a field as they come, those of `first` in front."""
    seen = list(dict.fromkeys(r[key] for r in records))
    return [v for v in first if v in seen] + [v for v in seen if v not in first]


def tables(records: Sequence[Record]) -> list[Any]:
    """Return the values per instance at every time, and who wins how often per shape."""
    from nnembed.tables import Table

    methods = distinct(records, "method", _METHODS)
    by = {(r["shape"], r["seed"], r["method"]): r for r in records}
    instances = list(dict.fromkeys((r["shape"], r["seed"]) for r in records))
    longest = max((r["limit"] for r in records), default=0.0)
    found = []
    for seconds in (*(t for t in _TIMES if t < longest), longest):
        rows = []
        for shape, seed in instances:
            own = [by.get((shape, seed, m)) for m in methods]
            values = [None if r is None else at(r, seconds) for r in own]
            bound = min((r["bound"] for r in own if r is not None and r.get("bound") is not None), default=None)
            best = max((v for v in values if v is not None), default=-math.inf)
            gap = "-" if bound is None or math.isinf(best) else f"{bound - best:.4f}"
            rows.append((shape, str(seed), *map(shown, values), shown(bound), gap))
        clock = "CPU" if all(r.get("clock") == "cpu" for r in records if "error" not in r) else "wall"
        title = f"best value after {seconds:g} s ({clock})"
        found.append(Table(title, ("net", "seed", *methods, "proven bound", "gap"), rows))
        found.append(wins(by, instances, methods, seconds))
    wrong = [(r["shape"], str(r["seed"]), r["method"], r["error"]) for r in records if "error" in r]
    return [*found, *([Table("failed", ("net", "seed", "method", "why"), wrong)] if wrong else [])]


def wins(by: dict[tuple[str, int, str], Record], instances: Sequence[Any], methods: Sequence[str], at_: float) -> Any:
    """Return how often each method has the best value, ties for all of them, per shape."""
    from nnembed.tables import Table

    count: dict[str, dict[str, int]] = {}
    for shape, seed in instances:
        values = {m: at(by[shape, seed, m], at_) for m in methods if (shape, seed, m) in by}
        best = max(values.values(), default=-math.inf)
        own = count.setdefault(shape, dict.fromkeys(methods, 0))
        for m, value in values.items():
            own[m] += int(value >= best - _TIE * (1 + abs(best)) and not math.isinf(value))
    rows = [(shape, *(str(own[m]) for m in methods)) for shape, own in count.items()]
    return Table(f"wins after {at_:g} s, ties count for all", ("net", *methods), rows)


def plot(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw the best value over time, a picture per shape with a part per seed; return the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    methods = distinct(records, "method", _METHODS)
    colours = dict(zip(methods, plt.get_cmap("tab10").colors, strict=False))
    files = []
    for shape in distinct(records, "shape"):
        own = [r for r in records if r["shape"] == shape and r.get("trace")]
        seeds = distinct(own, "seed")
        if not seeds:
            continue
        figure, axes = plt.subplots(1, len(seeds), figsize=(5 * len(seeds) + 2, 4), squeeze=False, sharex=True)
        for axis, seed in zip(axes[0], seeds, strict=True):
            part = [r for r in own if r["seed"] == seed]
            top = max(at(r, math.inf) for r in part)
            for r in part:
                when = [t for t, _ in r["trace"]] + [r["limit"]]
                value = [v for _, v in r["trace"]]
                label = r["method"]
                axis.step(when, [*value, value[-1]], where="post", color=colours[label], label=label, lw=1.6)
            ends = sorted(at(r, math.inf) for r in part)
            low = ends[len(ends) // 4]
            axis.set_ylim(low - 0.6 * (top - low) - 1e-3, top + 0.1 * (top - low) + 1e-3)
            axis.set(xscale="log", xlabel="seconds", title=f"{shape}, seed {seed}")
            axis.grid(alpha=0.3)
        axes[0][0].set_ylabel("best value so far")
        handles = {h.get_label(): h for a in axes[0] for h in a.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="center right", frameon=False)
        figure.tight_layout(rect=(0, 0, 1 - 1.7 / (5 * len(seeds) + 2), 1))
        files.append(folder / f"walk_{shape}.png")
        figure.savefig(files[-1], dpi=110)
        plt.close(figure)
    return files


# ---- command line -----------------------------------------------------------------------------------


def read(out: Path) -> list[Record]:
    """Return the records of a file; a last line that was cut off is left out."""
    records = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def measure(given: argparse.Namespace) -> None:
    """Run everything that was asked for and append it to the file."""
    from nnembed.hooks.manager import registry

    known = [*registry().parts("heuristic"), "auto", "highs"]
    methods = given.methods or [m for m in _METHODS if m in known]
    if unknown := [m for m in methods if m not in known]:
        sys.exit(f"no method {', '.join(unknown)}; there are {', '.join(known)}")
    if not given.resume:
        given.out.unlink(missing_ok=True)
    done = {(r["shape"], r["seed"], r["method"], r["limit"]) for r in read(given.out)}
    grid = _FULL if given.full else _WIDE if given.wide else ()
    for shape in given.shapes or grid or _SHAPES:
        for seed in given.seeds or (range(50, 55) if grid else (50, 51)):
            for method in methods:
                if (shape, seed, method, given.limit) in done:
                    continue
                record = run(shape, seed, method, given)
                with given.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                said = record.get("error") or shown(at(record, math.inf))
                print(f"{shape} {seed} {method}: {said}", file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", help=f"like 100-500x3 (default {', '.join(_SHAPES)})")
    parser.add_argument("--seeds", nargs="+", type=int, help="default 50 51")
    parser.add_argument("--methods", nargs="+", help=f"default {', '.join(_METHODS)}, as far as installed")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds of each run (10)")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds as the clock")
    parser.add_argument("--full", action="store_true", help="18 shapes, seeds 50 to 54")
    parser.add_argument("--wide", action="store_true", help="36 shapes with up to 10000 inputs, seeds 50 to 54")
    parser.add_argument("--steps", action="store_true", help="cost of steps of walks instead of values")
    default = Path(tempfile.gettempdir()) / "nnembed-walk-results.jsonl"
    parser.add_argument("--out", type=Path, default=default, help=f"results as JSON lines ({default})")
    parser.add_argument("--resume", action="store_true", help="keep what --out has and go on")
    parser.add_argument("--report", action="store_true", help="measure nothing, print what --out has")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw best values over time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run."""
    given = parse(arguments)
    if given.one:
        print(json.dumps(one(given.shapes[0], given.seeds[0], given.one, given.limit, given.cpu)))
        return
    from report import markdown

    if given.steps:
        from walk_steps import table

        costs = table(given.shapes or _SHAPES, given.seeds or (50,))
        print(markdown(costs) if given.markdown else costs)
        return
    if not given.report:
        measure(given)

    records = read(given.out)
    for table in tables(records):
        print(markdown(table) if given.markdown else table)
    if given.plot:
        for path in plot(records, given.plot):
            print(f"drawn: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
