"""A Pyomo model as arrays, and a solution back into it.

Rows are walked with `generate_standard_repn`: it is as fast as the standard-form compiler, sees quadratic terms, keeps
ranged rows whole and leaves rows without variables to the solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from pyomo.common.collections import ComponentMap
from pyomo.common.errors import PyomoException
from pyomo.common.gc_manager import PauseGC
from pyomo.core.base.constraint import Constraint
from pyomo.core.base.objective import Objective
from pyomo.core.base.sos import SOSConstraint
from pyomo.core.base.suffix import Suffix
from pyomo.core.kernel.objective import maximize
from pyomo.core.staleflag import StaleFlagManager
from pyomo.repn import generate_standard_repn

from nnembed.aliases import Array, Index
from nnembed.errors import InputError, UnsupportedFeature, WrongModel
from nnembed.hosts.pyomo_attach import GUARD
from nnembed.hosts.pyomo_input import refuse_model
from nnembed.hosts.pyomo_variables import Note, bounds_of, known_labels, network_elsewhere, notes_of, refuse_gaps
from nnembed.problem import Problem
from nnembed.protocols import Solution

# What says nothing to a solver beside rows, sets and the objective, or is only read through them.
_PLAIN = {
    "Block", "BooleanVar", "BuildAction", "BuildCheck", "Constraint", "Expression", "ExternalFunction", "Objective",
    "Param", "Port", "RangeSet", "Set", "SetOf", "SOSConstraint", "Suffix", "Var",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PyomoProblem(Problem):
    """A problem that knows the variables and constraints of its first columns and rows."""

    variables: tuple[Any, ...] = ()
    constraints: tuple[Any, ...] = ()

    def row_name(self, row: int) -> str:
        """Return the name of the constraint; see `Problem.row_name`."""
        return str(self.constraints[row].name) if row < len(self.constraints) else super().row_name(row)

    def column_name(self, column: int) -> str:
        """Return the name of the variable; see `Problem.column_name`."""
        return str(self.variables[column].name) if column < len(self.variables) else super().column_name(column)


@dataclass(eq=False)
class _Table:
    """Sparse rows as they are collected; columns in order of appearance."""

    place: dict[int, int] = field(default_factory=dict)
    variables: list[Any] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    indptr: list[int] = field(default_factory=lambda: [0])

    def columns(self, variables: Sequence[Any]) -> list[int]:
        """Return the columns of variables, new ones where needed."""
        place, known = self.place, self.variables
        out = []
        for v in variables:
            k = place.get(id(v))
            if k is None:
                k = place[id(v)] = len(known)
                known.append(v)
            out.append(k)
        return out

    def add(self, variables: Sequence[Any], data: Sequence[float]) -> None:
        """Append a row."""
        self.indices += self.columns(variables)
        self.data += data
        self.indptr.append(len(self.data))

    def matrix(self) -> sp.csr_array:
        """Return all rows over all columns there are now."""
        shape = (len(self.indptr) - 1, len(self.variables))
        indices = np.array(self.indices, dtype=np.int32)
        made = sp.csr_array((np.array(self.data, dtype=float), indices, np.array(self.indptr)), shape=shape)
        made.sum_duplicates()
        made.eliminate_zeros()
        return made


def compile_model(model: Any) -> PyomoProblem:
    """Return the user's own model as arrays; see `Host.compile`."""
    refuse_model(model)
    blocks = list(model.block_data_objects(active=True))
    notes = notes_of(blocks)
    _refuse_components(blocks)
    _refuse_foreign_guards(blocks, notes)
    table = _Table()
    with PauseGC():
        constraints, lower, upper = _rows(model, notes, table)
        goal = _objective(model, table)
    sos1 = _sos1(model, table)
    pairs = [pair for n in notes for con, pair in zip(n.products, n.pairs, strict=True) if con.active]
    complementary = np.array([table.columns(pair) for pair in pairs], dtype=np.intp).reshape(-1, 2)
    table.columns([v for n in notes for v in n.variables])
    variables, matrix = table.variables, table.matrix()
    _refuse_strangers(model, table, notes)
    refuse_gaps(variables)
    column_lower, column_upper, whole = bounds_of(variables)
    cost, quadratic = _costs(goal, len(variables))
    _refuse_not_finite(matrix, constraints, lower, upper)
    return PyomoProblem(
        matrix=matrix,
        row_lower=lower,
        row_upper=upper,
        lower=column_lower,
        upper=column_upper,
        integer=whole,
        cost=cost,
        offset=goal.offset,
        maximize=goal.maximize,
        quadratic=quadratic,
        labels=known_labels(variables),
        row_groups=_groups(constraints),
        column_groups=_groups(variables),
        sos1=sos1,
        complementarities=(complementary,) if len(complementary) else (),
        variables=tuple(variables),
        constraints=tuple(constraints),
    )


# ---- what cannot be compiled ---------------------------------------------------------------------------


def _refuse_components(blocks: Sequence[Any]) -> None:
    for block in blocks:
        for component in block.component_objects(active=True, descend_into=False):
            if component.ctype.__name__ not in _PLAIN and hasattr(component, "deactivate"):
                raise UnsupportedFeature(
                    f"component {component.name!r} is a {component.ctype.__name__}, which nnembed.solve cannot pass "
                    "on; transform the model first (TransformationFactory), or attach the network (attach=True) and "
                    "use a Pyomo solver"
                )


def _refuse_foreign_guards(blocks: Sequence[Any], notes: Sequence[Note]) -> None:
    known = {id(n.guard) for n in notes}
    for block in blocks:
        guard = block.component(GUARD)
        if guard is not None and id(guard) not in known:
            raise InputError(
                f"the network {block.name!r} was declared in another model and did not come along with the copy or "
                "the file; delete the block and embed the network again"
            )


def _refuse_strangers(model: Any, table: _Table, notes: Sequence[Note]) -> None:
    root = model.model()
    for v in table.variables:
        if v.model() is not root:
            name = v.parent_component().name if v.parent_component() is not None else "?"
            raise WrongModel(
                f"the model uses variable {name!r}, which is not, or no longer, part of it; delete or rewrite the "
                "constraints that use it (outputs of a removed network are such variables)"
            )
    if (block := network_elsewhere(set(table.place), notes)) is not None:
        raise InputError(
            f"the model uses outputs of the network {block.name!r}, whose block is not active in {model.name!r}; "
            "activate it, or solve the model that contains it"
        )


def _refuse_not_finite(matrix: sp.csr_array, constraints: list[Any], lower: Array, upper: Array) -> None:
    bad = np.isnan(lower) | np.isnan(upper)
    if not np.isfinite(matrix.data).all():
        entry = int(np.flatnonzero(~np.isfinite(matrix.data))[0])
        bad[int(np.searchsorted(matrix.indptr, entry, side="right")) - 1] = True
    if bad.any():
        name = constraints[int(np.flatnonzero(bad)[0])].name
        raise InputError(f"constraint {name!r} has a coefficient or bound that is NaN or infinite")


# ---- rows ------------------------------------------------------------------------------------------------


def _rows(model: Any, notes: Sequence[Note], table: _Table) -> tuple[list[Any], Array, Array]:
    own = {id(n.guard) for n in notes} | {id(con) for n in notes for con in n.products}
    constraints, lower, upper = [], [], []
    for con in model.component_data_objects(Constraint, active=True):
        if id(con) in own:
            continue
        low, body, high = _sides(con)
        repn = _repn(body, con)
        if repn.quadratic_vars or repn.nonlinear_expr is not None:
            kind = "nonlinear" if repn.nonlinear_expr is not None else "quadratic"
            raise UnsupportedFeature(
                f"constraint {con.name!r} is {kind}: {con.expr}. nnembed.solve takes linear rows only; attach the "
                "network (attach=True) and solve the model with a nonlinear solver of Pyomo, or deactivate the row"
            )
        if low is None and high is None:
            continue
        table.add(repn.linear_vars, repn.linear_coefs)
        constraints.append(con)
        lower.append(-np.inf if low is None else low - repn.constant)
        upper.append(np.inf if high is None else high - repn.constant)
    return constraints, np.array(lower, dtype=float), np.array(upper, dtype=float)


def _sides(con: Any) -> tuple[float | None, Any, float | None]:
    try:
        low, body, high = con.to_bounded_expression(evaluate_bounds=True)
    except (PyomoException, ValueError, TypeError) as error:
        raise InputError(f"constraint {con.name!r} has no bounds that are numbers: {error}") from None
    return low, body, high


def _repn(expression: Any, owner: Any) -> Any:
    try:
        return generate_standard_repn(expression, compute_values=True, quadratic=True)
    except (PyomoException, ValueError, TypeError) as error:
        raise InputError(f"{owner.name!r} holds a Param or fixed variable without a value: {error}") from None


def _groups(parts: Sequence[Any]) -> tuple[tuple[str, int, int], ...]:
    """Return (component, start, stop) for runs of members of the same component."""
    groups: list[tuple[str, int, int]] = []
    start, last = 0, None
    for i, part in enumerate(parts):
        owner = part.parent_component()
        if owner is not last:
            if last is not None:
                groups.append((last.name, start, i))
            start, last = i, owner
    if last is not None:
        groups.append((last.name, start, len(parts)))
    return tuple(groups)


def _sos1(model: Any, table: _Table) -> tuple[Index, ...]:
    by_size: dict[int, list[list[int]]] = {}
    for con in model.component_data_objects(SOSConstraint, active=True):
        if con.level != 1:
            raise UnsupportedFeature(
                f"constraint {con.name!r} is an SOS{con.level}, which nnembed.solve cannot pass on; write it with "
                "binaries, or attach the network (attach=True) and use a Pyomo solver that takes it"
            )
        members = table.columns(con.variables)
        if len(members) > 1:
            by_size.setdefault(len(members), []).append(members)
    return tuple(np.array(sets, dtype=np.intp) for sets in by_size.values())


# ---- objective -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Goal:
    """The objective over columns: linear and quadratic terms."""

    columns: list[int]
    data: Any
    pairs: list[list[int]]
    products: Any
    offset: float
    maximize: bool


def _objective(model: Any, table: _Table) -> _Goal:
    active = list(model.component_data_objects(Objective, active=True))
    if len(active) != 1:
        known = ", ".join(repr(o.name) for o in active)
        advice = (
            f"deactivate() all but one of {known}" if active else "add one, pyomo.environ.Objective(expr=0) will do"
        )
        raise InputError(f"the model has {len(active)} active objectives; {advice}")
    goal = active[0]
    repn = _repn(goal.expr, goal)
    if repn.nonlinear_expr is not None:
        raise UnsupportedFeature(
            f"objective {goal.name!r} is nonlinear beyond quadratic terms; attach the network (attach=True) and solve "
            "the model with a nonlinear solver of Pyomo"
        )
    numbers = np.array([repn.constant, *repn.linear_coefs, *repn.quadratic_coefs], dtype=float)
    if not np.isfinite(numbers).all():
        raise InputError(f"objective {goal.name!r} has a coefficient or constant that is NaN or infinite")
    return _Goal(
        table.columns(repn.linear_vars),
        np.array(repn.linear_coefs, dtype=float),
        [table.columns(pair) for pair in repn.quadratic_vars],
        np.array(repn.quadratic_coefs, dtype=float),
        float(repn.constant),
        goal.sense == maximize,
    )


def _costs(goal: _Goal, width: int) -> tuple[Array, sp.csr_array | None]:
    cost = np.bincount(goal.columns, weights=goal.data, minlength=width).astype(float) if goal.columns else None
    cost = np.zeros(width) if cost is None else cost
    if not goal.pairs:
        return cost, None
    pairs = np.array(goal.pairs, dtype=np.int32)
    half = sp.coo_array((goal.products, (pairs[:, 0], pairs[:, 1])), shape=(width, width))
    square = sp.csr_array(half + half.T)  # x Q x / 2, so that a term a x y stands as a above and below the diagonal
    square.sum_duplicates()
    square.eliminate_zeros()
    return cost, (square if square.nnz else None)


# ---- the way back ----------------------------------------------------------------------------------------


def load_solution(model: Any, problem: Problem, solution: Solution) -> Any:
    """Put values and duals into the model as Pyomo's own solvers would; see `Host.load`."""
    assert isinstance(problem, PyomoProblem)
    StaleFlagManager.mark_all_as_stale()
    if solution.x is None:
        return None
    values = ComponentMap()
    for v, x in zip(problem.variables, solution.x.tolist(), strict=False):
        if not v.fixed:
            v.set_value(x, skip_validation=True)
        values[v] = v.value
    if solution.duals is not None:
        _load_duals(model, problem, solution.duals)
    return values


def _load_duals(model: Any, problem: PyomoProblem, duals: Array) -> None:
    """Write the duals of the user's rows into the model's Suffix `dual`, in Pyomo's sign as HiGHS states them."""
    suffix = model.component("dual")
    if suffix is None or suffix.ctype is not Suffix or not suffix.import_enabled():
        return
    suffix.clear()
    for con, dual in zip(problem.constraints, duals.tolist(), strict=False):
        suffix[con] = dual


def values_of(variables: Sequence[Any]) -> Array:
    """Return the present values of variables.

    Raises
    ------
    InputError
        If one has none.
    """
    values = [v.value for v in variables]
    if any(x is None for x in values):
        name = variables[values.index(None)].name
        raise InputError(f"variable {name!r} has no value: the model has no solution yet; solve it first")
    return np.array(values, dtype=float)
