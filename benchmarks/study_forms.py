"""Formulations by solver on networks of many shapes: the data behind ``formulation="auto"``.

    python benchmarks/study_forms.py [--out benchmarks/study_forms.csv] [--limit 8] [--solvers highs scip] [--small]
    python benchmarks/study_forms.py --report

What --out has already is not measured again.

Every formulation gets the same bounds (CROWN) and the same starting point, on one thread; CPU seconds of the whole
call. Half of the networks are set aside ("held"): rules are made on the others and judged on these. Solvers whose
licence forbids publishing timings are not measured.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tasks import HERE, ROOT

sys.path.append(str(ROOT))

from meter import Meter
from ours import IMPORTS, TimedBackend, preload, scip
from study_nets import Instance, Recipe, digit_instance, network, regressor_instance

import nnembed as nn
from nnembed.hooks.manager import registry

_SHIFT = 0.05  # seconds, of the ratios
FIELDS = ("net", "part", "solver", "form", "cpu", "solve", "nodes", "status", "open", "inputs", "fan_in", "nonzeros")
FORMS = {
    "highs": ("two_row", "slack", "zhat", "partition", "ideal", "first ideal"),
    "scip": ("two_row", "slack", "zhat", "sos1", "indicator", "partition", "ideal", "first ideal"),
}
REGRESSORS = (  # kind, inputs, width, depth, seed, cube
    ("peaks", 2, 12, 2, 3, 1.0), ("peaks", 2, 20, 2, 4, 1.0), ("waves", 3, 16, 2, 5, 1.0), ("waves", 4, 24, 1, 6, 1.0),
    ("ackley", 5, 20, 2, 7, 0.4), ("ackley", 5, 32, 1, 8, 1.0), ("waves", 7, 16, 2, 9, 0.5),
    ("waves", 10, 20, 2, 10, 0.3), ("waves", 10, 32, 1, 11, 0.6), ("ackley", 8, 24, 2, 12, 0.25),
    ("waves", 10, 32, 2, 13, 0.35), ("waves", 5, 32, 2, 14, 0.8), ("ackley", 10, 32, 2, 15, 0.3),
    ("peaks", 2, 32, 3, 16, 1.0),
)  # fmt: skip
CLASSIFIERS = (  # width, depth, l1, seed, image, eps
    (30, 2, 0.0, 3, 5, 0.1), (50, 2, 0.0, 4, 7, 0.1), (50, 2, 1e-3, 5, 9, 0.15), (50, 3, 0.0, 6, 11, 0.06),
    (100, 2, 0.0, 7, 13, 0.06), (100, 1, 0.0, 8, 15, 0.3), (30, 4, 0.0, 9, 17, 0.06), (100, 3, 1e-3, 10, 19, 0.08),
    (64, 2, 1e-4, 11, 21, 0.1), (40, 3, 1e-4, 12, 23, 0.08), (100, 1, 0.0, 20, 25, 0.25), (150, 1, 0.0, 21, 27, 0.2),
    (200, 1, 0.0, 22, 29, 0.12), (60, 1, 0.0, 23, 31, 0.3), (100, 2, 0.0, 24, 33, 0.08), (80, 3, 0.0, 25, 35, 0.06),
)  # fmt: skip


def instances(small: bool) -> Iterator[tuple[str, Instance]]:
    """Yield (part, instance); every second of each kind is held out."""
    for k, (kind, inputs, width, depth, seed, share) in enumerate(REGRESSORS[: 1 if small else None]):
        recipe = Recipe(kind, inputs, width, depth, seed=seed)
        yield ("held" if k % 2 else "fit"), regressor_instance(network(recipe), share)
    for k, (width, depth, l1, seed, image, eps) in enumerate(CLASSIFIERS[: 1 if small else None]):
        recipe = Recipe("digits", 64, width, depth, l1, seed)
        yield ("held" if k % 2 else "fit"), digit_instance(network(recipe), image, eps)


def measure(task: Instance, form: str, bounds: nn.Bounds, solver: Any, limit: float) -> dict[str, Any]:
    """Return what one formulation costs with one solver."""
    meter = Meter()
    backend = TimedBackend(solver, meter, limit)
    started = time.process_time()
    chosen: Any = form
    if form == "first ideal":
        chosen = {node.name: "two_row" if k else "ideal" for k, node in enumerate(task.network.activations)}
    result = nn.maximize(
        task.network, task.box, task.weights, backend=backend, formulation=chosen, bounds=bounds, progress=False
    )
    spent = time.process_time() - started
    return {
        "form": form,
        "cpu": round(spent, 4),
        "solve": round(meter.cpu.get("solve", 0.0), 4),
        "nodes": result.nodes,
        "status": result.status,
        "nonzeros": backend.sizes.get("nonzeros", 0),
        "objective": result.objective,
    }


def study(given: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield measurements of what is not known; the formulations take turns on each instance."""
    preload(IMPORTS)
    solvers = {"highs": registry().get("backend", "highs")}
    if "scip" in given.solvers:
        solvers["scip"] = scip()
    done = {(r["net"], r["solver"], r["form"]) for r in known}
    for part, task in instances(given.small):
        if given.nets not in task.name:
            continue
        bounds = nn.tighten(task.network, task.box, "crown")
        head = {"net": task.name, "part": part, "open": bounds.unstable, "inputs": len(task.box[0])}
        head["fan_in"] = max(bounds.low[node.inputs[0]].shape[1] for node in task.network.activations)
        for name in given.solvers:
            best = None
            for form in given.forms or (FORMS[name][:2] if given.small else FORMS[name]):
                if (task.name, name, form) in done or form not in FORMS[name]:
                    continue
                record = head | {"solver": name} | measure(task, form, bounds, solvers[name], given.limit)
                value = record.pop("objective")
                if record["status"] == "optimal":
                    best = value if best is None else best
                    if abs(value - best) > 2e-4 * (1 + abs(best)):
                        raise SystemExit(f"{task.name}, {name}: {form} says {value}, another form {best}")
                print(*(record[f] for f in FIELDS), file=sys.stderr, flush=True)
                yield record


def cost(record: dict[str, Any], limit: float) -> float:
    """Return CPU seconds; an unproved run counts the limit."""
    return float(record["cpu"]) if record["status"] == "optimal" else max(limit, float(record["cpu"]))


def report(records: list[dict[str, Any]], limit: float) -> str:
    """Return a table of geometric means of what a formulation costs over what `two_row` does on the same networks."""
    lines = [
        "| solver | networks | formulation | over `two_row` | best | worst | proved |",
        "|---|---|---|---|---|---|---|",
    ]
    costs = {(r["solver"], r["net"], r["form"]): cost(r, limit) for r in records}
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in records:
        kind = "classifiers" if r["net"].startswith("digits") else "regressors"
        groups.setdefault((r["solver"], f"{kind}, {r['part']}", r["form"]), []).append(r)
    for (solver, nets, form), found in sorted(groups.items(), key=lambda item: item[0][:2]):
        plain = [(r, costs.get((solver, r["net"], "two_row"))) for r in found]
        ratios = [(cost(r, limit) + _SHIFT) / (base + _SHIFT) for r, base in plain if base is not None]
        if form == "two_row" or not ratios:
            continue
        mean = float(np.exp(np.mean(np.log(ratios))))
        proved = sum(r["status"] == "optimal" for r in found)
        cells = f"`{form}` | {mean:.2f} | {min(ratios):.2f} | {max(ratios):.2f} | {proved}/{len(found)}"
        lines.append(f"| {solver} | {nets} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "study_forms.csv")
    parser.add_argument("--limit", type=float, default=8.0, help="CPU seconds of each solve")
    parser.add_argument("--solvers", nargs="+", default=["highs", "scip"], choices=list(FORMS))
    parser.add_argument("--nets", default="", help="part of the names of networks")
    parser.add_argument("--forms", nargs="+", help="some formulations only")
    parser.add_argument("--small", action="store_true", help="two networks, two formulations")
    parser.add_argument("--report", action="store_true", help="measure nothing, print the table of --out")
    given = parser.parse_args()
    records: list[dict[str, Any]] = []
    if given.out.exists():
        with given.out.open() as file:
            records = list(csv.DictReader(file))
    if given.report:
        print(report(records, given.limit))
        return
    fresh = not given.out.exists()
    with given.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        for record in study(given, list(records)):
            writer.writerow(record)
            file.flush()
            records.append(record)
    print(report(records, given.limit))


if __name__ == "__main__":
    main()
