"""Bounds from mixed-integer programs: the relaxation of `lp` with binaries, all of them or those of the last layers.

A solver's proven bound counts, never its incumbent; it is asked about the neurons whose bounds are closest to their
breakpoints first, and stopped as soon as the sign is settled either way.

What makes a solver's bound a proof here, although it works with tolerances:

* The program handed over is looser than the true one: every row and every bound of a continuous column is moved outward
  by ``_LOOSE`` (twice the feasibility tolerance 1e-6 of the solvers), so that a point of the network is strictly inside
  and no row that a solver regards as violated, within its tolerance, can cut it off.
* A reduced cost that a simplex calls zero may be wrong by the dual tolerance ``_DUAL``; over a box that moves a linear
  program's bound by at most ``_DUAL * sum_j (u_j - l_j)``, which is taken off.
* A solver stops at a gap: ``_GAP`` relative and 1e-6 absolute are taken off as well, for it may report a bound as high
  as the incumbent's value once all nodes are closed.

This rests on the solver keeping to its stated tolerances; bounds of the method ``lp`` rest on nothing but arithmetic.

``rolling`` looks at a window of consecutive layers only and knows the layers before by their bounds: programs stay
small however deep the network is.

Sources: Tjeng, Xiao and Tedrake, ICLR 2019; Zhao, Hijazi, Jones, Moore, Tanneau and Van Hentenryck, CPAIOR 2024
(rolling horizon).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nnembed.aliases import Array, Mask
from nnembed.bounds.box import Bounds
from nnembed.bounds.interval import UNIT
from nnembed.bounds.lp import through
from nnembed.bounds.lp_chunk import Chunk, Found, Work
from nnembed.bounds.lp_pieces import emit
from nnembed.bounds.lp_region import join
from nnembed.bounds.lp_relaxation import Program, Relaxation
from nnembed.bounds.lp_run import Layer, Run, Settings
from nnembed.bounds.lp_solver import Answer
from nnembed.errors import InputError
from nnembed.events import Event, Incumbent
from nnembed.ir.network import Network
from nnembed.options import Budget, Options
from nnembed.problem import Problem

if TYPE_CHECKING:
    from nnembed.protocols import Backend

_LOOSE = 2e-6
_DUAL = 1e-6
_GAP = 1e-4


@dataclass(frozen=True)
class MipSettings(Settings):
    """What `Mip` and `Rolling` have been told; `window` and `cut` count activation layers, 0 stands for all."""

    backend: Backend | None = field(default=None, repr=False)
    seconds: float = 5.0
    window: int = 0
    cut: int = 0


class Mip:
    """Mixed-integer programs over the layers before.

    Parameters
    ----------
    backend : Backend or None
        A solver; None is HiGHS.
    seconds : float
        Wall-clock limit for one side of one neuron.
    window : int or None
        Keep the binaries of so many activation layers before the one that is bounded; earlier ones are relaxed. None
        keeps all.
    widths : bool
        Also narrow neurons that stay open.
    outputs : bool
        Bound the outputs as well.
    min_rate : float
        Neurons decided per second below which no more are tried in a layer; 0 tries all.
    grid : float or None
        Round bounds outward to multiples of this.
    """

    name = "mip"
    summary = "mixed-integer programs over the layers before, for neurons still open"
    sound = True
    cost = 60
    uses_region = True

    def __init__(
        self,
        *,
        backend: Backend | None = None,
        seconds: float = 5.0,
        window: int | None = None,
        widths: bool = False,
        outputs: bool = False,
        min_rate: float = 0.1,
        grid: float | None = None,
    ):
        _check(seconds, window)
        shared = Settings(widths=widths, outputs=outputs, min_rate=min_rate, grid=grid)
        self.settings = MipSettings(**vars(shared), backend=backend, seconds=seconds, window=window or 0)

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`."""
        return through(self, self.settings, MipRun, bounds, budget)


class Rolling:
    """Mixed-integer programs over a sliding window of layers, the layers before known by their bounds only.

    Parameters
    ----------
    window : int
        Activation layers in a program.
    backend, seconds, widths, outputs, min_rate, grid
        As of `Mip`.
    """

    name = "rolling"
    summary = "mixed-integer programs over a sliding window of layers"
    sound = True
    cost = 55
    uses_region = False

    def __init__(
        self,
        *,
        window: int = 2,
        backend: Backend | None = None,
        seconds: float = 5.0,
        widths: bool = False,
        outputs: bool = False,
        min_rate: float = 0.1,
        grid: float | None = None,
    ):
        _check(seconds, window)
        shared = Settings(widths=widths, outputs=outputs, min_rate=min_rate, grid=grid)
        self.settings = MipSettings(**vars(shared), backend=backend, seconds=seconds, window=window, cut=window)

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`."""
        return through(self, self.settings, MipRun, bounds, budget)


def _check(seconds: float, window: int | None) -> None:
    if not seconds > 0:
        raise InputError(f"seconds={seconds}; give each program a limit above 0")
    if window is not None and window < 1:
        raise InputError(f"window={window}; give at least 1 layer, or None for all")


class MipRun(Run):
    """One pass of mixed-integer programs."""

    settings: MipSettings

    def __init__(self, settings: MipSettings, bounds: Bounds, budget: Budget, done: Mapping[str, Mask]):
        if settings.cut:  # a window that does not begin at the inputs has no use for rows on them
            bounds = replace(bounds, region=None)
        super().__init__(settings, bounds, budget, done)

    def _relaxation(self, layer: Layer) -> Relaxation:
        nodes = self.network.nodes
        end = len(nodes) if self._whole else max(layer.position, 0)
        places = [k for k, node in enumerate(nodes[:end]) if node in self.network.activations]
        window, cut = self.settings.window, self.settings.cut
        kept = places if self._whole or not window else places[-window:]
        start = places[-cut - 1] + 1 if 0 < cut < len(places) else 0
        lp = Relaxation(self._live, start, frozenset(nodes[k].output for k in kept))
        for node in nodes[:end]:
            emit(lp, node)
        if self.region is not None:
            join(lp, self.region, outputs=self._whole)
        return lp

    def _solver(self) -> Callable[[Chunk], Found]:
        return partial(solve_mip_chunk, settings=self.settings, seed=self._budget.seed)


def solve_mip_chunk(chunk: Chunk, settings: MipSettings, seed: int) -> Found:
    """Return narrower bounds of the functions of a chunk; as `lp_chunk.solve_chunk`."""
    return _MipWork(chunk, settings, seed).run()


class _MipWork(Work):
    """A chunk whose programs have binaries."""

    def __init__(self, chunk: Chunk, settings: MipSettings, seed: int):
        from nnembed.backends.highs import Highs

        super().__init__(chunk)
        self._limit, self._seed = settings.seconds, seed
        self._backend: Backend = settings.backend or Highs()
        self._problem = _loosened(chunk.program)
        self._span = float(np.sum(self._problem.upper - self._problem.lower))

    def answer(self, k: int, side: int, cost: Array, seconds: float) -> Answer:
        """Return the solver's proven bound, less what its tolerances may have moved it by."""
        started, limit = time.perf_counter(), max(0.0, min(self._limit, seconds))
        watch = _Watch(self, k, side, started + limit)
        options = Options(time_limit=limit, gap=_GAP, threads=self.limits.threads, seed=self._seed)
        # Not one session for all: a solver that was interrupted once may stop at once when it is started again.
        with self._backend.load(replace(self._problem, cost=cost), options) as session:
            solution = session.solve(watch.hear, watch.stop)
        work = time.perf_counter() - started
        if solution.status == "infeasible":
            return Answer(-np.inf, None, work, "infeasible")
        bound = -np.inf if solution.bound is None else self.proven(solution.bound, solution.objective)
        return Answer(bound, solution.x, work, "limit" if work >= seconds else "optimal")

    def proven(self, bound: float, objective: float | None) -> float:
        """Return a solver's bound less its tolerances."""
        size = max(abs(bound), abs(objective) if objective is not None else 0.0)
        return bound - _DUAL * (1.0 + self._span) - 1.01 * _GAP * size - 1e-6 - 8 * UNIT * size


class _Watch:
    """Listens to one solve, and stops it when the side is settled or out of reach."""

    def __init__(self, work: _MipWork, k: int, side: int, deadline: float):
        self._work, self._deadline, self._done = work, deadline, False
        sign = -1.0 if side else 1.0
        low, high = work.low[k], work.high[k]
        inside = [float(b) for b in work.chunk.breaks[k] if low < b < high]
        # In terms of the solver's objective, which is the function without its constant, or its negative.
        self._targets = sorted(sign * (b - float(work.chunk.constant[k])) for b in inside)
        self._narrowing = work.limits.widths or bool(work.chunk.always[k])

    def hear(self, event: Event) -> None:
        """Look at a new bound or incumbent."""
        if not isinstance(event, Incumbent) or self._narrowing or not self._targets:
            return
        if event.bound is not None and self._work.proven(event.bound, event.objective) > self._targets[-1]:
            self._done = True  # beyond every breakpoint
        if event.objective is not None and event.objective < self._targets[0]:
            self._done = True  # a point is on the other side of all of them

    def stop(self) -> bool:
        """Return whether to stop."""
        return self._done or time.perf_counter() > self._deadline


def _loosened(program: Program) -> Problem:
    """Return the program with rows and continuous columns moved outward, as a problem without an objective."""
    free = ~program.integer
    return Problem(
        matrix=program.matrix,
        row_lower=program.row_lower - _LOOSE,
        row_upper=program.row_upper + _LOOSE,
        lower=np.where(free, program.lower - _LOOSE, program.lower),
        upper=np.where(free, program.upper + _LOOSE, program.upper),
        integer=program.integer,
        cost=np.zeros(len(program.lower)),
    )
