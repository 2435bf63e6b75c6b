r"""Bounds of one small component on boxes of its decisions: boxes in, proven lower bounds out, many at a time.

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

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.backward import Backward, Crown
from nnembed.bounds.box import Bounds
from nnembed.engine.parts import Part, Port, split_entries
from nnembed.options import Budget

_BISECTIONS = 14
PAD = 1e-10  # relative to the size of everything summed: covers rounding


class Boxes:
    """Boxes (s, k) over the decisions of a part, with the networks' bounds on them.

    Attributes
    ----------
    centre, radius : arrays (s, k)
    y, y_radius : arrays (s, m)
        Middle and half width of the outputs' ranges.
    range : two arrays (s, k + m)
        Ranges of x.
    nets : list of Bounds
        One per port.
    """

    def __init__(self, part: Part, low: Array, high: Array):
        self.part = part
        self.centre = 0.5 * (low + high)
        self.radius = np.maximum(high - self.centre, self.centre - low)
        self.nets = [self._bounds(port) for port in part.ports]
        y_low, y_high = (np.zeros((len(low), len(part.outputs))) for _ in range(2))
        for port, found in zip(part.ports, self.nets, strict=True):
            y_low[:, port.outputs] = np.concatenate([found.low[s.name] for s in port.network.outputs], axis=1)
            y_high[:, port.outputs] = np.concatenate([found.high[s.name] for s in port.network.outputs], axis=1)
        self.y = 0.5 * (y_low + y_high)
        self.y_radius = np.maximum(y_high - self.y, self.y - y_low)
        self.range = np.concatenate([low, y_low], axis=1), np.concatenate([high, y_high], axis=1)

    def _bounds(self, port: Port) -> Bounds:
        """Return CROWN bounds of a network on the boxes."""
        centre = self.centre @ port.matrix.T + port.constant
        reach = self.radius @ np.abs(port.matrix).T
        reach = reach + 1e-12 * (np.abs(self.centre) @ np.abs(port.matrix).T + np.abs(port.constant) + reach)
        low, high = split_entries(port.network, centre - reach), split_entries(port.network, centre + reach)
        box = Bounds(port.network, low, high, (len(centre),))
        return Crown().tighten(port.network, box, Budget())

    def lines(self, rows: Array) -> tuple[Array, Array]:
        """Return (a, b) with ``rows @ x >= a @ d + b`` on every box, d = v - centre; a (s, r, k), b (s, r)."""
        part, k = self.part, self.part.k
        a = np.broadcast_to(rows[:, :k], (len(self.centre), len(rows), k)).copy()
        b = self.centre @ rows[:, :k].T
        size = np.abs(self.centre) @ np.abs(rows[:, :k]).T
        for port, found in zip(part.ports, self.nets, strict=True):
            mine = rows[:, k + port.outputs]
            used = np.flatnonzero((mine != 0).any(axis=1))
            if not len(used):
                continue
            weights = np.broadcast_to(mine[used], (len(self.centre), len(used), len(port.outputs)))
            slope, constant = linear_bounds(port, found, weights)
            a[:, used] += slope
            b[:, used] += (slope @ self.centre[..., None])[..., 0] + constant
            size[:, used] += (np.abs(slope) @ np.abs(self.centre)[..., None])[..., 0] + np.abs(constant)
        size += (np.abs(a) @ self.radius[..., None])[..., 0]
        return a, b - PAD * (1 + size)


class BoxBound:
    """Lower bounds of the objective with a price on every box; see the module.

    Attributes
    ----------
    bound : array (s,)
    point : array (s, k)
        Where the underestimator is least.
    cut : int array (s,)
        The column to split at.
    under : arrays (s,), (s, k), (s, k)
        Constant, slope and bend of the underestimator ``constant + slope @ d + bend @ d^2``, without the rows.
    """

    def __init__(self, boxes: Boxes, price: Array):
        part = boxes.part
        self.boxes, self.part, k = boxes, part, part.k
        self.centre, self._radius, self._y, self._y_radius = boxes.centre, boxes.radius, boxes.y, boxes.y_radius
        self._cost = part.cost + price
        x = np.concatenate([self.centre, self._y], axis=1)
        slope = self._cost + x @ part.square
        self.constant = x @ self._cost + 0.5 * ((x @ part.square) * x).sum(axis=1)
        self._size = np.abs(x) @ np.abs(self._cost) + ((np.abs(x) @ np.abs(part.square)) * np.abs(x)).sum(axis=1)
        self._linear = slope[:, :k].copy()
        self._bend = np.tile(0.5 * np.diagonal(part.square)[:k], (len(x), 1))
        self._score = np.zeros(self.centre.shape)
        for port, found in zip(part.ports, boxes.nets, strict=True):
            self._through(port, found, slope[:, k + port.outputs])
        self._rest()
        rest = np.abs(self._linear) * self._radius + np.abs(self._bend) * self._radius**2
        self.under = self.constant - PAD * (1 + self._size + rest.sum(axis=1)), self._linear, self._bend
        self._minimise()
        self._choose()

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
        self.bound = self.constant + total + terms.sum(axis=1) - PAD * (1 + size)

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
