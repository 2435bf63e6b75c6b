r"""A proven bound for nearly separable problems: prices for the rows that couple small components.

With multipliers ``l`` for the coupling rows (``R x <= h``, l >= 0; ``R x >= h``, l <= 0)

    min f(x)  >=  sum over components of min (f_s + l R_s)(x_s)  -  l h

for every l of the right sign; the components are bounded by branch and bound over their own decisions
(`nnembed.engine.spatial`). The multipliers start from the duals at the best known point and follow supergradients; the
components' best points, put together and repaired, are answers.

Sources: Geoffrion, Mathematical Programming Study 2 (1974); Polyak, USSR Computational Mathematics 9 (1969).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.engine.decompose import Components
from nnembed.engine.spatial import Tree
from nnembed.events import Event
from nnembed.features import Capability
from nnembed.heuristics.scene import Scene
from nnembed.matrices import stack
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Solution

_LEAVES = 2_000_000  # of all components: memory
_FINEST = 0.02  # share of the allowed gap that goes to the components, at last
ABSOLUTE = 1e-8  # gap that counts as none
_MOVES = 200
_STUCK = 8  # moves in a row without a gain
_PATIENCE = 3000  # times that a solver asks whether to stop: unlike seconds the same in every run
_IMPATIENT_SECONDS = 1.0  # for solvers that do not ask


@dataclass(eq=False)
class Dual:
    """Prices and trees; the best proven bound so far, in minimisation form.

    Attributes
    ----------
    target : float
        Objective of the best known answer (minimisation form), infinite without one.
    gap : float
        Relative gap asked for.
    """

    components: Components
    stopped: Callable[[], bool]
    gap: float
    target: float = np.inf
    bound: float = -np.inf
    share: float = 0.25
    prices: Array = field(init=False)
    trees: list[Tree] = field(init=False)
    _uniform: bool = False
    step: float = 1.0
    _top: float = -np.inf
    _kept: Array = field(init=False)
    _slope: Array = field(init=False)

    def __post_init__(self) -> None:
        """Start with no prices."""
        self.prices = np.zeros(len(self.components.rows))
        self._kept = self._slope = self.prices
        self.trees = [Tree(part) for part in self.components.parts]

    # ---- prices -------------------------------------------------------------------------------

    def set_prices(self, prices: Array) -> None:
        """Set the prices, put on the side that each row has, and bound every leaf again."""
        sides = self.components
        prices = np.where(np.isfinite(sides.row_upper), prices, np.minimum(prices, 0))
        self.prices = np.where(np.isfinite(sides.row_lower), prices, np.maximum(prices, 0))
        self._uniform = False  # while trees have different prices they prove nothing together
        for tree, share in zip(self.trees, self.components.shares, strict=True):
            if self.stopped():
                return
            tree.price(self.prices @ share)
        self._uniform = True
        self._record()

    def _constant(self) -> float:
        """Return what the sides of the priced rows take off, and the offset."""
        up = np.where(self.prices > 0, self.components.row_upper, 0.0)
        down = np.where(self.prices < 0, self.components.row_lower, 0.0)
        return self.components.offset - float(self.prices @ (up + down))

    def _record(self) -> None:
        self.bound = max(self.bound, self.priced)

    @property
    def reach(self) -> float:
        """The bound that finished trees would give at these prices, as far as is known."""
        return sum(tree.value for tree in self.trees) + self._constant()

    def slope(self) -> Array:
        """Return a supergradient of the bound in the prices, at the best points known."""
        total = np.zeros(len(self.prices))
        for tree, share in zip(self.trees, self.components.shares, strict=True):
            if tree.best is not None:
                total += share @ tree.best
        up, down = total - self.components.row_upper, total - self.components.row_lower
        inside = np.where(up > 0, up, np.where(down < 0, down, 0.0))
        return np.where(self.prices > 0, up, np.where(self.prices < 0, down, inside))

    def move(self) -> bool:
        """Take one Polyak step from the best prices; return False when there is none to take."""
        reach = self.reach
        if reach > self._top:
            self._top, self._kept, self._slope = reach, self.prices, self.slope()
        else:
            self.step *= 0.5
        norm = float(self._slope @ self._slope)
        short = self.target - self._top if np.isfinite(self.target) else 0.1 * abs(self._top) + 1e-6
        if norm <= 1e-18 or not np.isfinite(short) or short <= 0 or self.step < 1e-2:
            return False
        self.set_prices(self._kept + self.step * short / norm * self._slope)
        return True

    def rest(self) -> None:
        """Keep the best prices known before others are tried."""
        if self.reach > self._top:
            self._top, self._kept, self._slope = self.reach, self.prices, self.slope()

    @property
    def top(self) -> float:
        """What the best prices promise."""
        return max(self._top, self.reach)

    def settle(self) -> None:
        """Go back to the best prices known."""
        self.rest()
        if (self._kept != self.prices).any() or not self._uniform:
            self.set_prices(self._kept)

    @property
    def priced(self) -> float:
        """The bound that the trees prove at the present prices, if all have them."""
        if not self._uniform:
            return -np.inf
        total = sum(tree.lower for tree in self.trees) + self._constant()
        size = 1e-12 * len(self.trees) * sum(abs(tree.lower) for tree in self.trees if np.isfinite(tree.lower))
        return total - size

    # ---- trees --------------------------------------------------------------------------------

    @property
    def allowed(self) -> float:
        """The gap asked for, absolute, but no less than rounding leaves at an objective of zero."""
        return max(self.gap * abs(self.target), ABSOLUTE) if np.isfinite(self.target) else 0.0

    @property
    def closed(self) -> bool:
        """Whether the bound meets the target."""
        return self.target - self.bound <= self.allowed

    @property
    def priced_wrong(self) -> bool:
        """Whether the prices keep the bound from the target more than the open leaves do."""
        reach, left = self.reach, sum(tree.gap for tree in self.trees)
        if not np.isfinite(self.target):  # prices that push towards the coupling rows help to a first answer
            return left <= 0.1 * abs(reach) < np.inf
        short = self.target - reach
        return bool(np.isfinite(short)) and short > max(self.share * self.allowed, left)

    def grow(self) -> bool:
        """Split leaves of every part once; return whether there were any."""
        size = self.allowed if np.isfinite(self.target) else self.gap * abs(self.reach)
        tolerance = self.share * size / len(self.trees) if np.isfinite(size) else 0.0
        some = False
        for tree in self.trees:
            if self.stopped():
                break
            if len(tree.bound) < _LEAVES / len(self.trees):
                some |= tree.split(tolerance)
        self._record()
        return some

    def choice(self) -> Problem:
        """Return the problem of choosing one known point per part so that the coupling rows hold, at the least cost."""
        sides, counts = self.components, [len(tree.pool) for tree in self.trees]
        owner, n = np.repeat(np.arange(len(counts)), counts), sum(counts)
        one = sp.csr_array((np.ones(n), (owner, np.arange(n))), shape=(len(counts), n))
        use = np.concatenate([share @ t.pool.T for t, share in zip(self.trees, sides.shares, strict=True)], axis=1)
        ones = np.ones(len(counts))
        return Problem(
            stack([one, sp.csr_array(use)], n),
            np.concatenate([ones, sides.row_lower]),
            np.concatenate([ones, sides.row_upper]),
            np.zeros(n),
            np.ones(n),
            np.ones(n, dtype=bool),
            np.concatenate([t.part.value(t.pool, np.zeros(t.pool.shape[1])) for t in self.trees]),
        )

    def point(self, n: int, chosen: Array | None) -> Array:
        """Return x over `n` problem columns from a solution of `choice`, or from the best points at these prices."""
        out, start = np.zeros(n), 0
        for tree in self.trees:
            best = tree.best
            if chosen is not None:
                best = tree.pool[int(np.argmax(chosen[start : start + len(tree.pool)]))]
                start += len(tree.pool)
            assert best is not None
            out[tree.part.columns], out[tree.part.outputs] = best[: tree.part.k], best[tree.part.k :]
        return out


@dataclass(eq=False)
class PricedSearch:
    """The search: grow trees, move prices, repair points.

    Attributes
    ----------
    offer : callable
        Takes a point of the problem that may be infeasible in the coupling rows; it is polished and kept if good.
    best : callable
        Returns the best answer or None.
    heard : callable
        Takes every better bound.
    """

    problem: Problem
    components: Components
    backend: Backend
    options: Options
    stopped: Callable[[], bool]
    offer: Callable[[Array], None]
    best: Callable[[], Array | None]
    heard: Callable[[float], None]
    _priced_at: float = np.inf
    _turn: int = 0

    @property
    def sign(self) -> float:
        """Return 1 for minimisation, -1 for maximisation."""
        return -1.0 if self.problem.maximize else 1.0

    def run(self) -> Dual:
        """Improve the bound until it meets the answer, time is over or no price helps; return how far it came."""
        dual = Dual(self.components, self.stopped, self.options.gap)
        self._aim(dual)
        x, self._priced_at = self.best(), dual.target
        dual.set_prices(np.zeros(len(dual.prices)) if x is None else self._prices_at(x))
        moves, stuck, top = 0, 0, -np.inf
        while not (dual.closed or self.stopped()):
            grown = dual.grow()
            self._tell(dual)
            if dual.closed or self.stopped():
                break
            if grown and not dual.priced_wrong:
                continue
            moves += 1
            top, stuck = (reach, 0) if (reach := dual.top) > top + 0.02 * dual.allowed else (top, stuck + 1)
            if stuck >= _STUCK:
                break  # what is left is no matter of prices
            if not grown or moves <= 4 or moves % 3 == 0 or not np.isfinite(dual.target):
                self._repair(dual)
                self._aim(dual)
            if dual.closed or moves > _MOVES or not (self._move(dual) or grown or self._finer(dual)):
                break
        self._tell(dual)
        return dual

    def _move(self, dual: Dual) -> bool:
        """Change the prices: to those of a much better answer if there is one, else by a step."""
        x, value = self.best(), dual.target
        if x is not None and not value >= self._priced_at - 0.25 * dual.allowed:
            self._priced_at = value
            dual.rest()
            dual.step = 1.0
            dual.set_prices(self._prices_at(x))
            return True
        self._turn += 1
        return (self._turn % 2 == 0 and self._master(dual)) or dual.move()

    def _master(self, dual: Dual) -> bool:
        """Take the prices at which mixtures of the known points are best; return False when they promise nothing."""
        problem = dual.choice()
        problem = replace(problem, integer=np.zeros(problem.n_columns, dtype=bool))
        found = solve_briefly(problem, self.backend, self.options, self.stopped)
        if found.duals is None or found.objective is None:
            return False
        dual.rest()
        if found.objective + self.components.offset - dual.bound <= 0.02 * dual.allowed:
            return False
        dual.set_prices(-found.duals[len(dual.trees) :])
        return True

    def _finer(self, dual: Dual) -> bool:
        """Ask more of the components; return False when they are as fine as they get."""
        if dual.share <= _FINEST:
            return False
        dual.share *= 0.4
        return True

    def _aim(self, dual: Dual) -> None:
        x = self.best()
        dual.target = np.inf if x is None else self.sign * self.problem.objective(x)

    def _tell(self, dual: Dual) -> None:
        if np.isfinite(dual.bound):
            self.heard(self.sign * dual.bound)

    def _repair(self, dual: Dual) -> None:
        """Offer combinations of the components' good points: moved onto the coupling rows where they break them."""
        if any(tree.best is None for tree in dual.trees):
            return
        n = self.problem.n_columns
        chosen = None
        if len(dual.prices):
            quick = replace(self.options, gap=0.25 * self.options.gap)
            chosen = solve_briefly(dual.choice(), self.backend, quick, self.stopped).x
        self.put(dual.point(n, chosen), near=chosen is None)

    def put(self, x: Array, *, near: bool) -> None:
        """Offer the point with these decisions and, if asked, one near it that meets the coupling rows."""
        scene = Scene(self.problem)
        point = scene.point(x[scene.drivers])
        x[point.columns] = point.values
        self.offer(x)
        if near and (found := self._linear(x)) is not None and found.x is not None:
            self.offer(found.x)

    def _prices_at(self, x: Array) -> Array:
        found = self._linear(x)
        rows = self.components.rows
        if found is None or found.duals is None or Capability.DUALS not in self.backend.capabilities:
            return np.zeros(len(rows))
        return -self.sign * found.duals[rows]

    def _linear(self, x: Array) -> Solution | None:
        """Solve the problem linearised at `x` with its integers fixed."""
        if self.stopped() or not len(self.components.rows):
            return None
        problem = self.problem
        cost = problem.cost if problem.quadratic is None else problem.cost + problem.quadratic @ x
        whole = np.flatnonzero(problem.integer)
        lower, upper = problem.lower.copy(), problem.upper.copy()
        lower[whole] = upper[whole] = np.clip(np.rint(x[whole]), lower[whole], upper[whole])
        free = np.zeros(problem.n_columns, dtype=bool)
        linear = replace(problem, cost=cost, quadratic=None, lower=lower, upper=upper, integer=free)
        with self.backend.load(linear, replace(self.options, time_limit=None, solver_options={})) as session:
            return session.solve(_unheard, self.stopped)


def solve_briefly(problem: Problem, backend: Backend, options: Options, stopped: Callable[[], bool]) -> Solution:
    """Solve a small problem on the way; give up after a number of steps, not of seconds, so that runs repeat."""
    asked = 0

    def enough() -> bool:
        nonlocal asked
        asked += 1
        return asked > _PATIENCE or stopped()

    seconds = None if Capability.INTERRUPT in backend.capabilities else _IMPATIENT_SECONDS
    with backend.load(problem, replace(options, time_limit=seconds, solver_options={})) as session:
        return session.solve(_unheard, enough)


def _unheard(event: Event) -> None:
    """Small solves on the way are nobody's news."""
