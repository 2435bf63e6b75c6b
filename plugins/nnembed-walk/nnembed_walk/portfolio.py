"""The portfolio: climbs bred from elites, exact programs over regions and over few neurons, by what pays."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
from nnembed.aliases import Array
from nnembed.errors import InputError
from nnembed.features import Capability
from nnembed.heuristics.scene import Scene
from nnembed.options import Budget
from nnembed.protocols import Candidate

from nnembed_walk.breeding import Breeder, Choice, Pool
from nnembed_walk.corners import corners
from nnembed_walk.exact import Exact
from nnembed_walk.patience import Patience
from nnembed_walk.relax import Relaxation, RelaxWalk
from nnembed_walk.terrain import Terrain
from nnembed_walk.walking import walk

_STALE = 15  # rounds without a better best elite after which breeding begins anew
_NEWS = 1e-5  # relative gain that counts as better
_FINE = 0.01  # step of the climber that only refines the best elite
_STEPS = np.array([0.05, 0.2, 1.0, 4.0])  # first steps of climbers, relative to the box
_FRESH = 3  # the one of them for starts that owe nothing to elites
_SMOOTH = 0.1  # first step of climbs with momentum, which end in other places than those from corner to corner
_FALL = 2.0  # power with which they fall
_EPS = 0.01  # step of walks from elites, see `walking`
_SHARES = 0.25, 8.0, 16.0  # work on walks from relaxations, relative to climbing: least, at first, most


class Walk:
    """See the module.

    Parameters
    ----------
    batch : int
        Points that climb together; fewer where networks are large.
    steps : int
        Steps of a climb.
    programs : bool
        Solve linear and mixed-integer programs over regions in between.
    """

    name = "walk"
    summary = "portfolio: climbs bred from elites, region programs, small mixed-integer neighbourhoods"
    requires = Capability.MIP_START
    automatic = True

    def __init__(self, batch: int = 32, steps: int = 150, *, programs: bool = True):
        if batch < 2 or steps < 1:
            raise InputError(f"batch={batch} must be at least 2, steps={steps} at least 1")
        self.batch, self.steps, self.programs = batch, steps, programs

    def run(self, embedded: Scene, session: object, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points of the drivers, each better than the last; see `protocols.Heuristic`."""
        terrain, patience = Terrain(embedded, budget, rng), Patience(budget)
        if not terrain.k:
            yield from terrain.offer(np.zeros((1, 0)))
            return
        state = _State(terrain, terrain.batch(self.batch), self.steps)
        exact = relaxed = None
        try:
            yield from state.look()
            if self.programs and terrain.has_rows and terrain.is_linear:
                relaxed = _Relaxed(terrain)
                yield from relaxed.turn(state.pool, state.price)  # early where it is quick
            yield from state.begin()
            if self.programs and terrain.is_linear:
                exact = Exact(terrain)
            while not terrain.clock.expired and patience.go_on(terrain.record.score):
                yield from state.round()
                if exact is not None:
                    yield from exact.turn(state.pool, state.work)
                if relaxed is not None:
                    yield from relaxed.turn(state.pool, state.price)
        finally:
            if relaxed is not None:
                relaxed.close()
            terrain.close()


class _Relaxed:
    """Relax-and-walk in turns: where rows cut the box, climbs slide along them and linear programs find the corners."""

    def __init__(self, terrain: Terrain):
        rows, entries = terrain.program.matrix.shape[0], terrain.program.matrix.nnz
        self.terrain, self.work = terrain, 1e-2 + min(1e-8 * rows, 5e-6) * entries  # of the first relaxation
        self._seen: set[bytes] = set()
        self._credit, self._share, self._score = 0.0, _SHARES[1], -np.inf
        self._relaxation = Relaxation(terrain.program, terrain.seed)
        forever = Patience(Budget(np.inf))
        self._turns: Iterator[Candidate | None] | None = RelaxWalk().turns(terrain, self._relaxation, forever)

    def turn(self, pool: Pool, climbing: float) -> Iterator[Candidate]:
        """Work as long as climbing has, or longer or shorter by who has found better points; these join the pool."""
        record, (least, _, most) = self.terrain.record, _SHARES
        if np.isfinite(self._score) and record.score > self._score:
            self._share = max(0.5 * self._share, least)
        before = record.score
        self._credit += self._share * climbing
        while self._turns is not None and self.work < self._credit and not self.terrain.clock.expired:
            began = self.terrain.spent
            yield from self._from_elite(pool)
            for found in self._turns:
                if found is None:
                    break
                yield found
            else:
                self._turns = None
            self.work += max(self.terrain.spent - began, 1e-4)
        self._score = record.score
        if record.score > before and record.point is not None:
            self._share = min(2.0 * self._share, most)
            look = self.terrain.look(record.point)
            pool.add(record.point[None], look.score, look.kinks > 0)

    def _from_elite(self, pool: Pool) -> Iterator[Candidate]:
        """Walk from the best elite from which no walk has begun."""
        for point, pattern in zip(pool.points, pool.patterns, strict=True):
            if (key := np.packbits(pattern).tobytes()) not in self._seen:
                self._seen.add(key)
                yield from walk(self.terrain, point, _EPS)
                return

    def close(self) -> None:
        """Free the solver."""
        self._relaxation.close()


@dataclass(eq=False)
class _State:
    """The climbing part: the present pool, the best of former ones, and the work done in seconds of a usual machine."""

    terrain: Terrain
    batch: int
    steps: int
    work: float = 0.0
    stale: int = 0
    renewals: int = 0
    pool: Pool = field(init=False)
    former: Pool = field(init=False)
    breeder: Breeder = field(init=False)
    lengths: Choice = field(init=False)
    _first: tuple[Array, Array] = field(init=False)

    def __post_init__(self) -> None:
        """Begin without elites."""
        terrain = self.terrain
        kinks = terrain.record.look(terrain.uniform(1)).kinks.shape[1]
        self.pool, self.former = Pool(terrain.k, kinks), Pool(terrain.k, kinks)
        self.breeder = Breeder(terrain.lower, terrain.upper, terrain.chain, terrain.rng)
        self.lengths = Choice(len(_STEPS), terrain.rng)

    def look(self) -> Iterator[Candidate]:
        """Look at points known already, uniform ones and corners that slopes point to."""
        starts, step = self.fresh(self.batch), np.full(self.batch, _STEPS[_FRESH])
        known = self.terrain.scene.known[: self.batch // 4]
        if len(known):
            starts[-len(known) :], step[-len(known) :] = known, _STEPS[0]
        self._first = starts, step
        yield from self.terrain.offer(starts, settle=2 if self.terrain.has_rows else 0)

    def begin(self) -> Iterator[Candidate]:
        """Climb from the points looked at."""
        if not self.terrain.clock.expired:
            yield from self._climb(*self._first)

    def fresh(self, count: int) -> Array:
        """Return starts that owe nothing to elites: half uniform, half corners that slopes point to."""
        points, half = self.terrain.uniform(count), count // 2
        if half:
            points[:half] = corners(self.terrain, half)
        return points

    def round(self) -> Iterator[Candidate]:
        """Climb once from bred and a few fresh starts."""
        if self.stale >= _STALE:
            self._renew()
        if len(self.pool) < 3:
            self.renewals += 1
            if self.renewals % 2:
                yield from self._climb(self.terrain.uniform(self.batch), np.full(self.batch, _SMOOTH), smooth=True)
            else:
                yield from self._climb(self.fresh(self.batch), np.full(self.batch, _STEPS[_FRESH]))
            return
        bred = self.batch - max(1, self.batch // 8)
        starts, ways = self.breeder.breed(self.pool, bred)
        lengths = self.lengths.draw(self.batch)
        lengths[bred:] = _FRESH
        step = _STEPS[lengths]
        starts = np.concatenate([starts, self.fresh(self.batch - bred)])
        starts[bred - 1], step[bred - 1] = self.pool.points[0], _FINE
        self.terrain.project(starts)
        stayed = yield from self._climb(starts, step)
        self.breeder.choice.learn(ways[:-1], stayed[: bred - 1])
        self.lengths.learn(lengths[: bred - 1], stayed[: bred - 1])

    def _climb(self, starts: Array, step: Array, *, smooth: bool = False) -> Generator[Candidate, None, np.ndarray]:
        terrain = self.terrain
        way = (0.9, 1.0) if smooth else (0.0, _FALL)
        ends, score = terrain.climb(starts, self.steps * (1 + smooth), step, *way)
        if not len(ends):
            return np.zeros(len(starts), dtype=bool)
        if terrain.scene.integer.any():  # rounding changes who is best
            ends = terrain.inside(ends)
            yield from terrain.offer(ends)
            look = terrain.record.look(ends)
            score = np.where(look.violation <= 1e-7, look.score, min(score.min(), look.score.min()) - 1.0)
        else:
            yield from terrain.offer(ends[[int(score.argmax())]])
            look = terrain.record.look(ends)
        before = self.pool.scores[0] if len(self.pool) else -np.inf
        stayed = self.pool.add(ends, score, look.kinks > 0)
        self.stale = 0 if self.pool.scores[0] > before + _NEWS * abs(before) else self.stale + 1
        self.work += self.price * (1 + smooth)
        return stayed

    @property
    def price(self) -> float:
        """About how many seconds a climb takes, counted, not measured, so that runs can be repeated."""
        chain, rows = self.terrain.chain, self.terrain.project.rows
        weights = chain.size if chain is not None else 4 * self.terrain.record.problem_size
        onto = 2e-3 + 5e-9 * self.batch * rows.nnz if rows.shape[0] else 0.0
        return self.batch * self.steps * (4e-11 * weights + 1e-8 * self.terrain.k) + (1e-4 + onto) * self.steps

    def _renew(self) -> None:
        """Put the pool's best away and begin with others; every second time with the best of all former ones."""
        self.former.add(self.pool.points[:2], self.pool.scores[:2], self.pool.patterns[:2])
        again = len(self.former) >= 4 and self.terrain.rng.random() < 0.5
        self.pool = Pool(self.terrain.k, self.pool.kinks)
        if again:
            self.pool.add(self.former.points, self.former.scores, self.former.patterns)
        self.stale = 0
