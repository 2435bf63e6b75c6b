r"""Products of variables in the objective, for solvers that take none.

Every product ``w = x y`` of the quadratic objective is replaced by a column. The range of ``x`` is cut into pieces; on
a piece [a, b], with l <= y <= u,

    w <= b y + l x - b l,   w <= a y + u x - a u        (over)
    w >= a y + l x - a l,   w >= b y + u x - b u        (under; only the side the objective needs is written)

and a binary per piece, with disaggregated copies of x and y, makes the union of the pieces exact as a relaxation. Its
optimum is a proven bound; its point, evaluated with the true products, is a feasible answer. Pieces are cut at that
point and the relaxation is solved again until both meet (`nnembed.engine.bilinear`). A binary factor, or an integer one
with few values, is exact at once.

Sources: McCormick, Mathematical Programming 10 (1976); Nagarajan, Lu, Wang, Bent and Sundar, Journal of Global
Optimization 74 (2019), for the adaptive partition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.engine.piece_bounds import output_bounds
from nnembed.engine.rowlist import RowList
from nnembed.errors import BoxError
from nnembed.matrices import stack
from nnembed.problem import Problem

_FEW_VALUES = 12


@dataclass(frozen=True, eq=False)
class Terms:
    """Products of an objective: ``sum_t coefficient[t] * x[factor[t]] * x[other[t]]``; equal factors are squares."""

    factor: Index
    other: Index
    coefficient: Array

    def value(self, x: Array) -> Array:
        """Return the true products at a point."""
        product: Array = x[self.factor] * x[self.other]
        return product


@dataclass(frozen=True, eq=False)
class Pieces:
    """The partition of every factor, sorted by factor and place.

    Piece p belongs to ``columns[owner[p]]``.
    """

    columns: Index
    owner: Index
    low: Array
    high: Array

    @property
    def count(self) -> Index:
        """Pieces per factor."""
        return np.bincount(self.owner, minlength=len(self.columns))


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A linear problem whose optimum bounds the quadratic one; the first columns are the quadratic problem's."""

    problem: Problem
    terms: Terms
    pieces: Pieces
    place: dict[str, Index]

    def lift(self, x: Array) -> Array:
        """Return the complete point of the relaxation for a point of the original problem."""
        out = np.zeros(self.problem.n_columns)
        out[: len(x)] = x
        pieces, terms = self.pieces, self.terms
        on = _piece_of(pieces, x)
        out[self.place["z"]] = on
        out[self.place["x"]] = on * x[pieces.columns[pieces.owner]]
        out[self.place["y"]] = on[self.place["pair piece"]] * x[terms.other[self.place["pair term"]]]
        out[self.place["w"]] = terms.value(x)
        return out


def _piece_of(pieces: Pieces, x: Array) -> Array:
    """Return 1 for the first piece that contains the factor's value, else 0 (nearest piece if none does)."""
    value = x[pieces.columns[pieces.owner]]
    distance = np.maximum(np.maximum(pieces.low - value, value - pieces.high), 0.0)
    order = np.lexsort((np.arange(len(value)), distance, pieces.owner))
    first = np.ones(len(value), dtype=bool)
    first[1:] = pieces.owner[order][1:] != pieces.owner[order][:-1]
    on = np.zeros(len(value))
    on[order[first]] = 1.0
    return on


def find_terms(problem: Problem) -> Terms:
    """Return the products of the objective.

    The factor to be cut is binary or integer if one is, else no network output.
    """
    assert problem.quadratic is not None
    q = sp.coo_array(sp.triu(sp.csr_array(0.5 * (problem.quadratic + problem.quadratic.T))))
    kept = q.data != 0
    i, j, c = q.row[kept].astype(np.intp), q.col[kept].astype(np.intp), q.data[kept].astype(float)
    c = np.where(i == j, 0.5 * c, c)
    written = np.zeros(problem.n_columns, dtype=bool)
    for placement in problem.placements:
        written[placement.columns[placement.block.outputs]] = True
    span = problem.upper - problem.lower
    rank = np.where(problem.integer, np.minimum(span, 1e3) - 2e3, 0.0) + np.where(written, 1e3, 0.0)
    uses = np.bincount(np.concatenate([i, j]), minlength=problem.n_columns)
    rank = rank - 1e-3 * uses  # a factor of many products is cut once for all
    swap = rank[j] < rank[i]
    terms = Terms(np.where(swap, j, i), np.where(swap, i, j), c)
    _refuse_open(problem, terms)
    return terms


def _refuse_open(problem: Problem, terms: Terms) -> None:
    used = np.unique(np.concatenate([terms.factor, terms.other]))
    bad = used[~(np.isfinite(problem.lower[used]) & np.isfinite(problem.upper[used]))]
    if len(bad):
        raise BoxError(
            f"the objective multiplies {problem.column_name(int(bad[0]))}, which has no finite bounds; "
            "give it lower and upper bounds, the product is bounded from them"
        )


def first_pieces(problem: Problem, terms: Terms, cuts: int = 3) -> Pieces:
    """Return the first partition: every value of integers with few values, else `cuts` equal pieces."""
    columns = np.unique(terms.factor)
    owner, low, high = [], [], []
    for k, column in enumerate(columns.tolist()):
        a, b = float(problem.lower[column]), float(problem.upper[column])
        if problem.integer[column]:
            a, b = np.ceil(a), np.floor(b)
        if problem.integer[column] and b - a < _FEW_VALUES:
            lo = np.arange(a, b + 1)
            hi = lo
        elif problem.integer[column]:
            edges = np.unique(np.rint(np.linspace(a, b + 1, cuts + 1)))
            lo, hi = edges[:-1], edges[1:] - 1
        else:
            edges = np.linspace(a, b, cuts + 1) if b > a else np.array([a, b])
            lo, hi = edges[:-1], edges[1:]
        owner.append(np.full(len(lo), k))
        low.append(lo)
        high.append(hi)
    return Pieces(columns, np.concatenate(owner), np.concatenate(low), np.concatenate(high))


def refine(problem: Problem, terms: Terms, pieces: Pieces, x: Array, w: Array, most: int) -> Pieces:
    """Cut the pieces at a relaxation's point, where the products are most wrong.

    Parameters
    ----------
    x : array
        Point of the original columns.
    w : array (terms,)
        The relaxation's values of the products.
    most : int
        Factors to cut.
    """
    wrong = np.abs(terms.coefficient * (w - terms.value(x)))
    where = np.searchsorted(pieces.columns, terms.factor)
    error = np.bincount(where, weights=wrong, minlength=len(pieces.columns))
    chosen = np.argsort(-error)[:most]
    chosen = chosen[error[chosen] > 1e-9 * (1 + error.sum())]
    inside = (_piece_of(pieces, x) > 0) & np.isin(pieces.owner, chosen) & (pieces.high > pieces.low)
    value = x[pieces.columns[pieces.owner]]
    whole = problem.integer[pieces.columns[pieces.owner]]
    parts: list[tuple[Index, Array, Array]] = []
    keep = ~inside
    parts.append((pieces.owner[keep], pieces.low[keep], pieces.high[keep]))
    i = np.flatnonzero(inside)
    a, b, v = pieces.low[i], pieces.high[i], np.clip(value[i], pieces.low[i], pieces.high[i])
    reach = 0.125 * (b - a)
    left, right = np.maximum(v - reach, a), np.minimum(v + reach, b)
    # A cut too near an end moves to it, so that no sliver is made.
    left, right = np.where(left - a < 0.5 * reach, a, left), np.where(b - right < 0.5 * reach, b, right)
    left, right = np.where(whole[i], np.floor(left), left), np.where(whole[i], np.ceil(right), right)
    step = np.where(whole[i], 1.0, 0.0)
    for lo, hi in ((a, left - step), (left, right), (right + step, b)):
        some = (hi > lo) | ((hi == lo) & whole[i])
        parts.append((pieces.owner[i][some], lo[some], hi[some]))
    owner, low, high = (np.concatenate([p[k] for p in parts]) for k in range(3))
    order = np.lexsort((low, owner))
    return Pieces(pieces.columns, owner[order].astype(np.intp), low[order], high[order])


def relax(problem: Problem, terms: Terms, pieces: Pieces) -> Relaxation:
    """Return the relaxation for a partition."""
    n, t, p = problem.n_columns, len(terms.factor), len(pieces.owner)
    place_of = np.searchsorted(pieces.columns, terms.factor)
    start = np.searchsorted(pieces.owner, np.arange(len(pieces.columns)))
    square = terms.factor == terms.other
    counts = np.where(square, 0, pieces.count[place_of])
    pair_term = np.repeat(np.arange(t), counts)
    offset = np.arange(len(pair_term)) - np.repeat(np.cumsum(counts) - counts, counts)
    pair_piece = start[place_of[pair_term]] + offset
    sizes = (p, p, len(pair_term), t)
    z, x, y, w = np.split(n + np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    low, high = problem.lower[terms.other], problem.upper[terms.other]
    on_piece = output_bounds(
        problem, terms.factor[pair_term], pieces.low[pair_piece], pieces.high[pair_piece], terms.other[pair_term]
    )
    rows = _Rows(n + sum(sizes))
    rows.partition(pieces, z, x)
    rows.copies(pair_term, pair_piece, y, z, terms.other, *on_piece)
    over = (terms.coefficient > 0) == problem.maximize
    rows.envelope(pieces, (pair_term, pair_piece), (z, x, y, w), on_piece, over, square)
    rows.squares(pieces, place_of, start, (z, x, w), over, square)
    corners = np.stack([a * b for a in _ends(problem, terms.factor) for b in (low, high)])
    matrix, row_lower, row_upper = rows.result()
    bounds = (
        np.concatenate(
            [problem.lower, np.zeros(p), np.minimum(pieces.low, 0), np.minimum(on_piece[0], 0), corners.min(0)]
        ),
        np.concatenate(
            [problem.upper, np.ones(p), np.maximum(pieces.high, 0), np.maximum(on_piece[1], 0), corners.max(0)]
        ),
    )
    cost = np.zeros(n + sum(sizes))
    cost[:n] = problem.cost
    cost[w] = terms.coefficient
    whole = np.zeros(n + sum(sizes), dtype=bool)
    whole[:n] = problem.integer
    whole[z] = True
    linear = replace(
        problem,
        matrix=stack([problem.matrix, matrix], n + sum(sizes)),
        row_lower=np.concatenate([problem.row_lower, row_lower]),
        row_upper=np.concatenate([problem.row_upper, row_upper]),
        lower=bounds[0],
        upper=bounds[1],
        integer=whole,
        cost=cost,
        quadratic=None,
    )
    place = {"z": z, "x": x, "y": y, "w": w, "pair term": pair_term, "pair piece": pair_piece}
    return Relaxation(linear, terms, pieces, place)


def _ends(problem: Problem, columns: Index) -> tuple[Array, Array]:
    return problem.lower[columns], problem.upper[columns]


class _Rows(RowList):
    """The rows of a relaxation."""

    def partition(self, pieces: Pieces, z: Index, x: Index) -> None:
        """Switch one piece on, which holds the factor's value."""
        p, k = np.arange(len(z)), len(pieces.columns)
        self.add(k, [(pieces.owner, z, 1.0)], 1.0, 1.0)
        self.add(k, [(pieces.owner, x, 1.0), (np.arange(k), pieces.columns, -1.0)], 0.0, 0.0)
        self.add(len(z), [(p, x, 1.0), (p, z, -pieces.low)], 0.0, np.inf)
        self.add(len(z), [(p, x, 1.0), (p, z, -pieces.high)], -np.inf, 0.0)

    def copies(self, term: Index, piece: Index, y: Index, z: Index, other: Index, low: Array, high: Array) -> None:
        """Put the other factor's value into the copy of the piece that is on."""
        r = np.arange(len(y))
        self.add(len(y), [(r, y, 1.0), (r, z[piece], -low)], 0.0, np.inf)
        self.add(len(y), [(r, y, 1.0), (r, z[piece], -high)], -np.inf, 0.0)
        used, where = np.unique(term, return_inverse=True)
        k = len(used)
        self.add(k, [(where, y, 1.0), (np.arange(k), other[used], -1.0)], 0.0, 0.0)

    def envelope(
        self,
        pieces: Pieces,
        pairs: tuple[Index, Index],
        columns: tuple[Index, Index, Index, Index],
        sides: tuple[Array, Array],
        over: np.ndarray,
        square: np.ndarray,
    ) -> None:
        """McCormick on every piece, summed."""
        (term, piece), (z, x, y, w), (low, high) = pairs, columns, sides
        for upper, corners in (
            (True, ((pieces.high[piece], low), (pieces.low[piece], high))),
            (False, ((pieces.low[piece], low), (pieces.high[piece], high))),
        ):
            chosen = np.flatnonzero((over == upper) & ~square)
            if not len(chosen):
                continue
            index = np.full(len(w), -1)
            index[chosen] = np.arange(len(chosen))
            some = index[term] >= 0
            row, q = index[term[some]], piece[some]
            for edge, end in corners:
                entries: list[tuple[Index, Index, Array | float]] = [
                    (np.arange(len(chosen)), w[chosen], 1.0),
                    (row, y[some], -edge[some]),
                    (row, x[q], -end[some]),
                    (row, z[q], edge[some] * end[some]),
                ]
                self.add(len(chosen), entries, *((-np.inf, 0.0) if upper else (0.0, np.inf)))

    def squares(
        self,
        pieces: Pieces,
        place_of: Index,
        start: Index,
        columns: tuple[Index, Index, Index],
        over: np.ndarray,
        square: np.ndarray,
    ) -> None:
        """Squares: the chord above, tangents at both ends and the middle below."""
        z, x, w = columns
        for upper in (True, False):
            chosen = np.flatnonzero((over == upper) & square)
            if not len(chosen):
                continue
            counts = pieces.count[place_of[chosen]]
            row = np.repeat(np.arange(len(chosen)), counts)
            inner = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
            q = start[place_of[chosen[row]]] + inner
            a, b = pieces.low[q], pieces.high[q]
            middle = 0.5 * (a + b)
            lines = [(a + b, a * b)] if upper else [(2 * a, a * a), (2 * b, b * b), (2 * middle, middle * middle)]
            for slope, constant in lines:
                entries: list[tuple[Index, Index, Array | float]] = [
                    (np.arange(len(chosen)), w[chosen], 1.0),
                    (row, x[q], -slope),
                    (row, z[q], constant),
                ]
                self.add(len(chosen), entries, *((-np.inf, 0.0) if upper else (0.0, np.inf)))
