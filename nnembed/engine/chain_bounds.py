"""Upper bounds of a chain on boxes: ranges of its pre-activations, then a line above its objective.

Coefficients go backwards through the later layers by the lines of CROWN and through the first layer by the facets of
its neurons (`engine.facets`), which see the box instead of intervals. With few inputs that is what makes bounds tight:
ranges of a second layer come out at about half the width of CROWN's.

Ranges are computed in single precision, where that is fine enough, and widened by a bound on all rounding; the
objective's line is computed in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from nnembed.aliases import Array, Index, Mask
from nnembed.engine.boxes import PAD
from nnembed.engine.chain import Chain, Layer
from nnembed.engine.facets import LEVELS, FirstLayer, Line, Sums, corner, mixed

_STEPS = 2  # of the ranges; each halves what is left between a bound and the hull, about
_WORK = 120_000  # coefficients in the cache at a time
_SURE = 0.35  # where only a sign matters: zero is further than this part of the range from its end
_DEAR = 1.0  # ranges that add less than this part of the mean to the objective wait
_SINGLE: type = np.float32
_UNDERFLOW = 1e-25  # what numbers below those of single precision may add up to
_DOUBLE: type = np.float64
_FINE = 2.5  # single precision will do for gaps that are this many times what its rounding may add


class Ranges:
    """Ranges of the pre-activations behind the first layer, and points where they are attained, of boxes.

    Attributes
    ----------
    low, high : arrays (s, m)
        All layers but the first, one behind the other.
    points : int8 array (s, 2 m, n)
        Levels; for the upper ends, then for the lower ones.
    """

    def __init__(self, low: Array, high: Array, points: Array):
        self.low, self.high, self.points = low, high, points

    def take(self, some: Index) -> Ranges:
        """Return the ranges of some boxes."""
        return Ranges(self.low[some], self.high[some], self.points[some])

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        """Low, high and points."""
        return self.low, self.high, self.points


class ChainBounds:
    """What bounds of one chain share.

    Attributes
    ----------
    least : float
        Gaps below are rounding.
    bytes : int
        Memory of the ranges of one box, about.
    """

    def __init__(self, chain: Chain):
        self.chain = chain
        widths = [len(layer.bias) for layer in chain.layers]
        n, cuts = len(chain.lower), np.cumsum([0, *widths[1:]])
        self._where = [slice(a, b) for a, b in pairwise(cuts.tolist())]
        self._later = int(cuts[-1])
        self._terms = 4 * (sum(widths) + 8 * n + 200)
        self._narrow = [Layer(*(a.astype(_SINGLE) for a in _arrays(layer))) for layer in chain.layers]
        furthest = np.maximum(np.abs(chain.lower), np.abs(chain.upper))
        size = float(chain.sizes(furthest[None])[-1].max())
        self._single_gap = _FINE * self._terms * float(np.finfo(_SINGLE).eps) * size
        self.least = 8 * PAD * size
        self.bytes = 16 * self._later + 2 * self._later * n + 16 * n + 16

    def layered(self, first: tuple[Array, Array], known: Ranges) -> tuple[list[Array], list[Array]]:
        """Return ranges per layer, those of the first in front."""
        return [first[0], *(known.low[:, w] for w in self._where)], [first[1], *(known.high[:, w] for w in self._where)]

    def _layers(self, kind: type) -> Sequence[Layer]:
        return self._narrow if kind is _SINGLE else self.chain.layers

    def loose(self, count: int) -> Ranges:
        """Return ranges that say nothing."""
        n = len(self.chain.lower)
        wide: Array = np.full((count, self._later), np.inf)
        return Ranges(-wide, wide, np.full((count, 2 * self._later, n), LEVELS // 2, dtype=np.int8))

    def ranges(self, low: Array, high: Array, known: Ranges, gap: float = 0.0) -> Ranges:
        """Return the ranges on boxes (s, n), never wider than the known ones; `gap` is what is to be closed."""
        kind = _SINGLE if gap > self._single_gap else _DOUBLE
        unit = self._terms * float(np.finfo(kind).eps)
        centre, radius = _centred(low, high)
        sizes = self.chain.sizes(np.abs(centre) + radius)
        found = Ranges(known.low.copy(), known.high.copy(), known.points.copy())
        for k in range(1, len(self.chain.layers)):
            count = 2 * len(self.chain.layers[k].bias) * len(self.chain.layers[0].bias)
            step = max(1, _WORK // count)
            for i in range(0, len(low), step):
                some = slice(i, i + step)
                first = FirstLayer(self.chain.layers[0], centre[some], radius[some], kind)
                self._layer(k, first, found, some, unit * sizes[k][some] + _UNDERFLOW)
        return found

    def _layer(self, k: int, first: FirstLayer, found: Ranges, some: slice, pad: Array) -> None:
        """Narrow the ranges of layer k on some boxes."""
        kind = first.radius.dtype.type
        layer, where = self._layers(kind)[k], self._where[k - 1]
        m = len(layer.bias)
        low, high = found.low[some, where], found.high[some, where]
        need = self._needed(k, low, high).any(axis=0)
        rows = np.flatnonzero(need)
        if not len(rows):
            return
        sign = np.where(rows < m, kind(1), kind(-1))
        at = np.concatenate([where.start + np.arange(m), self._later + where.start + np.arange(m)])[rows]
        coefficients, constant = (sign[:, None] * layer.weight[rows % m])[None], sign * layer.bias[rows % m]
        coefficients, constant = self._pulled(k, coefficients, constant[None], found, some)
        slope, value, points = first.above(Sums(first, coefficients), _STEPS, found.points[some][:, at])
        top = value + constant + (np.abs(slope) * first.radius[:, None]).sum(axis=-1)
        top = top + pad[:, rows % m]
        ends = np.concatenate([high, -low], axis=1)
        ends[:, rows] = np.fmin(ends[:, rows], top)
        found.high[some, where], found.low[some, where] = ends[:, :m], -ends[:, m:]
        found.points[some, at] = points

    def _needed(self, k: int, low: Array, high: Array) -> Mask:
        """Return which ends (s, 2 m), upper ones first, may still matter."""
        with np.errstate(invalid="ignore"):
            opened, width = (low < 0) & (high > 0), _SURE * (high - low)
            near = np.concatenate([~(high > width), ~(-low > width)], axis=1)
        both: Mask = np.tile(opened, 2)
        if k < len(self.chain.layers) - 1:
            return both
        # Where the objective falls with a neuron, its upper line plays no part: only the sign does.
        price = self.chain.last * self.chain.layers[k].jump
        with np.errstate(invalid="ignore"):
            lift = np.maximum(price, 0) * _chords(low, high)[1]
            small = lift < _DEAR * lift.mean(axis=1, keepdims=True)
        needed: Mask = both & (near | np.tile((price > 0) & ~small, 2))
        return needed

    def _pulled(self, k: int, coefficients: Array, constant: Array, found: Ranges, some: slice) -> tuple[Array, Array]:
        """Carry coefficients (s, r, m) of layer k - 1's values down to those of the first, by the lines of CROWN."""
        for j in range(k - 1, 0, -1):
            kind = coefficients.dtype.type
            low, high = (a[some, self._where[j - 1]] for a in (found.low, found.high))
            chord, lift, _ = (a.astype(kind) for a in _chords(low, high))
            flat = (chord > 0.5).astype(kind)
            coefficients, constant = _through(self._layers(kind)[j], coefficients, constant, (chord, lift, flat))
        return coefficients, constant

    def line(self, low: Array, high: Array, known: Ranges, steps: int) -> tuple[Array, Array, Array]:
        """Return slopes (s, n), values at the centres (s,) and bounds (s,) of lines above the objective on boxes."""
        chain = self.chain
        centre, radius = _centred(low, high)
        first = FirstLayer(chain.layers[0], centre, radius)
        chords = [_chords(known.low[:, w], known.high[:, w]) for w in self._where]
        line = self._descend(first, chords, centre, None, None)
        for _ in range(steps):
            levels = corner(line[0], radius)
            _, state = chain.values(centre + np.linspace(-1, 1, LEVELS)[levels] * radius)
            line = mixed(line, self._descend(first, chords, centre, levels, state), radius)
        slope, value = line
        size = chain.sizes(np.abs(centre) + radius)[-1][:, 0]
        value = value + PAD * size
        bound = value + (np.abs(slope) * radius).sum(axis=-1)
        bad = ~np.isfinite(bound)  # says nothing
        return np.where(bad[:, None], 0.0, slope), np.where(bad, np.inf, value), np.where(bad, np.inf, bound)

    def _descend(
        self,
        first: FirstLayer,
        chords: Sequence[tuple[Array, Array, Mask]],
        centre: Array,
        levels: Array | None,
        state: Sequence[Array] | None,
    ) -> Line:
        """Return lines above the objective: those of CROWN, or others that are low at a point."""
        chain = self.chain
        coefficients = np.broadcast_to(chain.last, (len(centre), 1, len(chain.last)))
        constant = np.full((len(centre), 1), chain.constant)
        for j in range(len(chain.layers) - 1, 0, -1):
            chord, lift, opened = chords[j - 1]
            flat = np.where(opened, (chord > 0.5) if state is None else (state[j] > 0), chord)
            coefficients, constant = _through(chain.layers[j], coefficients, constant, (chord, lift, flat))
        sums = Sums(first, coefficients)
        slope, value = first.crown(sums) if levels is None else first.supporting(sums, levels[:, None])
        return slope[:, 0] + chain.slope, (value + constant)[:, 0] + centre @ chain.slope


def _through(layer: Layer, a: Array, constant: Array, lines: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Carry coefficients (s, r, m) of a layer's values through its neurons and rows: (s, r, inputs), constants."""
    chord, lift, flat = lines
    jump = a * layer.jump
    up, down = np.maximum(jump, 0), np.minimum(jump, 0)
    constant = constant + (up @ lift[..., None])[..., 0]
    a = a * layer.left + up * chord[:, None] + down * flat[:, None]
    return a @ layer.weight, constant + a @ layer.bias


def _chords(low: Array, high: Array) -> tuple[Array, Array, Mask]:
    """Return slope and offset of the lines above max(g, 0) on ranges, and which are open."""
    on, opened = low >= 0, (low < 0) & (high > 0)
    width = np.where(opened, high - low, 1)
    chord = np.where(opened, high / width, on)
    return chord, np.where(opened, -chord * low, 0.0), opened


def _centred(low: Array, high: Array) -> tuple[Array, Array]:
    centre = 0.5 * (low + high)
    return centre, np.maximum(high - centre, centre - low)


def _arrays(layer: Layer) -> tuple[Array, Array, Array, Array]:
    return layer.weight, layer.bias, layer.left, layer.jump
