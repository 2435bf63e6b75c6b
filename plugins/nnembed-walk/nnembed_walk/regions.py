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

_TOLERANCE = 1e-9
_INTEGER_NODES = 500  # of the user's own integers inside one region


@dataclass(frozen=True, eq=False)
class Found:
    """The best point of a region: values of the kept columns, the solver's value, what it cost.

    `finished` is False where a limit stopped the solver; `work` counts simplex iterations times rows.
    """

    kept: Array
    value: float
    work: float
    finished: bool = True


class Solver:
    """One HiGHS instance with the few calls that walks need.

    Parameters
    ----------
    seed : int
    presolve : bool
        Off for programs that are solved again and again from their last basis.
    """

    def __init__(self, seed: int = 0, *, presolve: bool = False):
        import highspy

        self._api: Any = highspy
        self.highs: Any = highspy.Highs()
        for name, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", seed % (2**31)),
            ("presolve", "on" if presolve else "off"),
            ("primal_feasibility_tolerance", _TOLERANCE),
        ):
            self.highs.setOptionValue(name, value)
        self._rows = 0
        self.unbounded = False
        self._rough = False

    def load(
        self,
        matrix: sp.csr_array,
        rows: tuple[Array, Array],
        sides: tuple[Array, Array],
        cost: Array,
        whole: np.ndarray,
    ) -> None:
        """Pass ``max cost @ x`` over rows and column bounds."""
        self._rows = matrix.shape[0]
        self.highs.passModel(
            matrix.shape[1], matrix.shape[0], int(matrix.nnz), int(self._api.MatrixFormat.kRowwise),
            int(self._api.ObjSense.kMaximize), 0.0, cost, *sides, *rows,
            matrix.indptr.astype(np.int32, copy=False), matrix.indices.astype(np.int32, copy=False), matrix.data,
            whole.astype(np.int32),
        )  # fmt: skip

    def accept_rough(self) -> None:
        """Take solutions that are a little off: where only a rough point is wanted."""
        self.highs.setOptionValue("primal_feasibility_tolerance", 1e-6)
        self.highs.setOptionValue("dual_feasibility_tolerance", 1e-6)
        self._rough = True

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        self.highs.changeColsBounds(len(columns), columns.astype(np.int32), lower, upper)

    def run(self, clock: Clock, iterations: int | None = None) -> tuple[Array | None, float, float, bool]:
        """Solve and return the point (None without one), its value, the work done and whether it was finished."""
        if clock.expired:
            return None, -np.inf, 0.0, False
        left = clock.remaining
        if np.isfinite(left):
            self.highs.setOptionValue("time_limit", float(left) + self.highs.getRunTime())
        if iterations is not None:
            self.highs.setOptionValue("simplex_iteration_limit", int(iterations))
        code = self.highs.run()
        if code == self._api.HighsStatus.kError:  # another instance has run with another number of threads
            self._api.Highs.resetGlobalScheduler(True)
            code = self.highs.run()
        if clock.expired:
            return None, -np.inf, 0.0, False  # where the clock has cut must not decide what is found
        status = self.highs.getModelStatus()
        endless = self._api.HighsModelStatus.kUnbounded, self._api.HighsModelStatus.kUnboundedOrInfeasible
        self.unbounded = status in endless
        info = self.highs.getInfo()
        work = float(max(info.simplex_iteration_count, 1)) * self._rows
        finished = status == self._api.HighsModelStatus.kOptimal
        if self._rough and finished is False and status == self._api.HighsModelStatus.kUnknown:
            solution = self.highs.getSolution()
            if solution.value_valid:
                return np.array(solution.col_value), float(info.objective_function_value), work, False
        if self.unbounded or info.primal_solution_status != self._api.SolutionStatus.kSolutionStatusFeasible:
            return None, -np.inf, work, status == self._api.HighsModelStatus.kInfeasible
        return np.array(self.highs.getSolution().col_value), float(info.objective_function_value), work, finished

    def close(self) -> None:
        """Free the solver's memory."""
        self.highs.clear()


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

    def close(self) -> None:
        """Free the solver."""
        self._solver.close()


class DenseRegions:
    """Region programs over the drivers alone: one dense row per open neuron; for few inputs and many neurons."""

    def __init__(self, program: Lifted, chain: Chain, seed: int = 0):
        self.program = program
        self._chain, self._solver, self._basis = chain, Solver(seed), None
        self._opened = np.flatnonzero(program.open)

    def solve(self, pattern: np.ndarray, clock: Clock, iterations: int | None = None) -> Found | None:
        """See `LiftedRegions.solve`; every kink must be on or off."""
        p = self.program
        rows, sides, out, constant = composed(self._chain, pattern)
        on, side = pattern[self._opened].astype(bool), -sides[self._opened]
        matrix = dense_rows(rows[self._opened])
        cost = self._chain.cost + self._chain.output @ out
        box = p.lower[p.drivers], p.upper[p.drivers]
        limits = np.where(on, side, -np.inf), np.where(on, np.inf, side)
        solver = self._solver
        solver.load(matrix, limits, box, cost, np.zeros(len(cost), dtype=bool))
        if self._basis is not None:
            solver.highs.setBasis(self._basis)
        x, value, work, finished = solver.run(clock, iterations)
        if x is None:
            return None
        self._basis = solver.highs.getBasis() if finished else None
        kept = np.zeros(len(p.kept))
        kept[p.drivers] = x
        return Found(kept, value + float(self._chain.output @ constant), work, finished)

    @property
    def unbounded(self) -> bool:
        """Whether the last program had no best point."""
        return self._solver.unbounded

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


def dense_rows(rows: Array) -> sp.csr_array:
    """Return full rows as CSR, zeros kept."""
    n, k = rows.shape
    indices = np.tile(np.arange(k, dtype=np.int32), n)
    return sp.csr_array((rows.ravel(), indices, np.arange(0, n * k + 1, k, dtype=np.int32)), shape=(n, k))


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
    n, k = len(program.lower), len(free)
    z = sp.csr_array((-program.high[free], n + np.arange(k), np.arange(k + 1)), shape=(k, n + k))
    u = sp.csr_array((-program.low[free], n + np.arange(k), np.arange(k + 1)), shape=(k, n + k))
    one = np.ones(k)
    up = sp.csr_array((one, program.up[free], np.arange(k + 1)), shape=(k, n + k))
    down = sp.csr_array((one, program.down[free], np.arange(k + 1)), shape=(k, n + k))
    matrix = sp.csr_array(sp.vstack([wide(program.matrix, n + k), up + z, down + u], format="csr"))
    below = np.full(k, -np.inf)
    rows = (
        np.concatenate([program.row_lower, below, below]),
        np.concatenate([program.row_upper, np.zeros(k), -program.low[free]]),
    )
    sides = np.concatenate([program.lower, np.zeros(k)]), np.concatenate([upper, one])
    solver = Solver(seed, presolve=True)
    whole = np.concatenate([program.integer, np.ones(k, bool)])
    solver.load(matrix, rows, sides, np.concatenate([program.cost, np.zeros(k)]), whole)
    for name, value in (
        ("mip_max_nodes", nodes), ("mip_rel_gap", 1e-5), ("mip_detect_symmetry", False),
        ("mip_feasibility_tolerance", 1e-7), ("mip_heuristic_effort", 0.02),
    ):  # fmt: skip
        solver.highs.setOptionValue(name, value)
    if start is not None:
        point = solver._api.HighsSolution()
        point.col_value = np.concatenate([start, (pattern[free] > 0).astype(float)])
        solver.highs.setSolution(point)
    x, value, work, finished = solver.run(clock)
    solver.close()
    return None if x is None else Found(x[: len(program.kept)], value, work, finished)
