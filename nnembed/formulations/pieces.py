"""What formulations share: sorting neurons into linear and open ones, and the open ones as kinks.

A *kink* is ``y = value + left * min(g, 0) + right * max(g, 0)`` with ``g`` an affine row shifted so that the breakpoint
is zero, and ``low < 0 < high`` proven bounds on it. ReLU, leaky ReLU, absolute value and a clip that can only reach
one of its ends are all kinks, so a formulation is written once. Steps, which jump, come apart from them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nnembed.aliases import Array, Index, Mask
from nnembed.block import Role
from nnembed.bounds.box import Bounds, contenders
from nnembed.builder import BlockBuilder, Piece, Rows
from nnembed.errors import BoxError, CoefficientWarning
from nnembed.fills import Above, AtLeast, Winner
from nnembed.ir.nodes import Activation, Clip, Kink, Max, Node, Step
from nnembed.matrices import stack
from nnembed.presolve import drowned, units, visible


@dataclass(frozen=True, eq=False)
class Kinks:
    """Open neurons of a layer, k of them; arrays have shape (k,)."""

    layer: str
    tensor: str  # pre-activation
    output: str
    elements: Index
    pre: Rows  # g, shifted
    low: Array
    high: Array
    left: Array
    right: Array
    threshold: Array  # unshifted breakpoint
    value: Array  # y at the breakpoint

    def above(self) -> Above:
        """Return the rule that fills the binaries."""
        return Above(self.tensor, self.elements, self.threshold)


@dataclass(frozen=True, eq=False)
class TwoKinks:
    """Open neurons of a clip that can reach both ends; ``low < 0`` and ``high > span``, shifted by the lower end."""

    layer: str
    tensor: str
    output: str
    elements: Index
    pre: Rows
    low: Array
    high: Array
    span: Array
    threshold: Array


@dataclass(frozen=True, eq=False)
class Steps:
    """Open neurons of a layer of steps; ``low < 0 <= high``. The formulation makes z of them, y is made of z here.

    `unit` is what g, `low` and `high` have been divided by.
    """

    layer: str
    tensor: str
    elements: Index
    pre: Rows
    low: Array
    high: Array
    unit: Array

    def columns(self, block: BlockBuilder, *, integer: bool = True) -> Index:
        """Add the columns z: one where ``g >= 0``, else zero."""
        fill = AtLeast(self.tensor, self.elements)
        own = (self.layer, Role.INDICATOR, self.tensor, self.elements)
        return block.columns(*own, 0.0, 1.0, fill, integer=integer)


def two_sides(k: Steps, block: BlockBuilder, *, margin: float = 0.0, integer: bool = True) -> Index:
    """Return the columns z of steps after writing ``L (1 - z) <= g <= (U + m) z - m``; see `formulations.step`."""
    z, m = k.columns(block, integer=integer), margin / k.unit
    block.add([k.pre.matrix, block.unit(z, k.low).matrix], k.low - k.pre.constant, np.inf)
    block.add([k.pre.matrix, block.unit(z, -(k.high + m)).matrix], -np.inf, -m - k.pre.constant)
    return z


def relaxed_sides(k: Steps, block: BlockBuilder) -> Index:
    """Return the columns z, continuous: the hull of every step over the range of g."""
    return two_sides(k, block, integer=False)


def emit_activation(
    node: Activation,
    bounds: Bounds,
    block: BlockBuilder,
    kinks: Callable[[Kinks, BlockBuilder], Rows],
    two_kinks: Callable[[TwoKinks, BlockBuilder], Rows],
    *,
    steps: Callable[[Steps, BlockBuilder], Index] = two_sides,
    finite: bool = True,
) -> None:
    """Define the output of an elementwise activation; only open neurons reach `kinks`, `two_kinks` and `steps`.

    `finite` refuses infinite bounds, for formulations that make coefficients of them.
    """
    if finite:
        require_finite(node, bounds)
    low, high = bounds.low[node.input].ravel(), bounds.high[node.input].ravel()
    opened = bounds.open(node).ravel()
    if isinstance(node, Kink):
        left, right = (np.tile(s, bounds.batch) for s in (node.left, node.right))
        zero = np.zeros(len(low))
        slope = np.where(low >= 0, right, np.where(high <= 0, left, right))
        pieces = _linear(node, block, np.flatnonzero(~opened), slope, zero)
        pieces += _kinks(node, block, opened, (low, high), left, right, zero, zero, kinks)
    elif isinstance(node, Clip):
        pieces = _clip(node, block, (low, high), opened, kinks, two_kinks)
    elif isinstance(node, Step):
        pieces = _steps(node, block, (low, high), opened, steps)
    else:
        raise TypeError(f"{node.kind} is no clip, no kink and no step")
    block.define(node.output, pieces)


def _linear(node: Activation, block: BlockBuilder, which: Index, slope: Array, constant: Array) -> list[Piece]:
    """Neurons on one known piece: ``slope * pre + constant``, no column, no row."""
    flat = which[slope[which] == 0]
    moving = which[slope[which] != 0]
    nothing = block.unit(np.zeros(len(flat), dtype=np.intp), 0.0).matrix
    nothing.eliminate_zeros()
    pieces = [Piece(flat, Rows(nothing, constant[flat]))]
    if len(moving):
        rows = block.expression(node.input, moving)
        if (slope[moving] != 1).any():
            rows = rows.scaled(slope[moving])
        pieces.append(Piece(moving, Rows(rows.matrix, rows.constant + constant[moving])))
    return pieces


def _kinks(
    node: Activation,
    block: BlockBuilder,
    mask: np.ndarray,
    bounds: tuple[Array, Array],
    left: Array,
    right: Array,
    threshold: Array,
    value: Array,
    emit: Callable[[Kinks, BlockBuilder], Rows],
) -> list[Piece]:
    """Neurons with one open breakpoint at `threshold`, where the output is `value`."""
    i = np.flatnonzero(mask)
    if not len(i):
        return []
    below, above = threshold[i] - bounds[0][i], bounds[1][i] - threshold[i]
    with np.errstate(invalid="ignore"):
        extent = np.fmax(np.abs(left[i]) * below, np.abs(right[i]) * above)
    pre, low, high, unit = _shifted(node, block, i, bounds, threshold[i], extent)
    kinks = Kinks(
        layer=node.name,
        tensor=block.in_units(node.input, i, unit),
        output=block.in_units(node.output, i, unit),
        elements=i,
        pre=pre,
        low=low,
        high=high,
        left=left[i],
        right=right[i],
        threshold=threshold[i] / unit,
        value=value[i] / unit,
    )
    return [_original(i, emit(kinks, block), unit, value[i])]


def _shifted(
    node: Activation, block: BlockBuilder, i: Index, bounds: tuple[Array, Array], threshold: Array, extent: Array
) -> tuple[Rows, Array, Array, Array]:
    """Return the pre-activations with their breakpoint at zero and their bounds, divided by units of a sane size.

    `extent` is how far the outputs may move, which must not vanish in these units.

    Kinks and clips are positively homogeneous around a breakpoint, so formulations never see the units, which are
    powers of two and therefore exact.
    """
    pre = block.expression(node.input, i)
    low, high = bounds[0][i] - threshold, bounds[1][i] - threshold
    size = np.maximum(np.abs(low), np.abs(high))
    unit = visible(units(low, high, pre.matrix), size, extent)
    if (lost := drowned(unit, extent)).any():
        block.doubt(node.name)
        worst = int(np.argmax(np.where(lost, size / np.where(lost, extent, 1.0), 0.0)))
        warnings.warn(
            f"layer {node.name!r}: inputs up to {size[worst]:.1e}, but outputs that move by {extent[worst]:.1e} only: "
            "solvers cannot tell that apart, so what they prove will not count; tighten the bounds of the network's "
            "inputs or the bounds= method, or rescale the layer",
            CoefficientWarning,
            stacklevel=2,
        )
    shifted = Rows(pre.matrix, pre.constant - threshold)
    if (unit == 1.0).all():
        return shifted, low, high, unit
    return shifted.scaled(1.0 / unit), low / unit, high / unit, unit


def _original(i: Index, rows: Rows, unit: Array, value: Array) -> Piece:
    """Return what a formulation made of neurons in units as their outputs."""
    rows = rows if (unit == 1.0).all() else rows.scaled(unit)
    return Piece(i, Rows(rows.matrix, rows.constant + value))


def _clip(
    node: Clip,
    block: BlockBuilder,
    bounds: tuple[Array, Array],
    opened: np.ndarray,
    kinks: Callable[[Kinks, BlockBuilder], Rows],
    two_kinks: Callable[[TwoKinks, BlockBuilder], Rows],
) -> list[Piece]:
    low, high = bounds
    floor, ceiling = (np.tile(s, len(low) // len(node.lower)) for s in (node.lower, node.upper))
    bottom, top = opened & (low < floor) & (high > floor), opened & (low < ceiling) & (high > ceiling)
    slope = np.where((low >= floor) & (high <= ceiling), 1.0, 0.0)
    constant = np.where(slope == 1, 0.0, np.where(high <= floor, floor, ceiling))
    zero, one = np.zeros(len(low)), np.ones(len(low))
    pieces = _linear(node, block, np.flatnonzero(~opened), slope, constant)
    pieces += _kinks(node, block, bottom & ~top, bounds, zero, one, floor, floor, kinks)
    pieces += _kinks(node, block, top & ~bottom, bounds, one, zero, ceiling, ceiling, kinks)
    i = np.flatnonzero(bottom & top)
    if len(i):
        pre, least, most, unit = _shifted(node, block, i, bounds, floor[i], ceiling[i] - floor[i])
        names = block.in_units(node.input, i, unit), block.in_units(node.output, i, unit)
        span = (ceiling[i] - floor[i]) / unit
        two = TwoKinks(node.name, *names, i, pre, least, most, span, floor[i] / unit)
        pieces.append(_original(i, two_kinks(two, block), unit, floor[i]))
    return pieces


def emit_steps(node: Step, bounds: Bounds, block: BlockBuilder, steps: Callable[[Steps, BlockBuilder], Index]) -> None:
    """Define the output of a layer of steps, for formulations of nothing else."""
    require_finite(node, bounds)
    sides = bounds.low[node.input].ravel(), bounds.high[node.input].ravel()
    block.define(node.output, _steps(node, block, sides, bounds.open(node).ravel(), steps))


def _steps(
    node: Step,
    block: BlockBuilder,
    bounds: tuple[Array, Array],
    opened: np.ndarray,
    emit: Callable[[Steps, BlockBuilder], Index],
) -> list[Piece]:
    """Return steps as a known value or ``low + (high - low) z``; only the sign of g counts, so y needs no units."""
    n = len(opened)
    below, above = (np.tile(s, block.batch) for s in (node.low, node.high))
    pieces = _linear(node, block, np.flatnonzero(~opened), np.zeros(n), np.where(bounds[0] >= 0, above, below))
    i = np.flatnonzero(opened)
    if len(i):
        extent = np.maximum(-bounds[0][i], bounds[1][i])
        pre, low, high, unit = _shifted(node, block, i, bounds, np.zeros(len(i)), extent)
        steps = Steps(node.name, block.in_units(node.input, i, unit), i, pre, low, high, unit)
        z = emit(steps, block)
        jump = (above - below)[i]
        pieces.append(Piece(i, Rows(block.unit(z, jump).matrix, below[i])))
    return pieces


@dataclass(frozen=True, eq=False)
class Contest:
    """Open groups of a maximum; members are listed one after the other, `owner` says which group (0..k-1) each is in.

    `own` are the k output elements, `member` the flat positions of the members in the input tensor.
    """

    layer: str
    tensor: str
    output: str
    own: Index
    member: Index
    owner: Index
    rows: Rows
    low: Array
    high: Array

    def some(self, groups: Mask) -> Contest:
        """Return the groups of a mask."""
        kept = groups[self.owner]
        return replace(
            self,
            own=self.own[groups],
            member=self.member[kept],
            owner=(np.cumsum(groups) - 1)[self.owner[kept]],
            rows=self.rows.take(np.flatnonzero(kept)),
            low=self.low[kept],
            high=self.high[kept],
        )

    def winner(self) -> Winner:
        """Return the rule that fills the binaries."""
        return Winner(self.tensor, self.member, self.owner)


def emit_max(
    node: Max,
    bounds: Bounds,
    block: BlockBuilder,
    contest: Callable[[Contest, BlockBuilder], Rows],
    *,
    finite: bool = True,
) -> None:
    """Define the output of a maximum; groups with a proven winner are that member, the others reach `contest`."""
    if finite:
        require_finite(node, bounds)
    low, high = bounds.low[node.input], bounds.high[node.input]
    alive = contenders(node, low, high)
    member = (np.arange(bounds.batch) * low.shape[1])[:, None, None] + node.groups[None]
    count = alive.sum(axis=-1)
    decided = np.flatnonzero((count == 1).ravel())
    winner = np.take_along_axis(member, alive.argmax(axis=-1)[..., None], axis=-1).ravel()
    pieces = [Piece(decided, block.expression(node.input, winner[decided]))]
    own = np.flatnonzero((count > 1).ravel())
    if len(own):
        chosen = alive.reshape(-1, alive.shape[-1])[own]
        flat = member.reshape(-1, alive.shape[-1])[own][chosen]
        owner = np.repeat(np.arange(len(own)), chosen.sum(axis=1))
        rows = member_rows(node, block, flat)
        shape = Contest(
            node.name, node.input, node.output, own, flat, owner, rows, low.ravel()[flat], high.ravel()[flat]
        )
        pieces.append(Piece(own, contest(shape, block)))
    block.define(node.output, pieces)


def member_rows(node: Node, block: BlockBuilder, flat: Index) -> Rows:
    """Return the members' rows; a long one is used twice or more, so it gets a column (fewer nonzeros)."""
    distinct, where = np.unique(flat, return_inverse=True)
    rows = block.expression(node.inputs[0], distinct)
    long = np.diff(rows.matrix.indptr) > 3
    if not long.any():
        return rows.take(where)
    columns = block.materialise(node.name, Role.PRE, node.inputs[0], distinct[long])
    short = rows.take(np.flatnonzero(~long))
    own = block.unit(columns)
    order = np.empty(len(distinct), dtype=np.intp)
    order[np.flatnonzero(~long)] = np.arange(len(short))
    order[np.flatnonzero(long)] = len(short) + np.arange(len(own))
    return join(short, own, block.width).take(order).take(where)


def join(first: Rows, second: Rows, width: int) -> Rows:
    """Return the rows of both, below each other."""
    return Rows(stack([first.matrix, second.matrix], width), np.concatenate([first.constant, second.constant]))


def require_finite(node: Node, bounds: Bounds) -> None:
    """Refuse infinite bounds before they become a coefficient.

    Raises
    ------
    BoxError
        Naming the layer; infinite bounds come from an infinite input box.
    """
    source = node.inputs[0]
    if not (np.isfinite(bounds.low[source]).all() and np.isfinite(bounds.high[source]).all()):
        raise BoxError(f"layer {node.name!r} has infinite pre-activation bounds; give every input finite bounds")
