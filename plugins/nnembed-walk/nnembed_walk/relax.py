"""Relax-and-walk of Tong, Cai and Serra: walks from relaxations with more and more neurons forced to flip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array
from nnembed.errors import InputError
from nnembed.features import Capability
from nnembed.heuristics.scene import Scene
from nnembed.options import Budget
from nnembed.protocols import Candidate

from nnembed_walk.corners import corners, shares
from nnembed_walk.patience import Patience
from nnembed_walk.program import Lifted, wide
from nnembed_walk.solver import Solver
from nnembed_walk.terrain import Terrain
from nnembed_walk.walking import flipped_ties, walk

Starts = Literal["relaxation", "uniform", "dynamic"]
_SIMPLEX_ROWS = 1000
_SHARE = 0.4  # of the time left that the first relaxation may take
_STARTS = ("relaxation", "uniform", "dynamic")


class Relaxation:
    """The lifted program with each open neuron between its parts: ``up / high + down / -low <= 1``; kept loaded.

    With proven bounds this is the triangle relaxation. Forcing a neuron is a column bound.
    """

    def __init__(self, program: Lifted, seed: int):
        self.program = program
        self._opened = np.flatnonzero(program.open)
        n, m = len(program.lower), len(self._opened)
        place, one = np.arange(m + 1), np.ones(m)
        high, low = program.high[self._opened], -program.low[self._opened]
        shares = sp.csr_array((one / high, program.up[self._opened], place), shape=(m, n))
        shares = shares + sp.csr_array((one / low, program.down[self._opened], place), shape=(m, n))
        matrix = sp.csr_array(sp.vstack([wide(program.matrix, n), shares], format="csr"))
        rows = np.concatenate([program.row_lower, -np.inf * one]), np.concatenate([program.row_upper, one])
        self._solver = Solver(seed)
        if matrix.shape[0] > _SIMPLEX_ROWS:  # dense bases: interior points are faster, even without a restart
            self._solver.highs.setOptionValue("solver", "ipm")
            self._solver.highs.setOptionValue("run_crossover", "off")
            self._solver.accept_rough()
        relaxed = np.zeros(n, dtype=bool)
        self._solver.load(matrix, rows, (program.lower, program.upper), program.cost, relaxed)
        self._columns = np.concatenate([program.up[self._opened], program.down[self._opened]])

    def solve(
        self, forced: np.ndarray, terrain: Terrain, iterations: int | None = None, share: float = 1.0
    ) -> tuple[Array, Array] | None:
        """Return drivers and neuron states in [0, 1] of the best relaxed point; None where there is none (in time).

        `forced` says per kink which state is forced, -1 for none; `share` is a part of the time left.
        """
        upper = np.concatenate(self.program.pattern_bounds(forced))
        self._solver.set_bounds(self._columns, np.zeros(len(upper)), upper)
        clock, left = terrain.clock, terrain.clock.remaining
        if share < 1 and np.isfinite(left):
            clock = Budget(share * left).start()
        x, _, work, _ = self._solver.run(clock, iterations)
        terrain.spend(work)
        if x is None:
            return None
        program, state = self.program, (self.program.low > 0).astype(float)
        up, down = x[program.up[self._opened]], x[program.down[self._opened]]
        least = up / program.high[self._opened]
        most = 1 + down / program.low[self._opened]
        state[self._opened] = np.clip(0.5 * (least + most), 0.0, 1.0)
        drivers = np.clip(x[program.drivers], terrain.lower, terrain.upper)
        return drivers, state

    def close(self) -> None:
        """Free the solver."""
        self._solver.close()


class RelaxWalk:
    """Relax-and-walk.

    Parameters
    ----------
    eps : float
        Step beyond the best point of a region.
    first : sequence of floats
        Multiples of `eps` with which walks go from the first relaxation, one after the other: steps of different length
        end in different places, and long ones there more quickly. ``(1,)``: one walk, as published.
    delta : float
        Weight that every neuron has in the draw, besides the distance between its relaxed and its real state.
    flips : bool
        Walk by flipping each tight neuron with probability one half instead of stepping beyond (published as RRW).
    starts : str
        ``"relaxation"``; ``"uniform"``: from random points (SW); ``"dynamic"``: force one neuron on which relaxed and
        real state disagree, seen from the latest point (RWD).
    first_layer_only : bool
        As the published code for any depth does: its list of drawn neurons, kept by index, is never cleared.

    Raises
    ------
    InputError
        For options that are none.
    """

    requires = Capability.MIP_START
    name = "relax-walk"
    summary = "walks over regions from relaxations with forced flips (Tong, Cai, Serra)"

    def __init__(
        self,
        eps: float = 0.01,
        delta: float = 0.05,
        *,
        first: Sequence[float] = (10.0, 1.0, 3.0, 0.1),
        flips: bool = False,
        starts: Starts = "relaxation",
        first_layer_only: bool = False,
    ):
        if starts not in _STARTS:
            raise InputError(f"starts={starts!r}; give one of {', '.join(_STARTS)}")
        if not (eps > 0 and delta > 0 and all(f > 0 for f in first)):
            raise InputError(f"eps={eps}, delta={delta} and all of first={tuple(first)} must be positive")
        self.eps, self.delta, self.first, self.flips, self.starts = eps, delta, tuple(first), flips, starts
        self.first_layer_only = first_layer_only

    def run(self, embedded: Scene, session: object, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points of the drivers, each better than the last; see `protocols.Heuristic`."""
        terrain, patience = Terrain(embedded, budget, rng), Patience(budget)
        relaxation = None
        try:
            yield from terrain.offer(terrain.uniform(1), settle=0)  # so that there is a point even in no time
            if self.starts == "uniform":
                while not terrain.clock.expired and patience.go_on(terrain.record.score):
                    yield from self._walk(terrain, terrain.uniform(1)[0])
                return
            relaxation = Relaxation(terrain.program, terrain.seed)
            yield from (found for found in self.turns(terrain, relaxation, patience) if found is not None)
        finally:
            terrain.close()
            if relaxation is not None:
                relaxation.close()

    def _walk(self, terrain: Terrain, start: Array, eps: float = 0.0) -> Iterator[Candidate]:
        yield from flipped_ties(terrain, start) if self.flips else walk(terrain, start, eps or self.eps)

    def turns(self, terrain: Terrain, relaxation: Relaxation, patience: Patience) -> Iterator[Candidate | None]:
        """Walk from the relaxation; where there is no time for it, from the best corner of a coarser one.

        Yields None after each walk.
        """
        rough = corners(terrain, 1)[0]
        yield from terrain.offer(rough[None], settle=0)
        free = np.full(len(terrain.program.low), -1, dtype=np.int8)
        found = relaxation.solve(free, terrain, share=_SHARE)
        point, relaxed = (rough, shares(terrain)) if found is None else found
        yield from terrain.offer(point[None], settle=1)
        real = terrain.look(point).kinks[0] > 0
        for factor in (1.0,) if self.flips else self.first:
            yield from self._walk(terrain, point, factor * self.eps)
            yield None
        seen = {real.tobytes()}
        while not terrain.clock.expired and patience.go_on(terrain.record.score):
            if self.starts == "dynamic":
                rounds = self._dynamic(terrain, relaxation, real, relaxed)
            else:
                rounds = self._round(terrain, relaxation, real, np.abs(real - relaxed) + self.delta)
            for start in rounds:
                pattern = terrain.look(start).kinks[0] > 0
                if pattern.tobytes() not in seen:
                    seen.add(pattern.tobytes())
                    yield from self._walk(terrain, start)
                yield None

    def _round(self, terrain: Terrain, relaxation: Relaxation, real: np.ndarray, weight: Array) -> Iterator[Array]:
        """Yield relaxed points with more and more neurons forced, layer after layer, in a weighted random order."""
        forced = np.full(len(real), -1, dtype=np.int8)
        drawn: set[int] = set()
        for layer in layers(terrain.scene):
            keys = np.log(terrain.rng.random(len(layer))) / weight[layer]  # the largest keys: drawn without replacement
            for place in np.argsort(-keys):
                if terrain.clock.expired:
                    return
                j = int(layer[place])
                if not terrain.program.open[j] or (self.first_layer_only and int(place) in drawn):
                    continue
                drawn.add(int(place))
                forced[j] = 1 - real[j]
                found = relaxation.solve(forced, terrain)
                if found is None:
                    forced[j] = -1
                    continue
                yield found[0]

    def _dynamic(self, terrain: Terrain, relaxation: Relaxation, real: np.ndarray, relaxed: Array) -> Iterator[Array]:
        """Yield relaxed points, each with one more neuron forced where the latest relaxed and real states disagree."""
        forced = np.full(len(real), -1, dtype=np.int8)
        while not terrain.clock.expired:
            apart = np.flatnonzero((np.rint(relaxed) != real) & terrain.program.open & (forced < 0))
            if not len(apart):
                return
            j = int(terrain.rng.choice(apart))
            forced[j] = 1 - int(real[j])
            found = relaxation.solve(forced, terrain)
            if found is None:
                return
            point, relaxed = found
            real = terrain.look(point).kinks[0] > 0
            yield point


def layers(scene: Scene) -> list[np.ndarray]:
    """Return the kinks of each activation layer, in order."""
    found, start = [], 0
    for placement in scene.problem.placements:
        network, batch = placement.embedding.network, placement.block.batch
        for node in network.activations:
            groups = getattr(node, "groups", None)
            parts = 2 if hasattr(node, "upper") else 1 if groups is None else groups.shape[1] - 1
            size = parts * batch * network.tensors[node.output].size
            found.append(np.arange(start, start + size))
            start += size
    return found
