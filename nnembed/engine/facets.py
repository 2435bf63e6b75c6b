r"""Lines above sums of neurons of a first layer, over boxes of few inputs, close to the sum's concave envelope.

Over a box write ``g = low + sum_i d_i s_i`` with shares ``s_i`` in [0, 1] and widths ``d_i``. For every theta in
[0, 1]^n with ``sum_i (1 - theta_i) d_i <= -low`` the line ``sum_i theta_i d_i s_i`` is above ``max(g, 0)``; equal
thetas are the chord of the triangle relaxation, extreme ones the facets of the neuron's convex hull. The line that is
lowest at a point takes thetas away where shares are largest. Points are rounded to a few levels per coordinate, so
this is done level by level for all neurons at once by products of matrices.

A sum of neurons is bounded by lines that support its envelope at points where the last bound was attained, and mixed
with the best weight (Frank and Wolfe). Where a coefficient is negative the neuron's own subgradient is such a line.

Sources: Anderson et al., Math. Programming 183 (2020), for the facets; Tjandraatmadja et al., NeurIPS 2020, for
choosing them by backward passes; Frank and Wolfe 1956.
"""

from __future__ import annotations

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.engine.chain import Layer

LEVELS = 5  # a point's coordinates, from one end of the box to the other
_EAGER = 0.7  # coordinates with this part of the largest influence go to the end of the box
_BISECTIONS = 6
_TINY = 1e-30

Line = tuple[Array, Array]  # slopes (s, r, n), values at the centres (s, r)


class Sums:
    """Sums of a first layer's neurons with coefficients (s or 1, r, m), taken apart for `FirstLayer`."""

    def __init__(self, first: FirstLayer, coefficients: Array):
        layer, s = first.layer, len(first.radius)
        jumps = coefficients * layer.jump
        own = coefficients * layer.left + jumps * first.on[:, None]
        self.slope: Array = own @ first.weight
        if len(coefficients) == 1:
            mine = np.stack([jumps[0][:, some] for some in first.open])
        else:
            index = np.broadcast_to(first.open[:, None], (s, jumps.shape[1], first.open.shape[1]))
            mine = np.take_along_axis(jumps, index, axis=2)
        self.up, self.down = np.maximum(mine, 0), np.minimum(mine, 0)
        self.value: Array = (own @ first.centre[..., None])[..., 0] + (self.up @ (0.5 * first.high)[..., None])[..., 0]


class FirstLayer:
    """The first layer on boxes (s, n); only neurons that are open on their box cost anything.

    Attributes
    ----------
    radius : array (s, n)
    low, high : arrays (s, m) of float64
        Ranges of all pre-activations.
    on : mask (s, m)
    open : int array (s, k)
        The open neurons of every box, filled up with others that count nothing.
    """

    def __init__(self, layer: Layer, centre: Array, radius: Array, kind: type = np.float64):
        self.layer = Layer(*(a.astype(kind) for a in (layer.weight, layer.bias, layer.left, layer.jump)))
        middle, reach = centre @ layer.weight.T + layer.bias, radius @ np.abs(layer.weight).T
        self.range = middle - reach, middle + reach
        low, high = self.range
        self.on, opened = low >= 0, (low < 0) & (high > 0)
        count = max(1, int(opened.sum(axis=1).max(initial=0)))
        self.open: Index = np.argsort(~opened, axis=1, kind="stable")[:, :count]
        live = np.take_along_axis(opened, self.open, axis=1)

        def mine(a: Array) -> Array:
            return np.where(live, np.take_along_axis(a, self.open, axis=1), 0.0).astype(kind)

        self.weight = self.layer.weight
        self.centre: Array = middle.astype(kind)
        self.radius: Array = radius.astype(kind)
        self.low, self.high, self.middle = mine(low), mine(high), mine(middle)
        self.rows = np.where(live[..., None], self.weight[self.open], kind(0))
        self._across = np.ascontiguousarray(self.rows.transpose(0, 2, 1))
        self._signed = np.concatenate([np.maximum(self.rows, 0), np.maximum(-self.rows, 0)], axis=2)
        widths = np.concatenate([2 * self.radius, 2 * self.radius], axis=1)
        self._widths = np.ascontiguousarray((self._signed * widths[:, None]).transpose(0, 2, 1))
        width = self.high - self.low
        self._chord = self.high / np.where(width > 0, width, kind(1))

    def crown(self, sums: Sums) -> Line:
        """Return the lines of CROWN."""
        down = (self._chord > 0.5)[:, None] * sums.down
        slope = sums.slope + (self._chord[:, None] * sums.up + down) @ self.rows
        return slope, sums.value + (down @ self.middle[..., None])[..., 0]

    def supporting(self, sums: Sums, levels: Array) -> Line:
        """Return lines that support the sums' envelopes at points, levels (s, r, n) between 0 and ``LEVELS - 1``."""
        n, kind = self.radius.shape[1], self.radius.dtype
        point = np.linspace(-1, 1, LEVELS, dtype=kind)[levels] * self.radius[:, None]
        g = point @ self._across
        g += self.middle[:, None]
        work = (g > 0) * sums.down
        slope = sums.slope + work @ self.rows
        value = sums.value + (work @ self.middle[..., None])[..., 0]
        share = np.concatenate([levels, LEVELS - 1 - levels], axis=-1)  # of neurons that rise, that fall
        left = g
        left[:] = -self.low[:, None]
        for level in range(LEVELS - 1, -1, -1):
            here = (share == level).astype(kind)
            widths = here @ self._widths
            np.maximum(widths, kind.type(_TINY), out=widths)
            np.divide(left, widths, out=work)
            np.minimum(work, 1, out=work)  # what is taken away from theta
            widths *= work
            left -= widths
            np.subtract(1, work, out=work)
            work *= sums.up
            part = work @ self._signed
            part *= here
            slope += part[..., :n]
            slope -= part[..., n:]
        return slope, value

    def above(self, sums: Sums, steps: int, levels: Array) -> tuple[Array, Array, Array]:
        """Return lines above the sums, and the points where they are highest; `levels` are points to begin with."""
        line, radius = self.crown(sums), self.radius[:, None]
        for _ in range(steps):
            line = mixed(line, self.supporting(sums, levels), radius)
            levels = corner(line[0], radius)
        return *line, levels


def corner(slope: Array, radius: Array) -> Array:
    """Return levels of points near the corners where lines are highest; coordinates that matter little stay inside."""
    influence = slope * radius
    largest = np.abs(influence).max(axis=-1, keepdims=True) + _TINY
    part = np.clip(influence / (_EAGER * largest), -1, 1)
    return np.rint((part + 1) * (0.5 * (LEVELS - 1))).astype(np.int8)


def mixed(first: Line, second: Line, radius: Array) -> Line:
    """Return the mean of two lines, with the weight whose maximum over the box is least, by bisection."""
    (slope, value), (other, other_value) = first, second
    turn, rise = other - slope, other_value - value
    reach = turn * radius
    low, high = np.zeros_like(value), np.ones_like(value)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        falls = rise + (np.sign(slope + middle[..., None] * turn) * reach).sum(axis=-1) < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    weight = 0.5 * (low + high)
    new, new_value = slope + weight[..., None] * turn, value + weight * rise
    worse = new_value + (np.abs(new) * radius).sum(axis=-1) > value + (np.abs(slope) * radius).sum(axis=-1)
    return np.where(worse[..., None], slope, new), np.where(worse, value, new_value)
