"""One pass of linear programs through a network, from the inputs to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.backward import Backward
from nnembed.bounds.box import Bounds, contenders
from nnembed.bounds.interval import narrow, node_interval
from nnembed.bounds.lp_chunk import Chunk, Found, Limits, solve_chunk
from nnembed.bounds.lp_evidence import Evidence
from nnembed.bounds.lp_pieces import emit
from nnembed.bounds.lp_region import join
from nnembed.bounds.lp_relaxation import Relaxation, widen
from nnembed.bounds.stairs import Stairs
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink, Max, Round, Step, Winner
from nnembed.options import Budget, Clock
from nnembed.parallel import count_of, run_tasks, shares

_PER_TASK = 8  # neurons that share one hot program where work is spread
_MOST_CLIMBED = 512  # neurons that sign-gradient steps are spent on


@dataclass(frozen=True)
class Settings:
    """How far a pass goes; see `nnembed.bounds.lp.Lp`."""

    widths: bool = True
    gain: float = 0.01
    min_rate: float = 0.5
    grid: float | None = None
    whole: bool | None = None
    outputs: bool = True


@dataclass(frozen=True, eq=False)
class Layer:
    """A tensor whose bounds matter; `breaks` (n, m) are the breakpoints of what reads it, but for `stairs`."""

    tensor: str
    position: int
    breaks: Array
    readers: tuple[Max | Winner, ...]
    output: bool
    stairs: tuple[Round, ...] = ()


def layers(network: Network) -> list[Layer]:
    """Return the affine tensors that activations or the outside read, in the order in which they are computed."""
    found = []
    outputs = {spec.name for spec in network.outputs}
    for position, node in enumerate(network.nodes):
        readers = [n for n in network.activations if n.inputs[0] == node.output]
        if not isinstance(node, Affine) or not (readers or node.output in outputs):
            continue
        n = len(node.bias)
        breaks = [np.where(r.left != r.right, 0.0, np.nan) for r in readers if isinstance(r, Kink)]
        breaks += [end for r in readers if isinstance(r, Clip) for end in (r.lower, r.upper)]
        breaks += [np.where(r.low != r.high, 0.0, np.nan) for r in readers if isinstance(r, Step)]
        stairs = tuple(r for r in readers if isinstance(r, Round))
        matrix = np.stack(breaks, axis=1) if breaks else np.zeros((n, 0))
        maxima = tuple(r for r in readers if isinstance(r, Max | Winner))
        found.append(Layer(node.output, position, matrix, maxima, node.output in outputs, stairs))
    return found


class Run:
    """One pass over one box, or over a batch of boxes that a region joins.

    Attributes
    ----------
    low, high : dict tensor -> array (batch, n)
        The bounds as they are by now.
    done : dict tensor -> mask (2, batch, n)
        Sides that need no program any more.
    lps : int
    finished, infeasible : bool
        Whether no limit has stopped the pass; whether the solver says that the region has no point.
    """

    def __init__(self, settings: Settings, bounds: Bounds, budget: Budget, done: Mapping[str, Mask]):
        self.settings, self.network, self.region = settings, bounds.network, bounds.region
        self.low, self.high = dict(bounds.low), dict(bounds.high)
        self._live = replace(bounds, low=self.low, high=self.high)
        self._clock, self._budget, self._before = Clock(budget), budget, done
        self.done: dict[str, Mask] = {}
        self.lps, self.finished, self.infeasible = 0, True, False
        self._changed, self._written = False, 0
        self._lp: Relaxation | None = None
        named = self.region is not None and bool((self.region.outputs >= 0).any())
        self._whole = self.region is not None and (named if settings.whole is None else settings.whole)
        self._layers = layers(self.network)
        self._evidence = Evidence(self._live, budget.seed, empty=self.region is not None)

    def run(self) -> None:
        """Go through the network once."""
        if self.region is not None:
            self._inputs()
        by_tensor = {layer.tensor: layer for layer in self._layers}
        for node in self.network.nodes:
            self._forward(node.output)
            if node.output in by_tensor and not self.infeasible:
                self._tighten(by_tensor[node.output])

    def _relaxation(self, layer: Layer) -> Relaxation:
        """Return the program a layer is bounded over, with all that is known by now."""
        if self._whole:
            lp = Relaxation(self._live)
            for node in self.network.nodes:
                emit(lp, node)
            assert self.region is not None
            join(lp, self.region, outputs=True)
            return lp
        if self._lp is None:
            self._lp = Relaxation(self._live)
            if self.region is not None:
                join(self._lp, self.region, outputs=False)
        for node in self.network.nodes[self._written : layer.position]:
            emit(self._lp, node)
        self._written = max(self._written, layer.position)
        return self._lp

    def _solver(self) -> Callable[[Chunk], Found]:
        """Return what solves a chunk, here or in another process."""
        return solve_chunk

    def _forward(self, tensor: str) -> None:
        node = self.network.producers[tensor]
        lo, hi = node_interval(node, [(self.low[t], self.high[t]) for t in node.inputs])
        narrow(tensor, lo, hi, (self.low, self.high))

    # ---- one layer -----------------------------------------------------------------------------

    def _inputs(self) -> None:
        """Narrow the box of the inputs over the region."""
        for spec in self.network.inputs:
            layer = Layer(spec.name, -1, np.zeros((spec.size, 0)), (), True)
            self._programs(layer, np.arange(self._live.batch * spec.size))

    def _tighten(self, layer: Layer) -> None:
        node = self.network.nodes[layer.position]
        first = all(source not in self.network.producers for source in node.inputs)
        if first and self.region is None:
            return  # over a box intervals are exact
        if self._clock.expired or self._spent:
            self.finished = self.finished and not len(self._wanted(layer))
            return
        wanted = self._wanted(layer)
        if not len(wanted):
            return
        entries = np.unique(wanted % len(layer.breaks))
        found = Backward(self.network, self.low, self.high).bound(layer.position, entries)
        sides = self.low[layer.tensor].copy(), self.high[layer.tensor].copy()
        for side, value in zip(sides, found, strict=True):
            side[:, entries] = value
        narrow(layer.tensor, *sides, (self.low, self.high))
        wanted = self._wanted(layer)
        if len(wanted):
            self._programs(layer, wanted)

    @property
    def _spent(self) -> bool:
        return self._budget.lps is not None and self.lps >= self._budget.lps

    def _wanted(self, layer: Layer) -> Index:
        """Return the entries, flat over the batch, whose bounds still matter."""
        low, high = self.low[layer.tensor], self.high[layer.tensor]
        if layer.output and self.settings.outputs:
            return np.arange(low.size)
        breaks = self._breaks(layer)
        inside = (low[..., None] < breaks) & (breaks < high[..., None])
        wanted: Mask = np.asarray(inside.any(axis=-1))
        for node in layer.readers:
            alive = contenders(node, low, high)
            alive &= alive.sum(axis=-1, keepdims=True) > 1
            point, group, place = np.nonzero(alive)
            wanted[point, node.groups[group, place]] = True
        return np.flatnonzero(wanted)

    def _breaks(self, layer: Layer) -> Array:
        """Return the breakpoints (batch, n, m); of a staircase the first and the last jump in reach."""
        low, high = self.low[layer.tensor], self.high[layer.tensor]
        found = [np.broadcast_to(layer.breaks, (len(low), *layer.breaks.shape))]
        for stairs in (Stairs(node, low, high) for node in layer.stairs):
            ends = np.stack([stairs.first, stairs.last], axis=-1)
            found.append(np.where(stairs.open[..., None], ends, np.nan))
        return np.concatenate(found, axis=-1)

    def _programs(self, layer: Layer, wanted: Index) -> None:
        """Solve programs for entries of a layer and keep what they prove."""
        if layer.position >= 0 and len(wanted) <= _MOST_CLIMBED:
            self._evidence.climb(layer.tensor, wanted)
        chunk = self._chunk(layer, self._relaxation(layer), wanted)
        parts = self._parts(chunk)
        results = run_tasks(self._solver(), [chunk.part(p) for p in parts], self._budget.executor)
        low, high = self.low[layer.tensor].copy(), self.high[layer.tensor].copy()
        done = self.done[layer.tensor].reshape(2, -1)
        for part, found in zip(parts, results, strict=True):
            if found is not None:
                self._keep(wanted[part], found, (low, high), done)
        before = self.low[layer.tensor], self.high[layer.tensor]
        narrow(layer.tensor, *outward(low, high, self.settings.grid), (self.low, self.high))
        after = self.low[layer.tensor], self.high[layer.tensor]
        self._changed |= any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def _keep(self, where: Index, found: Found, sides: tuple[Array, Array], done: Mask) -> None:
        self.lps += found.lps
        self.finished &= found.complete
        self.infeasible |= found.infeasible and self.region is not None
        for side, value in zip(sides, (found.low, found.high), strict=True):
            side.reshape(-1)[where] = value
        done[0, where], done[1, where] = found.done_low, found.done_high
        if not self._whole:
            self._evidence.points(found.points)

    def _chunk(self, layer: Layer, lp: Relaxation, wanted: Index) -> Chunk:
        rows = lp.value(layer.tensor).take(wanted)
        low, high = self.low[layer.tensor], self.high[layer.tensor]
        seen = self._evidence.seen(layer.tensor)
        done = np.zeros((2, *low.shape), dtype=bool)
        if layer.tensor in self._before and not self._changed:
            done |= self._before[layer.tensor]
        self.done[layer.tensor] = done
        breaks = self._breaks(layer).reshape(low.size, -1)[wanted]
        return Chunk(
            program=lp.program(),
            rows=sp.csr_array(widen(rows.matrix, lp.width)),
            constant=rows.constant,
            error=rows.error,
            breaks=breaks,
            always=np.full(len(wanted), layer.output and self.settings.outputs),
            member=np.full(len(wanted), bool(layer.readers)),
            low=low.ravel()[wanted],
            high=high.ravel()[wanted],
            seen_low=seen[0][wanted],
            seen_high=seen[1][wanted],
            done_low=done[0].ravel()[wanted],
            done_high=done[1].ravel()[wanted],
            limits=self._limits(layer, len(wanted)),
            keep=sum(len(c) for c in lp.inputs),
        )

    # ---- limits --------------------------------------------------------------------------------

    def _limits(self, layer: Layer, count: int) -> Limits:
        """Share what is left among this layer and those behind it, by neurons times size of their programs."""
        share: list[float] = []
        before = 1.0 + self._live.batch * self.network.input_size
        for other in self._layers:
            size = float(len(self._wanted(other)))
            if other.position >= layer.position:
                share.append(size * before)
            before += size
        total = float(np.sum(share))
        part = share[0] / total if layer.position >= 0 and total else 0.25
        seconds = self._clock.remaining * part
        if self._budget.layer_seconds is not None:
            seconds = min(seconds, self._budget.layer_seconds)
        left = np.inf if self._budget.lps is None else np.ceil((self._budget.lps - self.lps) * part)
        tasks = max(1, count_of(count, self._budget.executor, _PER_TASK))
        patience = np.inf if self.settings.min_rate <= 0 else 1.0 / self.settings.min_rate
        return Limits(
            seconds, np.floor(left / tasks), patience, self.settings.gain, self.settings.widths, self._budget.threads
        )

    def _parts(self, chunk: Chunk) -> list[Index]:
        """Split a layer's neurons where there is an executor: what may still be decided or narrowed costs one each."""
        count = len(chunk.low)
        if self._budget.executor is None:
            return [np.arange(count)]
        open_low = ~chunk.done_low & (chunk.seen_low > chunk.low)
        open_high = ~chunk.done_high & (chunk.seen_high < chunk.high)
        return shares(1.0 * open_low + open_high, self._budget.executor, _PER_TASK)


def outward(low: Array, high: Array, grid: float | None) -> tuple[Array, Array]:
    """Return bounds rounded outward to multiples of `grid`."""
    if grid is None:
        return low, high
    down, up = np.floor(low / grid) * grid, np.ceil(high / grid) * grid
    return np.where(down > low, down - grid, down), np.where(up < high, up + grid, up)
