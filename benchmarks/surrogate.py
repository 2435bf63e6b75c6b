"""What optimising sparse twins is worth: time to the first adversary, and best values on random networks.

    python benchmarks/surrogate.py                      the digits study, half an hour
    python benchmarks/surrogate.py --family random      best values on random networks under one limit
    python benchmarks/surrogate.py --report RESULTS     tables and a picture from results

Every run is the same call with and without ``surrogate=``. The ways separate what helps:

* ``solver``: the network itself, the solver alone; ``heuristics``: the same with our heuristics;
* ``twin``: the solver on the twin, its points put through the network and walked on from there; rate 0 is the network
  as its own twin, so what is more than ``solver`` there is not owed to pruning;
* ``incumbents``: as ``twin``, but only the points that the solver itself finds on the twin are put through the
  network, without the point of the linear relaxation and without walks: rate 0 is ``solver``;
* ``both``: ``twin`` with our heuristics.

Seconds are CPU seconds of one thread, everything counted: bounds, twin, rows, solver; limits are, too, so that other
load changes nothing. Each line of the results is one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

time.perf_counter = time.process_time  # before nnembed takes it: all its clocks are CPU clocks here

import numpy as np  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from walk_nets import random_net  # noqa: E402

import nnembed as nn  # noqa: E402
from nnembed.aliases import Array  # noqa: E402
from nnembed.engine.passing import SurrogateRun  # noqa: E402
from nnembed.events import Event  # noqa: E402
from nnembed.features import Availability  # noqa: E402
from nnembed.hooks.manager import registry  # noqa: E402
from nnembed.ir.linear import Dense  # noqa: E402
from nnembed.ir.network import Network, TensorSpec  # noqa: E402
from nnembed.ir.nodes import Affine, Node, relu  # noqa: E402
from nnembed.options import Options  # noqa: E402
from nnembed.problem import Problem  # noqa: E402
from nnembed.protocols import Backend, Session, Solution  # noqa: E402

RATES = (0.0, 0.3, 0.5, 0.8, 0.9, 0.95)
DEPTHS = {"3x100": (100,) * 3, "4x64": (64,) * 4}
SHAPES = ("100-50x2", "100-100x2", "1000-50x2", "1000-100x2", "1000-200x2")
WAYS = ("solver", "heuristics", "twin", "incumbents", "both")
_TINY = 1e-6  # an adversary beats the label by more than this


@dataclass(frozen=True, eq=False)
class Instance:
    """A network, a box and weights on the outputs; `target` ends a run."""

    name: str
    network: Network
    low: Array
    high: Array
    weights: Array | None
    target: float | None
    centre: Array | None = None  # of an L1 ball
    radius: float = 0.0


class CpuLimited:
    """A solver whose time limits are CPU seconds of this process; all ends after `seconds` in any case."""

    def __init__(self, inner: Backend, seconds: float) -> None:
        self.inner, self.end = inner, time.process_time() + seconds
        self.name, self.summary = inner.name, inner.summary
        self.accepts, self.capabilities = inner.accepts, inner.capabilities

    def available(self) -> Availability:
        """Return whether the solver is there."""
        return self.inner.available()

    def load(self, problem: Problem, options: Options) -> Session:
        """Hand the problem over."""
        session: Any = self.inner.load(problem, replace(options, time_limit=None))
        solve = session.solve
        end = min(self.end, time.process_time() + (np.inf if options.time_limit is None else options.time_limit))

        def limited(on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
            found: Solution = solve(on_event, lambda: should_stop() or time.process_time() > end)
            return found

        session.solve = limited
        return session


def dense_chain(layers: Sequence[tuple[Array, Array]], name: str) -> Network:
    """Return the ReLU network of (weight, bias) per layer, the last one linear."""
    nodes: list[Node] = []
    tensors = {"x": TensorSpec("x", (layers[0][0].shape[1],))}
    current = "x"
    for i, (weight, bias) in enumerate(layers):
        pre, post = f"pre_{i}", f"post_{i}"
        tensors[pre] = TensorSpec(pre, (len(bias),))
        nodes.append(Affine(f"affine_{i}", (current,), pre, (Dense(weight),), bias))
        current = pre
        if i < len(layers) - 1:
            tensors[post] = TensorSpec(post, (len(bias),))
            nodes.append(relu(f"relu_{i}", pre, post, len(bias)))
            current = post
    return Network((tensors["x"],), (tensors[current],), tuple(nodes), tensors, name=name)


def digits(radius: float, count: int, kinds: Sequence[str], ball: str = "linf") -> Iterator[Instance]:
    """Yield questions for adversaries: a label is to be overtaken by its runner-up in a ball around an image.

    Images are taken in order from those the training has not seen, as far as they are classified rightly and gradient
    steps show that there is an adversary.
    """
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    images, labels = load_digits(return_X_y=True)
    images = images / 16.0
    for kind in kinds:
        model = MLPClassifier(DEPTHS[kind], alpha=1e-3, max_iter=200, random_state=0).fit(images[:1200], labels[:1200])
        layers = [(w.T.copy(), b.copy()) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
        network = dense_chain(layers, f"digits_{kind}")
        found = 0
        for k in range(1200, len(images)):
            scores = network(images[k])
            order = np.argsort(-scores, kind="stable")
            if order[0] != labels[k]:
                continue
            weights = np.zeros(10)
            weights[order[1]], weights[order[0]] = 1.0, -1.0
            reach = radius if ball == "linf" else 1.0
            low, high = np.clip(images[k] - reach, 0, 1), np.clip(images[k] + reach, 0, 1)
            centre = None if ball == "linf" else images[k]
            case = Instance(f"digits_{kind}_i{k}_e{radius:g}", network, low, high, weights, _TINY, centre, radius)
            if climbed(case) <= _TINY:
                continue
            yield case
            found += 1
            if found == count:
                break


def climbed(case: Instance) -> float:
    """Return the value that gradient steps alone reach; with an L1 ball, heuristics and the solver in a few seconds."""
    backend = "none" if case.centre is None else "highs"
    result = solved(case, backend=backend, time_limit=1.0 if case.centre is None else 5.0)
    return -np.inf if result.objective is None else result.objective


def solved(case: Instance, **options: Any) -> nn.Result:
    """Run one instance: over its box, or over the L1 ball as rows of the user."""
    options = {"target": case.target, "progress": False, **options}
    if case.centre is None:
        return nn.maximize(case.network, (case.low, case.high), case.weights, bounds="crown", **options)
    n = len(case.low)
    eye, ones = sp.eye_array(n), sp.csr_array(np.ones((1, n)))
    rows = sp.block_array([[eye, -eye], [-eye, -eye], [None, ones]], format="csr")  # x - t <= c, -x - t <= -c, sum t
    model = nn.ArrayModel(
        np.concatenate([case.low, np.zeros(n)]), np.concatenate([case.high, np.ones(n)]), matrix=rows,
        row_upper=np.concatenate([case.centre, -case.centre, [case.radius]]), maximize=True,
    )  # fmt: skip
    made = nn.embed(model, case.network, np.arange(n), attach=False, bounds="crown")
    model.cost[made.attached.output_labels] = case.weights
    return nn.solve(model, **options)


def randoms(count: int) -> Iterator[Instance]:
    """Yield the random networks of the literature, to be maximised over the unit box."""
    for shape in SHAPES:
        for seed in range(50, 50 + count):
            network = random_net(shape, seed)
            n = network.input_size
            yield Instance(f"{shape}_s{seed}", network, np.zeros(n), np.ones(n), None, None)


def measured(case: Instance, way: str, rate: float | None, told: argparse.Namespace) -> dict[str, Any]:
    """Run one instance one way; the rate is None where there is no twin."""
    surrogate = None if rate is None else f"{told.method}:{rate}"
    seconds = told.limit if case.target is not None else 2 * told.limit
    solver = CpuLimited(registry().get("backend", told.backend), seconds)
    only = patch.multiple(SurrogateRun, _root=_nothing, _polish=_nothing) if way == "incumbents" else nullcontext()
    cpu, wall = time.process_time(), time.perf_counter()
    with only:
        result = solved(
            case, backend=solver, surrogate=surrogate, heuristics="auto" if way in ("heuristics", "both") else "none",
            time_limit=None if case.target is not None else told.limit,
        )  # fmt: skip
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    reached = case.target is not None and result.objective is not None and result.objective >= case.target
    return {
        "instance": case.name,
        "way": way,
        "rate": rate,
        "method": told.method,
        "backend": told.backend,
        "limit": told.limit,
        "cpu": cpu,
        "wall": wall,
        "reached": reached,
        "status": result.status,
        "objective": result.objective,
        "bound": result.bound,
        "certificate": None if result.certificate is None else result.certificate.ok,
    }


def _nothing(*_: Any) -> None:
    """Stand for a phase that is left out."""


# ---- reports ------------------------------------------------------------------------------------


def speedups(lines: Sequence[dict[str, Any]], base: str) -> dict[tuple[str, float | None], tuple[float, float, int]]:
    """Return per way and rate: geometric mean of the base's time over its own, that of its seconds, how many failed.

    A run that found no adversary counts with all the time it took, on either side.
    """
    reference = {r["instance"]: r["cpu"] for r in lines if r["way"] == base}
    found = {}
    keys = {(r["way"], r["rate"]) for r in lines}
    for way, rate in sorted(keys, key=lambda k: (WAYS.index(k[0]), -1.0 if k[1] is None else k[1])):
        runs = [r for r in lines if r["way"] == way and r["rate"] == rate and r["instance"] in reference]
        if runs:
            own = np.array([r["cpu"] for r in runs])
            ratios = np.array([reference[r["instance"]] for r in runs]) / own
            faster, seconds = (float(np.exp(np.log(values).mean())) for values in (ratios, own))
            found[way, rate] = faster, seconds, sum(not r["reached"] for r in runs)
    return found


def report(lines: Sequence[dict[str, Any]], picture: Path | None) -> None:
    """Print tables, and draw times (or values) over pruning rates."""
    timed = [r for r in lines if r["instance"].startswith("digits")]
    radii = sorted({r["instance"].rsplit("_", 1)[1] for r in timed})
    for kind in (f"{k}_{e}" for e in radii for k in ("all", *DEPTHS)):
        depth, radius = kind.split("_")
        part = [r for r in timed if r["instance"].endswith(radius) and (depth == "all" or depth in r["instance"])]
        if not part:
            continue
        print(f"\n{depth}, {radius}, {part[0]['backend']}: {len({r['instance'] for r in part})} instances\n")
        print("| way | pruned | CPU s | against solver | without an adversary |\n|---|---|---|---|---|")
        for (way, rate), (factor, seconds, failed) in speedups(part, "solver").items():
            print(f"| {way} | {'' if rate is None else rate} | {seconds:.2f} | {factor:.1f} | {failed or ''} |")
    valued = [r for r in lines if not r["instance"].startswith("digits")]
    rates = sorted({(r["way"], r["rate"]) for r in valued}, key=lambda k: (WAYS.index(k[0]), k[1] or 0.0))
    if valued:
        print("\n| network | " + " | ".join(f"{w} {'' if p is None else p}" for w, p in rates) + " |")
        print("|" + "---|" * (1 + len(rates)))
    for shape in sorted({r["instance"].split("_")[0] for r in valued}):
        cells = []
        for way, rate in rates:
            runs = [r for r in valued if (r["way"], r["rate"]) == (way, rate) and r["instance"].startswith(shape + "_")]
            known = [r["objective"] for r in runs if r["objective"] is not None]
            cells.append(f"{np.mean(known):.4f}" if known and len(known) == len(runs) else "none" if runs else "")
        print(f"| {shape} | " + " | ".join(cells) + " |")
    if picture is not None:
        draw(timed, valued, picture)


def draw(timed: Sequence[dict[str, Any]], valued: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw seconds to the first adversary, and values relative to the best of each network, over the pruning rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sides = [s for s in ((timed, _draw_times), (valued, _draw_values)) if s[0]]
    figure, axes = plt.subplots(1, len(sides), figsize=(5.5 * len(sides), 4.2), layout="constrained", squeeze=False)
    for axis, (lines, side) in zip(axes[0], sides, strict=True):
        side(axis, lines)
        axis.set_xlabel("share of the weights that is pruned")
        axis.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_times(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    colours = {"solver": "black", "heuristics": "tab:green", "twin": "tab:blue", "incumbents": "tab:orange",
               "both": "tab:purple"}  # fmt: skip
    found = speedups(lines, "solver")
    for way in WAYS:
        points = sorted((rate, values[1]) for (w, rate), values in found.items() if w == way and rate is not None)
        if points:
            axis.plot(*zip(*points, strict=True), "o-", color=colours[way], label=way, markersize=4)
        elif (way, None) in found:
            axis.axhline(found[way, None][1], color=colours[way], linestyle="--", label=way)
    for way in ("twin",):
        runs = [r for r in lines if r["way"] == way]
        axis.plot([r["rate"] for r in runs], [r["cpu"] for r in runs], ".", color=colours[way], alpha=0.25)
    axis.set_yscale("log")
    axis.set_ylabel("CPU seconds to the first adversary")


def _draw_values(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    best = {name: max(r["objective"] for r in lines if r["instance"] == name and r["objective"] is not None)
            for name in {r["instance"] for r in lines}}  # fmt: skip
    shapes = sorted({r["instance"].split("_")[0] for r in lines}, key=lambda s: (len(s), s))
    for k, shape in enumerate(shapes):
        points = []
        for rate in sorted({r["rate"] for r in lines if r["way"] == "twin"}):
            runs = [
                r for r in lines if r["way"] == "twin" and r["rate"] == rate and r["instance"].startswith(shape + "_")
            ]
            if runs and all(r["objective"] is not None for r in runs):
                points.append((rate, np.mean([r["objective"] / best[r["instance"]] for r in runs])))
        axis.plot(*zip(*points, strict=True), "o-", color=f"C{k}", label=shape, markersize=4)
        alone = [r for r in lines if r["way"] == "solver" and r["instance"].startswith(shape + "_")]
        if alone and all(r["objective"] is not None for r in alone):
            axis.plot([-0.03], [np.mean([r["objective"] / best[r["instance"]] for r in alone])], "x", color=f"C{k}")
    axis.set_ylabel("value over the best known (x: the solver alone)")


def main() -> int:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("digits", "random"), default="digits")
    parser.add_argument("--backend", default="highs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--method", default="magnitude", help="the surrogate, without its rate")
    parser.add_argument("--ball", choices=("linf", "l1"), default="linf")
    parser.add_argument("--radius", type=float, default=0.1, help="of the balls around digits")
    parser.add_argument("--count", type=int, default=7, help="instances per network, or seeds per shape")
    parser.add_argument("--limit", type=float, default=20.0, help="CPU seconds of the solver per run")
    parser.add_argument("--kinds", nargs="+", choices=tuple(DEPTHS), default=list(DEPTHS), help="digits networks")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--out", type=Path, default=Path("surrogate.jsonl"))
    parser.add_argument("--report", type=Path, nargs="+", help="results to report instead of measuring")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.report:
        lines = [json.loads(line) for path in args.report for line in path.read_text().splitlines()]
        report(lines, args.picture)
        return 0
    cases = digits(args.radius, args.count, args.kinds, args.ball) if args.family == "digits" else randoms(args.count)
    lines = []
    with args.out.open("a") as out:
        for case in cases:
            twins = [(way, rate) for way in args.ways if way not in WAYS[:2] for rate in args.rates]
            for way, rate in [*((way, None) for way in WAYS[:2] if way in args.ways), *twins]:
                line = measured(case, way, rate, args)
                print(f"{case.name:26} {way:10} {rate} {line['cpu']:8.2f} s {line['objective']}", flush=True)
                out.write(json.dumps(line) + "\n")
                out.flush()
                lines.append(line)
    report(lines, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
