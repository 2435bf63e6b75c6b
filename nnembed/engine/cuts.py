"""Rows of separators: offered during the search where the solver asks for them, else added before it in rounds.

A round solves the LP relaxation, looks for the most violated row of every neuron and adds these rows; at the end those
that do not bind are dropped, and the search gets the rest as ordinary rows. They hold at every point of the networks,
so no answer is lost by them, and points and certificates are those of the problem without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Separator
from nnembed.features import Capability
from nnembed.matrices import relabel, stack
from nnembed.options import Clock, Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Session, Solution

_VIOLATION = 1e-6  # of a row whose largest coefficient is about one
_IMPROVEMENT = 1e-5  # of the relaxation's value, relative: less in a round ends the rounds
_SHARE = 0.2  # of the time that is left may go into rounds


@dataclass(frozen=True, eq=False)
class Cuts:
    """The separators of all networks in a problem; a call returns rows over its columns that a point violates."""

    columns: tuple[Index, ...]  # problem columns of each separator's block
    separators: tuple[Separator, ...]
    width: int

    def __bool__(self) -> bool:
        return bool(self.separators)

    @property
    def rounds(self) -> int:
        """The most rounds that a separator asks for."""
        return max((s.rounds for s in self.separators), default=0)

    def __call__(self, x: Array) -> tuple[sp.csr_array, Array, Array]:
        """Return (CSR over problem columns, lower, upper) of rows violated at `x`."""
        return self.at(x, 0)

    def at(self, x: Array, done: int) -> tuple[sp.csr_array, Array, Array]:
        """Return the rows of the separators that ask for more than `done` rounds."""
        matrices, lower, upper = [sp.csr_array((0, self.width))], [np.zeros(0)], [np.zeros(0)]
        for place, separator in zip(self.columns, self.separators, strict=True):
            if separator.rounds > done or not done:
                matrix, low, high = separator.violated(x[place], _VIOLATION)
                matrices.append(relabel(matrix, place, self.width))
                lower.append(low)
                upper.append(high)
        return stack(matrices, self.width), np.concatenate(lower), np.concatenate(upper)


def cuts_of(problem: Problem) -> Cuts:
    """Return the separators of a problem's networks."""
    pairs = [(p.columns, s) for p in problem.placements for s in p.block.separators]
    return Cuts(tuple(c for c, _ in pairs), tuple(s for _, s in pairs), problem.n_columns)


def asks(problem: Problem, backend: Backend) -> bool:
    """Return whether the solver asks for cuts itself while it works on the problem; without integers none does."""
    return Capability.CUTS in backend.capabilities and problem.is_discrete


def strengthened(
    problem: Problem, backend: Backend, options: Options, clock: Clock, stopped: Callable[[], bool]
) -> Problem:
    """Return the problem with the rows that rounds of cuts at its LP relaxation have left; the problem itself if none.

    Nothing is done for quadratic objectives, or where the solver asks for cuts itself.
    """
    cuts = cuts_of(problem)
    if not cuts or not cuts.rounds or problem.quadratic is not None or asks(problem, backend):
        return problem
    left = None if options.time_limit is None else _SHARE * clock.remaining
    rounds = _Rounds(problem, cuts, backend, replace(options, time_limit=left), stopped)
    return rounds.run()


class _Rounds:
    """Rounds of cuts at the LP relaxation of a problem."""

    def __init__(self, problem: Problem, cuts: Cuts, backend: Backend, options: Options, stopped: Callable[[], bool]):
        none = np.zeros(problem.n_columns, dtype=bool)
        self.relaxed = replace(problem, integer=none, sos1=(), indicators=(), complementarities=(), relus=())
        self.problem, self.cuts, self.backend, self.options, self.stopped = problem, cuts, backend, options, stopped
        self.clock = options.budget.start()
        self.matrices: list[sp.csr_array] = []
        self.lower: list[Array] = []
        self.upper: list[Array] = []

    def run(self) -> Problem:
        """Return the problem with the binding rows of all rounds."""
        session = self.backend.load(self.relaxed, self.options)
        try:
            solution = self._solve(session)
            value = solution.objective
            for done in range(self.cuts.rounds):
                if solution.x is None or value is None or self.clock.expired or self.stopped():
                    break
                found = self.cuts.at(solution.x, done)
                if not len(found[1]):
                    break
                self._keep(found)
                session = self._grown(session, found)
                again = self._solve(session)
                if again.x is None or again.objective is None:
                    break
                solution, before, value = again, value, again.objective
                if abs(value - before) <= _IMPROVEMENT * (1e-3 + abs(before)):
                    break
        finally:
            session.close()
        return self._with_rows(solution)

    def _solve(self, session: Session) -> Solution:
        solution = session.solve(lambda event: None, lambda: self.stopped() or self.clock.expired)
        return solution if solution.status == "optimal" else replace(solution, x=None, objective=None)

    def _keep(self, found: tuple[sp.csr_array, Array, Array]) -> None:
        self.matrices.append(found[0])
        self.lower.append(found[1])
        self.upper.append(found[2])

    def _grown(self, session: Session, found: tuple[sp.csr_array, Array, Array]) -> Session:
        """Return a session with the rows; a solver that cannot go on from where it was is started anew."""
        if Capability.HOT_LP in self.backend.capabilities:
            session.add_rows(*found)
            return session
        session.close()
        rows = np.arange(sum(len(low) for low in self.lower))
        return self.backend.load(self._appended(self.relaxed, rows), replace(self.options, time_limit=self._left()))

    def _left(self) -> float | None:
        return None if self.options.time_limit is None else self.clock.remaining

    def _with_rows(self, solution: Solution) -> Problem:
        """Return the problem with the rows that bind at the last point."""
        count = sum(len(low) for low in self.lower)
        if not count:
            return self.problem
        rows = np.arange(count)
        if solution.x is not None:
            value = stack(self.matrices, self.problem.n_columns) @ solution.x
            slack = np.minimum(value - np.concatenate(self.lower), np.concatenate(self.upper) - value)
            rows = np.flatnonzero(slack <= 1e-6 * (1 + np.abs(value)))
        return self._appended(self.problem, rows)

    def _appended(self, problem: Problem, rows: Index) -> Problem:
        if not len(rows):
            return problem
        chosen = sp.csr_array(stack(self.matrices, problem.n_columns)[rows])
        n = problem.n_rows
        return replace(
            problem,
            matrix=stack([problem.matrix, chosen], problem.n_columns),
            row_lower=np.concatenate([problem.row_lower, np.concatenate(self.lower)[rows]]),
            row_upper=np.concatenate([problem.row_upper, np.concatenate(self.upper)[rows]]),
            row_groups=(*problem.row_groups, ("cuts", n, n + len(rows))),
        )
