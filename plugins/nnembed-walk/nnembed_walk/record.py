"""The best point so far: every point is evaluated on the networks in float64 before it counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nnembed.aliases import Array
from nnembed.heuristics.scene import Scene
from nnembed.ir.nodes import Affine
from nnembed.protocols import Candidate

from nnembed_walk.kinks import kink_values
from nnembed_walk.program import Lifted

_TOLERANCE = 1e-7
_CHUNK = 4_000_000  # numbers held at a time


@dataclass(frozen=True, eq=False)
class Look:
    """What evaluation says about points: scores (s,), violations (s,) and kinks (s, kinks)."""

    score: Array
    violation: Array
    kinks: Array


class Record:
    """Evaluates points and remembers the best one.

    Attributes
    ----------
    score : float
        Of the best point; -inf before there is one.
    point : array (drivers,) or None
    complete : bool
        Whether drivers determine everything; otherwise points count only with values of the user's other columns.
    """

    def __init__(self, scene: Scene, program: Lifted | None = None):
        self.scene, self.program = scene, program
        self.score = -np.inf
        self.point: Array | None = None
        known = np.zeros(scene.problem.n_columns, dtype=bool)
        known[scene.visible] = True
        for placement in scene.problem.placements:
            known[placement.columns] = True
        self.complete = bool(known.all())
        visible = scene.visible
        self._low, self._high = scene.problem.lower[visible], scene.problem.upper[visible]

    @property
    def problem_size(self) -> int:
        """Number of weights of all networks, counted once per point of a batch."""
        total = 0
        for placement in self.scene.problem.placements:
            nodes = placement.embedding.network.nodes
            weights = sum(op.terms * op.shape[0] for n in nodes if isinstance(n, Affine) for op in n.operators)
            total += placement.block.batch * weights
        return total

    def look(self, points: Array) -> Look:
        """Evaluate points (s, drivers) of the box."""
        score, violation, values, states = self.scene.evaluate(np.asarray(points, float))
        slack = 1e-9 * (1 + np.abs(values))
        outside = np.maximum(np.maximum(self._low - values, values - self._high) - slack, 0.0).max(axis=1, initial=0.0)
        return Look(score, np.maximum(violation, outside), kink_values(self.scene, states, len(points)))

    def offer(self, points: Array, look: Look | None = None) -> Candidate | None:
        """Keep the best allowed point if it is better than the best so far, and return it as a candidate."""
        if not self.complete or not len(points):
            return None
        points = self.scene.clip(np.asarray(points, float))
        look = self.look(points) if look is None else look
        score = np.where(look.violation <= _TOLERANCE, look.score, -np.inf)
        best = int(score.argmax())
        if not score[best] > self.score:
            return None
        self.score, self.point = float(score[best]), points[best].copy()
        return Candidate({"drivers": {"x": points[best].copy()}}, self.score)

    def offer_kept(self, kept: Array) -> Candidate | None:
        """Offer values of the program's kept columns; outputs are replaced by the networks' own."""
        assert self.program is not None
        program, scene = self.program, self.scene
        drivers = scene.clip(kept[program.drivers][None])
        if self.complete:
            return self.offer(drivers)
        _, violation, values, _ = scene.evaluate(drivers)
        full = kept.copy()
        full[program.integer[: len(kept)]] = np.rint(full[program.integer[: len(kept)]])
        full[np.searchsorted(program.kept, scene.visible)] = values[0]
        rows = program.matrix[: program.own_rows][:, : len(kept)] @ full
        size = 1e-7 * (1 + np.abs(rows))
        own = slice(0, program.own_rows)
        good = (rows >= program.row_lower[own] - size) & (rows <= program.row_upper[own] + size)
        inside = (full >= program.lower[: len(kept)] - 1e-7) & (full <= program.upper[: len(kept)] + 1e-7)
        total = float(program.cost[: len(kept)] @ full)
        if not (good.all() and inside.all() and violation[0] <= _TOLERANCE and total > self.score):
            return None
        self.score, self.point = total, drivers[0].copy()
        return Candidate(
            {"drivers": {"x": drivers[0].copy()}, "columns": {"x": full, "numbers": program.kept.astype(float)}}, total
        )
