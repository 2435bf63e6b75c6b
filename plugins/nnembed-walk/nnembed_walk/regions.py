"""Linear programs over one linear region, and small mixed-integer ones over a few neurons: HiGHS, kept loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array, Index
from nnembed.heuristics.scene import Scene
from nnembed.options import Clock

from nnembed_walk.field import Chain
from nnembed_walk.program import Lifted, wide
from nnembed_walk.solver import Solver, dense_rows, no_limit

_INTEGER_NODES = 500  # of the user's own integers inside one region
_DUAL, _PRIMAL = 1, 4  # HiGHS's numbers
_NEAR = 1e-7  # how far outside a region a point may be to count as in it
_OUTSIDE = 2e-9  # violation of a row that was left out from which on it is added
_ROWS_PER_INPUT = 2  # near rows to begin with
_FEW_ENTRIES = 20_000  # of programs that always have all their rows


@dataclass(frozen=True, eq=False)
class Found:
    """The best point of a region: values of the kept columns, the solver's value, what it cost.

    `finished` is False where a limit stopped the solver; `work` counts simplex iterations times rows.
    """

    kept: Array
    value: float
    work: float
    finished: bool = True


class LiftedRegions:
    """Region programs in the lifted space: a pattern is a change of column bounds, solved from the last basis."""

    def __init__(self, program: Lifted, seed: int = 0):
        self.program = program
        self._solver = Solver(seed)
        p = program
        self._solver.load(p.matrix, (p.row_lower, p.row_upper), (p.lower, p.upper), p.cost, p.integer)
        if p.integer.any():
            self._solver.highs.setOptionValue("mip_max_nodes", _INTEGER_NODES)
        self._opened = np.flatnonzero(p.open)
        self._columns = np.concatenate([p.up[self._opened], p.down[self._opened]])
        self._zero = np.zeros(len(self._columns))

    def solve(self, pattern: np.ndarray, clock: Clock, iterations: int | None = None) -> Found | None:
        """Return the best point of a region, None where it has none.

        Parameters
        ----------
        pattern : array (kinks,)
            Whether each kink is on; -1 leaves both of its parts free.
        """
        self._solver.set_bounds(self._columns, self._zero, np.concatenate(self.program.pattern_bounds(pattern)))
        x, value, work, finished = self._solver.run(clock, iterations)
        return None if x is None else Found(x[: len(self.program.kept)], value, work, finished)

    @property
    def unbounded(self) -> bool:
        """Whether the last program had no best point."""
        return self._solver.unbounded

    @property
    def ray(self) -> Array | None:
        """A direction in which the last program had no best point, if known."""
        return self._solver.ray

    def close(self) -> None:
        """Free the solver."""
        self._solver.close()


class DenseRegions:
    """Region programs over the drivers alone: one dense row per open neuron; for few inputs and many neurons.

    Rows of later layers differ from region to region. Where the last best point is allowed in the new region, as it is
    a step past it, primal simplex goes on from there with the rows that are near, and the others are checked after
    that; a basis that is far away is worse than none.
    """

    def __init__(self, program: Lifted, chain: Chain, seed: int = 0):
        self.program = program
        self._chain, self._solver = chain, Solver(seed)
        self._opened = np.flatnonzero(program.open)
        self._last: tuple[Array, list[Any], np.ndarray] | None = None  # point, states of columns, rows it is tight at

    def solve(self, pattern: np.ndarray, clock: Clock, iterations: int | None = None) -> Found | None:
        """See `LiftedRegions.solve`; every kink must be on or off."""
        p, solver = self.program, self._solver
        rows, sides, out, constant = composed(self._chain, pattern)
        sign = np.where(pattern[self._opened] != 0, 1.0, -1.0)
        rows, least = rows[self._opened] * sign[:, None], -sides[self._opened] * sign  # rows @ x >= least
        cost = self._chain.cost + self._chain.output @ out
        used = self._begin(rows, least)
        box = p.lower[p.drivers], p.upper[p.drivers]
        solver.load(dense_rows(rows[used]), (least[used], no_limit(used)), box, cost, np.zeros(len(cost), dtype=bool))
        if self._last is not None:
            solver.set_basis(self._last[1], self._last[2][used])
        solver.highs.setOptionValue("simplex_strategy", _DUAL if self._last is None else _PRIMAL)
        x, value, work, finished = solver.run(clock, iterations)
        while x is not None and finished and len(used) < len(rows):
            outside = rows @ x < least - _OUTSIDE
            outside[used] = False
            missed = np.flatnonzero(outside)
            if not len(missed):
                break
            used = np.concatenate([used, missed])
            solver.add_rows(rows[missed], least[missed])
            solver.highs.setOptionValue("simplex_strategy", _DUAL)
            x, value, more, finished = solver.run(clock, iterations)
            work += more
        self._last = None
        if x is None:
            return None
        if finished:
            columns, held = solver.basis()
            tight = np.zeros(len(rows), dtype=bool)
            tight[used] = held
            self._last = x, columns, tight
        elif len(used) < len(rows) and (rows @ x < least - _OUTSIDE).any():
            return None
        kept = np.zeros(len(p.kept))
        kept[p.drivers] = x
        return Found(kept, value + float(self._chain.output @ constant), work, finished)

    def _begin(self, rows: Array, least: Array) -> Index:
        """Return the rows to begin with; forget the last point where it lies outside."""
        every = np.arange(len(rows))
        if self._last is None:
            return every
        slack = rows @ self._last[0] - least
        if (slack < -_NEAR).any():
            self._last = None
            return every
        if rows.size <= _FEW_ENTRIES:
            return every
        slack /= np.sqrt(np.einsum("ij,ij->i", rows, rows)).clip(min=1e-300)
        slack[self._last[2]] = -1.0
        count = max(_ROWS_PER_INPUT * rows.shape[1], int(self._last[2].sum()))
        return every if count >= len(rows) else np.sort(np.argpartition(slack, count)[:count])

    @property
    def unbounded(self) -> bool:
        """Whether the last program had no best point."""
        return self._solver.unbounded

    @property
    def ray(self) -> Array | None:
        """A direction in which the last program had no best point, if known."""
        return self._solver.ray

    def close(self) -> None:
        """Free the solver."""
        self._solver.close()


def is_bare(scene: Scene, program: Lifted) -> bool:
    """Return whether there is nothing but drivers, networks and a box: no rows, integers, columns or output limits."""
    others = np.setdiff1d(np.arange(len(program.kept)), program.drivers)
    problem, placement = scene.problem, scene.problem.placements[0]
    written = placement.columns[placement.block.outputs]
    if program.own_rows or program.integer.any() or not np.isin(program.kept[others], written).all():
        return False
    bounds = placement.embedding.bounds
    name = placement.embedding.network.outputs[0].name
    loose = (problem.lower[written] <= bounds.low[name].ravel()) & (problem.upper[written] >= bounds.high[name].ravel())
    return bool(loose.all())


def composed(chain: Chain, pattern: np.ndarray) -> tuple[Array, Array, Array, Array]:
    """Return kinks ``g = rows @ x + sides`` and outputs ``out @ x + constant`` of a chain within a pattern."""
    rows, sides = [chain.weights[0]], [chain.biases[0]]
    start = 0
    for k in range(len(chain.left)):
        on = pattern[start : start + len(chain.left[k])].astype(bool)
        start += len(on)
        slope = np.where(on, chain.right[k], chain.left[k])
        used = np.flatnonzero(slope)
        weight = chain.weights[k + 1][:, used] * slope[used]
        rows.append(weight @ rows[-1][used])
        sides.append(weight @ sides[-1][used] + chain.biases[k + 1])
    out, constant = rows.pop(), sides.pop()
    empty = np.zeros((0, chain.weights[0].shape[1]))
    return np.concatenate([empty, *rows]), np.concatenate([np.zeros(0), *sides]), out, constant


def _with_choices(program: Lifted, free: Index) -> tuple[sp.csr_array, tuple[Array, Array]]:
    """Return the rows of the program and big-M rows of a binary per free kink; the binaries are its last columns."""
    n, k = len(program.lower), len(free)
    z = sp.csr_array((-program.high[free], n + np.arange(k), np.arange(k + 1)), shape=(k, n + k))
    u = sp.csr_array((-program.low[free], n + np.arange(k), np.arange(k + 1)), shape=(k, n + k))
    one = np.ones(k)
    up = sp.csr_array((one, program.up[free], np.arange(k + 1)), shape=(k, n + k))
    down = sp.csr_array((one, program.down[free], np.arange(k + 1)), shape=(k, n + k))
    matrix = sp.csr_array(sp.vstack([wide(program.matrix, n + k), up + z, down + u], format="csr"))
    below = np.full(k, -np.inf)
    return matrix, (
        np.concatenate([program.row_lower, below, below]),
        np.concatenate([program.row_upper, np.zeros(k), -program.low[free]]),
    )


def neighbourhood(
    program: Lifted,
    pattern: np.ndarray,
    free: Index,
    clock: Clock,
    nodes: int,
    start: Array | None = None,
    seed: int = 0,
) -> Found | None:
    """Return the best point over all states of some kinks, the others fixed as in a pattern.

    Parameters
    ----------
    free : int array
        Kinks whose state is open to choice.
    nodes : int
        Limit of the branch and bound.
    start : array (columns,) or None
        A point of the lifted program to begin from.
    """
    free = free[program.open[free]]
    fixed = np.array(pattern, dtype=np.int8)
    fixed[free] = -1
    upper = program.upper.copy()
    opened = np.flatnonzero(program.open)
    upper[program.up[opened]], upper[program.down[opened]] = program.pattern_bounds(fixed)
    k = len(free)
    matrix, rows = _with_choices(program, free)
    lower, upper = np.concatenate([program.lower, np.zeros(k)]), np.concatenate([upper, np.ones(k)])
    whole, cost = np.concatenate([program.integer, np.ones(k, bool)]), np.concatenate([program.cost, np.zeros(k)])
    moves = upper > lower
    settled = np.where(moves, 0.0, lower)
    shift = matrix @ settled
    matrix = sp.csr_array(matrix[:, moves])
    solver = Solver(seed, presolve=True)
    sides = lower[moves], upper[moves]
    solver.load(matrix, (rows[0] - shift, rows[1] - shift), sides, cost[moves], whole[moves])
    for name, value in (
        ("mip_max_nodes", nodes), ("mip_rel_gap", 1e-5), ("mip_detect_symmetry", False),
        ("mip_feasibility_tolerance", 1e-7), ("mip_heuristic_effort", 0.02),
    ):  # fmt: skip
        solver.highs.setOptionValue(name, value)
    if start is not None:
        point = solver._api.HighsSolution()
        point.col_value = np.concatenate([start, (pattern[free] > 0).astype(float)])[moves]
        solver.highs.setSolution(point)
    x, value, work, finished = solver.run(clock)
    solver.close()
    if x is None:
        return None
    settled[moves] = x
    return Found(settled[: len(program.kept)], value + float(cost @ np.where(moves, 0.0, lower)), work, finished)
