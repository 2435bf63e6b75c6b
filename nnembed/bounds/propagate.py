"""Feasibility-based tightening: the rows of the user's model, carried through the network both ways.

Rows narrow the inputs, intervals carry that forward; rows and bounds on the outputs narrow them, and what is narrower
than the forward pass explains goes backwards: through an affine node as propagation over its rows, through an
activation as the preimage of a range. Beside that, every requirement on outputs is made a linear row over the inputs
by the backward bounds of CROWN (a line below the function must stay below what the model allows), which loses far less
than intervals do. All of it repeats while it pays.

The bounds hold for the points of the region only. Where it proves that the region has no point, the bounds of the box
are returned: the solver will say so with better words.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.bounds.backward import Backward
from nnembed.bounds.box import Bounds, Provenance, Region, contenders
from nnembed.bounds.interval import UNIT, narrow, node_interval
from nnembed.bounds.propagate_rows import RowSystem, settle, system, uncrossed, worth
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink, Max, Node, Round, Step
from nnembed.matrices import relabel, stack
from nnembed.options import Budget, Clock

_SWEEPS = 3
_ANOTHER = 0.03  # another sweep where inputs, outputs or the model's columns have lost this part of a range
_MOST_ENTRIES = 4_000_000  # coefficients of one step backwards; more would cost more than it brings
_MOST_LINES = 2_000_000  # coefficients of the rows that CROWN makes of requirements on outputs


class Fbbt:
    """Propagation of the model's rows through the network, both ways."""

    name = "fbbt"
    summary = "the model's own rows, propagated forwards and backwards through the network"
    sound = True
    cost = 5
    uses_region = True

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`. Without a region they are intervals."""
        started, clock = time.perf_counter(), budget.start()
        low, high = dict(bounds.low), dict(bounds.high)
        if bounds.region is None or not bounds.complete:
            for node in network.nodes:
                lo, hi = node_interval(node, [(low[t], high[t]) for t in node.inputs])
                narrow(node.output, lo, hi, (low, high))
        if bounds.region is not None:
            low, high = _Sweep(network, bounds.region, low, high).run(clock) or (low, high)
        return bounds.intersect(low, high, Provenance(self.name, time.perf_counter() - started, -1))


@dataclass(eq=False)
class _Sweep:
    """One network with a region.

    The unknowns z are the user's columns, then all input entries, then all output entries, both in block order.
    """

    network: Network
    region: Region
    low: dict[str, Array]
    high: dict[str, Array]
    touched: dict[str, Mask] = field(default_factory=dict)  # what the region has narrowed

    def __post_init__(self) -> None:
        """Tie the user's columns to inputs and outputs."""
        region = self.region
        k, (n, m) = region.matrix.shape[1], (region.inputs.shape[0], len(region.outputs))
        self.width, self.first = k + n + m, (k, k + n)
        self.batch = len(next(iter(self.low.values())))
        known = np.flatnonzero(region.outputs >= 0)
        one, other = np.arange(n), np.arange(len(known))
        shares = sp.csr_array((-np.ones(n), (one, k + one)), shape=(n, self.width))
        inputs = sp.csr_array(relabel(region.inputs, np.arange(k), self.width) + shares)
        ends = np.concatenate([region.outputs[known], k + n + known])
        signs = np.concatenate([np.ones(len(known)), -np.ones(len(known))])
        outputs = sp.csr_array((signs, (np.concatenate([other, other]), ends)), shape=(len(known), self.width))
        own = relabel(region.matrix, np.arange(k), self.width)
        none = np.zeros(len(known))
        matrix = stack([own, inputs, outputs], self.width)
        lower = np.concatenate([region.row_lower, -region.constant, none])
        self.ties = system(matrix, lower, np.concatenate([region.row_upper, -region.constant, none]))
        self.u = region.lower.copy(), region.upper.copy()

    def run(self, clock: Clock) -> tuple[dict[str, Array], dict[str, Array]] | None:
        """Return the bounds, None where there is no point."""
        for _ in range(_SWEEPS):
            before = self._ends()
            if not (self._rows() and self._forward() and self._backward(clock)):
                return None
            if clock.expired or not worth(*before, *self._ends(), _ANOTHER).any():
                break
        return self.low, self.high

    # ---- rows ---------------------------------------------------------------------------------

    def _ends(self) -> tuple[Array, Array]:
        """Return the bounds of z."""
        names = [s.name for s in (*self.network.inputs, *self.network.outputs)]
        sides = [
            np.concatenate([u, *(side[t].ravel() for t in names)])
            for u, side in zip(self.u, (self.low, self.high), strict=True)
        ]
        return sides[0], sides[1]

    def _rows(self) -> bool:
        """Propagate over the user's rows and the lines; False where nothing is left."""
        low, high = self._ends()
        rows = self.ties
        if (extra := self._lines(low, high)) is not None:
            matrix = stack([rows.matrix, extra.matrix], self.width)
            sides = np.concatenate([rows.lower, extra.lower]), np.concatenate([rows.upper, extra.upper])
            rows = RowSystem(matrix, *sides)
        found = settle(rows, low, high)
        if found is None:
            return False
        cut = self.first[0]
        self.u = found[0][:cut], found[1][:cut]
        start = cut
        for spec in (*self.network.inputs, *self.network.outputs):
            part = slice(start, start + self.batch * spec.size)
            shape = (self.batch, spec.size)
            if not self._narrow(spec.name, found[0][part].reshape(shape), found[1][part].reshape(shape)):
                return False
            start = part.stop
        return True

    def _lines(self, low: Array, high: Array) -> RowSystem | None:
        """Return the requirements on outputs as rows over inputs and the user's columns.

        For a row ``a y + b u <= s`` with ``A x + c <= a y`` on the box: ``A x + b u <= s - c``; the other side with
        ``-a y``; and ``A x + c <= y`` for every output that the user's model has a column for, both ways.
        """
        k, m, region = self.first[0], len(self.region.outputs), self.region
        on, (data, owner, columns), upper = self.asked
        # An output's own column asks for something where it is narrower than the network's output.
        known = np.flatnonzero(region.outputs >= 0)
        tight = known[self._asks(known, low, high)]
        one, before = np.arange(len(tight)), len(upper)
        if self._many(before + 2 * len(tight)):
            return None
        unit = np.zeros((len(tight), m))
        unit[one, tight] = 1.0
        on, upper = np.concatenate([on, unit, -unit]), np.concatenate([upper, np.zeros(2 * len(tight))])
        if not len(upper):
            return None
        coefficients, constant = self._below(on)
        place, entry = np.nonzero(coefficients)
        sides = np.ones(len(tight))
        data = np.concatenate([data, -sides, sides, coefficients[place, entry]])
        owner = np.concatenate([owner, before + one, before + len(tight) + one, place])
        columns = np.concatenate([columns, region.outputs[tight], region.outputs[tight], k + entry])
        matrix = sp.csr_array((data, (owner, columns)), shape=(len(upper), self.width))
        pad = 4 * UNIT * (self.batch + 1) * (np.abs(constant).sum(axis=0) + np.abs(upper))
        return system(matrix, np.full(len(upper), -np.inf), upper - constant.sum(axis=0) + pad)

    def _below(self, on: Array) -> tuple[Array, Array]:
        """Return functions of all inputs, (rows, inputs), and constants (batch, rows), below ``on @ outputs``."""
        count, start = len(on), 0
        live: dict[str, Array] = {}
        for spec in self.network.outputs:
            part = on[:, start : start + self.batch * spec.size].reshape(count, self.batch, spec.size)
            part = np.ascontiguousarray(part.transpose(1, 0, 2))
            live[spec.name] = live[spec.name] + part if spec.name in live else part
            start += self.batch * spec.size
        found, constant = Backward(self.network, self.low, self.high).lines(live, np.zeros((self.batch, count)))
        parts = [
            np.broadcast_to(found.get(s.name, np.zeros(1)), (self.batch, count, s.size))
            .transpose(1, 0, 2)
            .reshape(count, -1)
            for s in self.network.inputs
        ]
        return np.hstack(parts), constant

    @cached_property
    def asked(self) -> tuple[Array, tuple[Array, Index, Index], Array]:
        """The rows with outputs, both ways: coefficients on outputs, on the user's columns (entries), upper sides."""
        region, m = self.region, len(self.region.outputs)
        known = np.flatnonzero(region.outputs >= 0)
        place = np.full(region.matrix.shape[1], -1, dtype=np.intp)
        place[region.outputs[known]] = known
        entries = sp.coo_array(region.matrix)
        (rows, columns), data = entries.coords, entries.data
        output = place[columns] >= 0
        used, number = np.unique(rows[output]), np.full(region.matrix.shape[0], -1, dtype=np.intp)
        if self._many(2 * len(used)):
            used, output = used[:0], np.zeros_like(output)
        number[used] = np.arange(len(used))
        on = np.zeros((len(used), m))
        np.add.at(on, (number[rows[output]], place[columns[output]]), data[output])
        other = ~output & (number[rows] >= 0)
        upper = np.concatenate([region.row_upper[used], -region.row_lower[used]])
        kept = np.isfinite(upper)
        renumber = np.cumsum(kept) - 1
        owner = np.concatenate([number[rows[other]], len(used) + number[rows[other]]])
        off = np.concatenate([data[other], -data[other]])
        both = np.concatenate([columns[other], columns[other]])
        good = kept[owner]
        triplets = off[good], renumber[owner[good]], both[good]
        return np.concatenate([on, -on])[kept], triplets, upper[kept]

    def _many(self, count: int) -> bool:
        """Return whether lines for so many rows would take too long."""
        return count * self.batch * max(s.size for s in self.network.tensors.values()) > _MOST_LINES

    def _asks(self, known: Index, low: Array, high: Array) -> Mask:
        """Return which of the outputs with a column of the user's are bounded by it more than by the network."""
        at, own = self.region.outputs[known], self.first[1] + known
        return worth(low[own], high[own], np.maximum(low[at], low[own]), np.minimum(high[at], high[own]))

    # ---- through the network --------------------------------------------------------------------

    def _narrow(self, tensor: str, low: Array, high: Array) -> bool:
        """Intersect the bounds of a tensor; False where they become empty."""
        old = self.low[tensor], self.high[tensor]
        new = uncrossed(*old, np.maximum(old[0], low), np.minimum(old[1], high))
        if new is None:
            return False
        changed = worth(*old, *new)
        if changed.any():
            self.low[tensor], self.high[tensor] = new
            self.touched[tensor] = self.touched[tensor] | changed if tensor in self.touched else changed
        return True

    def _forward(self) -> bool:
        """Carry what has become narrower through all nodes."""
        for node in self.network.nodes:
            if not any(t in self.touched for t in node.inputs):
                continue
            lo, hi = node_interval(node, [(self.low[t], self.high[t]) for t in node.inputs])
            if not self._narrow(node.output, lo, hi):
                return False
        return True

    def _backward(self, clock: Clock) -> bool:
        """Carry what has become narrower back to the inputs."""
        for node in reversed(self.network.nodes):
            if node.output not in self.touched or clock.expired:
                continue
            if isinstance(node, Affine):
                good = self._through_affine(node)
            else:
                low, high = preimage(node, *(side[t] for t in (node.output, node.inputs[0]) for side in self._sides))
                good = self._narrow(node.inputs[0], low, high)
            if not good:
                return False
        return True

    @property
    def _sides(self) -> tuple[dict[str, Array], dict[str, Array]]:
        return self.low, self.high

    def _through_affine(self, node: Affine) -> bool:
        """Propagate over the rows of the entries that the region has narrowed."""
        point, entry = np.nonzero(self.touched[node.output])
        if len(entry) * sum(op.terms for op in node.operators) > _MOST_ENTRIES:
            return True
        parts, width = [], 0
        for operator in node.operators:
            matrix = operator.csr(entry)
            n = operator.shape[1]
            shift = np.repeat(width + point * n, np.diff(matrix.indptr))
            width += self.batch * n
            parts.append((matrix, matrix.indices + shift))
        owners = [np.repeat(np.arange(len(entry)), np.diff(m.indptr)) for m, _ in parts]
        data, columns = np.concatenate([m.data for m, _ in parts]), np.concatenate([c for _, c in parts])
        rows = sp.csr_array((data, (np.concatenate(owners), columns)), shape=(len(entry), width))
        bias = node.bias[entry]
        low, high = self.low[node.output][point, entry] - bias, self.high[node.output][point, entry] - bias
        pad = 4 * UNIT * (np.abs(bias) + np.maximum(np.abs(low), np.abs(high)))
        before = [np.concatenate([side[t].ravel() for t in node.inputs]) for side in self._sides]
        after = system(rows, low - pad, high + pad).narrow(before[0], before[1])
        start = 0
        for tensor in node.inputs:
            shape = self.low[tensor].shape
            part = slice(start, start + self.low[tensor].size)
            if not self._narrow(tensor, after[0][part].reshape(shape), after[1][part].reshape(shape)):
                return False
            start = part.stop
        return True


def preimage(node: Node, low: Array, high: Array, below: Array, above: Array) -> tuple[Array, Array]:
    """Return bounds of the argument of an activation; they cross where no argument is left.

    Parameters
    ----------
    low, high : arrays (batch, n)
        Bounds of the output.
    below, above : arrays (batch, n_in)
        What is known of the argument.
    """
    if isinstance(node, Kink):
        right = _branch(node.right, low, high, np.maximum(below, 0.0), above)
        left = _branch(node.left, low, high, below, np.minimum(above, 0.0))
        return np.minimum(left[0], right[0]), np.maximum(left[1], right[1])
    if isinstance(node, Clip):
        low_in, high_in = np.where(low > node.lower, low, -np.inf), np.where(high < node.upper, high, np.inf)
        return np.maximum(below, low_in), np.minimum(above, high_in)
    if isinstance(node, Step):
        return _step_sides(node, low, high, below, above)
    if isinstance(node, Round):
        return _stair_sides(node, low, high, below, above)
    if isinstance(node, Max):
        return _members(node, low, high, below, above)
    return below, above


def _step_sides(node: Step, low: Array, high: Array, below: Array, above: Array) -> tuple[Array, Array]:
    """Return the arguments of steps in [below, above] whose value is in [low, high]; (inf, -inf) where none is.

    A value that rounding or a solver's tolerance could save is not taken away: a jump would make much of a hair. A
    little is left beyond the threshold, so that a step is never decided by what is asked of itself: it keeps its rows,
    and they are what holds its argument on this side.
    """
    pad = 1e-6 * (1 + np.maximum(np.abs(below), np.abs(above)))
    on, off = (
        (low <= v + 1e-6 * (1 + np.abs(v))) & (v - 1e-6 * (1 + np.abs(v)) <= high) for v in (node.high, node.low)
    )
    least = np.where(off, below, np.where(on, np.maximum(below, -pad), np.inf))
    return least, np.where(on, above, np.where(off, np.minimum(above, pad), -np.inf))


def _stair_sides(node: Round, low: Array, high: Array, below: Array, above: Array) -> tuple[Array, Array]:
    """Return the arguments of roundings in [below, above] whose value is in [low, high]; cf. `_step_sides`."""
    pad = 1e-6 * (1 + np.maximum(np.abs(below), np.abs(above)))
    first, last = (
        np.clip(rounded(side / node.scale + sign * 1e-6 * (1 + np.abs(side / node.scale))), node.low, node.high)
        for rounded, side, sign in ((np.ceil, low, -1.0), (np.floor, high, 1.0))
    )
    left, right = (first - 1 + node.shift) * node.step - pad, (last + node.shift) * node.step + pad
    least = np.where(first > node.low, np.maximum(below, left), below)
    most = np.where(last < node.high, np.minimum(above, right), above)
    none = first > last
    return np.where(none, np.inf, least), np.where(none, -np.inf, most)


def _branch(slope: Array, low: Array, high: Array, below: Array, above: Array) -> tuple[Array, Array]:
    """Return the arguments in [below, above] with ``low <= slope * argument <= high``; (inf, -inf) where none is."""
    flat = slope == 0
    steep = np.where(flat, 1.0, slope)
    one, other = low / steep, high / steep
    lo, hi = np.where(slope > 0, one, other), np.where(slope > 0, other, one)
    lo, hi = lo - 4 * UNIT * np.abs(lo), hi + 4 * UNIT * np.abs(hi)
    lo, hi = np.where(flat, below, np.maximum(lo, below)), np.where(flat, above, np.minimum(hi, above))
    gone = (lo > hi) | (flat & ((low > 0) | (high < 0)))
    return np.where(gone, np.inf, lo), np.where(gone, -np.inf, hi)


def _members(node: Max, low: Array, high: Array, below: Array, above: Array) -> tuple[Array, Array]:
    """Return bounds of the members of maxima: none is above its maximum, a sure winner is not below it."""
    members = node.groups
    new_low, new_high = below.copy(), above.copy()
    batch = np.arange(len(below))[:, None]
    for column in members.T:
        np.minimum.at(new_high, (batch, column[None]), high)
    alive = contenders(node, below, above)
    sure = alive.sum(axis=-1) == 1
    winner = members[np.arange(len(members)), alive.argmax(axis=-1)]
    point, group = np.nonzero(sure)
    np.maximum.at(new_low, (point, winner[point, group]), low[point, group])
    return new_low, new_high
