"""Gurobi's side of a running solve: takes down news, hands in points, offers cuts.

Runs on Gurobi's thread and touches nothing but deques and its own attributes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gurobipy
import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array

from nnembed_gurobi.loading import canonical

Cuts = Callable[[Array], tuple[sp.csr_array, Array, Array]]

INFINITY = 1e100
ROOT_ROUNDS = 20
EVERY = 20  # nodes between two looks in the tree


class Separation:
    """Offers the rows that the relaxation's point violates: at the root round after round, in the tree now and then."""

    def __init__(self, cuts: Cuts, columns: list[Any]):
        self._cuts, self._columns = cuts, columns
        self.reset()

    def reset(self) -> None:
        """Begin a new search."""
        self._rounds, self._next = 0, EVERY

    def __call__(self, model: Any) -> None:
        """Add what is violated at the node's point."""
        codes = gurobipy.GRB.Callback
        if model.cbGet(codes.MIPNODE_STATUS) != gurobipy.GRB.Status.OPTIMAL:
            return
        node = int(model.cbGet(codes.MIPNODE_NODCNT))
        if node == 0:
            if self._rounds >= ROOT_ROUNDS:
                return
            self._rounds += 1
        elif node < self._next:
            return
        else:
            self._next = node + EVERY
        self._add(model, *self._cuts(np.array(model.cbGetNodeRel(self._columns), dtype=float)))

    def _add(self, model: Any, matrix: sp.csr_array, lower: Array, upper: Array) -> None:
        matrix, columns = canonical(matrix), self._columns
        for i, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
            part = slice(matrix.indptr[i], matrix.indptr[i + 1])
            row = gurobipy.LinExpr(matrix.data[part].tolist(), [columns[j] for j in matrix.indices[part].tolist()])
            if low > -np.inf:
                model.cbCut(row, gurobipy.GRB.GREATER_EQUAL, low)
            if high < np.inf:
                model.cbCut(row, gurobipy.GRB.LESS_EQUAL, high)


class Listener:
    """Gurobi's callback."""

    def __init__(self, columns: list[Any]) -> None:
        self.inbox: deque[Array] = deque()
        self.incumbents: deque[tuple[float, Array]] = deque()
        self._columns = columns
        self.bound: float | None = None
        self.separation: Separation | None = None
        self.failure: BaseException | None = None

    def reset(self) -> None:
        """Forget the news of an earlier solve."""
        self.incumbents.clear()
        self.bound = self.failure = None
        if self.separation is not None:
            self.separation.reset()

    def __call__(self, model: Any, where: int) -> None:
        """Take down incumbents and bounds, hand in points, offer cuts."""
        codes = gurobipy.GRB.Callback
        if where == codes.MIPSOL:
            x = np.array(model.cbGetSolution(self._columns), dtype=float)
            self.incumbents.append((float(model.cbGet(codes.MIPSOL_OBJ)), x))
        elif where == codes.MIP:
            self.bound = float(model.cbGet(codes.MIP_OBJBND))
        elif where == codes.MIPNODE:
            while self.inbox:
                model.cbSetSolution(model.getVars(), self.inbox.popleft().tolist())
                model.cbUseSolution()
            if self.separation is not None:
                self._separate(model)

    def _separate(self, model: Any) -> None:
        """Offer cuts; what the caller's function raises is kept for the caller's thread, because gurobipy drops it."""
        assert self.separation is not None
        try:
            if self.failure is None:
                self.separation(model)
        except BaseException as failure:  # noqa: BLE001 - raised again by the session
            self.failure = failure
            model.terminate()
