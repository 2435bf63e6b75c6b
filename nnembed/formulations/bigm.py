r"""Big-M formulations with proven bounds, in two forms.

For an open ReLU ``y = max(g, 0)``, ``g = w x + b`` with proven ``L <= g <= U``, ``L < 0 < U`` and a binary ``z``:

*two_row* writes the affine row twice and adds no column besides ``y`` and ``z``

    y >= 0,   y >= g,   y <= g - L (1 - z),   y <= U z

*slack* writes it once and splits it into its positive and negative part

    g = r - s,   0 <= r <= U z,   0 <= s <= -L (1 - z)

Both are exact and ideal for a scalar ``g`` in [L, U] (not over the whole input box); half the nonzeros against one
column more. Any other kink with slopes ``a`` (left) and ``c`` (right) is ``y = a g + (c - a) max(g, 0)``: two_row
writes the four rows on ``y``, slack uses ``y = c r - a s`` and needs no column for ``y`` at all.

A clip that can reach both ends takes two binaries ``z2 <= z1`` and five rows; a maximum over groups takes one binary
per member that may win, one for two; a step is written as in *step*, a rounding as in *round*, winners as in *winner*.

Assumes finite proven bounds. Sources: Fischetti and Jo, Constraints 23 (2018); Tjeng, Xiao and Tedrake, ICLR 2019;
Serra, Tjandraatmadja and Ramalingam, ICML 2018 (slack form).

>>> from nnembed.formulations.show import show
>>> print(show(TwoRow(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.on[0] binary
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.post[0] >= 0
-1 input.in[0] +1 relu.post[0] +1 relu.on[0] <= 1
+1 relu.post[0] -2 relu.on[0] <= 0
-1 relu.post[0] +1 y.out[0] == 0
>>> print(show(Slack(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.slack[0] in [0, 1]
relu.on[0] binary
y.out[0] in [0, 2]
+1 input.in[0] -1 relu.post[0] +1 relu.slack[0] == 0
+1 relu.post[0] -2 relu.on[0] <= 0
+1 relu.slack[0] +1 relu.on[0] <= 1
-1 relu.post[0] +1 y.out[0] == 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnembed import fills
from nnembed.aliases import Array
from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows, scale_rows
from nnembed.features import Feature
from nnembed.fills import Above, Fill, Part, Value
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Contest, Kinks, TwoKinks
from nnembed.ir.nodes import Abs, Clip, LeakyRelu, Max, Node, Relu, Round, Step, Winner

CONTINUOUS: frozenset[type[Node]] = frozenset({Relu, LeakyRelu, Abs, Clip, Max})
ALL_KINDS: frozenset[type[Node]] = CONTINUOUS | {Step, Round, Winner}


class TwoRow:
    """Big-M with the affine row written twice."""

    name = "two_row"
    summary = "big-M, both rows written out: fewest columns"
    emits = Feature.LINEAR | Feature.INTEGER
    handles = ALL_KINDS
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, two_row, ordered_pair, one_hot)


class Slack:
    """Big-M with the affine row written once, split into positive and negative part."""

    name = "slack"
    summary = "big-M on positive and negative part: half the nonzeros"
    emits = Feature.LINEAR | Feature.INTEGER
    handles = ALL_KINDS
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, slack, ordered_pair, one_hot)


def two_row(k: Kinks, block: BlockBuilder) -> Rows:
    """Return ``y - value`` as columns, after writing the four rows of each kink."""
    return block.unit(two_row_columns(k, block)[0])


def two_row_columns(k: Kinks, block: BlockBuilder) -> tuple[np.ndarray, np.ndarray]:
    """Write the four rows of each kink and return the columns ``y - value`` and the binaries."""
    jump = k.right - k.left
    sign, size = np.sign(jump), np.abs(jump)
    y = kink_column(k, block)
    z = block.binaries(k.layer, k.tensor, k.elements, k.above())
    g, c = k.pre.matrix, k.pre.constant
    above = scale_rows(g, -sign * k.right)
    own, on = block.unit(y, sign).matrix, block.unit(z)
    # sign (y - right g) >= 0 and <= size * -L (1 - z)
    block.add([own, above], sign * k.right * c, np.inf)
    block.add([own, above, scale_rows(on.matrix, -size * k.low)], -np.inf, sign * k.right * c - size * k.low)
    # sign (y - left g) >= 0 (the column's own bound when left is zero) and <= size * U z
    rest = np.flatnonzero(k.left != 0)
    under = [own]
    if len(rest):
        below = scale_rows(g, -sign * k.left)
        block.add([own[rest], below[rest]], (sign * k.left * c)[rest], np.inf)
        under.append(below)
    block.add([*under, scale_rows(on.matrix, -size * k.high)], -np.inf, sign * k.left * c)
    return y, z


def kink_column(k: Kinks, block: BlockBuilder) -> np.ndarray:
    """Add the column ``y - value`` with the range a kink with these bounds can reach."""
    ends = np.stack([k.left * k.low, k.right * k.high, np.zeros(len(k.low))])
    low, high = ends.min(axis=0), ends.max(axis=0)
    return block.columns(k.layer, Role.POST, k.output, k.elements, low, high, Value(k.output, k.elements, k.value))


def slack(k: Kinks, block: BlockBuilder) -> Rows:
    """Return ``y - value = right r - left s`` after splitting ``g = r - s``."""
    r, s = slack_columns(k, block)
    if (k.left == 0).all() and (k.right == 1).all():
        return block.unit(r)
    total = block.unit(r, k.right).matrix + block.unit(s, -k.left).matrix
    total.eliminate_zeros()
    return Rows(total, np.zeros(len(k.low)))


def slack_columns(k: Kinks, block: BlockBuilder, *, binaries: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Write ``g = r - s`` with a binary between both parts and return their columns.

    `binaries` is the name of the layer that the binaries belong to, by default that of the neurons.
    """
    part = (k.layer, Role.POST, k.output, k.elements)
    r = block.columns(*part, 0.0, k.high, Part(k.tensor, k.elements, 1.0, k.threshold))
    rest = (k.layer, Role.SLACK, k.tensor, k.elements)
    s = block.columns(*rest, 0.0, -k.low, Part(k.tensor, k.elements, -1.0, k.threshold))
    z = block.binaries(binaries or k.layer, k.tensor, k.elements, k.above())
    block.add([k.pre.matrix, block.unit(r, -1.0).matrix, block.unit(s).matrix], -k.pre.constant, -k.pre.constant)
    block.add([block.unit(r).matrix, block.unit(z, -k.high).matrix], -np.inf, 0.0)
    block.add([block.unit(s).matrix, block.unit(z, -k.low).matrix], -np.inf, -k.low)
    return r, s


def ordered_pair(k: TwoKinks, block: BlockBuilder) -> Rows:
    """Return ``y - lower`` of a clip: ``z1`` = above the lower end, ``z2 <= z1`` = above the upper end.

    ``span z2 <= y <= span z1``, ``y <= g - L (1 - z1)``, ``y >= g - (U - span) z2`` with g shifted by the lower end.
    """
    y = block.columns(k.layer, Role.POST, k.output, k.elements, 0.0, k.span, Value(k.output, k.elements, k.threshold))
    first = block.binaries(f"{k.layer}.lower", k.tensor, k.elements, Above(k.tensor, k.elements, k.threshold))
    second = block.binaries(f"{k.layer}.upper", k.tensor, k.elements, Above(k.tensor, k.elements, k.threshold + k.span))
    own, g, c = block.unit(y).matrix, k.pre.matrix, k.pre.constant
    block.add([block.unit(second).matrix, block.unit(first, -1.0).matrix], -np.inf, 0.0)
    block.add([own, block.unit(first, -k.span).matrix], -np.inf, 0.0)
    block.add([own, block.unit(second, -k.span).matrix], 0.0, np.inf)
    block.add([own, -g, block.unit(first, -k.low).matrix], -np.inf, c - k.low)
    block.add([own, -g, block.unit(second, k.high - k.span).matrix], c, np.inf)
    return block.unit(y)


def one_hot(k: Contest, block: BlockBuilder) -> Rows:
    """Return the largest member per group: ``y >= x_i``, ``y <= x_i + M_i (1 - z_i)``, ``sum z = 1``.

    ``M_i`` is the best upper bound among the other members minus the lower bound of member i, never negative. Of two
    members one wins where the other does not, so they have one binary.
    """
    two = np.bincount(k.owner) == 2
    y = np.zeros(len(k.own), dtype=np.intp)
    for groups, write in ((two, _one_of_two), (~two, one_hot_columns)):
        if groups.any():
            y[groups] = write(k if groups.all() else k.some(groups), block)[0]
    return block.unit(y)


@dataclass(frozen=True, eq=False)
class _FirstOfTwo(Fill):
    """The rule of `Winner` for the first members of pairs."""

    rule: fills.Winner

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return self.rule(state)[::2]


def _one_of_two(k: Contest, block: BlockBuilder) -> tuple[np.ndarray, np.ndarray]:
    """Write groups of two and return the columns y and z, which is 1 where the first member wins."""
    low, high = k.low.reshape(-1, 2), k.high.reshape(-1, 2)
    reach = np.maximum(high[:, ::-1] - low, 0.0)
    y = block.columns(k.layer, Role.POST, k.output, k.own, low.max(axis=1), high.max(axis=1), Value(k.output, k.own))
    z = block.binaries(k.layer, k.tensor, k.member[::2], _FirstOfTwo(k.winner()))
    own, c = block.unit(y).matrix, k.rows.constant
    block.add([block.unit(y[k.owner]).matrix, -k.rows.matrix], c, np.inf)
    block.add([own, -k.rows.matrix[::2], block.unit(z, reach[:, 0]).matrix], -np.inf, c[::2] + reach[:, 0])
    block.add([own, -k.rows.matrix[1::2], block.unit(z, -reach[:, 1]).matrix], -np.inf, c[1::2])
    return y, z


def one_hot_columns(k: Contest, block: BlockBuilder) -> tuple[np.ndarray, np.ndarray]:
    """Write the rows of `one_hot` and return the columns y, one per group, and z, one per member."""
    groups = len(k.own)
    best, second, holder = top_two(k.high, k.owner, groups)
    rival = np.where(np.arange(len(k.member)) == holder[k.owner], second[k.owner], best[k.owner])
    reach = np.maximum(rival - k.low, 0.0)
    floor = np.full(groups, -np.inf)
    np.maximum.at(floor, k.owner, k.low)
    y = block.columns(k.layer, Role.POST, k.output, k.own, floor, best, Value(k.output, k.own))
    z = block.binaries(k.layer, k.tensor, k.member, k.winner())
    each = block.unit(y[k.owner]).matrix
    block.add([each, -k.rows.matrix], k.rows.constant, np.inf)
    block.add([each, -k.rows.matrix, block.unit(z, reach).matrix], -np.inf, k.rows.constant + reach)
    block.add([block.sums(z, k.owner, groups)], 1.0, 1.0)
    return y, z


def top_two(value: np.ndarray, owner: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the largest and second largest value per group and the place of the largest."""
    order = np.lexsort((-value, owner))
    start = np.searchsorted(owner[order], np.arange(groups))
    return value[order[start]], value[order[start + 1]], order[start]
