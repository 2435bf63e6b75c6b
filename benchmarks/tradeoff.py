"""What bounds cost and what they save: bound effort against solve effort, over networks that are trained here.

    python benchmarks/tradeoff.py [--picture docs/img/tradeoff.png] [--limit 8] [--seeds 2] [--small]
    python benchmarks/tradeoff.py --report [--picture FILE]

After Badilla, Goycoolea, Munoz and Serra (Computational tradeoffs of optimization-based bound tightening in ReLU
networks). Classifiers of scikit-learn's digits of several depths, widths, L1 levels and roundings; the runner-up is to
overtake the true class in a ball around an image, or on the whole box. For every bound method: CPU seconds of the
bounds (methods before it included), unstable neurons, mean width of pre-activations, nonzeros of the model, CPU seconds
and nodes of the solver after it. One process, one thread; methods take turns on each instance, so compare within it.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tasks import HERE, ROOT

sys.path.append(str(ROOT))

from meter import Meter
from ours import IMPORTS, TimedBackend, preload
from study_nets import Instance, Recipe, digit_instance, network

import nnembed as nn
from nnembed.hooks.manager import registry

METHODS: dict[str, str | tuple[str, ...]] = {
    "interval": ("interval",),
    "fbbt": ("interval", "fbbt"),
    "crown": ("crown",),
    "alpha-crown": ("alpha-crown",),
    "fast-c2v": ("fast-c2v",),
    "opt-c2v": ("crown", "opt-c2v"),
    "lp": ("crown", "lp"),
    "rolling": ("crown", "lp", "rolling"),
    "mip": ("crown", "lp", "mip"),
    "auto": "auto",
}
_SHIFT = 0.05  # seconds, of the geometric means
FIELDS = (
    "group", "depth", "width", "l1", "decimals", "box", "net", "image", "method",
    "bounds", "unstable", "mean_width", "nonzeros", "solve", "nodes", "whole", "status",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Networks that are alike, and the box around each image (None is the whole box)."""

    group: str
    depth: int
    width: int
    eps: float | None
    l1: float = 0.0
    decimals: int | None = None

    def recipe(self, seed: int) -> Recipe:
        """Return how to train one of them."""
        return Recipe("digits", 64, self.width, self.depth, self.l1, seed)


def settings(small: bool) -> list[Setting]:
    """Return what is measured: one thing is varied at a time, depth and L1 together."""
    if small:
        return [Setting("depth", depth, 12, 0.05) for depth in (1, 2)]
    found = [Setting("depth", d, 50, _RADIUS[d], l1) for d in _RADIUS for l1 in (0.0, 1e-4, 1e-3)]
    found += [Setting("width", 2, width, 0.1) for width in (16, 100)]
    found += [Setting("rounding", 3, 50, _RADIUS[3], 1e-4, decimals) for decimals in (3, 2)]
    return found + [Setting("whole box", depth, 16, None, 1e-3) for depth in (1, 2, 3)]


_RADIUS = {1: 0.25, 2: 0.12, 3: 0.08, 4: 0.06}  # by depth, so that most instances take HiGHS some seconds at L1 = 0


def measure(task: Instance, method: str, limit: float, budget: float) -> dict[str, Any]:
    """Return what one bound method costs and what the solver needs after it."""
    started = time.process_time()
    bounds = nn.tighten(task.network, task.box, METHODS[method], nn.Budget(seconds=budget))
    spent = time.process_time() - started
    meter = Meter()
    backend = TimedBackend(registry().get("backend", "highs"), meter, limit)
    result = nn.maximize(task.network, task.box, task.weights, backend=backend, bounds=bounds, progress=False)
    whole = time.process_time() - started
    widths = [(bounds.high[n.inputs[0]] - bounds.low[n.inputs[0]]).ravel() for n in task.network.activations]
    return {
        "method": method,
        "bounds": round(spent, 5),
        "unstable": bounds.unstable,
        "mean_width": round(float(np.concatenate(widths).mean()), 4),
        "nonzeros": backend.sizes.get("nonzeros", 0),
        "solve": round(meter.cpu.get("solve", 0.0), 4),
        "nodes": result.nodes,
        "whole": round(whole, 4),
        "status": result.status,
        "objective": result.objective,
    }


def study(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the records of all instances; proved optima must agree."""
    preload(IMPORTS)
    share, of = map(int, given.part.split("/"))
    for setting in settings(given.small)[share - 1 :: of]:
        for seed in range(given.seeds):
            net = network(setting.recipe(seed), setting.decimals)
            task = digit_instance(net, 3 + 2 * seed, setting.eps)
            best = None
            for method in given.methods:
                record = vars(setting) | {"net": net.name, "image": 3 + 2 * seed}
                record["box"] = "whole" if record.pop("eps") is None else f"{setting.eps:g}"
                record |= measure(task, method, given.limit, given.budget)
                value = record.pop("objective")
                if record["status"] == "optimal":
                    best = value if best is None else best
                    if abs(value - best) > 2e-4 * (1 + abs(best)):
                        raise SystemExit(f"{task.name}: {method} says {value}, another method {best}")
                print(*(record[f] for f in FIELDS), file=sys.stderr, flush=True)
                yield record


# ---- tables and the picture ----------------------------------------------------------------------------------


def mean(values: Sequence[float], shift: float = _SHIFT) -> float:
    """Return the geometric mean with a shift."""
    return float(np.exp(np.mean(np.log(np.array(values, float) + shift))) - shift)


def grouped(records: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    """Return records by key, in the order of appearance."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def label(record: dict[str, Any]) -> str:
    """Name the networks a record is about."""
    rounding = f", {record['decimals']} decimals" if record["decimals"] not in (None, "") else ""
    penalty = f", L1 {float(record['l1']):g}" if float(record["l1"]) else ""
    box = "whole box" if record["box"] == "whole" else f"eps {record['box']}"
    return f"{record['depth']}x{record['width']}{penalty}{rounding}, {box}"


def report(records: Sequence[dict[str, Any]], limit: float) -> str:
    """Return the table: means over the instances of each setting; an unproved run counts the limit."""
    lines = [
        "| networks | bounds | bounds s | unstable | width | nonzeros | solve s | nodes | whole s | proved |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in grouped(records, label).items():
        for method, rows in grouped(found, lambda r: r["method"]).items():
            number = {f: [float(r[f]) for r in rows] for f in FIELDS[9:16]}
            proved = [r["status"] == "optimal" for r in rows]
            for field in ("solve", "whole"):
                number[field] = [v if ok else max(v, limit) for v, ok in zip(number[field], proved, strict=True)]
            cells = [
                f"{np.mean(number['bounds']):.3f}",
                f"{np.mean(number['unstable']):.0f}",
                f"{np.mean(number['mean_width']):.2f}",
                f"{np.mean(number['nonzeros']):.0f}",
                f"{mean(number['solve']):.2f}",
                f"{mean(number['nodes'], 1.0):.0f}",
                f"{mean(number['whole']):.2f}",
                f"{sum(proved)}/{len(rows)}",
            ]
            lines.append(f"| {name} | `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(records: Sequence[dict[str, Any]], path: Path, limit: float) -> None:
    """Draw bound effort against solve effort, one panel for each depth, one line for each L1 level."""
    from nnembed.report.plots import BLUE, GREEN, GREY, ORANGE, new_figure, save

    by_depth = grouped([r for r in records if r["group"] == "depth"], lambda r: int(r["depth"]))
    figure = new_figure(3.1 * len(by_depth) + 0.4, 3.9)
    axes = figure.subplots(1, len(by_depth), sharey=True, squeeze=False)[0]
    methods = list(grouped(records, lambda r: r["method"]))
    shapes = dict(zip(methods, "o8vsDP^X*d", strict=False))
    for panel, (depth, at_depth) in zip(axes, by_depth.items(), strict=True):
        for colour, (level, rows) in zip((ORANGE, BLUE, GREEN, GREY), grouped(at_depth, _level).items(), strict=False):
            points = []
            for method, own in grouped(rows, lambda r: r["method"]).items():
                solves = [float(r["solve"]) if r["status"] == "optimal" else limit for r in own]
                points.append((float(np.mean([float(r["bounds"]) for r in own])), max(mean(solves), 1e-3), method))
            points.sort()
            panel.plot([p[0] for p in points], [p[1] for p in points], "-", color=colour, lw=1, alpha=0.5)
            for x, y, method in points:
                panel.plot(x, y, shapes[method], color=colour, ms=7, mec="white", mew=0.6)
            panel.plot([], [], "-", color=colour, label=f"L1 {level:g}")
        edge = np.array([0.015, 0.9])
        panel.plot(edge, edge, ":", color=GREY, lw=1)
        panel.set(xscale="log", yscale="log", xlabel="bounds, CPU seconds", xlim=(3e-4, 1.2), ylim=(0.012, 1.4 * limit))
        panel.set_title(f"{depth} hidden layer{'s' if depth > 1 else ''}", fontsize=10)
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("solving after it, CPU seconds")
    axes[0].legend(fontsize=8, loc="upper left")
    marks = [axes[0].plot([], [], shapes[m], color="black", ls="", ms=6)[0] for m in methods]
    figure.legend(marks, methods, loc="outside lower center", ncols=len(methods), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _level(record: dict[str, Any]) -> float:
    return float(record["l1"])


def main() -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "tradeoff.csv")
    parser.add_argument("--read", type=Path, nargs="*", default=[], help="files of other runs to report with --out")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    parser.add_argument("--limit", type=float, default=8.0, help="CPU seconds of each solve")
    parser.add_argument("--budget", type=float, default=5.0, help="wall seconds of each bound computation")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--part", default="1/1", help="2/3 is the second third of the networks; for several runs")
    parser.add_argument("--small", action="store_true", help="two tiny networks, to see that it works")
    parser.add_argument("--report", action="store_true", help="measure nothing, read --out")
    given = parser.parse_args()
    if given.report:
        records = [r for path in (given.out, *given.read) for r in csv.DictReader(path.read_text().splitlines())]
    else:
        given.seeds = 1 if given.small else given.seeds
        records = []
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            for record in study(given):
                writer.writerow(record)
                file.flush()
                records.append(record)
    print(report(records, given.limit))
    if given.picture:
        picture(records, given.picture, given.limit)


if __name__ == "__main__":
    main()
