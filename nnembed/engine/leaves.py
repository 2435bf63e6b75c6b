r"""Closing what prices leave open: choose one box per component so that the coupling rows hold.

Prices prove the optimum over mixtures of each component's points; with few components a gap is left. Here every
component s is in one of the boxes that its branch and bound has not excluded. On a box with z = 1 and d = v - centre,
linear bounds of the objective F and of the use U of the coupling rows hold:

    F >= f(d),   low(d) <= U <= high(d),   F + l U >= g(d)    (l the best prices; tighter than F and U apart)

so the mixed-integer problem ``min sum F_s,  sum U_s within the sides`` is a relaxation. Its linear relaxation is as
good as the prices, its integer optimum closes the gap as the chosen boxes are split.

Source: the multiple-choice form of a piecewise relaxation, Vielma, Ahmed and Nemhauser, Operations Research 58 (2010).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.engine.boxes import PAD, BoxBound, Boxes
from nnembed.engine.dual import Dual
from nnembed.engine.rowlist import Entry, RowList
from nnembed.engine.spatial import Tree
from nnembed.matrices import relabel, stack
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Solution

_ROUNDS = 400
_FIRST = 16  # boxes per component before the first choice
_SOLVER = 4e-6  # absolute: what a solver may prune below its best value, in units of the scale
_ZOOMS = 3  # times the box of a chosen point is split per round


@dataclass(frozen=True, eq=False)
class Share:
    """Rows of one component over its own columns; `places` are columns by meaning.

    Attributes
    ----------
    z : int array (s,), d : int array (s, k), use : int array (rows,)
    """

    rows: tuple[sp.csr_array, Array, Array]
    lower: Array
    upper: Array
    integer: np.ndarray
    z: Index
    d: Index
    worth: int
    use: Index


def share_of(tree: Tree, kept: Index, couple: Array, prices: Array, scale: float) -> Share:
    """Return the relaxation of a component over some of its boxes.

    Parameters
    ----------
    tree : Tree
    kept : int array (s,)
        Leaves.
    couple : array (r, k + m)
        The coupling rows over the component's columns.
    prices : array (r,)
    scale : float
        The column of the objective is in units of this.
    """
    part, boxes = tree.part, Boxes(tree.part, tree.low[kept], tree.high[kept])
    s, k, r = len(kept), part.k, len(couple)
    whole = np.flatnonzero(part.integer)
    z, d, use, w = np.split(np.arange(s + s * k + r + len(whole)), np.cumsum([s, s * k, r]))
    worth = s + s * k + r + len(whole)
    d = d.reshape(s, k)
    rows = RowList(worth + 1)
    each, wide = np.arange(s), np.arange(s * k)
    flat, radius = d.ravel(), boxes.radius.ravel()
    rows.add(1, [(np.zeros(s, dtype=np.intp), z, 1.0)], 1.0, 1.0)
    rows.add(s * k, [(wide, flat, 1.0), (wide, z.repeat(k), -radius)], -np.inf, 0.0)
    rows.add(s * k, [(wide, flat, 1.0), (wide, z.repeat(k), radius)], 0.0, np.inf)
    for a, least, most in zip(part.rows, part.row_lower, part.row_upper, strict=True):
        at = boxes.centre @ a
        slack = 1e-9 * (1 + np.abs(boxes.centre) @ np.abs(a))
        for side, low, high in ((most + slack, -np.inf, 0.0), (least - slack, 0.0, np.inf)):
            if np.isfinite(side).all():
                entries = [(each.repeat(k), flat, np.tile(a, s)), (each, z, at - side)]
                rows.add(s, entries, low, high)
    for i, column in zip(whole, w, strict=True):
        one = np.zeros(s, dtype=np.intp)
        rows.add(1, [(one, z, boxes.centre[:, i]), (one, d[:, i], 1.0), (one[:1], np.array([column]), -1.0)], 0.0, 0.0)
    _worths(rows, boxes, (couple, prices, scale), (z, d, use, worth))
    _uses(rows, boxes, couple, (z, d, use))
    ends = _use_range(boxes, couple)
    lower = np.concatenate([np.zeros(s), -radius, ends[0], part.lower[whole], [-np.inf]])
    upper = np.concatenate([np.ones(s), radius, ends[1], part.upper[whole], [np.inf]])
    integer = np.zeros(worth + 1, dtype=bool)
    integer[z] = integer[w] = True
    return Share(rows.result(), lower, upper, integer, z, d, worth, use)


def _worths(
    rows: RowList, boxes: Boxes, priced: tuple[Array, Array, float], places: tuple[Index, Index, Index, int]
) -> None:
    """Add what the objective is at least worth, without and with prices; a bend upwards by tangents."""
    (couple, prices, scale), (z, d, use, worth) = priced, places
    s, k = d.shape
    zero = np.zeros(s, dtype=np.intp)
    for price in (prices * 0.0, prices) if prices.any() else (prices,):
        constant, slope, bend = BoxBound(boxes, price @ couple).under
        down = (np.minimum(bend, 0) * boxes.radius**2).sum(axis=1)
        up = np.maximum(bend, 0)
        for t in (-1.0, 0.0, 1.0) if up.any() else (0.0,):
            at = t * boxes.radius
            value = constant + down - (up * at**2).sum(axis=1)
            value = value - PAD * (1 + np.abs(value) + (up * boxes.radius**2).sum(axis=1))
            entries: list[Entry] = [
                (zero[:1], np.array([worth]), 1.0),
                (zero[:1].repeat(len(use)), use, price / scale),
                (zero, z, -value / scale),
                (zero.repeat(k), d.ravel(), -(slope + 2 * up * at).ravel() / scale),
            ]
            rows.add(1, entries, 0.0, np.inf)


def _uses(rows: RowList, boxes: Boxes, couple: Array, places: tuple[Index, Index, Index]) -> None:
    """Add linear bounds of the use of every coupling row."""
    z, d, use = places
    s, k = d.shape
    a, b = boxes.lines(np.concatenate([couple, -couple]))
    zero, r = np.zeros(s, dtype=np.intp), len(use)
    for i in range(2 * r):
        sign = 1.0 if i < r else -1.0
        entries: list[Entry] = [
            (zero[:1], use[[i % r]], sign),
            (zero, z, -b[:, i]),
            (zero.repeat(k), d.ravel(), -a[:, i].ravel()),
        ]
        rows.add(1, entries, 0.0, np.inf)


def _use_range(boxes: Boxes, couple: Array) -> tuple[Array, Array]:
    low, high = boxes.range
    ends = np.stack([couple * low[:, None], couple * high[:, None]])
    size = PAD * (1 + np.abs(ends).max(axis=0).sum(axis=-1))
    least, most = ends.min(axis=0).sum(axis=-1) - size, ends.max(axis=0).sum(axis=-1) + size
    return least.min(axis=0), most.max(axis=0)


@dataclass(eq=False)
class LeafChoice:
    """The search; see the module.

    Attributes
    ----------
    dual : Dual
        Trees and prices of a search that has come to its end.
    offer : callable
        Takes the components' points (values of the decisions per component).
    target : callable
        Returns the objective of the best answer, in minimisation form, infinite without one.
    heard : callable
        Takes every better bound, in minimisation form.
    infeasible : bool
        Whether it was proved that no point meets the rows.
    """

    dual: Dual
    backend: Backend
    options: Options
    stopped: Callable[[], bool]
    offer: Callable[[list[Array]], None]
    target: Callable[[], float]
    heard: Callable[[float], None]
    infeasible: bool = False
    nodes: int = 0
    _dropped: float = field(default=np.inf)

    def run(self) -> None:
        """Choose, split and choose again, until bound and answer meet."""
        dual = self.dual
        dual.settle()
        dual.target = self.target()
        if dual.priced == -np.inf:
            return  # stopped before all components had the prices
        self._grow()
        for _ in range(_ROUNDS):
            kept = [self._kept(i) for i in range(len(dual.trees))]
            if self.stopped() or dual.closed:
                return
            if any(not len(k) for k in kept):
                self._told(np.inf)
                return
            scale = self._scale
            shares = [self._share(i, k, scale) for i, k in enumerate(kept)]
            if self.stopped():
                return
            found = self._choose(shares)
            self.nodes += found.nodes
            if found.status == "infeasible":
                self._told(np.inf)
                return
            if found.bound is not None:
                self._told((found.bound - _SOLVER) * scale + dual.components.offset)
            if found.x is None or self.stopped() or dual.closed:
                return
            if not self._refine(shares, kept, found.x):
                return

    def _told(self, bound: float) -> None:
        """Take a bound over the boxes kept."""
        bound = min(bound, self._dropped)
        if bound == np.inf:
            self.infeasible = not np.isfinite(self.dual.target)
            return
        if bound > self.dual.bound:
            self.dual.bound = bound
            self.heard(bound)

    def _kept(self, i: int) -> Index:
        """Return the leaves that may hold a point better than the target by what is allowed; note the others."""
        dual, tree = self.dual, self.dual.trees[i]
        total = dual.priced + (tree.bound - tree.lower)
        good = total < dual.target - 0.5 * dual.allowed
        if not good.all():
            self._dropped = min(self._dropped, float(total[~good].min()))
        return np.flatnonzero(good)

    def _grow(self) -> None:
        """Split the components' boxes until there are some to choose from."""
        for i, tree in enumerate(self.dual.trees):
            while not self.stopped():
                kept = self._kept(i)
                wide = kept[(tree.high[kept] > tree.low[kept]).any(axis=1)]
                if len(kept) >= _FIRST or not len(wide):
                    break
                tree.divide(wide)
            tree.renew(self._kept(i))

    def _share(self, i: int, kept: Index, scale: float) -> Share:
        return share_of(self.dual.trees[i], kept, self.dual.components.shares[i], self.dual.prices, scale)

    @property
    def _scale(self) -> float:
        """Size of the objective: solvers' tolerances are absolute."""
        known = [abs(v) for v in (self.dual.target, self.dual.bound, self.dual.priced) if np.isfinite(v)]
        parts = [1e-4 * abs(tree.lower) for tree in self.dual.trees if np.isfinite(tree.lower)]
        return 1e-2 * max(max(known, default=1.0), max(parts, default=0.0), 1e-9)

    def _choose(self, shares: list[Share]) -> Solution:
        components = self.dual.components
        starts = np.cumsum([0, *(s.worth + 1 for s in shares)])
        width = int(starts[-1])
        own = [relabel(s.rows[0], a + np.arange(s.worth + 1), width) for s, a in zip(shares, starts[:-1], strict=True)]
        r = len(components.rows)
        columns = np.concatenate([a + s.use for s, a in zip(shares, starts[:-1], strict=True)])
        shape = (np.ones(len(columns)), (np.tile(np.arange(r), len(shares)), columns.astype(np.intp)))
        couple = sp.csr_array(sp.coo_array(shape, shape=(r, width)))
        cost = np.zeros(width)
        cost[starts[1:] - 1] = 1.0
        problem = Problem(
            stack([*own, couple], width),
            np.concatenate([*(s.rows[1] for s in shares), components.row_lower]),
            np.concatenate([*(s.rows[2] for s in shares), components.row_upper]),
            np.concatenate([s.lower for s in shares]),
            np.concatenate([s.upper for s in shares]),
            np.concatenate([s.integer for s in shares]),
            cost,
        )
        quick = replace(self.options, time_limit=None, gap=0.25 * self.options.gap, solver_options={})
        with self.backend.load(problem, quick) as session:
            return session.solve(lambda event: None, self.stopped)

    def _refine(self, shares: list[Share], kept: list[Index], x: Array) -> bool:
        """Offer the chosen point and split the boxes it lies in; return whether any could be split."""
        start, points, some = 0, [], False
        for i, (share, leaves) in enumerate(zip(shares, kept, strict=True)):
            tree = self.dual.trees[i]
            leaf = int(leaves[int(np.argmax(x[start + share.z]))])
            centre = 0.5 * (tree.low[leaf] + tree.high[leaf])
            v = np.clip(centre + x[start + share.d].sum(axis=0), tree.low[leaf], tree.high[leaf])
            points.append(v)
            start += share.worth + 1
            for _ in range(_ZOOMS):
                inside = np.flatnonzero(((tree.low <= v) & (v <= tree.high)).all(axis=1))
                inside = inside[(tree.high[inside] > tree.low[inside]).any(axis=1)]
                if len(inside):
                    tree.divide(inside)
                    some = True
        self.offer(points)
        self.dual.target = self.target()
        return some
