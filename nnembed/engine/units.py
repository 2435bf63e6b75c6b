"""Problems handed to solvers in units in which their absolute tolerances mean something.

Solvers take a row as met, a gap as closed, a column as fixed and a reduced cost as zero within 1e-9 to 1e-6, whatever
the numbers are about. An objective, a row or a continuous column whose numbers cannot exceed 1e-2 is multiplied by a
power of two, which changes no digit. The session in between answers in the user's units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.events import Event, Incumbent
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Conflict, Session, Solution

_SMALL = 1e-2  # largest term from which on nothing is changed
_MOST = 60  # powers of two


def loaded(backend: Backend, problem: Problem, options: Options) -> Session:
    """Return a session of a solver that is given the problem in sensible units and answers in the user's.

    Options of the solver's own that count in units of the objective count in those it is given.
    """
    columns = _column_factors(problem)
    handed = _with_columns(problem, columns)
    rows, cost = _row_factors(handed.matrix, _width(handed)), _cost_factor(handed)
    if cost == 1.0 and (rows == 1.0).all() and (columns == 1.0).all():
        return backend.load(problem, options)
    low, high = problem.row_lower * rows, problem.row_upper * rows
    handed = replace(handed, matrix=_times(handed.matrix, rows), row_lower=low, row_upper=high)
    handed = replace(handed, cost=handed.cost * cost, offset=problem.offset * cost)
    return InUnits(backend.load(handed, options), cost, rows, columns, _width(handed))


def objective_size(problem: Problem) -> float:
    """Return the largest term that the objective can have, at most one; one where that is not known.

    Differences far below it are rounding, others are not, however small they are.
    """
    return min(1.0, _largest_term(problem) or 1.0)


def _largest_term(problem: Problem) -> float:
    """Return the largest term of a linear objective over the box; 0 where there is none or no limit."""
    used = problem.cost != 0
    if problem.quadratic is not None or not used.any():
        return 0.0
    size = np.abs(problem.cost[used]) * np.maximum(np.abs(problem.lower[used]), np.abs(problem.upper[used]))
    return float(size.max()) if np.isfinite(size).all() else 0.0


def _power(size: Array) -> Array:
    """Return powers of two that bring positive sizes to between one and two."""
    return np.ldexp(1.0, np.minimum(-np.floor(np.log2(size)), _MOST).astype(int))


def _cost_factor(problem: Problem) -> float:
    top = _largest_term(problem)
    return float(_power(np.array(top))) if 0 < top < _SMALL else 1.0


def _row_factors(m: sp.csr_array, width: Array) -> Array:
    """Return a factor per row over columns whose sizes are at most `width`."""
    factors, filled = np.ones(m.shape[0]), np.flatnonzero(np.diff(m.indptr))
    if not len(filled):
        return factors
    size = np.ones(m.shape[0])
    size[filled] = np.maximum.reduceat(np.abs(m.data) * width[m.indices], m.indptr[filled])
    small = (size > 0) & (size < _SMALL)
    factors[small] = _power(size[small])
    return factors


def _width(problem: Problem) -> Array:
    return np.asarray(np.maximum(np.abs(problem.lower), np.abs(problem.upper)))


def _times(matrix: sp.csr_array, rows: Array) -> sp.csr_array:
    """Return multiples of rows."""
    data = matrix.data * np.repeat(rows, np.diff(matrix.indptr))
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _column_factors(problem: Problem) -> Array:
    """Return a factor per column; those in conditional rows and native ReLU rows keep their unit."""
    factors = np.ones(problem.n_columns)
    width = np.maximum(np.abs(problem.lower), np.abs(problem.upper))
    small = (width > 0) & (width < _SMALL) & ~problem.integer
    for indicators in problem.indicators:
        small[indicators.matrix.indices] = False
    for pairs in problem.relus:
        small[pairs] = False
    factors[small] = _power(width[small])
    return factors


def _with_columns(problem: Problem, factors: Array) -> Problem:
    """Return the problem over multiples of its columns."""
    if (factors == 1.0).all():
        return problem
    quadratic = problem.quadratic
    if quadratic is not None:
        back = sp.diags_array(1.0 / factors)
        quadratic = sp.csr_array(back @ quadratic @ back)
    return replace(
        problem,
        matrix=_over(problem.matrix, factors),
        lower=problem.lower * factors,
        upper=problem.upper * factors,
        cost=problem.cost / factors,
        quadratic=quadratic,
    )


def _over(matrix: sp.csr_array, factors: Array) -> sp.csr_array:
    """Return rows over multiples of their columns."""
    data = matrix.data / factors[matrix.indices]
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


class InUnits:
    """A session in front of another whose objective, rows and columns are multiples of the user's."""

    def __init__(self, session: Session, cost: float, rows: Array, columns: Array, width: Array):
        self._session, self._cost, self._rows, self._columns, self._width = session, cost, rows, columns, width

    def __enter__(self) -> InUnits:
        self._session.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._session.__exit__(*exc)

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve; see `protocols.Session`."""

        def heard(event: Event) -> None:
            if isinstance(event, Incumbent):
                x = None if event.x is None else event.x / self._columns
                event = replace(event, objective=self._own(event.objective), bound=self._own(event.bound), x=x)
            on_event(event)

        found = self._session.solve(heard, should_stop)
        duals = found.duals
        if duals is not None:
            factor = np.ones(len(duals))
            factor[: len(self._rows)] = self._rows
            duals = duals * factor / self._cost
        x = None if found.x is None else found.x / self._columns
        return replace(found, x=x, objective=self._own(found.objective), bound=self._own(found.bound), duals=duals)

    def _handed(self, matrix: sp.csr_array, lower: Array, upper: Array) -> tuple[sp.csr_array, Array, Array]:
        """Return the user's rows as the solver is given them."""
        scaled = _over(matrix, self._columns)
        rows = _row_factors(scaled, self._width)
        return _times(scaled, rows), lower * rows, upper * rows

    def _own(self, value: float | None) -> float | None:
        return None if value is None else value / self._cost

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Change objective coefficients."""
        self._session.set_cost(columns, cost * self._cost / self._columns[columns])

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Offer a first point."""
        self._session.set_start(columns, values * self._columns[columns], strong=strong)

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        factors = self._columns[columns]
        self._session.set_bounds(columns, lower * factors, upper * factors)

    def add_rows(self, matrix: Any, lower: Array, upper: Array) -> None:
        """Append rows."""
        self._session.add_rows(*self._handed(matrix, lower, upper))

    def inject(self, x: Array) -> None:
        """Offer a complete point while the solver runs."""
        self._session.inject(x * self._columns)

    def interrupt(self) -> None:
        """Ask the running solver to stop."""
        self._session.interrupt()

    def close(self) -> None:
        """Free the solver."""
        self._session.close()

    def separate(self, cuts: Callable[[Array], Any]) -> None:
        """Hand over what finds cuts, where the solver takes them."""

        def found(x: Array) -> tuple[sp.csr_array, Array, Array]:
            return self._handed(*cuts(x / self._columns))

        self._session.separate(found)  # type: ignore[attr-defined]

    def conflict(self) -> Conflict | None:
        """Return what makes the problem infeasible, where the solver can tell."""
        found: Conflict | None = self._session.conflict()  # type: ignore[attr-defined]
        return found
