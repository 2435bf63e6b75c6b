"""The lifted program: the user's own rows and columns, and two columns per kink, ``g = up - down``, both at least zero.

A pattern is nothing but column bounds: where a kink is on, `down` is fixed at zero, where it is off, `up` is. Rows are
the networks' original weights, so one loaded program serves all regions and a solver restarts from its last basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array, Index
from nnembed.errors import UnsupportedFeature
from nnembed.heuristics.scene import Scene
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink, Max, Node
from nnembed.matrices import relabel
from nnembed.problem import Problem

from nnembed_walk.kinks import kink_ranges


@dataclass(frozen=True, eq=False)
class Lifted:
    """``max cost @ x`` over rows and columns; see the module.

    Attributes
    ----------
    matrix : CSR array (rows, columns)
    row_lower, row_upper : arrays (rows,)
    lower, upper : arrays (columns,)
    cost : array (columns,)
        Higher is better.
    integer : bool array (columns,)
        The user's own integers.
    kept : int array
        Problem columns of the first columns: all but the inner ones of blocks.
    drivers : int array
        Columns of the scene's drivers.
    up, down : int arrays (kinks,)
        Columns of the two parts; -1 where a proven bound says the part is zero.
    low, high : arrays (kinks,)
        Proven bounds of g.
    own_rows : int
        The first rows are the user's.
    """

    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    cost: Array
    integer: np.ndarray
    kept: Index
    drivers: Index
    up: Index
    down: Index
    low: Array
    high: Array
    own_rows: int

    @property
    def open(self) -> np.ndarray:
        """Mask of the kinks that bounds leave undecided."""
        return (self.up >= 0) & (self.down >= 0)

    def pattern_bounds(self, pattern: np.ndarray) -> tuple[Array, Array]:
        """Return upper bounds of `up` and `down` of the open kinks; where the pattern says neither (-1), both are."""
        opened = self.open
        p = pattern[opened]
        return np.where(p != 0, self.high[opened], 0.0), np.where(p != 1, -self.low[opened], 0.0)


Rows = tuple[sp.csr_array, Array]  # a tensor as affine rows over the columns, flat over the batch


def lifted(scene: Scene) -> Lifted:
    """Write the lifted program of a scene.

    Raises
    ------
    UnsupportedFeature
        If the user's own part has sets, conditional rows or a quadratic objective.
    """
    problem = scene.problem
    inner = np.zeros(problem.n_columns, dtype=bool)
    for placement in problem.placements:
        inner[placement.columns] = True
    inner[scene.visible] = False
    kept = np.flatnonzero(~inner)
    _refuse(problem, ~inner)
    own = _own_rows(problem, inner)
    low, high = kink_ranges(scene)
    writer = _Writer(low, high, len(kept), [problem.upper[kept]])
    writer.rows.append(sp.csr_array(sp.csc_array(problem.matrix[own])[:, kept]))
    low_sides, high_sides = [problem.row_lower[own]], [problem.row_upper[own]]
    for placement in problem.placements:
        flat = np.searchsorted(kept, placement.drivers)
        m = placement.matrix
        inputs = sp.csr_array((m.data, flat[m.indices], m.indptr), shape=(m.shape[0], writer.width))
        out, constant = writer.network(placement.embedding.network, placement.block.batch, inputs, placement.constant)
        written = np.searchsorted(kept, placement.columns[placement.block.outputs])
        tie = plus(out, -writer.units(written, np.ones(len(written))), writer.width)
        writer.add(tie, -constant)
    sides = np.concatenate([np.zeros(0), *writer.sides])
    width, sign = writer.width, scene.sign
    lower = np.zeros(width)
    lower[: len(kept)] = problem.lower[kept]
    cost, whole = np.zeros(width), np.zeros(width, dtype=bool)
    cost[: len(kept)], whole[: len(kept)] = sign * problem.cost[kept], problem.integer[kept]
    return Lifted(
        sp.csr_array(sp.vstack([wide(r, width) for r in writer.rows], format="csr")),
        np.concatenate([*low_sides, sides]),
        np.concatenate([*high_sides, sides]),
        lower,
        np.concatenate(writer.upper),
        cost,
        whole,
        kept,
        np.searchsorted(kept, scene.drivers),
        np.concatenate([np.zeros(0, np.intp), *writer.up]),
        np.concatenate([np.zeros(0, np.intp), *writer.down]),
        low,
        high,
        len(own),
    )


def _refuse(problem: Problem, kept: np.ndarray) -> None:
    """Refuse what linear programs over the kept columns cannot say."""
    sets = [*problem.sos1, *problem.complementarities, *problem.relus]
    if any(kept[s].all(axis=1).any() for s in sets if s.size) or any(kept[i.binary].any() for i in problem.indicators):
        raise UnsupportedFeature(
            "walks over linear regions take linear rows and integers of your own, no sets and no conditional rows; "
            "use heuristics='gradient-walk'"
        )
    nodes = (n for p in problem.placements for n in p.embedding.network.activations)
    if other := next((n for n in nodes if not isinstance(n, Kink | Clip | Max)), None):
        raise UnsupportedFeature(
            f"walks over linear regions do not take {other.kind} layers ({other.name!r}); use 'gradient-walk'"
        )
    if problem.quadratic is not None:
        raise UnsupportedFeature(
            "walks over linear regions need a linear objective; use heuristics='gradient-walk' for a quadratic one"
        )


def _own_rows(problem: Problem, inner: np.ndarray) -> Index:
    """Return the rows that involve no inner column of a block."""
    matrix = problem.matrix
    pattern = sp.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
    return np.flatnonzero(((pattern @ inner.astype(float)) == 0) & (np.diff(matrix.indptr) > 0))


@dataclass(eq=False)
class _Writer:
    """Collects columns and rows."""

    low: Array
    high: Array
    width: int
    upper: list[Array]
    rows: list[sp.csr_array] = field(default_factory=list)
    sides: list[Array] = field(default_factory=list)
    up: list[Index] = field(default_factory=list)
    down: list[Index] = field(default_factory=list)
    done: int = 0

    def network(self, network: Network, batch: int, inputs: sp.csr_array, constant: Array) -> Rows:
        """Write one network and return its outputs, joined in block order."""
        known: dict[str, Rows] = {}
        start = 0
        for spec in network.inputs:
            here = slice(start, start + batch * spec.size)
            known[spec.name] = inputs[here], constant[here]
            start = here.stop
        for node in network.nodes:
            if isinstance(node, Affine):
                known[node.output] = self._affine(node, batch, [known[t] for t in node.inputs])
            else:
                known[node.output] = self._activation(node, batch, known[node.inputs[0]])
        outputs = [known[s.name] for s in network.outputs]
        matrix = sp.vstack([wide(m, self.width) for m, _ in outputs], format="csr")
        return sp.csr_array(matrix), np.concatenate([c for _, c in outputs])

    def _affine(self, node: Affine, batch: int, sources: Sequence[Rows]) -> Rows:
        matrix: sp.csr_array | None = None
        constant = np.tile(node.bias, batch)
        for operator, (below, shift) in zip(node.operators, sources, strict=True):
            weights = operator.csr() if batch == 1 else sp.kron(sp.eye_array(batch), operator.csr(), format="csr")
            if (np.diff(below.indptr) == 1).all() and (below.data == 1.0).all():
                part = relabel(sp.csr_array(weights), below.indices, self.width)
            else:
                part = sp.csr_array(weights @ wide(below, self.width))
            matrix = part if matrix is None else plus(matrix, part, self.width)
            constant = constant + operator.apply(shift.reshape(batch, -1)).ravel()
        assert matrix is not None
        return matrix, constant

    def _activation(self, node: Node, batch: int, g: Rows) -> Rows:
        if isinstance(node, Kink):
            left, right = np.tile(node.left, batch), np.tile(node.right, batch)
            up, down = self.kink(g, left != 0)
            return plus(self.units(up, right), -self.units(down, left), self.width), np.zeros(len(up))
        if isinstance(node, Clip):
            floor, ceiling = np.tile(node.lower, batch), np.tile(node.upper, batch)
            first, _ = self.kink((g[0], g[1] - floor))
            second, _ = self.kink((g[0], g[1] - ceiling))
            one = np.ones(len(floor))
            return plus(self.units(first, one), -self.units(second, one), self.width), floor
        assert isinstance(node, Max)
        size = len(g[1]) // batch
        members = (np.arange(batch)[:, None, None] * size + node.groups[None]).reshape(-1, node.groups.shape[1])
        best: Rows = g[0][members[:, 0]], g[1][members[:, 0]]
        for column in members.T[1:]:
            step = plus(g[0][column], -wide(best[0], self.width), self.width), g[1][column] - best[1]
            up, _ = self.kink(step)
            best = plus(best[0], self.units(up, np.ones(len(up))), self.width), best[1]
        return best

    def kink(self, g: Rows, needed: np.ndarray | bool = False) -> tuple[Index, Index]:
        """Split rows into two parts; a kink that is off for good has no row unless its lower part is `needed`."""
        here = slice(self.done, self.done + len(g[1]))
        self.done = here.stop
        low, high = self.low[here], self.high[here]
        used = (high > 0) | (np.broadcast_to(needed, high.shape) & (low < 0))
        before = self.width
        up, down = self._part(np.where(used, high, 0.0)), self._part(np.where(used, -low, 0.0))
        one = np.ones(len(up))
        new = sp.csr_array(sp.csc_array(plus(-self.units(up, one), self.units(down, one), self.width))[:, before:])
        row = sp.hstack([wide(g[0], before), new], format="csr")
        self.add(row if used.all() else row[used], -g[1][used])
        self.up.append(up)
        self.down.append(down)
        return up, down

    def _part(self, limit: Array) -> Index:
        """Add columns in [0, limit] where the limit is positive; -1 elsewhere."""
        own = np.flatnonzero(limit > 0)
        columns = np.full(len(limit), -1)
        columns[own] = self.width + np.arange(len(own))
        self.width += len(own)
        self.upper.append(limit[own])
        return columns

    def units(self, columns: Index, factor: Array) -> sp.csr_array:
        """Return rows ``factor[i] * column[i]``, empty where there is no column or no factor."""
        own = (columns >= 0) & (factor != 0)
        indptr = np.concatenate([[0], np.cumsum(own)])
        return sp.csr_array((factor[own], columns[own], indptr), shape=(len(columns), self.width))

    def add(self, matrix: sp.csr_array, side: Array) -> None:
        """Add equality rows."""
        self.rows.append(matrix)
        self.sides.append(side)


def plus(a: sp.csr_array, b: sp.csr_array, width: int) -> sp.csr_array:
    """Return the sum of two matrices, as wide as `width`."""
    return sp.csr_array(wide(a, width) + wide(b, width))


def wide(matrix: sp.csr_array, width: int) -> sp.csr_array:
    """Return the matrix with `width` columns."""
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], width))
