"""A problem as heuristics see it: the user's variables that networks read, the networks, the objective on both.

The *visible* columns are the network inputs' variables and the network outputs. The *drivers* are the visible columns
that no network writes; values of the drivers determine all visible ones and every column of every block. Networks may
read outputs of other networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.ir.gradient import gradient
from nnembed.ir.network import Network
from nnembed.problem import Placement, Problem


@dataclass(frozen=True, eq=False)
class Point:
    """Values of some columns of a problem: a start for a solver.

    Attributes
    ----------
    columns : int array, values : array
        The columns that are determined, all of them when `complete`.
    objective : float
        Contribution of these columns to the objective.
    violation : float
        Largest violation of the rows that involve visible columns only.
    complete : bool
    discrete : int array
        Places in `columns` of the integer columns.
    strong : bool
        Complete, and no row over visible columns holds it back: where gradient steps have led to it, it is a local
        optimum of the whole problem.
    """

    columns: Index
    values: Array
    objective: float
    violation: float
    complete: bool
    discrete: Index
    strong: bool = False


class Scene:
    """See the module.

    Attributes
    ----------
    problem : Problem
    drivers : int array (k,)
        Problem columns of the drivers.
    lower, upper : arrays (k,)
        Their box, made finite where the model's is not.
    integer : bool array (k,)
    known : array (m, k)
        Points worth going on from, best first: the user's start, what other heuristics have found.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.sign = 1.0 if problem.maximize else -1.0
        written = [p.columns[p.block.outputs] for p in problem.placements]
        read = [p.drivers for p in problem.placements]
        self.visible = np.unique(np.concatenate([*read, *written]))
        free = ~np.isin(self.visible, np.concatenate(written))
        self._free = np.flatnonzero(free)
        self.drivers = self.visible[self._free]
        self.lower, self.upper = self._finite_box()
        self.integer = problem.integer[self.drivers]
        self.known: Array = np.zeros((0, len(self.drivers)))
        self._order = self._topological(read, written)
        self._reads = [self._over_visible(p) for p in problem.placements]
        self._writes = [np.searchsorted(self.visible, w) for w in written]
        self._cost = self.sign * problem.cost[self.visible]
        q = problem.quadratic
        self._quadratic = None if q is None else self.sign * sp.csr_array(q[self.visible][:, self.visible])
        known = np.zeros(problem.n_columns, dtype=bool)
        known[self.visible] = True
        for p in problem.placements:
            known[p.columns] = True
        self._known = known
        self._side = self._side_rows()

    def _finite_box(self) -> tuple[Array, Array]:
        lower, upper = self.problem.lower[self.drivers], self.problem.upper[self.drivers]
        low = np.where(np.isfinite(lower), lower, np.where(np.isfinite(upper), upper - 1.0, -1.0))
        return low, np.where(np.isfinite(upper), upper, np.maximum(low, lower) + 2.0)

    def _topological(self, read: list[Index], written: list[Index]) -> list[int]:
        """Return an order in which networks come after those whose outputs they read."""
        left, order = set(range(len(read))), []
        while left:
            ready = [i for i in sorted(left) if not any(np.isin(read[i], written[j]).any() for j in left - {i})]
            order += ready or sorted(left)  # networks in a circle: any order, rows decide
            left -= set(order)
        return order

    def _over_visible(self, placement: Placement) -> sp.csr_array:
        """Return the inputs of a placement as functions of the visible columns."""
        where = np.searchsorted(self.visible, placement.drivers)
        m = placement.matrix
        return sp.csr_array((m.data, where[m.indices], m.indptr), shape=(m.shape[0], len(self.visible)))

    def _side_rows(self) -> tuple[sp.csr_array, Array, Array] | None:
        """Return the rows over visible columns only."""
        matrix = self.problem.matrix
        hidden = np.ones(self.problem.n_columns)
        hidden[self.visible] = 0.0
        pattern = sp.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
        rows = np.flatnonzero(((pattern @ hidden) == 0) & (np.diff(matrix.indptr) > 0))
        if not len(rows):
            return None
        part = sp.csr_array(sp.csc_array(matrix[rows])[:, self.visible])
        return part, self.problem.row_lower[rows], self.problem.row_upper[rows]

    # ---- evaluation ---------------------------------------------------------------------------

    def evaluate(self, points: Array) -> tuple[Array, Array, Array, list[dict[str, Array]]]:
        """Run all networks.

        Parameters
        ----------
        points : array (s, k)
            Values of the drivers.

        Returns
        -------
        score : array (s,), higher is better
        violation : array (s,) of the rows over visible columns
        values : array (s, visible columns)
        states : all tensors of each placement, (s * batch, n)
        """
        values = np.zeros((len(points), len(self.visible)))
        values[:, self._free] = points
        states: list[dict[str, Array]] = [{} for _ in self.problem.placements]
        for i in self._order:
            placement = self.problem.placements[i]
            flat = (self._reads[i] @ values.T).T + placement.constant
            network = placement.embedding.network
            states[i] = network.forward(split_inputs(network, flat, placement.block.batch))
            values[:, self._writes[i]] = joined_outputs(network, states[i], len(points))
        score = values @ self._cost
        if self._quadratic is not None:
            score = score + 0.5 * (values * (self._quadratic @ values.T).T).sum(axis=1)
        return score, self._violation(values), values, states

    def _violation(self, values: Array) -> Array:
        if self._side is None:
            return np.zeros(len(values))
        matrix, low, high = self._side
        value = (matrix @ values.T).T
        excess: Array = np.maximum(np.maximum(low - value, value - high), 0.0).max(axis=1)
        return excess

    @property
    def side(self) -> tuple[sp.csr_array, Array, Array] | None:
        """Rows over visible columns only, with their two sides; None where there are none."""
        return self._side

    def ascent(self, values: Array, states: list[dict[str, Array]], pressure: Array | None = None) -> Array:
        """Return the gradient of the score with respect to the drivers, (s, k).

        `pressure` (s, visible columns) is added to the score's own slope over the visible columns.
        """
        flow = np.tile(self._cost, (len(values), 1))
        if pressure is not None:
            flow += pressure
        if self._quadratic is not None:
            flow += (self._quadratic @ values.T).T
        for i in reversed(self._order):
            placement = self.problem.placements[i]
            network, batch = placement.embedding.network, placement.block.batch
            weights = split_outputs(network, flow[:, self._writes[i]], batch)
            slope = gradient(network, states[i], weights, through=True)
            flat = [slope[s.name].reshape(len(values), batch * s.size) for s in network.inputs]
            flow += (self._reads[i].T @ np.concatenate(flat, axis=1).T).T
        return flow[:, self._free]

    def over_drivers(self, i: int) -> sp.csr_array:
        """Return the inputs of placement i as functions of the drivers, as far as they are drivers; (inputs, k)."""
        return sp.csr_array(sp.csc_array(self._reads[i])[:, self._free])

    def know(self, point: Array) -> None:
        """Put a point of the drivers (k,) before the known ones."""
        self.known = np.concatenate([self.clip(point[None]), self.known])

    def clip(self, points: Array) -> Array:
        """Return points projected on the box, integers rounded."""
        inside = np.clip(points, self.lower, self.upper)
        inside[:, self.integer] = np.rint(inside[:, self.integer])
        return inside

    def point(self, drivers: Array) -> Point:
        """Return the start that one point of the drivers determines."""
        score, violation, values, states = self.evaluate(drivers[None])
        x = np.zeros(self.problem.n_columns)
        for placement, state in zip(self.problem.placements, states, strict=True):
            x[placement.columns] = placement.block.fill(state)
        x[self.visible] = values[0]
        columns = np.flatnonzero(self._known)
        discrete = np.flatnonzero(self.problem.integer[columns])
        value = float(self.sign * score[0]) + self.problem.offset
        complete = bool(self._known.all())
        strong = complete and self._is_interior(values)
        return Point(columns, x[columns], value, float(violation[0]), complete, discrete, strong)

    def _is_interior(self, values: Array) -> bool:
        """Return whether no row over visible columns is active."""
        if self._side is None:
            return True
        matrix, low, high = self._side
        value = matrix @ values[0]
        return bool((np.minimum(value - low, high - value) > 1e-6 * (1 + np.abs(value))).all())


def split_inputs(network: Network, flat: Array, batch: int) -> dict[str, Array]:
    """Return (points * batch, n) per input from (points, inputs in block order)."""
    result, start = {}, 0
    for spec in network.inputs:
        width = batch * spec.size
        result[spec.name] = flat[:, start : start + width].reshape(-1, spec.size)
        start += width
    return result


def joined_outputs(network: Network, state: Mapping[str, Array], points: int) -> Array:
    """Return (points, outputs in block order) from all tensors (points * batch, n)."""
    return np.concatenate([state[s.name].reshape(points, -1) for s in network.outputs], axis=1)


def split_outputs(network: Network, flat: Array, batch: int) -> dict[str, Array]:
    """Return weights (points * batch, n) per output from (points, outputs in block order)."""
    result: dict[str, Array] = {}
    start = 0
    for spec in network.outputs:
        width = batch * spec.size
        part = flat[:, start : start + width].reshape(-1, spec.size)
        result[spec.name] = result[spec.name] + part if spec.name in result else part
        start += width
    return result
