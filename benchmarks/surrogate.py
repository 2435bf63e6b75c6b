"""What optimising sparse twins is worth: time to the first adversary, and best values on random networks.

    python benchmarks/surrogate.py                      the digits study, minutes
    python benchmarks/surrogate.py --family random      best values on random networks under one limit
    python benchmarks/surrogate.py --report RESULTS     tables and a picture from results

Every run is the same call of `nnembed.maximize` with and without ``surrogate=``, without heuristics, so that what is
compared is the solver on the network and the solver on its twin. Seconds are CPU seconds of one thread, everything
counted: bounds, twin, rows, solver. Each line of the results is one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from walk_nets import random_net

import nnembed as nn
from nnembed.aliases import Array
from nnembed.events import Event
from nnembed.features import Availability
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Node, relu
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Session, Solution

RATES = (0.0, 0.3, 0.5, 0.8, 0.9, 0.95)
DEPTHS = {"3x100": (100,) * 3, "4x64": (64,) * 4}
SHAPES = ("100-50x2", "100-100x2", "1000-50x2", "1000-100x2")
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


class CpuLimited:
    """A solver that is stopped after some CPU seconds of this process: limits that other load does not change."""

    def __init__(self, inner: Backend, seconds: float) -> None:
        self.inner, self.end = inner, time.process_time() + seconds
        self.name, self.summary = inner.name, inner.summary
        self.accepts, self.capabilities = inner.accepts, inner.capabilities

    def available(self) -> Availability:
        """Return whether the solver is there."""
        return self.inner.available()

    def load(self, problem: Problem, options: Options) -> Session:
        """Hand the problem over."""
        session: Any = self.inner.load(problem, options)
        solve = session.solve

        def limited(on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
            found: Solution = solve(on_event, lambda: should_stop() or time.process_time() > self.end)
            return found

        session.solve = limited
        return session  # type: ignore[no-any-return]


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


def digits(radius: float, count: int, kinds: Sequence[str]) -> Iterator[Instance]:
    """Yield questions for adversaries: a label is to be overtaken by its runner-up in an L-inf ball around an image.

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
            low, high = np.clip(images[k] - radius, 0, 1), np.clip(images[k] + radius, 0, 1)
            if climbed(network, low, high, weights) <= _TINY:
                continue
            yield Instance(f"digits_{kind}_i{k}_e{radius:g}", network, low, high, weights, _TINY)
            found += 1
            if found == count:
                break


def climbed(network: Network, low: Array, high: Array, weights: Array) -> float:
    """Return the value that gradient steps alone reach."""
    result = nn.maximize(network, (low, high), weights, backend="none", time_limit=1, progress=False)
    return -np.inf if result.objective is None else result.objective


def randoms(count: int) -> Iterator[Instance]:
    """Yield the random networks of the literature, to be maximised over the unit box."""
    for shape in SHAPES:
        for seed in range(50, 50 + count):
            network = random_net(shape, seed)
            n = network.input_size
            yield Instance(f"{shape}_s{seed}", network, np.zeros(n), np.ones(n), None, None)


def measured(case: Instance, rate: float, backend: str, limit: float, heuristics: str) -> dict[str, Any]:
    """Run one instance at one pruning rate; rate 0 is the network itself, without a surrogate."""
    surrogate = f"magnitude:{rate}" if rate else None
    solver = CpuLimited(registry().get("backend", backend), limit)
    cpu, wall = time.process_time(), time.perf_counter()
    result = nn.maximize(
        case.network, (case.low, case.high), case.weights, backend=solver, heuristics=heuristics, surrogate=surrogate,
        target=case.target, bounds="crown", progress=False,
    )  # fmt: skip
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    reached = case.target is not None and result.objective is not None and result.objective >= case.target
    return {
        "instance": case.name,
        "rate": rate,
        "backend": backend,
        "heuristics": heuristics,
        "limit": limit,
        "cpu": cpu,
        "wall": wall,
        "reached": reached,
        "status": result.status,
        "objective": result.objective,
        "bound": result.bound,
        "certificate": None if result.certificate is None else result.certificate.ok,
    }


# ---- reports ------------------------------------------------------------------------------------


def speedups(lines: Sequence[dict[str, Any]]) -> dict[float, tuple[float, int, int]]:
    """Return per rate the geometric mean of the dense time over the twin's, instances, and those without an adversary.

    A run that found none counts with all the time it took, on either side.
    """
    dense = {r["instance"]: r["cpu"] for r in lines if r["rate"] == 0}
    found = {}
    for rate in sorted({r["rate"] for r in lines if r["rate"]}):
        runs = [r for r in lines if r["rate"] == rate and r["instance"] in dense]
        ratios = [dense[r["instance"]] / r["cpu"] for r in runs]
        found[rate] = float(np.exp(np.mean(np.log(ratios)))), len(runs), sum(not r["reached"] for r in runs)
    return found


def report(lines: Sequence[dict[str, Any]], picture: Path | None) -> None:
    """Print tables, and draw times (or values) over pruning rates."""
    timed = [r for r in lines if r["instance"].startswith("digits")]
    for kind in ("digits", *(f"digits_{k}" for k in DEPTHS)):
        part = [r for r in timed if r["instance"].startswith(kind)]
        if part:
            lost = sum(not r["reached"] for r in part if r["rate"] == 0)
            print(f"{kind}: {len({r['instance'] for r in part})} instances, dense without an adversary {lost}")
            for rate, (factor, runs, failed) in speedups(part).items():
                print(f"  pruned {rate:4.2f}: {factor:6.2f} times faster ({runs} runs, {failed} without an adversary)")
    valued = [r for r in lines if not r["instance"].startswith("digits")]
    for shape in sorted({r["instance"].split("_")[0] for r in valued}):
        print(f"{shape}: mean of the best values")
        for rate in sorted({r["rate"] for r in valued}):
            values = [r["objective"] for r in valued if r["rate"] == rate and r["instance"].startswith(shape + "_")]
            known = [v for v in values if v is not None]
            print(f"  pruned {rate:4.2f}: {np.mean(known) if known else np.nan:9.5f} ({len(known)} of {len(values)})")
    if picture is not None:
        draw(lines, picture)


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one line per instance over the pruning rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timed = any(r["reached"] for r in lines)
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    key = "cpu" if timed else "objective"
    for name in sorted({r["instance"] for r in lines}):
        runs = sorted((r for r in lines if r["instance"] == name and r[key] is not None), key=lambda r: r["rate"])
        colour = "tab:blue" if "3x100" in name else "tab:orange"
        axes.plot([r["rate"] for r in runs], [r[key] for r in runs], "o-", color=colour, alpha=0.4, markersize=3)
    rates = sorted({r["rate"] for r in lines})
    if timed:
        middle = [np.exp(np.mean(np.log([r["cpu"] for r in lines if r["rate"] == rate]))) for rate in rates]
        axes.plot(rates, middle, "k-", linewidth=2.5, label="geometric mean")
        axes.set_yscale("log")
        axes.legend(frameon=False)
    axes.set_xlabel("share of the weights that is pruned (0: the network itself)")
    axes.set_ylabel("CPU seconds to the first adversary" if timed else "best value on the network")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("digits", "random"), default="digits")
    parser.add_argument("--backend", default="highs")
    parser.add_argument("--heuristics", choices=("none", "auto"), default="none")
    parser.add_argument("--radius", type=float, default=0.35, help="of the L-inf balls around digits")
    parser.add_argument("--count", type=int, default=6, help="instances per network, or seeds per shape")
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds of the solver per run")
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
    cases = digits(args.radius, args.count, args.kinds) if args.family == "digits" else randoms(args.count)
    lines = []
    with args.out.open("a") as out:
        for case in cases:
            for rate in args.rates:
                line = measured(case, rate, args.backend, args.limit, args.heuristics)
                print(
                    f"{case.name:28} {rate:4.2f} {line['cpu']:8.2f} s {line['status']:10} {line['objective']}",
                    flush=True,
                )
                out.write(json.dumps(line) + "\n")
                out.flush()
                lines.append(line)
    report(lines, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
