"""Few decisions: split the input box instead of the neurons.

Where networks read only a handful of variables and no row couples outputs, branch and bound over boxes of these
variables (`engine.spatial`) with linear bounds proves in a fraction of a second what takes a solver minutes: after some
splits nearly every neuron of a box is stable. It is tried for a moment and kept on only while its progress says that it
will end soon; otherwise the solver gets the problem, and the best point found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nnembed.aliases import Array
from nnembed.certificate import relative_gap
from nnembed.engine.decompose import Components, take_apart
from nnembed.engine.recover import feasible
from nnembed.engine.spatial import Tree
from nnembed.events import Event, Incumbent
from nnembed.heuristics.scene import Point, Scene
from nnembed.options import Clock, Options
from nnembed.problem import Problem
from nnembed.protocols import Solution

_MOST_COLUMNS = 8  # decisions of one component: beyond, boxes outgrow neurons
_TRIAL = 0.2  # seconds that are always spent
_PATIENCE = 1.5  # go on while what is left is expected to take no longer than this many times what was spent
_FINE = 1e-7  # relative gap that is worth as much time again
_WINDOW = 6  # rounds over which progress is measured


@dataclass(eq=False)
class Splitting:
    """Branch and bound over the variables that networks read."""

    problem: Problem
    options: Options
    clock: Clock
    on_event: Callable[[Event], None]
    stopped: Callable[[], bool]
    gaps: list[float] = field(default_factory=list)

    def run(self) -> tuple[Solution | None, Point | None]:
        """Return the proven optimum, or None and the best point, for problems with few decisions; else None twice."""
        components = self._few_decisions()
        if components is None:
            return None, None
        trees = [Tree(part) for part in components.parts]
        started, rounds, enough = self.clock.elapsed, 0, np.inf
        while (gap := self._gap(trees, components.offset)) > min(_FINE, self.options.gap):
            spent = self.clock.elapsed - started
            if gap <= self.options.gap and enough == np.inf:
                enough = 2 * spent  # a finer answer for as long again: the last digits are cheap
            if self.stopped() or self.clock.expired or spent > enough or not self._hopeful(spent):
                break
            worst = max(trees, key=lambda tree: tree.gap)
            if not worst.split(self._tolerance(trees, components.offset)):
                break
            rounds += 1
        return self._answer(trees, components, rounds)

    def _few_decisions(self) -> Components | None:
        if not all(p.block.exact for p in self.problem.placements):
            return None
        components = take_apart(self.problem)
        if components is None or len(components.rows):
            return None
        small = all(part.ports and 0 < part.k <= _MOST_COLUMNS for part in components.parts)
        return components if small else None

    def _tolerance(self, trees: list[Tree], offset: float) -> float:
        """Return the absolute gap that each component may keep."""
        value = sum(tree.value for tree in trees) + offset
        gap = min(_FINE, self.options.gap)
        return 0.5 * gap * abs(value) / len(trees) if np.isfinite(value) else 0.0

    def _gap(self, trees: list[Tree], offset: float) -> float:
        """Return the relative gap, and remember it."""
        value, bound = (sum(getattr(tree, side) for tree in trees) + offset for side in ("value", "lower"))
        gap = relative_gap(value, min(bound, value)) if np.isfinite(value) else np.inf
        self.gaps.append(0.0 if gap is None else gap)
        return self.gaps[-1]

    def _hopeful(self, spent: float) -> bool:
        """Return whether the gap shrinks so fast that the end is near."""
        if spent < _TRIAL or len(self.gaps) <= _WINDOW:
            return True
        now, before = self.gaps[-1], self.gaps[-1 - _WINDOW]
        if not now < before:
            return False
        pace = np.log(before / now) / _WINDOW if np.isfinite(before) else 1.0
        rounds = np.log(now / max(self.options.gap, 1e-12)) / pace
        return bool(rounds * spent / len(self.gaps) < _PATIENCE * spent)

    def _answer(self, trees: list[Tree], components: Components, rounds: int) -> tuple[Solution | None, Point | None]:
        x = np.zeros(self.problem.n_columns)
        for tree in trees:
            if tree.best is None:
                return None, None
            x[np.concatenate([tree.part.columns, tree.part.outputs])] = tree.best
        scene = Scene(self.problem)
        point = scene.point(scene.clip(x[scene.drivers][None])[0])
        if not point.complete:
            return None, None
        complete: Array = np.empty(self.problem.n_columns)
        complete[point.columns] = point.values
        if not feasible(self.problem, complete):
            return None, None
        sign = -1.0 if self.problem.maximize else 1.0
        bound = sign * (sum(tree.lower for tree in trees) + components.offset)
        self.on_event(Incumbent(self.clock.elapsed, point.objective, bound, "input splitting"))
        gap = relative_gap(point.objective, bound)
        if gap is None or gap > self.options.gap:
            return None, point
        nodes = rounds * max(len(tree.bound) for tree in trees)
        return Solution("optimal", complete, point.objective, bound, nodes, "proved by splitting the input box"), point
