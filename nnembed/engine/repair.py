"""Points made whole: columns that networks do not determine, and starts that break rows.

With the pieces of the networks fixed as a forward pass shows them, what is left of the problem is the user's own model
with affine functions in it: solved for the best point of this region, or for the point nearest to a given one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.engine.recover import feasible, snapped
from nnembed.engine.units import loaded
from nnembed.errors import InputError
from nnembed.events import Event
from nnembed.heuristics.scene import Point
from nnembed.matrices import canonical, stack
from nnembed.options import Options
from nnembed.problem import Problem, widen
from nnembed.protocols import Backend, Solution


@dataclass(frozen=True, eq=False)
class Repair:
    """A problem, and the solver that makes its points whole.

    Attributes
    ----------
    seconds : callable
        Returns the wall-clock seconds that one small problem may take, None for no limit.
    """

    problem: Problem
    backend: Backend
    options: Options
    stopped: Callable[[], bool]
    seconds: Callable[[], float | None]

    def start(self, values: Array) -> Point | None:
        """Return the feasible point nearest to a user's start, as far as that can be found by projection.

        Parameters
        ----------
        values : array
            One value for each of the problem's first columns.

        Returns
        -------
        Point or None
            None where there is no time, or where the model without integers has no point at all: the solver will
            say so.

        Raises
        ------
        InputError
            If the start is not finite, or breaks a row and is not near a feasible point.
        """
        problem = self.problem
        if not np.isfinite(values).all():
            name = problem.column_name(int(np.flatnonzero(~np.isfinite(values))[0]))
            raise InputError(f"start= is not a finite number at {name}; pass one number for every variable")
        wish = np.zeros(problem.n_columns)
        wish[: len(values)] = values
        wish = np.clip(wish, problem.lower, problem.upper)
        x = _filled(problem, wish)
        if feasible(problem, x):
            return complete(problem, x)
        if not all(p.block.exact for p in problem.placements) or self.stopped() or self.seconds() == 0:
            return None
        found = self._nearest(x, wish)
        if found is not None:
            return found
        relaxed = self._solve(_distance(_relaxed(problem), wish, self._own()))
        if relaxed.x is None:
            if relaxed.status == "infeasible":
                return None
            raise self._refusal(x)
        other = _filled(problem, np.clip(relaxed.x[: problem.n_columns], problem.lower, problem.upper))
        found = complete(problem, other) if feasible(problem, other) else self._nearest(other, wish)
        if found is None:
            raise self._refusal(x)
        return found

    def best(self, point: Point) -> Point | None:
        """Return the best point, to a percent, with the pieces of the networks as they are at `point`; None if none."""
        problem = self.problem
        x = np.zeros(problem.n_columns)
        x[point.columns] = point.values
        cost = problem.cost if problem.quadratic is None else problem.cost + problem.quadratic @ x
        return self._point(self._solve(replace(fixed(problem, x), cost=cost, quadratic=None)))

    def _nearest(self, x: Array, wish: Array) -> Point | None:
        """Return the point nearest to `wish` with the pieces of the networks as they are at `x`."""
        return self._point(self._solve(_distance(fixed(self.problem, x), wish, self._own())))

    def _own(self) -> Index:
        """Return the user's columns that no network writes."""
        own = np.zeros(self.problem.n_columns, dtype=bool)
        own[: len(self.problem.labels)] = True
        for placement in self.problem.placements:
            own[placement.columns[placement.block.n_inputs :]] = False
        return np.flatnonzero(own)

    def _solve(self, problem: Problem) -> Solution:
        seconds = self.seconds()
        if self.stopped() or seconds == 0:
            return Solution("time_limit")
        quick = replace(self.options, time_limit=seconds, gap=1e-2, solver_options={})
        with loaded(self.backend, problem, quick) as session:
            return session.solve(_unheard, self.stopped)

    def _point(self, solution: Solution) -> Point | None:
        """Return the networks' own point at what a solver found, or else what it found; None if neither is feasible."""
        if solution.x is None:
            return None
        x = np.asarray(solution.x[: self.problem.n_columns])
        for one in (_filled(self.problem, x), x):
            if feasible(self.problem, one):
                return complete(self.problem, one)
        return None

    def _refusal(self, x: Array) -> InputError:
        """Return the error that names the row a start breaks most."""
        problem = self.problem
        value = problem.matrix @ x
        excess = np.maximum(problem.row_lower - value, value - problem.row_upper) / (1 + np.abs(value))
        worst, count = int(excess.argmax()), int((excess > 1e-6).sum())
        low, high = problem.row_lower[worst], problem.row_upper[worst]
        others = f" and {count - 1} more" if count > 1 else ""
        return InputError(
            f"start= breaks row {problem.row_name(worst)}{others}: its value is {value[worst]:.6g}, allowed is "
            f"[{low:.6g}, {high:.6g}], and no feasible point was found near it; pass a start that meets the rows of "
            "the model, or leave start= out"
        )


def fixed(problem: Problem, x: Array) -> Problem:
    """Return the problem with the pieces of the networks as they are at `x`; the user's own integers stay free."""
    pieces = np.zeros(problem.n_columns, dtype=bool)
    for placement in problem.placements:
        pieces[placement.columns[placement.block.n_inputs :]] = True
    whole = np.flatnonzero(pieces & problem.integer)
    idle = problem.idle(x)
    idle = idle[pieces[idle]]
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[whole] = upper[whole] = np.rint(x[whole])
    lower[idle] = upper[idle] = 0.0
    return replace(problem, lower=lower, upper=upper, placements=())


def complete(problem: Problem, x: Array) -> Point:
    """Return a feasible x over all columns as a point."""
    columns = np.arange(problem.n_columns)
    return Point(columns, x, problem.objective(x), 0.0, True, np.flatnonzero(problem.integer))


def _filled(problem: Problem, x: Array) -> Array:
    """Return the point with integers rounded and the networks evaluated."""
    if problem.placements:
        return snapped(problem, x)
    out = x.copy()
    out[problem.integer] = np.rint(out[problem.integer])
    return out


def _relaxed(problem: Problem) -> Problem:
    """Return the problem without integrality and conditions."""
    whole = np.zeros(problem.n_columns, dtype=bool)
    return replace(problem, integer=whole, sos1=(), indicators=(), complementarities=(), relus=(), placements=())


def _distance(problem: Problem, wish: Array, own: Index) -> Problem:
    """Return the problem with the sum of distances in the columns `own`, relative to their ranges, as objective."""
    n, k = problem.n_columns, len(own)
    width = problem.upper[own] - problem.lower[own]
    weight = 1.0 / np.where(np.isfinite(width) & (width > 0), width, 1.0)
    row, one = np.arange(k), np.ones(k)
    pick = sp.csr_array((one, (row, own)), shape=(k, n + k))
    far = sp.csr_array((one, (row, n + row)), shape=(k, n + k))
    above, below = canonical(sp.csr_array(far + pick)), canonical(sp.csr_array(far - pick))
    return replace(
        problem,
        matrix=stack([widen(problem.matrix, n + k), above, below], n + k),
        row_lower=np.concatenate([problem.row_lower, wish[own], -wish[own]]),
        row_upper=np.concatenate([problem.row_upper, np.full(2 * k, np.inf)]),
        lower=np.concatenate([problem.lower, np.zeros(k)]),
        upper=np.concatenate([problem.upper, np.full(k, np.inf)]),
        integer=np.concatenate([problem.integer, np.zeros(k, dtype=bool)]),
        cost=np.concatenate([np.zeros(n), weight]),
        quadratic=None,
        maximize=False,
        offset=0.0,
        placements=(),
        indicators=tuple(replace(i, matrix=widen(i.matrix, n + k)) for i in problem.indicators),
    )


def _unheard(event: Event) -> None:
    """Small problems on the way are nobody's news."""
