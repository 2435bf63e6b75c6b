"""What all walks share: a scene with its fields, its projection, its region programs and its best point."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from nnembed.aliases import Array
from nnembed.errors import BoxError, UnsupportedFeature
from nnembed.heuristics.endless import no_best_value
from nnembed.heuristics.scene import Scene
from nnembed.options import Budget
from nnembed.protocols import Candidate

from nnembed_walk.climb import climb
from nnembed_walk.field import Chain, FastField, SceneField, chain_of
from nnembed_walk.program import Lifted, lifted
from nnembed_walk.project import Projection, has_output_rows
from nnembed_walk.record import Look, Record
from nnembed_walk.regions import DenseRegions, Found, LiftedRegions, is_bare

_ENOUGH = 4_000_000  # numbers in a batch of points that are looked at together
_LEAST, SECONDS = 1e-3, 3e-7  # of a usual machine, per linear program, and per simplex iteration and row of it
_DENSE = 0.5  # inputs per open neuron up to which dense region programs are cheaper


class Terrain:
    """See the module.

    Attributes
    ----------
    scene : Scene
    clock : Clock
        Runs from the start of the walk.
    rng : Generator
    record : Record
    spent : float
        Seconds of a usual machine that linear programs have taken: counted, not measured, so that runs can be repeated.
    """

    def __init__(self, scene: Scene, budget: Budget, rng: np.random.Generator):
        self.clock = budget.start()
        self.scene, self.rng, self.seed = scene, rng, int(rng.integers(2**31))
        _refuse_open_box(scene)
        self.lower, self.upper = scene.lower, scene.upper
        self.width = scene.upper - scene.lower
        self.k = len(scene.drivers)
        self.project = Projection(scene, self._expired)
        self.coupled = has_output_rows(scene)
        self._fields: dict[tuple[int, type], FastField | SceneField] = {}
        self._penalty, self._climbed = 0.0, False
        self.spent = 0.0
        self._regions: LiftedRegions | DenseRegions | None = None
        self.record = Record(scene)

    # ---- parts, made when first needed --------------------------------------------------------

    @cached_property
    def chain(self) -> Chain | None:
        """The networks as one dense chain, None where they are more than that."""
        return chain_of(self.scene)

    @cached_property
    def _program(self) -> Lifted | None:
        try:
            self.record.program = lifted(self.scene)
            return self.record.program
        except UnsupportedFeature as problem:
            self._refusal = str(problem)
            return None

    @property
    def program(self) -> Lifted:
        """The lifted program.

        Raises
        ------
        UnsupportedFeature
            Where the user's own part is not mixed-integer linear.
        """
        if self._program is None:
            raise UnsupportedFeature(self._refusal)
        return self._program

    @property
    def is_linear(self) -> bool:
        """Whether there are region programs at all."""
        return self._program is not None

    @property
    def regions(self) -> LiftedRegions | DenseRegions:
        """The region programs, dense or lifted by size."""
        if self._regions is None:
            if self.is_dense:
                assert self.chain is not None
                self._regions = DenseRegions(self.program, self.chain, self.seed)
            else:
                self._regions = LiftedRegions(self.program, self.seed)
        return self._regions

    @cached_property
    def is_dense(self) -> bool:
        """Whether region programs over the drivers alone are cheaper than lifted ones."""
        small = self.k < _DENSE * self.program.open.sum()
        return bool(self.chain is not None and small and is_bare(self.scene, self.program))

    @property
    def has_rows(self) -> bool:
        """Whether rows over drivers cut the box."""
        return self.project.rows.shape[0] > 0

    def close(self) -> None:
        """Free the solvers."""
        if self._regions is not None:
            self._regions.close()

    # ---- points -------------------------------------------------------------------------------

    def uniform(self, count: int) -> Array:
        """Return points drawn from the box, moved onto the user's rows over drivers."""
        points = self.lower + self.rng.random((count, self.k)) * self.width
        self.project(points)
        return points

    def batch(self, wanted: int) -> int:
        """Return how many points to climb at once."""
        widest = max(
            p.block.batch * max(s.size for s in p.embedding.network.tensors.values())
            for p in self.scene.problem.placements
        )
        return int(np.clip(_ENOUGH // (4 * max(self.k, widest)), 4, wanted))

    def field(self, batch: int, dtype: type) -> FastField | SceneField:
        """Return scores and slopes for batches of this size."""
        key = batch, dtype
        if key not in self._fields:
            fast = self.chain is not None and not self.coupled
            if fast:
                assert self.chain is not None
                self._fields[key] = FastField(self.chain, batch, dtype)
            else:
                self._fields[key] = SceneField(self.scene, self._slope_size() if self.coupled else 0.0)
        return self._fields[key]

    def _slope_size(self) -> float:
        """Return a penalty that outweighs the score's slopes."""
        if not self._penalty:
            score = self.scene.evaluate(self.uniform(16))[0]
            side = self.scene.side
            assert side is not None
            self._penalty = 30.0 * (float(np.abs(score).max()) + float(np.ptp(score)) + 1.0)
        return self._penalty

    def climb(
        self, points: Array, steps: int, step: Array | float, momentum: float = 0.9, fall: float = 1.0
    ) -> tuple[Array, Array]:
        """Return the best points met by projected Adam ascent in single precision where possible, and their scores.

        A climb that the clock has cut short brings nothing, unless it was the first: else where it was cut would decide
        what a run finds, and no run could be repeated.
        """
        fast = self.chain is not None and not self.coupled
        dtype = np.float32 if fast else np.float64
        start = points.astype(dtype)
        field = self.field(len(start), dtype)
        best, score, finished = climb(
            field, start, self.width, self.project.following(), steps, step, self._expired, momentum, fall
        )
        if not finished and self._climbed:
            return points[:0], np.zeros(0)
        self._climbed = True
        return best.astype(float), score.astype(float)

    def _expired(self) -> bool:
        return self.clock.expired

    # ---- candidates ---------------------------------------------------------------------------

    def offer(self, points: Array, settle: int = 2) -> Iterator[Candidate]:
        """Yield candidates from points: as they are where they are allowed, else the best points of their regions.

        `settle` says for how many of them a region program may be solved.
        """
        if not len(points):
            return
        points = self.inside(points)
        look = self.record.look(points)
        if (found := self.record.offer(points, look)) is not None:
            yield found
        bad = look.violation > 1e-7
        if not self.record.complete:
            bad[:] = True
        order = [i for i in np.argsort(-look.score, kind="stable") if bad[i] and look.score[i] > self.record.score]
        for i in order[:settle] if self.is_linear else []:
            if self.clock.expired:
                return
            yield from self.settle(look.kinks[i] > 0)[0]

    def inside(self, points: Array) -> Array:
        """Return points projected on the box and the rows over drivers, integers rounded."""
        points = np.array(points, float)
        self.project(points)
        return self.scene.clip(points)

    def settle(self, pattern: np.ndarray, iterations: int | None = None) -> tuple[list[Candidate], Found | None]:
        """Solve the program of one region; return what it adds to the record, and its solution."""
        found = self.regions.solve(pattern, self.clock, iterations)
        self.spend(0.0 if found is None else found.work)
        if found is None:
            if self.regions.unbounded:
                self._name_open_column()
            return [], None
        better = self.record.offer_kept(found.kept)
        return [] if better is None else [better], found

    def spend(self, work: float) -> None:
        """Count a linear program that has taken so many simplex iterations times rows."""
        self.spent += _LEAST + SECONDS * work

    def _name_open_column(self) -> None:
        """Raise `BoxError` for a column of the user's own that makes the objective endless, where there is one."""
        p, n = self.program, len(self.program.kept)
        side = np.where(
            p.cost > 0, p.upper, np.where(p.cost < 0, p.lower, np.minimum(np.abs(p.lower), np.abs(p.upper)))
        )
        endless, ray = ~np.isfinite(side[:n]), self.regions.ray
        if ray is not None and (endless & (ray[:n] != 0)).any():
            endless &= ray[:n] != 0
        columns = np.flatnonzero(endless)
        if not len(columns):
            return
        first = columns[np.argmax(p.cost[columns] != 0)]
        raise no_best_value(self.scene.problem, int(p.kept[first]))

    def look(self, point: Array) -> Look:
        """Evaluate one point."""
        return self.record.look(self.scene.clip(point[None]))

    def drivers_of(self, found: Found) -> Array:
        """Return the drivers of a region's solution, in the box."""
        return np.clip(found.kept[self.program.drivers], self.lower, self.upper)


def _refuse_open_box(scene: Scene) -> None:
    """Refuse drivers without bounds: there is nothing to walk in."""
    problem = scene.problem
    for side, word in ((problem.lower, "lower"), (problem.upper, "upper")):
        if (open_ := np.flatnonzero(~np.isfinite(side[scene.drivers]))).size:
            name = problem.column_name(int(scene.drivers[open_[0]]))
            raise BoxError(f"variable {name} has no finite {word} bound; walks need a bounded region, give it one")
