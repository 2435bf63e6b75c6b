"""Small problems with known answers, for checks of solvers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.block import Indicators
from nnembed.problem import Problem

INF = np.inf


@dataclass(frozen=True, eq=False)
class Known:
    """A problem and its answer.

    Attributes
    ----------
    status : str
        What a solver must say without limits.
    objective : float or None
        The optimum.
    """

    name: str
    problem: Problem
    status: str = "optimal"
    objective: float | None = None


def make(
    rows: Any,
    row_lower: Any,
    row_upper: Any,
    lower: Any,
    upper: Any,
    cost: Any,
    integer: Any = None,
    **more: Any,
) -> Problem:
    """Return a problem from plain lists; `more` are further fields of `Problem`."""
    n = len(lower)
    matrix = sp.csr_array(np.asarray(rows, float).reshape(len(row_lower), n))
    below, above, low, high = (np.asarray(side, float) for side in (row_lower, row_upper, lower, upper))
    whole = np.zeros(n, dtype=bool) if integer is None else np.asarray(integer, bool)
    return Problem(matrix, below, above, low, high, whole, np.asarray(cost, float), labels=np.arange(n), **more)


def linear() -> list[Known]:
    """Return LPs with an optimum."""
    two = ([[1, 1], [1, -1]], [-INF, -1], [4, 2])
    return [
        Known("lp max", make(*two, [0, 0], [3, 3], [1, 2], maximize=True, offset=10), objective=16.5),
        Known("lp min", make(*two, [0, 0], [3, 3], [-1, -2], offset=1), objective=-5.5),
        Known("equalities", make([[1, 1, 1], [1, 0, -1]], [6, 1], [6, 1], [0] * 3, [9] * 3, [1, 2, 3]), objective=11.0),
        Known("ranged row", make([[1, 2]], [2], [5], [-1, -1], [4, 4], [1, 1]), objective=0.5),
        Known(
            "negative bounds", make([[1, 1]], [-9], [INF], [-5, -7], [-1, -2], [1, 1], maximize=True), objective=-3.0
        ),
        Known("no cost", make([[1, 1]], [1], [2], [0, 0], [5, 5], [0, 0], offset=-3), objective=-3.0),
        Known("fixed column", make([[1, 1]], [-INF], [4], [2, 0], [2, 9], [1, 1], maximize=True), objective=4.0),
    ]


def edges() -> list[Known]:
    """Return problems at the edge: nothing in them, free columns, rows that say nothing."""
    empty = np.zeros((0, 2))
    free = ([-INF, -INF], [INF, INF])
    return [
        Known("no rows", make(empty, [], [], [-1, 0], [2, 3], [1, -1], maximize=True), objective=2.0),
        Known(
            "no rows, integers", make(empty, [], [], [-1.5, 0], [2.5, 3], [1, -1], [1, 1], maximize=True), objective=2.0
        ),
        Known("no columns", make(np.zeros((0, 0)), [], [], [], [], [], offset=4.0), objective=4.0),
        Known(
            "empty row", make([[0, 0], [1, 1]], [-1, 0], [1, 3], [0, 0], [5, 5], [1, 2], maximize=True), objective=6.0
        ),
        Known("empty row that cannot hold", make([[0, 0]], [1], [2], [0, 0], [5, 5], [1, 1]), "infeasible"),
        Known("row without sides", make([[1, 1]], [-INF], [INF], [0, 0], [1, 1], [1, 1], maximize=True), objective=2.0),
        Known("free columns", make([[1, 1], [1, -1]], [1, 3], [1, 3], *free, [1, 1]), objective=1.0),
        Known(
            "free columns, ranges",
            make([[1, 1], [1, -1]], [-2, 1], [3, 1], *free, [1, 1], maximize=True),
            objective=3.0,
        ),
        Known("free integers", make([[2, 1], [1, -1]], [-7, -1], [7, 1], *free, [1, 1], [1, 1]), objective=-5.0),
    ]


def hopeless() -> list[Known]:
    """Return problems without a feasible point, or without a best one."""
    ray = ([[1, -1]], [-1], [1], [0, 0], [INF, INF])
    return [
        Known("infeasible rows", make([[1, 1], [1, 1]], [3, -INF], [INF, 2], [0, 0], [9, 9], [1, 1]), "infeasible"),
        Known(
            "infeasible row and bounds", make([[1, 1]], [9], [INF], [0, 0], [1, 1], [1, 1], maximize=True), "infeasible"
        ),
        Known("no integer in between", make([[1, 0]], [0.2], [0.8], [0, 0], [5, 5], [1, 1], [1, 1]), "infeasible"),
        Known("odd sum of even numbers", make([[2, 2]], [3], [3], [0, 0], [5, 5], [1, 1], [1, 1]), "infeasible"),
        Known(
            "ray but no point", make([[1, -1, 0]] * 2, [2, -INF], [INF, 1], [0] * 3, [INF] * 3, [-1] * 3), "infeasible"
        ),
        Known("bounds that cross", make([[1.0]], [-INF], [9], [2], [1], [1]), "infeasible"),
        Known("integer bounds that cross", make([[1.0]], [-INF], [9], [2], [1], [1], [1]), "infeasible"),
        Known("sides that cross", make([[1.0]], [3], [2], [0], [5], [1]), "infeasible"),
        Known("sides that cross, integer", make([[1.0]], [3], [2], [0], [5], [1], [1]), "infeasible"),
        Known("no integer between bounds", make([[1.0]], [-INF], [9], [0.3], [0.7], [1], [1]), "infeasible"),
        Known(
            "ray but no integer point",
            make([[1, -1, 0]] * 2, [2, -INF], [INF, 1], [0] * 3, [INF] * 3, [-1] * 3, [1, 1, 0]),
            "infeasible",
        ),
        Known("unbounded max", make(*ray, [1, 1], maximize=True), "unbounded"),
        Known("unbounded min", make(*ray, [-1, 0]), "unbounded"),
        Known("unbounded without rows", make(np.zeros((0, 1)), [], [], [-INF], [3], [1]), "unbounded"),
        Known("unbounded integers", make(*ray, [1, 1], [1, 1], maximize=True), "unbounded"),
    ]


def integral() -> list[Known]:
    """Return MILPs with an optimum, most of them found by trying all integer points."""
    found = [
        Known(
            "knapsack", make([[2, 3]], [-INF], [4.5], [0, 0], [5, 5], [1, 1.4], [1, 1], maximize=True), objective=2.0
        ),
        Known(
            "bounds to be rounded", make([[1, 1]], [-INF], [9], [-3.5, 0.3], [7.5, 0.8], [1, 1], [1, 0]), objective=-2.7
        ),
        Known(
            "mixed",
            make([[1, 1], [-1, 2]], [-INF, 0.5], [3.5, INF], [0, 0], [9, 9], [3, 1], [1, 0], maximize=True),
            objective=7.5,
        ),
    ]
    return found + [_enumerated(seed) for seed in range(6)]


def _enumerated(seed: int) -> Known:
    """Return a random problem in five integers, solved by trying all of their values."""
    rng = np.random.default_rng(seed)
    n, m, maximize = 5, 4, bool(seed % 2)
    rows = rng.integers(-5, 6, (m, n)).astype(float)
    points = np.array(list(product(range(-1, 4), repeat=n)), dtype=float)
    middle = rows @ points[rng.integers(len(points))]
    low, high = middle - rng.integers(0, 5, m), middle + rng.integers(0, 5, m)
    cost = rng.integers(-9, 10, n) / 4
    value = points @ rows.T
    good = ((value >= low) & (value <= high)).all(axis=1)
    best = (points[good] @ cost).max() if maximize else (points[good] @ cost).min()
    problem = make(rows, low, high, [-1] * n, [3] * n, cost, [1] * n, maximize=maximize, offset=0.5)
    return Known(f"random {seed}", problem, objective=float(best) + 0.5)


def hard(n: int = 50, seed: int = 1) -> Known:
    """Return a knapsack whose profits follow its weights, which keeps solvers busy; optimum by dynamic programming."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(1000, 4000, n)
    profit = weight + 100
    room = int(weight.sum() // 2)
    best = np.zeros(room + 1)
    for w, p in zip(weight.tolist(), profit.tolist(), strict=True):
        best[w:] = np.maximum(best[w:], best[:-w] + p)
    problem = make(weight[None], [-INF], [room], [0] * n, [1] * n, profit, [1] * n, maximize=True)
    return Known("strongly correlated knapsack", problem, objective=float(best[-1]))


def endless(n: int = 60, rows: int = 25, seed: int = 0) -> Problem:
    """Return a problem that takes any solver minutes: a multi-dimensional knapsack."""
    rng = np.random.default_rng(seed)
    a = rng.integers(1, 1000, (rows, n)).astype(float)
    cost = a.mean(axis=0) + rng.integers(0, 500, n)
    return make(a, [-INF] * rows, a.sum(axis=1) // 2, [0] * n, [1] * n, cost, [1] * n, maximize=True)


def _two_sided() -> list[Known]:
    """Return problems with an indicator row of two sides, switched on and off, from both ends."""
    found = []
    for value, state, up in product((0.0, 1.0), (True, False), (True, False)):
        row = sp.csr_array(np.array([[0.0, 1.0]]))
        rule = Indicators(np.array([0]), np.array([value]), row, np.array([2.0]), np.array([3.0]))
        at = value if state else 1 - value
        problem = make(np.zeros((0, 2)), [], [], [at, 0], [at, 5], [0, 1], [1, 0], maximize=up, indicators=(rule,))
        best = (3.0 if up else 2.0) if state else (5.0 if up else 0.0)
        found.append(Known(f"two sides, value {value:g}, {'on' if state else 'off'}", problem, objective=best))
    return found


def by_feature() -> dict[str, list[Known]]:
    """Return problems that need a feature beyond linear rows, by the feature's name."""
    three, sets = np.zeros((0, 3)), (np.array([[0, 1], [1, 2]]),)
    rule = Indicators(np.array([0]), np.array([1.0]), sp.csr_array([[0.0, 1.0]]), np.array([-INF]), np.array([2.0]))
    off = Indicators(np.array([0]), np.array([0.0]), sp.csr_array([[0.0, 1.0]]), np.array([-INF]), np.array([2.0]))
    two = np.zeros((0, 2))
    pairs = (np.array([[0, 1]]),)
    return {
        "INTEGER": [integral()[0]],
        "SOS1": [
            Known(
                "set",
                make(three, [], [], [0] * 3, [2, 3, 4], [1, 1, 0.5], maximize=True, sos1=(np.array([[0, 1, 2]]),)),
                objective=3.0,
            ),
            Known(
                "two sets", make(three, [], [], [0] * 3, [2, 3, 4], [1, 1, 1], maximize=True, sos1=sets), objective=6.0
            ),
            Known("signed set", make(two, [], [], [-2, -3], [1, 1], [1, 1], sos1=pairs), objective=-3.0),
        ],
        "INDICATOR": [
            Known(
                "on",
                make(two, [], [], [0, 0], [1, 5], [1, 1], [1, 0], maximize=True, indicators=(rule,)),
                objective=5.0,
            ),
            Known(
                "on, paid",
                make(two, [], [], [0, 0], [1, 5], [4, 1], [1, 0], maximize=True, indicators=(rule,)),
                objective=6.0,
            ),
            Known(
                "off",
                make(two, [], [], [0, 0], [1, 5], [-4, 1], [1, 0], maximize=True, indicators=(off,)),
                objective=2.0,
            ),
            *_two_sided(),
        ],
        "COMPLEMENTARITY": [
            Known(
                "pair", make(two, [], [], [0, 0], [2, 3], [1, 1], maximize=True, complementarities=pairs), objective=3.0
            )
        ],
        "RELU": _relus(),
        **_quadratic(),
    }


def _relus() -> list[Known]:
    two, pairs = np.zeros((0, 2)), (np.array([[0, 1]]),)
    return [
        Known("relu up", make(two, [], [], [0, -3], [9, 2], [1, 0], maximize=True, relus=pairs), objective=2.0),
        Known("relu down", make(two, [], [], [0, -3], [9, 2], [1, 0], relus=pairs), objective=0.0),
        Known("relu, paid", make(two, [], [], [0, -3], [9, 2], [2, -1], relus=pairs), objective=0.0),
        Known("relu, argument paid", make(two, [], [], [0, -3], [9, 2], [2, 1], relus=pairs), objective=-3.0),
        Known("relu off", make([[1, 0]], [0.5], [INF], [0, -3], [9, 0], [1, 1], relus=pairs), "infeasible"),
        Known(
            "relu of wide range",
            make([[1, 0]], [1.5], [2], [-9, -INF], [9, INF], [0, 1], relus=pairs),
            objective=1.5,
        ),
    ]


def _quadratic() -> dict[str, list[Known]]:
    two, bowl = np.zeros((0, 2)), sp.csr_array(np.array([[2.0, 0.0], [0.0, 4.0]]))
    product = sp.csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    return {
        "NONCONVEX": [
            Known(
                "product at a corner", make(two, [], [], [-1, -3], [2, 1], [0, 0], quadratic=product), objective=-6.0
            ),
            Known(
                "bowl at whole points",
                make([[1, 1]], [-INF], [3], [0, 0], [5, 5], [-5.2, -3], [1, 1], quadratic=2 * sp.eye_array(2).tocsr()),
                objective=-8.4,
            ),
            Known("hill from below", make(two, [], [], [-1, -3], [2, 1], [0, 0], quadratic=-bowl), objective=-22.0),
            Known(
                "product, one of them whole",
                make([[1, 1]], [-INF], [2.5], [0, 0], [2, 2], [0, 0], [1, 0], maximize=True, quadratic=product),
                objective=1.5,
            ),
        ],
        "QUADRATIC_OBJECTIVE": [
            Known("bowl", make(two, [], [], [-9, -9], [9, 9], [-2, -4], quadratic=bowl, offset=1.0), objective=-2.0),
            Known("bowl on a row", make([[1, 1]], [3], [3], [-9, -9], [9, 9], [0, 0], quadratic=bowl), objective=6.0),
            Known(
                "tilted bowl",
                make(two, [], [], [-5, -5], [5, 5], [-1, -1], quadratic=sp.csr_array([[2.0, 0.5], [0.5, 1.0]])),
                objective=-4 / 7,
            ),
            Known("hill", make(two, [], [], [-9, -9], [9, 9], [2, 4], maximize=True, quadratic=-bowl), objective=3.0),
        ],
    }
