"""Few decisions: split the input box instead of the neurons.

Where networks read only a handful of variables and no row couples outputs, branch and bound over boxes of these
variables (`engine.spatial`) with linear bounds proves in a fraction of a second what takes a solver minutes: after some
splits nearly every neuron of a box is stable. It is tried for a moment and kept on only while its progress says that it
will end soon. Where it is not, or there are some more variables, a single chain of layers is searched with bounds that
are dearer and much tighter (`engine.chain_search`), for as long as that promises to end before a solver would.
Otherwise the solver gets the problem, the best point found, and the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnembed.aliases import Array
from nnembed.certificate import relative_gap
from nnembed.engine.chain import Chain, chain_of
from nnembed.engine.chain_search import ChainSearch, Hope
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
_MOST_INPUTS = 20  # of a chain
_FEWEST, _MOST_NEURONS = 20, 2000  # of a chain: a solver is done with fewer open ones at once; more do not pay
_DOUBLING = 8.0  # open neurons that double the time of a solver, roughly: it takes 2**(open / 8 - 2) seconds
_PART, _LONGEST_TRIAL = 0.05, 60.0  # of the time there is, seconds: before expectations are trusted
_SHARE, _HALF = 0.9, 0.5  # of the time that is left may go here; of this where it will not be enough
_NEWS = 1.0  # seconds between reports of the bound


@dataclass(eq=False)
class Splitting:
    """Branch and bound over the variables that networks read.

    Attributes
    ----------
    lower : float
        The bound that the search of a chain has proved, in minimisation form without the offset, also where it did
        not come to its end.
    """

    problem: Problem
    options: Options
    clock: Clock
    on_event: Callable[[Event], None]
    stopped: Callable[[], bool]
    start: Point | None = None
    gaps: list[float] = field(default_factory=list)
    lower: float = -np.inf

    def run(self) -> tuple[Solution | None, Point | None]:
        """Return the proven optimum, or None and the best point, for problems with few decisions; else None twice."""
        components = self._few_decisions()
        if components is None:
            return None, None
        solution, point = None, None
        if all(part.k <= _MOST_COLUMNS for part in components.parts):
            solution, point = self._by_boxes(components)
        chain = chain_of(components.parts[0]) if solution is None and len(components.parts) == 1 else None
        if chain is None or self.stopped() or self.clock.expired:
            return solution, point
        solution, found = self._by_facets(components, chain)
        return solution, point if found is None else found

    def _by_boxes(self, components: Components) -> tuple[Solution | None, Point | None]:
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
        return self._answer(trees, components, rounds * max(len(tree.bound) for tree in trees))

    def _by_facets(self, components: Components, chain: Chain) -> tuple[Solution | None, Point | None]:
        """Search one chain for as long as that is expected to end before a solver would."""
        known = self.problem.placements[0].embedding.bounds
        opened = chain.neurons if known is None else known.unstable
        if opened < _FEWEST or chain.neurons > _MOST_NEURONS:
            return None, None
        patience = 2.0 ** min(opened / _DOUBLING - 2.0, 60.0)
        limit = _SHARE * self.clock.remaining
        trial = min(_PART * min(patience, limit), _LONGEST_TRIAL)
        began = self.clock.elapsed
        search = ChainSearch(components.parts[0], chain, self.options.seed, self._start(components))
        hope = Hope()
        told, value = began, np.inf
        while not (self.stopped() or (spent := self.clock.elapsed - began) > limit):
            if search.value < value or self.clock.elapsed > told + _NEWS:
                told, value = self.clock.elapsed, search.value
                self._tell(search, components.offset)
            tolerance = 0.9 * self.options.gap * abs(search.value + components.offset)
            left = hope.left(search, tolerance, spent)
            lost = (spent > trial and hope.lost(left, patience)) or (spent > _HALF * limit and left > limit - spent)
            if lost or search.full or not search.split(tolerance):
                break
        self.lower = search.lower
        return self._answer([search], components, search.bounded)

    def _start(self, components: Components) -> Array | None:
        """Return the inputs of the point that is known."""
        if self.start is None:
            return None
        x = np.full(self.problem.n_columns, np.nan)
        x[self.start.columns] = self.start.values
        v: Array = x[components.parts[0].columns]
        return v if np.isfinite(v).all() else None

    def _tell(self, search: ChainSearch, offset: float) -> None:
        sign = -1.0 if self.problem.maximize else 1.0
        value, bound = sign * (search.value + offset), sign * (search.lower + offset)
        self.on_event(Incumbent(self.clock.elapsed, value, bound if np.isfinite(bound) else None, "input splitting"))

    def _few_decisions(self) -> Components | None:
        if not all(p.block.exact for p in self.problem.placements):
            return None
        components = take_apart(self.problem)
        if components is None or len(components.rows):
            return None
        most = _MOST_INPUTS if len(components.parts) == 1 else _MOST_COLUMNS
        small = all(part.ports and 0 < part.k <= most for part in components.parts)
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

    def _answer(
        self, trees: Sequence[Tree | ChainSearch], components: Components, nodes: int
    ) -> tuple[Solution | None, Point | None]:
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
        return Solution("optimal", complete, point.objective, bound, nodes, "proved by splitting the input box"), point
