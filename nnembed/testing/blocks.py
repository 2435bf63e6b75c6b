"""Blocks under test: equality, residuals at a point, and their optimum by a small search of our own.

The search uses an LP/MILP for columns and rows and branches on sets, complementary pairs, indicator and ReLU rows
itself, so that it shares nothing with the lowerings and backends it is used to judge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import Block

_ZERO = 1e-7


def assert_block_equal(left: Block, right: Block, *, atol: float = 0.0) -> None:
    """Raise `AssertionError`, saying where, unless two blocks are the same up to `atol`.

    Columns, rows and conditions must come in the same order; explicit zeros in rows do not count.
    """
    for name in ("n_columns", "n_rows", "n_inputs", "batch", "exact", "needs"):
        ours, theirs = getattr(left, name), getattr(right, name)
        assert ours == theirs, f"blocks differ in {name}: {ours} and {theirs}"
    assert np.array_equal(left.outputs, right.outputs), "blocks differ in their output columns"
    assert np.array_equal(left.integer, right.integer), "blocks differ in their integer columns"
    names, others = left.names(""), right.names("")
    assert names == others, (
        f"blocks differ in column names: {[p for p in zip(names, others, strict=True) if p[0] != p[1]]}"
    )
    for name in ("lower", "upper", "row_lower", "row_upper"):
        _same(getattr(left, name), getattr(right, name), atol, name)
    _same((left.matrix - right.matrix).toarray(), 0.0, atol, "rows")
    for ours, theirs in ((_sets(left), _sets(right)),):
        assert len(ours) == len(theirs), "blocks differ in the number of sets"
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)), "blocks differ in their sets"
    assert len(left.relus) == len(right.relus), "blocks differ in the number of groups of ReLU rows"
    assert all(np.array_equal(a, b) for a, b in zip(left.relus, right.relus, strict=True)), "blocks differ in ReLU rows"
    assert len(left.indicators) == len(right.indicators), "blocks differ in the number of indicator groups"
    for a, b in zip(left.indicators, right.indicators, strict=True):
        assert np.array_equal(a.binary, b.binary), "blocks differ in the binaries of indicator rows"
        _same(a.value, b.value, 0.0, "indicator values")
        _same((a.matrix - b.matrix).toarray(), 0.0, atol, "indicator rows")
        _same(a.row_lower, b.row_lower, atol, "indicator row_lower")
        _same(a.row_upper, b.row_upper, atol, "indicator row_upper")


def _same(left: Any, right: Any, atol: float, what: str) -> None:
    left, right = np.broadcast_arrays(np.asarray(left, float), np.asarray(right, float))
    with np.errstate(invalid="ignore"):
        good = (left == right) | (np.abs(left - right) <= atol)
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(f"blocks differ in {what} at {where}: {left[where]!r} and {right[where]!r}")


def _sets(block: Any) -> list[Index]:
    """Return every family of sets of which one member may be nonzero, (sets, members) each."""
    return [getattr(s, "columns", s) for s in (*block.sos1, *block.complementarities)]


def violation(block: Any, x: Array) -> tuple[float, str]:
    """Return the largest violation of a block or problem at a point, relative to 1 + size, and what is violated."""
    if not np.isfinite(x).all():
        return np.inf, "the point is not finite"
    value, size = block.matrix @ x, 1 + abs(block.matrix) @ np.abs(x)
    parts = {
        "rows": np.maximum(block.row_lower - value, value - block.row_upper) / size,
        "column bounds": np.maximum(block.lower - x, x - block.upper) / (1 + np.abs(x)),
        "integrality": np.abs(x - np.rint(x))[block.integer],
    }
    for sets in _sets(block):
        if sets.size and sets.shape[1] > 1:
            parts["sets"] = np.sort(np.abs(x[sets]), axis=1)[:, -2]
    for rule in block.indicators:
        value, size = rule.matrix @ x, 1 + abs(rule.matrix) @ np.abs(x)
        excess = np.maximum(rule.row_lower - value, value - rule.row_upper) / size
        parts["indicator rows"] = excess[np.abs(x[rule.binary] - rule.value) < 0.5]
    for pairs in block.relus:
        y, g = x[pairs[:, 0]], x[pairs[:, 1]]
        off = np.abs(y - np.maximum(g, 0.0)) / (1 + np.abs(g))
        parts["ReLU rows"] = np.append(off, parts.get("ReLU rows", 0.0))
    worst = {name: float(part.max(initial=0.0)) for name, part in parts.items()}
    name = max(worst, key=lambda n: worst[n])
    return worst[name], f"{name} by {worst[name]:.3g}"


def with_inputs(block: Block, x: Array) -> Block:
    """Return the block with its inputs fixed."""
    lower, upper = block.lower.copy(), block.upper.copy()
    lower[: block.n_inputs] = upper[: block.n_inputs] = x
    return replace(block, lower=lower, upper=upper)


def block_optimum(block: Any, cost: Array, *, maximize: bool = True) -> float | None:
    """Return the optimum of ``cost @ columns`` over a block or problem, None if there is no feasible point.

    Parameters
    ----------
    block : Block or Problem
        Small: the search is exhaustive over conditions on columns without finite bounds.
    cost : array (columns,)
    maximize : bool

    Returns
    -------
    float or None
        Infinite in an unbounded direction.
    """
    return optimum_point(block, cost, maximize=maximize)[0]


def optimum_point(block: Any, cost: Array, *, maximize: bool = True) -> tuple[float | None, Array | None]:
    """Return the optimum as `block_optimum` does, and a point that has it."""
    sign = -1.0 if maximize else 1.0
    plain = _mixed_integer(block)
    cost = np.pad(sign * cost, (0, len(plain.lower) - len(cost)))
    best, point = np.inf, None
    stack = [plain]
    while stack:
        form = stack.pop()
        value, x = _relaxed(form, cost)
        if value >= best - 1e-12:
            continue
        children = form.branches(x)
        if children is not None:
            stack += children
        elif x is None:
            return sign * value, None
        else:
            best, point = value, x
    return (None, None) if point is None else (float(sign * best), point[: block.n_columns])


@dataclass(frozen=True, eq=False)
class _Form:
    """A mixed-integer program, and the conditions that are left to branch on.

    `sets` are columns of which one may be nonzero; `rules` are (binary, value, row, lower, upper).
    """

    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: np.ndarray
    sets: tuple[Index, ...] = ()
    rules: tuple[tuple[int, float, sp.csr_array, float, float], ...] = ()
    relus: tuple[tuple[int, int], ...] = ()

    def branches(self, x: Array | None) -> list[_Form] | None:
        """Return the two ways out of the first condition that is violated (without a point: of the first one)."""
        for members in self.sets:
            open_ = members if x is None else members[np.abs(x[members]) > _ZERO]
            if len(open_) > 1:
                cut = int(np.flatnonzero(members == open_[0])[0]) + 1
                return [self._zero(members[:cut]), self._zero(members[cut:])]
        for k, (binary, value, row, low, high) in enumerate(self.rules):
            if x is not None:
                at = float((row @ x)[0])
                if abs(x[binary] - value) > 0.5 or max(low - at, at - high) <= _ZERO * (1 + abs(at)):
                    continue
            rest = replace(self, rules=self.rules[:k] + self.rules[k + 1 :])
            return [rest._fixed(binary, 1 - value), rest._with(row, low, high)._fixed(binary, value)]
        for k, (y, g) in enumerate(self.relus):
            if x is not None and abs(x[y] - max(x[g], 0.0)) <= _ZERO * (1 + abs(x[g])):
                continue
            rest = replace(self, relus=self.relus[:k] + self.relus[k + 1 :])
            tie = sp.csr_array(([1.0, -1.0], ([0, 0], [y, g])), shape=(1, len(self.lower)))
            return [rest._range(g, 0.0, np.inf)._with(tie, 0.0, 0.0), rest._range(g, -np.inf, 0.0)._fixed(y, 0.0)]
        return None

    def _zero(self, columns: Index) -> _Form:
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[columns], upper[columns] = np.maximum(lower[columns], 0.0), np.minimum(upper[columns], 0.0)
        gone = set(columns.tolist())
        sets = tuple(np.array([m for m in s.tolist() if m not in gone], dtype=np.intp) for s in self.sets)
        return replace(self, lower=lower, upper=upper, sets=sets)

    def _fixed(self, column: int, value: float) -> _Form:
        return self._range(column, value, value)

    def _range(self, column: int, low: float, high: float) -> _Form:
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[column], upper[column] = max(lower[column], low), min(upper[column], high)
        return replace(self, lower=lower, upper=upper)

    def _with(self, row: sp.csr_array, low: Any, high: Any) -> _Form:
        sides = np.append(self.row_lower, low), np.append(self.row_upper, high)
        matrix = sp.csr_array(sp.vstack([self.matrix, row], format="csr"))
        return replace(self, matrix=matrix, row_lower=sides[0], row_upper=sides[1])


def _mixed_integer(block: Any) -> _Form:
    """Return the program of a block, with binaries for conditions on bounded columns."""
    sets = [members for family in _sets(block) for members in family]
    bounded = [bool(np.isfinite(block.lower[m]).all() and np.isfinite(block.upper[m]).all()) for m in sets]
    added = sum(len(m) for m, good in zip(sets, bounded, strict=True) if good)
    n, width = block.n_columns, block.n_columns + added
    form = _Form(
        sp.csr_array((block.matrix.data, block.matrix.indices, block.matrix.indptr), shape=(block.n_rows, width)),
        block.row_lower,
        block.row_upper,
        np.pad(block.lower, (0, added)),
        np.pad(block.upper, (0, added), constant_values=1.0),
        np.pad(block.integer, (0, added), constant_values=True),
        tuple(m for m, good in zip(sets, bounded, strict=True) if not good),
        relus=tuple((int(y), int(g)) for pairs in block.relus for y, g in pairs),
    )
    for members, good in zip(sets, bounded, strict=True):
        if good:
            form = _one_nonzero(form, members, n)
            n += len(members)
    for rule in block.indicators:
        for k, binary in enumerate(rule.binary):
            row = sp.csr_array(
                (rule.matrix[[k]].data, rule.matrix[[k]].indices, [0, rule.matrix[[k]].nnz]), shape=(1, width)
            )
            form = _switched(
                form, (int(binary), float(rule.value[k]), row, float(rule.row_lower[k]), float(rule.row_upper[k]))
            )
    return form


def _one_nonzero(form: _Form, members: Index, first: int) -> _Form:
    """Add ``lower z <= x <= upper z, sum z <= 1`` with the binaries from column `first` on."""
    k, width = len(members), len(form.lower)
    own = sp.csr_array((np.ones(k), members, np.arange(k + 1)), shape=(k, width))
    on = sp.csr_array((np.ones(k), first + np.arange(k), np.arange(k + 1)), shape=(k, width))
    low, high = sp.diags_array(form.lower[members]), sp.diags_array(form.upper[members])
    nothing = np.full(k, np.inf)
    form = form._with(own - high @ on, -nothing, np.zeros(k))._with(own - low @ on, np.zeros(k), nothing)
    return form._with(sp.csr_array(on.sum(axis=0)[None]), -np.inf, 1.0)


def _switched(form: _Form, rule: tuple[int, float, sp.csr_array, float, float]) -> _Form:
    """Add an indicator row with constants from the columns' bounds; keep it to branch on where they are infinite."""
    binary, value, row, low, high = rule
    data, columns = row.data, row.indices
    least = float(np.where(data > 0, data * form.lower[columns], data * form.upper[columns]).sum())
    most = float(np.where(data > 0, data * form.upper[columns], data * form.lower[columns]).sum())
    over = max(most - high, 0.0) if np.isfinite(high) else 0.0
    under = max(low - least, 0.0) if np.isfinite(low) else 0.0
    if not np.isfinite(over + under):
        return replace(form, rules=(*form.rules, rule))
    unit = sp.csr_array(([1.0], [binary], [0, 1]), shape=row.shape)
    sign = 1.0 if value else -1.0  # (1 - [z == value]) is value's share minus sign * z
    off = 1.0 if value else 0.0
    form = form._with(sp.csr_array(row + over * sign * unit), -np.inf, high + over * off)
    return form._with(sp.csr_array(row - under * sign * unit), low - under * off, np.inf)


def _relaxed(form: _Form, cost: Array) -> tuple[float, Array | None]:
    """Return value and point without the conditions that are left; minus infinity without a point if unbounded."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    if (form.lower > form.upper).any():
        return np.inf, None
    rows = LinearConstraint(form.matrix, form.row_lower, form.row_upper)

    def solved(presolve: bool, whole: Array | None = None) -> Any:
        at = form.lower if whole is None else whole
        fixed = form.integer & (whole is not None)
        return milp(
            cost,
            integrality=(form.integer & ~fixed).astype(int),
            bounds=Bounds(np.where(fixed, at, form.lower), np.where(fixed, at, form.upper)),
            constraints=[rows] if form.matrix.shape[0] else [],
            options={"mip_rel_gap": 0.0, "presolve": presolve},
        )

    found = solved(True)
    if found.status not in (0, 2, 3):  # an error, or it does not know which; its presolve is to blame at times
        found = solved(False)
    if found.status == 0 and form.integer.any():  # the search is allowed 1e-6 in a row, the linear program 1e-7
        finer = solved(True, np.rint(found.x))
        found = finer if finer.status == 0 else found
    if found.status == 0:
        return float(found.fun), found.x
    if found.status == 2:
        return np.inf, None
    if cost.any():  # unbounded, or infeasible: without a cost only the second remains
        value, _ = _relaxed(form, np.zeros_like(cost))
        return (np.inf if value == np.inf else -np.inf), None
    raise RuntimeError(f"the kit's own solver failed on a block under test: {found.message}")
