"""Formulations, and mixtures of them, on random networks: CPU seconds and nodes with HiGHS, against plain big-M.

Four families of networks with random weights, six seeds each; the largest value of the one output over a small box. All
ways solve the same instance one after the other in one process, so other work on the machine falls on all alike.
"Plain" is big-M with interval bounds, without a starting point: what HiGHS is given by a model written by hand.

    python benchmarks/mixture.py [--seeds 6] [--rows 4] [--limit 120]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import nnembed as nn
from nnembed.formulations.ideal import Ideal
from nnembed.formulations.partition import Partition
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Node, relu

ROWS = (
    ((20, 20, 20, 1), 0.15),
    ((20, 20, 20, 1), 0.30),
    ((50, 30, 30, 1), 0.05),
    ((50, 30, 30, 1), 0.08),
)


@dataclass(frozen=True)
class Way:
    """One way to solve an instance."""

    name: str
    formulation: Any
    bounds: Any
    heuristics: Any = "none"


FIRST = {"relu_0": Partition(2), "relu_1": "two_row"}
WAYS = (
    Way("plain: two_row, interval", "two_row", "interval"),
    Way("two_row, crown", "two_row", "crown"),
    Way("zhat, crown", "zhat", "crown"),
    Way("ideal 1 round, interval", Ideal(1), "interval"),
    Way("ideal 3 rounds, interval", Ideal(3), "interval"),
    Way("ideal 1 round, crown", Ideal(1), "crown"),
    Way("ideal 3 rounds, crown", Ideal(3), "crown"),
    Way("ideal to the end, crown", Ideal(50), "crown"),
    Way("last layer ideal, crown", {"relu_0": "two_row", "relu_1": Ideal(3)}, "crown"),
    Way("first layer P=2, crown", FIRST, "crown"),
    Way("partition P=2, crown", Partition(2), "crown"),
    Way("dependency, crown", "dependency", "crown"),
    Way("two_row, crown, start", "two_row", "crown", "auto"),
    Way("ideal 3 rounds, crown, start", Ideal(3), "crown", "auto"),
    Way("auto", "auto", "auto", "auto"),
)


def network(widths: tuple[int, ...], seed: int) -> tuple[Network, np.ndarray]:
    """Return a network with random weights, and the centre of its box."""
    rng = np.random.default_rng(seed)
    tensors = {"x": TensorSpec("x", (widths[0],))}
    nodes: list[Node] = []
    current = "x"
    for i, (fan_in, width) in enumerate(pairwise(widths)):
        weight, bias = rng.normal(size=(width, fan_in)) * np.sqrt(2 / fan_in), 0.1 * rng.normal(size=width)
        pre, post = f"pre_{i}", f"post_{i}"
        tensors[pre] = TensorSpec(pre, (width,))
        nodes.append(Affine(f"affine_{i}", (current,), pre, (Dense(weight),), bias))
        current = pre
        if i < len(widths) - 2:
            tensors[post] = TensorSpec(post, (width,))
            nodes.append(relu(f"relu_{i}", pre, post, width))
            current = post
    made = Network((tensors["x"],), (tensors[current],), tuple(nodes), tensors, name="random")
    return made, np.random.default_rng(100 + seed).normal(size=widths[0])


def shifted_mean(values: list[float], shift: float) -> float:
    """Return the geometric mean with a shift, so that tiny values do not rule it."""
    return float(np.exp(np.log(np.array(values) + shift).mean()) - shift)


def measure(way: Way, made: Network, box: tuple[np.ndarray, np.ndarray], limit: float) -> tuple[float, int, float, str]:
    """Return CPU seconds, nodes, objective and status."""
    started = time.process_time()
    result = nn.maximize(
        made,
        box,
        formulation=way.formulation,
        bounds=way.bounds,
        heuristics=way.heuristics,
        backend="highs",
        time_limit=limit,
    )
    objective = float("nan") if result.objective is None else result.objective
    return time.process_time() - started, result.nodes, objective, result.status


def family(widths: tuple[int, ...], radius: float, seeds: int, limit: float) -> None:
    """Measure all ways on one family and print a table."""
    seconds: dict[str, list[float]] = {w.name: [] for w in WAYS}
    nodes: dict[str, list[float]] = {w.name: [] for w in WAYS}
    solved = dict.fromkeys(seconds, 0)
    for seed in range(seeds):
        made, centre = network(widths, seed)
        best = None
        for way in WAYS:
            spent, count, objective, status = measure(way, made, (centre - radius, centre + radius), limit)
            seconds[way.name].append(spent)
            nodes[way.name].append(count)
            if status == "optimal":
                solved[way.name] += 1
                best = objective if best is None else best
                if abs(objective - best) > 2e-4 * (1 + abs(best)):
                    raise SystemExit(f"{way.name} says {objective}, another way {best} (seed {seed})")
    plain = shifted_mean(seconds[WAYS[0].name], 0.1)
    print(f"\n{'-'.join(map(str, widths))}, radius {radius}\n{'way':32} {'CPU s':>8} {'ratio':>7} {'nodes':>8} solved")
    for way in WAYS:
        mean = shifted_mean(seconds[way.name], 0.1)
        count = shifted_mean(nodes[way.name], 1)
        print(f"{way.name:32} {mean:8.2f} {plain / mean:7.2f} {count:8.1f} {solved[way.name]}/{seeds}", flush=True)


def main() -> None:
    """Measure the families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=len(ROWS))
    parser.add_argument("--limit", type=float, default=120.0)
    given = parser.parse_args()
    for widths, radius in ROWS[: given.rows]:
        family(widths, radius, given.seeds, given.limit)


if __name__ == "__main__":
    main()
