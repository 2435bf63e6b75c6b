"""A complete starting point from forward passes: random points, then projected gradient steps from the best.

HiGHS finds no feasible point at all on low-dimensional regressors without one. The points are points of the user's own
variables (so several networks that share variables stay consistent); rows that involve only these variables and network
outputs are respected, other rows are left to the solver's completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.features import Capability
from nnembed.ir.gradient import gradient
from nnembed.ir.network import Network
from nnembed.options import Budget, Clock
from nnembed.problem import Placement, Problem
from nnembed.protocols import Candidate

_SAMPLES = 2000
_CHUNK = 4_000_000  # numbers per batch of points


@dataclass(frozen=True, eq=False)
class Point:
    """Values of some columns of a problem: a start for a solver.

    Attributes
    ----------
    columns : int array, values : array
        The columns that are determined, all of them when `complete`.
    objective : float
        Contribution of these columns to the objective.
    violation : float
        Largest violation of the rows that involve determined columns only.
    complete : bool
    discrete : int array
        Places in `columns` of the integer columns.
    """

    columns: Index
    values: Array
    objective: float
    violation: float
    complete: bool
    discrete: Index


class Scene:
    """A problem as heuristics see it: drivers (the user's variables), networks, and the objective on both."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.drivers = np.unique(np.concatenate([p.drivers for p in problem.placements]))
        self.lower, self.upper = self._finite_box()
        self.integer = problem.integer[self.drivers]
        self.maps = [self._driver_map(p) for p in problem.placements]
        known = np.zeros(problem.n_columns, dtype=bool)
        known[self.drivers] = True
        for p in problem.placements:
            known[p.columns] = True
        self.known = known
        self.sign = 1.0 if problem.maximize else -1.0
        outputs = [p.columns[p.block.outputs] for p in problem.placements]
        self.outputs = np.concatenate(outputs)
        self._side = self._side_rows()

    def _finite_box(self) -> tuple[Array, Array]:
        lower, upper = self.problem.lower[self.drivers], self.problem.upper[self.drivers]
        low = np.where(np.isfinite(lower), lower, np.where(np.isfinite(upper), upper - 1.0, -1.0))
        return low, np.where(np.isfinite(upper), upper, np.maximum(low, lower) + 2.0)

    def _driver_map(self, placement: Placement) -> sp.csr_array:
        """Return the inputs of a placement as functions of all drivers."""
        where = np.searchsorted(self.drivers, placement.drivers)
        m = placement.matrix
        shape = (m.shape[0], len(self.drivers))
        return sp.csr_array((m.data, where[m.indices].astype(np.int32), m.indptr), shape=shape)

    def _side_rows(self) -> tuple[sp.csr_array, sp.csr_array, Array, Array] | None:
        """Rows over drivers and outputs only (the user's own): parts on drivers and outputs, and both sides."""
        problem = self.problem
        role = np.zeros(problem.n_columns, dtype=np.int8)
        role[self.outputs] = 1
        role[self.drivers] = 1
        foreign = sp.csr_array(
            (np.ones(problem.matrix.nnz), problem.matrix.indices, problem.matrix.indptr), shape=problem.matrix.shape
        ) @ (role == 0).astype(float)
        rows = np.flatnonzero((foreign == 0) & (np.diff(problem.matrix.indptr) > 0))
        if not len(rows):
            return None
        matrix = problem.matrix[rows]
        side = (problem.row_lower[rows], problem.row_upper[rows])
        shared = np.isin(self.outputs, self.drivers)
        parts = sp.csc_array(matrix)
        on_outputs = sp.csr_array(parts[:, self.outputs[~shared]])
        self._free_outputs = ~shared
        return sp.csr_array(parts[:, self.drivers]), on_outputs, *side

    # ---- evaluation ---------------------------------------------------------------------------

    def inputs(self, points: Array) -> list[dict[str, Array]]:
        """Return flat network inputs (points * batch, n) by name, one dict per placement."""
        result = []
        for placement, matrix in zip(self.problem.placements, self.maps, strict=True):
            flat = (matrix @ points.T).T + placement.constant
            result.append(split_inputs(placement.embedding.network, flat, placement.block.batch))
        return result

    def evaluate(self, points: Array) -> tuple[Array, Array, list[dict[str, Array]]]:
        """Return score (higher is better), violation of side rows, and all tensors, for points (s, k)."""
        cost = self.sign * self.problem.cost
        score = points @ cost[self.drivers]
        states, outputs = [], []
        for placement, inputs in zip(self.problem.placements, self.inputs(points), strict=True):
            state = placement.embedding.network.forward(inputs)
            states.append(state)
            outputs.append(joined_outputs(placement.embedding.network, state, len(points)))
        flat = np.concatenate(outputs, axis=1)
        score = score + flat @ np.where(np.isin(self.outputs, self.drivers), 0.0, cost[self.outputs])
        return score, self._violation(points, flat), states

    def _violation(self, points: Array, outputs: Array) -> Array:
        if self._side is None:
            return np.zeros(len(points))
        on_drivers, on_outputs, low, high = self._side
        value = (on_drivers @ points.T + on_outputs @ outputs[:, self._free_outputs].T).T
        excess = np.maximum(low - value, value - high)
        return np.maximum(excess, 0.0).max(axis=1)

    def ascent(self, points: Array, states: list[dict[str, Array]]) -> Array:
        """Return the gradient of the score with respect to the drivers, (s, k)."""
        cost = self.sign * self.problem.cost
        total = np.tile(cost[self.drivers], (len(points), 1))
        for placement, matrix, state in zip(self.problem.placements, self.maps, states, strict=True):
            network, batch = placement.embedding.network, placement.block.batch
            weights = split_outputs(network, cost[placement.columns[placement.block.outputs]], batch, len(points))
            slope = gradient(network, state, weights)
            flat = np.concatenate([slope[s.name].reshape(len(points), batch * s.size) for s in network.inputs], axis=1)
            total += (matrix.T @ flat.T).T
        return total

    def clip(self, points: Array) -> Array:
        """Return points projected on the box, integers rounded."""
        inside = np.clip(points, self.lower, self.upper)
        inside[:, self.integer] = np.rint(inside[:, self.integer])
        return inside

    def point(self, drivers: Array) -> Point:
        """Return the start that one point of the drivers determines."""
        score, violation, states = self.evaluate(drivers[None])
        x = np.zeros(self.problem.n_columns)
        x[self.drivers] = drivers
        for placement, state in zip(self.problem.placements, states, strict=True):
            x[placement.columns] = placement.block.fill(state)
        x[self.drivers] = drivers
        columns = np.flatnonzero(self.known)
        value = float(self.sign * score[0]) + self.problem.offset
        discrete = np.flatnonzero(self.problem.integer[columns])
        return Point(columns, x[columns], value, float(violation[0]), bool(self.known.all()), discrete)


def split_inputs(network: Network, flat: Array, batch: int) -> dict[str, Array]:
    """Return (points * batch, n) per input from (points, inputs in block order)."""
    result, start = {}, 0
    for spec in network.inputs:
        width = batch * spec.size
        result[spec.name] = flat[:, start : start + width].reshape(-1, spec.size)
        start += width
    return result


def joined_outputs(network: Network, state: Mapping[str, Array], points: int) -> Array:
    """Return (points, outputs in block order) from all tensors (points * batch, n)."""
    return np.concatenate([state[s.name].reshape(points, -1) for s in network.outputs], axis=1)


def split_outputs(network: Network, flat: Array, batch: int, points: int) -> dict[str, Array]:
    """Return weights (points * batch, n) per output from a vector in block order."""
    result: dict[str, Array] = {}
    start = 0
    for spec in network.outputs:
        part = flat[start : start + batch * spec.size].reshape(batch, spec.size)
        part = np.tile(part, (points, 1))
        result[spec.name] = result[spec.name] + part if spec.name in result else part
        start += batch * spec.size
    return result


class ForwardStart:
    """Random points and projected gradient steps."""

    name = "forward"
    summary = "best of 2000 forward passes, then projected gradient steps"
    requires = Capability.MIP_START

    def run(self, embedded: Scene, session: object, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points of the drivers, each better than the last."""
        clock = budget.start()
        found = self._sample(embedded, rng, clock)
        points, score, violation = found
        best = _rank(score, violation)
        yield Candidate({"drivers": {"x": points[best]}}, float(score[best]))
        keep = np.lexsort((-score, violation > 1e-7))[:16]
        for better, value in self._climb(embedded, points[keep], clock):
            yield Candidate({"drivers": {"x": better}}, value)

    def _sample(self, scene: Scene, rng: np.random.Generator, clock: Clock) -> tuple[Array, Array, Array]:
        k = len(scene.drivers)
        widest = max(
            p.block.batch * max(s.size for s in p.embedding.network.tensors.values()) for p in scene.problem.placements
        )
        step = int(np.clip(_CHUNK // max(k, widest), 16, _SAMPLES))
        kept: list[tuple[Array, Array, Array]] = []
        done = 0
        while done < _SAMPLES and (done == 0 or not clock.expired):
            count = min(step, _SAMPLES - done)
            points = scene.clip(rng.uniform(scene.lower, scene.upper, (count, k)))
            if done == 0:
                points[0] = scene.clip(0.5 * (scene.lower + scene.upper)[None])[0]
            score, violation, _ = scene.evaluate(points)
            top = np.lexsort((-score, violation > 1e-7))[:16]
            kept.append((points[top], score[top], violation[top]))
            done += count
        points, score, violation = (np.concatenate([part[i] for part in kept]) for i in range(3))
        return points, score, violation

    def _climb(self, scene: Scene, points: Array, clock: Clock) -> Iterator[tuple[Array, float]]:
        """Projected gradient ascent with per-point step control; yields improvements of the best."""
        score, violation, states = scene.evaluate(points)
        best = float(score[_rank(score, violation)])
        width = np.where(scene.integer, 1.0, scene.upper - scene.lower)
        step = np.full(len(points), 0.25)
        for _ in range(60):
            if clock.expired or (step < 1e-6).all():
                return
            slope = scene.ascent(points, states) * width
            norm = np.abs(slope).max(axis=1, keepdims=True)
            direction = np.where(norm > 0, slope / np.where(norm > 0, norm, 1.0), 0.0)
            trial = scene.clip(points + step[:, None] * width * direction)
            new_score, new_violation, new_states = scene.evaluate(trial)
            better = (new_score > score) & (new_violation <= np.maximum(violation, 1e-7))
            points = np.where(better[:, None], trial, points)
            score, violation = np.where(better, new_score, score), np.where(better, new_violation, violation)
            step = np.where(better, 1.2 * step, 0.5 * step)
            states = [_choose(better, new, old, len(points)) for new, old in zip(new_states, states, strict=True)]
            top = _rank(score, violation)
            if score[top] > best and violation[top] <= 1e-7:
                best = float(score[top])
                yield points[top], best


def _rank(score: Array, violation: Array) -> int:
    """Return the best point: feasible first, then by score."""
    return int(np.lexsort((-score, np.where(violation > 1e-7, violation, 0.0)))[0])


def _choose(mask: np.ndarray, new: dict[str, Array], old: dict[str, Array], points: int) -> dict[str, Array]:
    """Return the states of the points where `mask` says new, of the others old."""
    batch = len(next(iter(new.values()))) // points
    rows = np.repeat(mask, batch)[:, None]
    return {name: np.where(rows, new[name], old[name]) for name in new}
