r"""Rounding: an integer column for the level, and binaries where the outermost levels reach further than the others.

For ``y = scale * clip(round(g / step), low, high)`` with proven ``L <= g <= U`` let a < b be the levels of L and U, and
level k end at ``e_k = (k + s) step`` (s = 1/2 for rounding to the nearest, 1 for rounding down, 0 for rounding up).
With an integer q in [0, b - a]

    y = scale (a + q),   e_{a-1} + step q <= g <= e_a + step q

Where the clip makes level b reach beyond its own stair, ``U > e_b``, a binary z says so, and a binary w says where
level a does not reach below its own, ``L < e_{a-1}``:

    g <= e_a + step q + (U - e_b) z,             (b - a) z <= q
    g >= L + step q + (e_{a-1} - L) w,           q <= (b - a) w

A level that is known is a number, and with two levels q is a binary with the two rows of *step*: ``L + (e_a - L) q <= g
<= e_a + (U - e_a) q``. One integer column, at most two binaries and four rows; the LP relaxation is, but for the two
ends, the hull of the staircase over g in [L, U].

**Where it jumps** both levels are feasible with ``margin = 0``, the default, as both values of *step* are at its
threshold, and what is said there holds here: the block is the network and its limits, bounds are proofs, and the answer
is what the network itself says at the solver's inputs. With a margin m > 0 the points do not count that are closer than
m to a jump, on the side that the jump does not belong to; halves belong to the even level, which takes two more columns
(``a + q = 2 p + r``: p integer, r binary and one for odd levels). On points that count the levels are then the
network's. It is the caller who states that nothing else matters; nobody checks it.

Assumes finite proven bounds. Source: rows of this kind are folklore of quantised networks; the saturation rows are
those of a clip's two ends in *two_row*, tied to the integer column.

>>> import numpy as np
>>> from nnembed.formulations.show import show
>>> stairs = np.ones(1), np.ones(1), np.zeros(1), np.full(1, 3.0)
>>> print(show(RoundRows(), low=-2.0, high=2.25, node=Round("round", ("x",), "y", *stairs)))
input.in[0] in [-2, 2.25]
round.level[0] integer in [0, 2]
round.lower.on[0] binary
y.out[0] in [0, 2]
+1 round.level[0] -2 round.lower.on[0] <= 0
+1 input.in[0] -1 round.level[0] <= 0.5
+1 input.in[0] -1 round.level[0] -1.5 round.lower.on[0] >= -2
-1 round.level[0] +1 y.out[0] == 0
>>> print(show(RoundRows(), low=-0.25, high=0.75, node=Round("round", ("x",), "y", *stairs)))
input.in[0] in [-0.25, 0.75]
round.level[0] binary
y.out[0] in [0, 1]
+1 input.in[0] -0.25 round.level[0] <= 0.5
+1 input.in[0] -0.75 round.level[0] >= -0.25
-1 round.level[0] +1 y.out[0] == 0
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.bounds.stairs import Sides, Stairs
from nnembed.builder import BlockBuilder, Piece, Rows
from nnembed.errors import CoefficientWarning, InputError
from nnembed.features import Feature
from nnembed.fills import Above, Fill, Level
from nnembed.formulations.pieces import require_finite
from nnembed.ir.nodes import Node, Round
from nnembed.presolve import Divided

_MANY = 1e6  # levels of one neuron from which solvers cannot be trusted with the integer column


@dataclass(frozen=True)
class RoundRows:
    """An integer column per neuron.

    Parameters
    ----------
    margin : float
        Pre-activations closer than this to a jump, on the side it does not belong to, do not count, see the module; 0
        leaves nothing out.
    """

    margin: float = 0.0

    summary: ClassVar[str] = "an integer column for the level of a rounding, binaries where it saturates"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = frozenset({Round})
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no margin."""
        if not 0 <= self.margin < np.inf:
            raise InputError(f"RoundRows(margin={self.margin}): give a number >= 0")

    @property
    def name(self) -> str:
        """The name, with the margin where there is one, so that plans show it."""
        return f"round(margin={self.margin:g})" if self.margin else "round"

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the columns and rows of one layer."""
        if isinstance(node, Round):
            emit_round(node, bounds, block, margin=self.margin)


def emit_round(node: Round, bounds: Bounds, block: BlockBuilder, *, margin: float = 0.0, integer: bool = True) -> None:
    """Define the output of a layer of roundings; without `integer` as a relaxation."""
    require_finite(node, bounds)
    stairs = Stairs(node, bounds.low[node.input], bounds.high[node.input])
    opened, bottom = stairs.open.ravel(), stairs.bottom.ravel()
    known, i = np.flatnonzero(~opened), np.flatnonzero(opened)
    pieces = [Piece(known, Rows(sp.csr_array((len(known), max(block.width, 1))), bottom[known]))]
    if len(i):
        q = _Layer(node, block, i, integer, stairs.sides(i)).write(margin)
        pieces.append(Piece(i, Rows(block.unit(q, stairs.height.ravel()[i]).matrix, bottom[i])))
    block.define(node.output, pieces)


@dataclass(frozen=True, eq=False)
class _Layer:
    """Open roundings `which`, flat over the batch."""

    node: Round
    block: BlockBuilder
    which: Index
    integer: bool
    side: Sides

    def write(self, margin: float) -> Index:
        """Add columns and rows and return the columns q."""
        node, block, which = self.node, self.block, self.which
        n, side = len(node.step), self.side
        if (many := float(side.span.max())) > _MANY:
            warnings.warn(
                f"layer {node.name!r}: a rounding has {many:.1e} levels in reach, and solvers work with tolerances "
                "around 1e-6; tighten the bounds of the network's inputs or the bounds= method",
                CoefficientWarning,
                stacklevel=2,
            )
        fill = Level(node.output, which, node.scale[which % n], side.level)
        q = block.columns(node.name, Role.LEVEL, node.output, which, 0.0, side.span, fill, integer=self.integer)
        # Divided by the power of two next to the step, which is exact.
        factor = np.exp2(-np.round(np.log2(node.step[which % n])))
        pre = block.expression(node.input, which).scaled(factor)
        upper, lower = [pre.matrix, block.unit(q, -side.rise * factor).matrix], [pre.matrix]
        lower.append(block.unit(q, -side.climb * factor).matrix)
        most, least = side.most, side.least
        if margin:
            most, least, side = self._margins(q, margin, factor, upper, lower)
        self._saturated(q, side, factor, upper, lower)
        block.add(upper, -np.inf, most * factor - pre.constant)
        block.add(lower, least * factor - pre.constant, np.inf)
        return q

    def _saturated(
        self, q: Index, side: Sides, factor: Array, upper: list[sp.csr_array], lower: list[sp.csr_array]
    ) -> None:
        """Add the binaries of outermost levels that reach further than others, and their terms to the rows."""
        node, block = self.node, self.block
        for name, reach, threshold, sign, terms in (
            ("upper", side.over, side.top, -1.0, upper),
            ("lower", side.under, side.bottom, 1.0, lower),
        ):
            k = np.flatnonzero(reach)
            if not len(k):
                continue
            fill = Above(node.input, self.which[k], threshold[k])
            z = self._column(f"{node.name}.{name}", k, fill)
            own = [block.unit(q[k]).matrix, block.unit(z, -side.span[k]).matrix]
            block.add(own, *((0.0, np.inf) if sign < 0 else (-np.inf, 0.0)))
            terms.append(_spread(block.unit(z, -reach[k] * factor[k]).matrix, k, len(q)))

    def _column(self, layer: str, k: Index, fill: Fill) -> Index:
        own = (layer, Role.INDICATOR, self.node.input, self.which[k])
        return self.block.columns(*own, 0.0, 1.0, fill, integer=self.integer)

    def _margins(
        self, q: Index, margin: float, factor: Array, upper: list[sp.csr_array], lower: list[sp.csr_array]
    ) -> tuple[Array, Array, Sides]:
        """Return the sides of the rows less the margin where a jump belongs to the other level."""
        side, block, rule = self.side, self.block, self.node.rule
        two, odd = side.span == 1, side.level % 2 == 1
        right, left = (margin if rule in ("even", own) else 0.0 for own in ("down", "up"))
        # Levels that a limit makes the last ones do not end with a jump: there g goes as far as it can.
        over = np.where(~two & side.ends, np.maximum(side.beyond + right, 0.0), 0.0)
        under = np.where(~two & side.begins, np.maximum(side.before + left, 0.0), 0.0)
        most = side.most - np.where(two & odd if rule == "even" else rule == "down", margin, 0.0)
        upper.append(block.unit(q, np.where(two, most - side.most, 0.0) * factor).matrix)
        lead = np.where(two & ~odd if rule == "even" else rule == "up", margin, 0.0)
        lower.append(block.unit(q, np.where(two, -lead, 0.0) * factor).matrix)
        least = np.where(two, side.least, side.bottom + lead - under)
        if rule == "even" and (k := np.flatnonzero(~two)).size:
            r = self._parity(q, k)
            upper.append(_spread(block.unit(r, margin * factor[k]).matrix, k, len(q)))
            lower.append(_spread(block.unit(r, -margin * factor[k]).matrix, k, len(q)))
        return most, least, replace(side, over=over, under=under, top=side.top - right, bottom=side.bottom + left)

    def _parity(self, q: Index, k: Index) -> Index:
        """Return binaries that are one where levels are odd."""
        node, block, base = self.node, self.block, self.side.level[k]
        fill = Level(node.output, self.which[k], node.scale[self.which[k] % len(node.step)], np.zeros(len(k)))
        half = np.floor(base / 2), np.floor((base + self.side.span[k]) / 2)
        two = np.full(len(k), 2.0)
        layer = f"{node.name}.half", Role.LEVEL, node.output, self.which[k]
        p = block.columns(*layer, *half, _Floor(Divided(fill, two)), integer=self.integer)
        layer = f"{node.name}.odd", Role.INDICATOR, node.output, self.which[k]
        r = block.columns(*layer, 0.0, 1.0, _Odd(fill), integer=self.integer)
        own = [block.unit(q[k]).matrix, block.unit(p, -two).matrix, block.unit(r, -np.ones(len(k))).matrix]
        block.add(own, -base, -base)
        return r


@dataclass(frozen=True, eq=False)
class _Floor(Fill):
    """Another rule's values rounded down."""

    rule: Fill

    def __call__(self, state: object) -> Array:
        """See `Fill`."""
        out: Array = np.floor(self.rule(state))  # type: ignore[arg-type]
        return out


@dataclass(frozen=True, eq=False)
class _Odd(Fill):
    """One where another rule's values are odd."""

    rule: Fill

    def __call__(self, state: object) -> Array:
        """See `Fill`."""
        out: Array = np.mod(self.rule(state), 2.0)  # type: ignore[arg-type]
        return out


def _spread(matrix: sp.csr_array, k: Index, n: int) -> sp.csr_array:
    """Return n rows, those of `matrix` at the places `k` (sorted), the others empty."""
    indptr = np.searchsorted(k, np.arange(n + 1))
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr[indptr]), shape=(n, matrix.shape[1]))
