r"""Branch and bound over the decisions of one small component: boxes in, proven lower bounds out, many at a time.

A component has few free columns v and the outputs y of its networks. On a box with centre (v_c, y_c) the objective is

    f = f(v_c, y_c) + g_v d + g_y e + (products of d = v - v_c and e = y - y_c),   g = c + Q (v_c, y_c).

``g_y e`` is bounded below by one backward pass (CROWN) as a linear function of d. In a product ``q d_i e_j`` the
prediction is written ``e_j = s d_i + rest`` with the slope s of its linear bounds: ``q s d_i^2`` is kept, and the rest,
whose range is a second-order quantity, is bounded by constants. What is left is separable in d and minimised exactly;
rows over v enter with multipliers per box. Both errors shrink with the square of the box.

Sources: Zhang et al., NeurIPS 2018 (CROWN); McCormick, Mathematical Programming 10 (1976); Horst and Tuy, Global
Optimization (1996), for branch and bound over boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.bounds.backward import Backward, Crown
from nnembed.bounds.box import Bounds
from nnembed.ir.network import Network
from nnembed.options import Budget

_BATCH = 512  # boxes bounded at a time
_WORK = 2e8  # multiplications per batch, about: keeps batches of large networks short
_POOL = 100  # points kept of one part
_BISECTIONS = 14
_PAD = 1e-10  # relative to the size of everything summed: covers rounding


@dataclass(frozen=True, eq=False)
class Port:
    """One batch point of one network: ``inputs = matrix @ v + constant``; `outputs` are places in the part's y."""

    network: Network
    matrix: Array
    constant: Array
    outputs: Index


@dataclass(frozen=True, eq=False)
class Part:
    """A component: minimise ``cost @ x + x Q x / 2`` over x = (v, y(v)), v in a box, rows over v.

    Attributes
    ----------
    columns : int array (k,), outputs : int array (m,)
        Problem columns of v and y.
    lower, upper : arrays (k,)
    integer : bool array (k,)
    cost : array (k + m,), square : array (k + m, k + m), symmetric
    rows : array (r, k), row_lower, row_upper : arrays (r,)
    """

    columns: Index
    outputs: Index
    ports: tuple[Port, ...]
    lower: Array
    upper: Array
    integer: np.ndarray
    cost: Array
    square: Array
    rows: Array
    row_lower: Array
    row_upper: Array

    @property
    def k(self) -> int:
        """Number of free columns."""
        return len(self.columns)

    def evaluate(self, v: Array) -> Array:
        """Return x = (v, y(v)) for points (s, k)."""
        x = np.zeros((len(v), self.k + len(self.outputs)))
        x[:, : self.k] = v
        for port in self.ports:
            state = port.network.forward(_split(port.network, v @ port.matrix.T + port.constant))
            x[:, self.k + port.outputs] = np.concatenate([state[s.name] for s in port.network.outputs], axis=1)
        return x

    def value(self, x: Array, price: Array) -> Array:
        """Return the objective at points (s, k + m) with `price` added to the costs."""
        total: Array = x @ (self.cost + price) + 0.5 * ((x @ self.square) * x).sum(axis=1)
        return total

    def allowed(self, v: Array) -> np.ndarray:
        """Return which points (s, k) satisfy rows and bounds and are integral."""
        box = (v >= self.lower - 1e-9) & (v <= self.upper + 1e-9)
        value = v @ self.rows.T
        size = 1e-7 * (1 + np.abs(value))
        inside = (value >= self.row_lower - size) & (value <= self.row_upper + size)
        whole = (np.abs(v - np.rint(v)) <= 1e-9) | ~self.integer
        return np.asarray(np.concatenate([box, inside, whole], axis=1).all(axis=1))


def _split(network: Network, flat: Array) -> dict[str, Array]:
    edges = np.cumsum([s.size for s in network.inputs])[:-1]
    return {s.name: part for s, part in zip(network.inputs, np.split(flat, edges, axis=1), strict=True)}


@dataclass(eq=False)
class Tree:
    """The leaves of one part: boxes that together cover every allowed point."""

    part: Part
    low: Array = field(init=False)
    high: Array = field(init=False)
    bound: Array = field(init=False)
    cut: Index = field(init=False)
    best: Array | None = None  # x of the best point known for the present prices
    value: float = np.inf
    pool: Array = field(init=False)  # x of good points at present and earlier prices, (s, k + m)

    def __post_init__(self) -> None:
        """Start with one box."""
        part, n = self.part, len(self.part.cost)
        work = sum(sum(t.size for t in port.network.tensors.values()) ** 2 for port in part.ports)
        self._batch = int(np.clip(_WORK / (1 + work), 4, _BATCH))
        self._price, self.pool = np.zeros(n), np.zeros((0, n))
        self.low, self.high = part.lower[None].copy(), part.upper[None].copy()
        self.bound, self.cut, self._x_low, self._x_high = self._bounded(self.low, self.high)
        self._fresh = np.ones(1, dtype=bool)

    @property
    def lower(self) -> float:
        """The proven bound: no allowed point is below; infinite when there is none."""
        return float(self.bound.min(initial=np.inf))

    @property
    def gap(self) -> float:
        """How far the best point is above the bound."""
        return max(0.0, self.value - self.lower) if len(self.bound) else 0.0

    def price(self, price: Array) -> None:
        """Change the prices: all bounds by what the change can be worth on the box, the lowest ones by new bounds."""
        change, self._price = price - self._price, price
        drop = np.minimum(change * self._x_low, change * self._x_high)
        size = np.abs(change) * np.maximum(np.abs(self._x_low), np.abs(self._x_high))
        self.bound = self.bound + drop.sum(axis=1) - _PAD * (1 + np.abs(self.bound) + size.sum(axis=1))
        self._fresh[:] = False
        known = self.pool
        self.best, self.value = None, np.inf
        if len(known):
            self._offer(known)
        self._renew(np.argsort(self.bound, kind="stable")[: self._batch])

    def split(self, tolerance: float) -> bool:
        """Split the leaves with the lowest bounds; return whether there was one to split."""
        useful = self.bound < self.value - tolerance
        if len(stale := np.flatnonzero(useful & ~self._fresh)):
            self._renew(stale[np.argsort(self.bound[stale], kind="stable")[: self._batch]])
            useful = self.bound < self.value - tolerance
        wide = (self.high > self.low).any(axis=1)
        ready = np.flatnonzero(useful & self._fresh & wide)
        if not len(ready):
            return bool((useful & ~self._fresh).any())
        chosen = ready[np.argsort(self.bound[ready], kind="stable")[: self._batch]]
        keep = np.ones(len(self.bound), dtype=bool)
        keep[chosen] = False
        low, high, parent = self._children(chosen)
        bound, *rest = self._bounded(low, high)
        new = (low, high, np.maximum(bound, self.bound[chosen][parent]), *rest, np.ones(len(low), dtype=bool))
        old = (self.low, self.high, self.bound, self.cut, self._x_low, self._x_high, self._fresh)
        joined = [np.concatenate([o[keep], n]) for o, n in zip(old, new, strict=True)]
        self.low, self.high, self.bound, self.cut, self._x_low, self._x_high, self._fresh = joined
        return True

    def _renew(self, chosen: Index) -> None:
        """Bound leaves again, with the present prices."""
        bound, self.cut[chosen], _, _ = self._bounded(self.low[chosen], self.high[chosen])
        self.bound[chosen] = np.maximum(bound, self.bound[chosen])
        self._fresh[chosen] = True

    def _children(self, chosen: Index) -> tuple[Array, Array, Index]:
        """Return both halves of boxes, tightened by the rows, without empty ones; and whose halves they are."""
        part, j, r = self.part, self.cut[chosen], np.arange(len(chosen))
        low, high = self.low[chosen], self.high[chosen]
        middle = 0.5 * (low[r, j] + high[r, j])
        whole = part.integer[j]
        left_high, right_low = high.copy(), low.copy()
        left_high[r, j] = np.where(whole, np.floor(middle), middle)
        right_low[r, j] = np.where(whole, np.floor(middle) + 1, middle)
        low, high = tightened(part, np.concatenate([low, right_low]), np.concatenate([left_high, high]))
        kept = np.flatnonzero((low <= high).all(axis=1))
        return low[kept], high[kept], kept % len(chosen)

    def _bounded(self, low: Array, high: Array) -> tuple[Array, Index, Array, Array]:
        """Return bounds, columns to cut at and ranges of x."""
        bound, cut = np.empty(len(low)), np.empty(len(low), dtype=np.intp)
        x_low, x_high = (np.empty((len(low), len(self._price))) for _ in range(2))
        for i in range(0, len(low), self._batch):
            some = slice(i, i + self._batch)
            box = BoxBound(self.part, low[some], high[some], self._price)
            bound[some], cut[some] = box.bound, box.cut
            x_low[some], x_high[some] = box.range
            points = np.concatenate([box.point, box.centre])
            points[:, self.part.integer] = np.rint(points[:, self.part.integer])
            good = self.part.allowed(points)
            if good.any():
                self._offer(self.part.evaluate(points[good]))
        return bound, cut, x_low, x_high

    def _offer(self, x: Array) -> None:
        """Remember the best points; they are good ones at other prices too."""
        values = self.part.value(x, self._price)
        order = np.argsort(values, kind="stable")
        if values[order[0]] < self.value:
            self.best, self.value = x[order[0]], float(values[order[0]])
            self.pool = np.concatenate([x[order[:2]], self.pool])[:_POOL]


def tightened(part: Part, low: Array, high: Array) -> tuple[Array, Array]:
    """Return boxes (s, k) narrowed once by every row and rounded to integers; empty ones have low > high."""
    low, high = low.copy(), high.copy()
    for a, least, most in zip(part.rows, part.row_lower, part.row_upper, strict=True):
        for sign, side in ((1.0, most), (-1.0, -least)):
            used = np.flatnonzero(a)
            if not np.isfinite(side) or not len(used):
                continue
            c = sign * a[used]
            ends = np.minimum(c * low[:, used], c * high[:, used])
            total = ends.sum(axis=1, keepdims=True)
            size = np.abs(ends).sum(axis=1, keepdims=True) + abs(side)
            room = (side - total + ends + 1e-9 * (1 + size)) / c
            low[:, used] = np.where(c < 0, np.maximum(low[:, used], room), low[:, used])
            high[:, used] = np.where(c > 0, np.minimum(high[:, used], room), high[:, used])
    whole = part.integer
    low[:, whole], high[:, whole] = np.ceil(low[:, whole] - 1e-6), np.floor(high[:, whole] + 1e-6)
    return low, high


class BoxBound:
    """Lower bounds on boxes; see the module.

    Attributes
    ----------
    bound : array (s,)
    point : array (s, k)
        Where the underestimator is least.
    centre : array (s, k)
    cut : int array (s,)
        The column to split at.
    range : two arrays (s, k + m)
        Ranges of x.
    """

    def __init__(self, part: Part, low: Array, high: Array, price: Array):
        self.part, k = part, part.k
        self.centre = 0.5 * (low + high)
        self._radius = np.maximum(high - self.centre, self.centre - low)
        self._cost = part.cost + price
        nets = [self._bounds(port) for port in part.ports]
        y_low, y_high = (np.zeros((len(low), len(part.outputs))) for _ in range(2))
        for port, found in zip(part.ports, nets, strict=True):
            y_low[:, port.outputs] = np.concatenate([found.low[s.name] for s in port.network.outputs], axis=1)
            y_high[:, port.outputs] = np.concatenate([found.high[s.name] for s in port.network.outputs], axis=1)
        self._y = 0.5 * (y_low + y_high)
        self._y_radius = np.maximum(y_high - self._y, self._y - y_low)
        self.range = np.concatenate([low, y_low], axis=1), np.concatenate([high, y_high], axis=1)
        x = np.concatenate([self.centre, self._y], axis=1)
        slope = self._cost + x @ part.square
        self.constant = x @ self._cost + 0.5 * ((x @ part.square) * x).sum(axis=1)
        self._size = np.abs(x) @ np.abs(self._cost) + ((np.abs(x) @ np.abs(part.square)) * np.abs(x)).sum(axis=1)
        self._linear = slope[:, :k].copy()
        self._bend = np.tile(0.5 * np.diagonal(part.square)[:k], (len(low), 1))
        self._score = np.zeros(low.shape)
        for port, found in zip(part.ports, nets, strict=True):
            self._through(port, found, slope[:, k + port.outputs])
        self._rest()
        self._minimise()
        self._choose()

    def _bounds(self, port: Port) -> Bounds:
        """Return CROWN bounds of a network on the boxes."""
        centre = self.centre @ port.matrix.T + port.constant
        reach = self._radius @ np.abs(port.matrix).T
        reach = reach + 1e-12 * (np.abs(self.centre) @ np.abs(port.matrix).T + np.abs(port.constant) + reach)
        low, high = _split(port.network, centre - reach), _split(port.network, centre + reach)
        box = Bounds(port.network, low, high, (len(centre),))
        return Crown().tighten(port.network, box, Budget())

    def _through(self, port: Port, found: Bounds, weights: Array) -> None:
        """Add the linear bound of ``weights @ y`` and the products with outputs of this network."""
        k, m = self.part.k, len(port.outputs)
        products = self.part.square[:k, k + port.outputs]
        used = np.flatnonzero((products != 0).any(axis=0))
        unit = np.eye(m)[used]
        fixed = np.broadcast_to(np.concatenate([unit, -unit]), (len(weights), 2 * len(used), m))
        a, b = linear_bounds(port, found, np.concatenate([weights[:, None], fixed], axis=1))
        at_centre = (a @ self.centre[..., None])[..., 0] + b
        self._linear += a[:, 0]
        self.constant += at_centre[:, 0] - (weights * self._y[:, port.outputs]).sum(axis=1)
        self._size += np.abs(at_centre).sum(axis=1)
        n = len(used)
        below, above = a[:, 1 : n + 1], -a[:, n + 1 :]
        y, wide = self._y[:, port.outputs[used]], self._y_radius[:, port.outputs[used]]
        floor, ceiling = at_centre[:, 1 : n + 1] - y, -at_centre[:, n + 1 :] - y
        self._score += self._radius * (np.abs(0.5 * (below + above)) * np.abs(weights[:, used, None])).sum(axis=1)
        for i, j in np.argwhere(products[:, used]).tolist():
            q = float(products[i, used[j]])
            self._product(i, q, (below[:, j], above[:, j]), (floor[:, j], ceiling[:, j]), wide[:, j])

    def _product(self, i: int, q: float, lines: tuple[Array, Array], ends: tuple[Array, Array], wide: Array) -> None:
        """Add ``q d_i e`` where ``lines @ d + ends`` enclose e, and |e| <= wide."""
        r = self._radius[:, i]
        s = 0.5 * (lines[0][:, i] + lines[1][:, i])
        below, above = lines[0].copy(), lines[1].copy()
        below[:, i] -= s
        above[:, i] -= s
        low = ends[0] - (np.abs(below) * self._radius).sum(axis=1)
        high = ends[1] + (np.abs(above) * self._radius).sum(axis=1)
        low, high = np.maximum(low, -wide - np.abs(s) * r), np.minimum(high, wide + np.abs(s) * r)
        middle, half = 0.5 * (low + high), 0.5 * np.abs(high - low)
        better = abs(q) * r * half + np.maximum(-q * s, 0) * r * r < abs(q) * r * wide
        middle, half, s = np.where(better, middle, 0.0), np.where(better, half, wide), np.where(better, s, 0.0)
        self._linear[:, i] += q * middle
        self._bend[:, i] += q * s
        self.constant -= abs(q) * r * half
        self._size += abs(q) * r * (np.abs(low) + np.abs(high))
        self._score[:, i] += abs(q) * r * half

    def _rest(self) -> None:
        """Add products of free columns and products of outputs, bounded by constants."""
        k = self.part.k
        radius = np.concatenate([self._radius, self._y_radius], axis=1)
        q = self.part.square.copy()
        q[:k, k:] = q[k:, :k] = 0.0
        own = np.diagonal(q).copy()
        np.fill_diagonal(q, 0.0)
        error = 0.5 * (radius @ np.abs(q)) * radius
        error[:, k:] += 0.5 * np.maximum(-own[k:], 0.0) * radius[:, k:] ** 2
        self.constant -= error.sum(axis=1)
        self._score += error[:, :k]

    def _minimise(self) -> None:
        """Minimise the separable underestimator over the box and the rows."""
        part, slope = self.part, self._linear
        total = np.zeros(len(slope))
        for a, least, most in zip(part.rows, part.row_lower, part.row_upper, strict=True):
            mid, reach = self.centre @ a, self._radius @ np.abs(a)
            for sign, side in ((1.0, most), (-1.0, -least)):
                if not np.isfinite(side) or not (active := sign * mid + reach > side).any():
                    continue
                mu = self._multiplier(slope, sign * a, side - sign * mid) * active
                slope = slope + mu[:, None] * (sign * a)
                total -= mu * (side - sign * mid)
                self._size += np.abs(mu) * (abs(side) + np.abs(mid) + reach)
        d = _least(slope, self._bend, self._radius)
        self.point = self.centre + d
        terms = slope * d + self._bend * d * d
        size = self._size + np.abs(slope * d).sum(axis=1) + np.abs(self._bend * d * d).sum(axis=1)
        self.bound = self.constant + total + terms.sum(axis=1) - _PAD * (1 + size)

    def _multiplier(self, slope: Array, a: Array, room: Array) -> Array:
        """Return the best multiplier of the row ``a @ d <= room`` by bisection."""
        used = a != 0
        reach = np.abs(slope[:, used]) + 2 * np.abs(self._bend[:, used]) * self._radius[:, used]
        high = 1.001 * (reach / np.abs(a[used])).max(axis=1) + 1e-9
        low = np.zeros(len(slope))
        for _ in range(_BISECTIONS):
            mu = 0.5 * (low + high)
            d = _least(slope + mu[:, None] * a, self._bend, self._radius)
            over = d @ a > room
            low, high = np.where(over, mu, low), np.where(over, high, mu)
        free = _least(slope, self._bend, self._radius) @ a <= room
        return np.where(free, 0.0, high)

    def _choose(self) -> None:
        """Split at the column whose width costs most; among equals at the widest relative to the whole."""
        part = self.part
        whole = np.maximum(part.upper - part.lower, 1e-300)
        share = self._radius / whole
        costly = part.integer | (part.rows != 0).any(axis=0)
        score = self._score + np.where(costly, 0.25 * np.abs(self._linear) * self._radius, 0.0)
        score = score + (1e-3 * score.max(axis=1, keepdims=True) + 1e-12) * share
        self.cut = np.where(self._radius > 0, score, -1.0).argmax(axis=1)


def _least(slope: Array, bend: Array, radius: Array) -> Array:
    """Return the d in [-radius, radius] that minimises ``slope d + bend d^2`` entry by entry."""
    end = np.where(slope > 0, -radius, radius)
    curved = bend > 0
    inner = -slope / np.where(curved, 2 * bend, 1.0)
    return np.where(curved, np.clip(inner, -radius, radius), end)


def linear_bounds(port: Port, found: Bounds, rows: Array) -> tuple[Array, Array]:
    """Return (a, b) with ``rows @ y >= a @ v + b`` on the boxes; rows (s, r, outputs), a (s, r, k), b (s, r)."""
    network = port.network
    sweep = Backward(network, dict(found.low), dict(found.high))
    live: dict[str, Array] = {}
    start = 0
    for spec in network.outputs:
        part = rows[..., start : start + spec.size]
        live[spec.name] = live[spec.name] + part if spec.name in live else part
        start += spec.size
    live, constant = sweep.lines(live, np.zeros(rows.shape[:2]))
    flat = [live.get(s.name, np.zeros((*rows.shape[:2], s.size))) for s in network.inputs]
    flat = [np.broadcast_to(f, (*rows.shape[:2], f.shape[-1])) for f in flat]
    at_inputs = np.concatenate(flat, axis=-1)
    return at_inputs @ port.matrix, constant + at_inputs @ port.constant
