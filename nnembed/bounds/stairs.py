r"""Rounding as a staircase: its corners on a range, and the best slopes of lines below and above it.

In steps t = g / step, with the levels a < b in reach of [l, u] and level k ending at ``k + s``, the graph and its
limits are between the corners (l, a), (a + s, a), (a + s, a + 1), (b - 1 + s, b - 1), (b - 1 + s, b), (u, b). The
corners in between lie on the lines through these, so a line is below (above) the staircase exactly when it is below
(above) these six; at a jump both values count, and with them every rule for ties. The lower hull has edges of slope 0,
1 and of those from the first and last corners to (u, b); the upper hull is its mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.box import levels
from nnembed.ir.nodes import Round

_NEAR = 1e-3  # a slope that a corner next to the end of the range would make wilder than this part of it allows


@dataclass(frozen=True, eq=False)
class Sides:
    """How g holds the level of open roundings, ``q`` stairs above the least one, `level`; arrays (k,).

    ``g <= most + rise q + over z`` and ``g >= least + climb q + under w``, with z = 1 only where q = `span` and w = 0
    only where q = 0: beyond the last level, which ends at `top`, and before the first, which begins at `bottom`, g may
    go as far as it can. `over` and `under` are zero where it cannot.
    """

    level: Array
    span: Array
    bottom: Array
    top: Array
    most: Array
    rise: Array
    over: Array
    least: Array
    climb: Array
    under: Array
    beyond: Array
    before: Array
    ends: Mask
    begins: Mask


@dataclass(frozen=True, eq=False)
class Stairs:
    """Roundings on proven ranges; arrays (batch, n).

    Attributes
    ----------
    open : mask
        Where more than one level is in reach. Elsewhere the rest means nothing.
    first, last : array
        The arguments at which the least level is left and the greatest is reached.
    bottom, top, height : array
        The values there, and the height of a stair.
    """

    node: Round
    low: Array
    high: Array

    @cached_property
    def _levels(self) -> tuple[Array, Array]:
        return levels(self.node, self.low, self.high)

    @cached_property
    def open(self) -> Mask:
        """See the class."""
        first, last = self._levels
        return first < last

    @property
    def first(self) -> Array:
        """See the class."""
        return (self._levels[0] + self.node.shift) * self.node.step

    @property
    def last(self) -> Array:
        """See the class."""
        return (self._levels[1] - 1 + self.node.shift) * self.node.step

    @property
    def bottom(self) -> Array:
        """See the class."""
        return self.node.scale * self._levels[0]

    @property
    def top(self) -> Array:
        """See the class."""
        return self.node.scale * self._levels[1]

    @property
    def height(self) -> Array:
        """See the class."""
        return np.broadcast_to(self.node.scale, self.low.shape)

    def corners(self) -> tuple[Array, Array]:
        """Return arguments and values of the corners, (6, batch, n) each; one value where the level is known."""
        at = np.stack([self.low, self.first, self.first, self.last, self.last, self.high])
        down, up = self.bottom, self.top
        values = np.stack([down, down, down + self.height, up - self.height, up, up])
        return np.where(self.open, at, self.low), np.where(self.open, values, down)

    def sides(self, which: Index) -> Sides:
        """Return the rows of open neurons `which`, flat over the batch; of a single jump those of a step."""
        n, (a, b) = self.low.shape[-1], self._levels
        step = self.node.step[which % n]
        a, b, low, high = (v.reshape(-1)[which] for v in (a, b, self.low, self.high))
        shift, two = self.node.shift, b - a == 1
        first, bottom, top = (a + shift) * step, (a - 1 + shift) * step, (b + shift) * step
        over, under = np.where(two, 0.0, np.maximum(high - top, 0.0)), np.where(two, 0.0, np.maximum(bottom - low, 0.0))
        return Sides(
            level=a,
            span=b - a,
            bottom=bottom,
            top=top,
            most=first,
            rise=np.where(two, np.maximum(high - first, 0.0), step),
            over=over,
            least=np.where(two, np.minimum(low, first), np.where(under > 0, low, bottom)),
            climb=np.where(two, np.maximum(first - low, 0.0), step),
            under=under,
            beyond=high - top,
            before=bottom - low,
            ends=b == self.node.high[which % n],
            begins=a == self.node.low[which % n],
        )

    def freedom(self) -> tuple[Array, Array]:
        """Return the steepest useful slopes (batch, n) of lines below through the first corner, above through the last.

        All slopes from zero on are valid. Where only one jump is in reach they lead to the other value at the end of
        the range, otherwise they are no steeper than the stairs.
        """
        rise, reach = self.height / self.node.step, _NEAR * (self.high - self.low) + 1e-9
        several = self._levels[1] - self._levels[0] > 1.5
        to_end = (self.top - self.bottom) / np.maximum(self.high - self.first, reach)
        to_start = (self.top - self.bottom) / np.maximum(self.last - self.low, reach)
        return (
            np.where(several, np.minimum(rise, to_end), to_end),
            np.where(several, np.minimum(rise, to_start), to_start),
        )

    def slopes(self) -> tuple[Array, Array]:
        """Return the slopes of the lines below and above that leave the least area, (batch, n) each.

        That is the edge of the hull at the middle of the range, where a line is worth its area.
        """
        at, values = self.corners()
        rise, reach = self.height / self.node.step, _NEAR * (self.high - self.low) + 1e-9
        free = self.freedom()
        past = self.height / np.maximum(self.high - self.last, reach)
        before = self.height / np.maximum(self.first - self.low, reach)
        middle = 0.5 * (self.low + self.high)
        chosen = []
        for sign, ends in ((1.0, (free[0], past)), (-1.0, (free[1], before))):
            slopes = np.stack([np.zeros_like(rise), rise, *ends])
            gaps = sign * (values[:, None] - slopes * (at - middle)[:, None])
            best = gaps.min(axis=0).argmax(axis=0)[None]
            chosen.append(np.where(self.open, np.take_along_axis(slopes, best, axis=0)[0], 0.0))
        return chosen[0], chosen[1]
