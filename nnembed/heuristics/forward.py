"""A complete starting point from forward passes: random points, then projected gradient steps from the best.

HiGHS finds no feasible point at all on low-dimensional regressors without one. The points are points of the user's own
variables (so several networks that share variables stay consistent); rows that involve only these variables and network
outputs are respected, other rows are left to the solver's completion.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnembed.aliases import Array
from nnembed.features import Capability
from nnembed.heuristics.scene import Scene
from nnembed.options import Budget, Clock
from nnembed.protocols import Candidate

_SAMPLES = 2000
_CHUNK = 4_000_000  # numbers per batch of points


class ForwardStart:
    """Random points and projected gradient steps."""

    name = "forward"
    summary = "best of 2000 forward passes, then projected gradient steps"
    requires = Capability.MIP_START
    automatic = True
    brief = True

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

    def improve(self, embedded: Scene, points: Array, budget: Budget) -> Iterator[Candidate]:
        """Yield better points than the best of some points of the drivers (s, k), by gradient steps from them."""
        for better, value in self._climb(embedded, embedded.clip(points), budget.start()):
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
                first = np.concatenate([scene.clip(0.5 * (scene.lower + scene.upper)[None]), scene.known])[:count]
                points[: len(first)] = first
            score, violation, _, _ = scene.evaluate(points)
            top = np.lexsort((-score, violation > 1e-7))[:16]
            kept.append((points[top], score[top], violation[top]))
            done += count
        points, score, violation = (np.concatenate([part[i] for part in kept]) for i in range(3))
        return points, score, violation

    def _climb(self, scene: Scene, points: Array, clock: Clock) -> Iterator[tuple[Array, float]]:
        """Projected gradient ascent with per-point step control; yields improvements of the best."""
        score, violation, values, states = scene.evaluate(points)
        best = float(score[_rank(score, violation)])
        width = np.where(scene.integer, 1.0, scene.upper - scene.lower)
        step = np.full(len(points), 0.25)
        for _ in range(60):
            if clock.expired or (step < 1e-6).all():
                return
            slope = scene.ascent(values, states) * width
            norm = np.abs(slope).max(axis=1, keepdims=True)
            direction = np.where(norm > 0, slope / np.where(norm > 0, norm, 1.0), 0.0)
            trial = scene.clip(points + step[:, None] * width * direction)
            new_score, new_violation, new_values, new_states = scene.evaluate(trial)
            better = (new_score > score) & (new_violation <= np.maximum(violation, 1e-7))
            points = np.where(better[:, None], trial, points)
            values = np.where(better[:, None], new_values, values)
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
