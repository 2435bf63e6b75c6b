"""Columns and rows of a block as one Pyomo block: written whole, or declared by their outputs only."""

from __future__ import annotations

import functools
import itertools
import keyword
import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from pyomo.common.gc_manager import PauseGC
from pyomo.core.base.block import Block as PyomoBlock
from pyomo.core.base.constraint import Constraint
from pyomo.core.base.set import RangeSet
from pyomo.core.base.set_types import Binary, Integers, Reals
from pyomo.core.base.sos import SOSConstraint
from pyomo.core.base.var import Var
from pyomo.core.expr.numeric_expr import LinearExpression

from nnembed.aliases import Array, Index
from nnembed.block import Block
from nnembed.errors import InputError
from nnembed.hosts.pyomo_variables import Note, labels_of, note, variables_of
from nnembed.hosts.shapes import Spec, by_output, one_sided
from nnembed.problem import InputMap, bind
from nnembed.protocols import Attached

# the name of a guard row and its variable; readable in a message, and a name every LP file reader takes
GUARD = "NETWORK_IS_NOT_IN_THIS_MODEL_use_nnembed_solve"


def declare(model: Any, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[Spec], name: str) -> Attached:
    """Add output variables and the guard; see `Host.declare`."""
    check_name(model, name)
    home = PyomoBlock(concrete=True)
    given, own = _output_variables(home, bounds, inputs, outputs)
    home.add_component(f"{GUARD}_zero", Var(bounds=(0, 0)))
    home.add_component(GUARD, Constraint(expr=home.component(f"{GUARD}_zero") >= 1))
    _place(model, home, name, Note(_needed(inputs, own), tuple(own), home.component(GUARD)))
    return Attached(given, labels_of(own), None, _remover(home, own))


def attach(model: Any, block: Block, inputs: InputMap, outputs: Sequence[Spec], name: str) -> Attached:
    """Write the whole block into the model; see `Host.attach`."""
    check_name(model, name)
    binding = bind(block, inputs)
    home = PyomoBlock(concrete=True)
    box = block.lower[block.outputs], block.upper[block.outputs]
    with PauseGC():  # the collector would walk the growing tree of expressions again and again
        given, own = _output_variables(home, box, inputs, outputs)
        columns = _columns(home, block, binding.labels, own)
        home.rows = _rows(block, columns)
        _ties(home, columns, inputs)
        pairs = [(y, columns[k]) for y, k in zip(own, block.outputs.tolist(), strict=True) if y is not columns[k]]
        if pairs:
            # an output that is an input, or asked for twice, is a variable of its own that equals the column
            home.add_component(free_name(home, "same"), _filled_rows([y == column for y, column in pairs]))
        if block.sos1:
            home.add_component(free_name(home, "sos1"), _sets(block, columns))
        pairs = [(columns[a], columns[b]) for part in block.complementarities for a, b in part.tolist()]
        products: list[Any] = []
        if pairs:
            # both are at least zero, and nonlinear solvers like this better than an equation
            rows = _filled_rows([a * b <= 0 for a, b in pairs])
            home.add_component(free_name(home, "complementary"), rows)
            products = list(rows.values())
        needed = (*_needed(inputs, own), *columns)  # a fixed input that no neuron reads is in no row
        _place(model, home, name, Note(needed, tuple(own), None, tuple(products), tuple(pairs)))
    return Attached(given, labels_of(own), labels_of(columns), _remover(home, own))


def check_name(model: Any, name: str) -> None:
    """Refuse a name that is taken, or that Pyomo and LP files cannot hold."""
    if not re.fullmatch(r"\w+", name):
        raise InputError(f"{name!r} cannot name a block of a Pyomo model; use letters, digits and underscores")
    if hasattr(model, name):
        what = "component" if model.component(name) is not None else "attribute"
        raise InputError(
            f"the model already has the {what} {name!r}; choose another name than {name!r} for this embedding"
        )


def _needed(inputs: InputMap, outputs: list[Any]) -> tuple[Any, ...]:
    """Return the variables that must be columns of a problem even where no row of the user has them."""
    return (*inputs.axes.variables, *outputs)


def _place(model: Any, home: Any, name: str, content: Note) -> None:
    """Put the finished block into the model and remember what it stands for."""
    model.add_component(name, home)
    note(home, content)


def _remover(home: Any, outputs: list[Any]) -> Callable[[], None]:
    reference = weakref.ref(home)

    def remove() -> None:
        """Take the block out; a second call does nothing."""
        block = reference()
        parent = None if block is None else block.parent_block()
        if block is None:
            return
        note(block, None)
        if parent is not None and parent.component(block.local_name) is block:
            parent.del_component(block)
        for y in outputs:
            # Rows of the user that still read an output must not be solved as if it were free.
            y.setlb(1.0)
            y.setub(0.0)

    return remove


# ---- columns -----------------------------------------------------------------------------------------


def _output_variables(
    home: Any, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[Spec]
) -> tuple[Any, list[Any]]:
    """Add one variable per output, indexed by batch and the output's own axes."""
    sides = (by_output(outputs, inputs.batch, side) for side in bounds)
    made = {}
    for spec, low, high in zip(outputs, *sides, strict=True):
        axes = [*inputs.axes.batch, *(range(n) for n in spec.shape)]
        called = "outputs" if len(outputs) == 1 else free_name(home, plain(spec.name))
        made[spec.name] = _variable(home, called, index_of(axes), low, high)
    own = [v for variable in made.values() for v in variable.values()]
    return (next(iter(made.values())) if len(made) == 1 else made), own


def index_of(axes: Sequence[Any]) -> list[Any] | None:
    """Return all index values in row-major order; None for a scalar."""
    if not axes:
        return None
    return list(axes[0]) if len(axes) == 1 else list(itertools.product(*axes))


def _variable(home: Any, name: str, index: list[Any] | None, low: Array, high: Array, integer: Any = False) -> Any:
    sides = list(zip(_numbers(low), _numbers(high), strict=True))
    integer = np.broadcast_to(integer, low.shape)
    binary = integer & np.isin(low, (0, 1)) & np.isin(high, (0, 1))
    domain = Binary if len(low) and binary.all() else Integers if len(low) and integer.all() else Reals
    if index is None:
        variable = Var(bounds=sides[0], domain=domain)
    else:
        variable = Var(index, bounds=dict(zip(index, sides, strict=True)), domain=domain)
    home.add_component(name, variable)
    if domain is Reals and integer.any():
        members = list(variable.values())
        for k in np.flatnonzero(integer).tolist():
            members[k].domain = Binary if binary[k] else Integers
    return variable


def _numbers(side: Array) -> list[float | None]:
    return [x if np.isfinite(x) else None for x in side.tolist()]


def _columns(home: Any, block: Block, labels: Index, own: list[Any]) -> list[Any]:
    """Return a variable for every column of the block: the user's, the outputs, and new ones named by their group."""
    columns: list[Any] = [None] * block.n_columns
    shared = np.flatnonzero(labels >= 0)
    for k, v in zip(shared.tolist(), variables_of(labels[shared]), strict=True):
        columns[k] = v
    for k, y in zip(block.outputs.tolist(), own, strict=True):
        if columns[k] is None and k >= block.n_inputs:
            columns[k] = y
    layers: dict[str, Any] = {}
    for group in block.groups:
        start = group.columns.start
        new = np.array([k for k in range(start, group.columns.stop) if columns[k] is None], dtype=np.intp)
        if not len(new):
            continue
        if group.layer not in layers:
            layers[group.layer] = PyomoBlock(concrete=True)
            home.add_component(free_name(home, plain(group.layer)), layers[group.layer])
        layer = layers[group.layer]
        role = group.role.value + "_" * keyword.iskeyword(group.role.value)
        index = _entries(group.elements[new - start], group.tensor_size, block.batch)
        box = block.lower[new], block.upper[new], block.integer[new]
        variable = _variable(layer, free_name(layer, role), index, *box)
        for k, v in zip(new.tolist(), variable.values(), strict=True):
            columns[k] = v
    return columns


def _entries(elements: Index, size: int, batch: int) -> list[Any]:
    """Return the index values of a group: entries, or (batch point, entry); a repeated entry is counted."""
    point, entry = np.divmod(elements, max(size, 1))
    keys: list[Any] = entry.tolist() if batch == 1 else list(zip(point.tolist(), entry.tolist(), strict=True))
    if len(set(keys)) == len(keys):
        return keys
    return list(range(len(keys)))


def plain(name: str) -> str:
    """Return an ONNX name as one that Python, Pyomo and LP files take."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "_"
    return f"n{plain}" if plain[0].isdigit() else plain


def free_name(block: Any, stem: str) -> str:
    """Return `stem`, with a number where the block has such a component or attribute."""
    k, name = 1, stem
    while hasattr(block, name) or name in ("outputs", "rows", "inputs"):
        k += 1
        name = f"{stem}_{k}"
    return name


# ---- rows --------------------------------------------------------------------------------------------


def _rows(block: Block, columns: list[Any]) -> Any:
    matrix, sign, rhs = one_sided(block.matrix, block.row_lower, block.row_upper)
    parts = zip(sign.tolist(), _expressions(matrix, columns), rhs.tolist(), strict=True)
    return _filled_rows([_row(sign, body, side) for sign, body, side in parts])


def _row(sign: str, body: Any, side: float) -> tuple[Any, ...]:
    if sign == "=":
        return (body, side)
    return (None, body, side) if sign == "<=" else (side, body, None)


def _filled_rows(rows: list[Any]) -> Any:
    constraint = Constraint(RangeSet(0, len(rows) - 1))
    constraint.construct()
    for i, row in enumerate(rows):
        constraint[i] = row
    return constraint


def _expressions(matrix: sp.csr_array, columns: list[Any]) -> list[Any]:
    starts, places, data = matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
    return [
        LinearExpression(constant=0, linear_coefs=data[a:b], linear_vars=[columns[k] for k in places[a:b]])
        for a, b in itertools.pairwise(starts)
    ]


def _ties(home: Any, columns: list[Any], inputs: InputMap) -> None:
    """Tie input columns to the user's own expressions, so that a Param changed later is not overlooked."""
    rows = [columns[i] == cell for i, cell, _, _ in inputs.axes.live if inputs.direct[i] < 0]
    if rows:
        home.inputs = _filled_rows(rows)


def _sets(block: Block, columns: list[Any]) -> Any:
    sets = [row for group in block.sos1 for row in group.columns.tolist()]
    members = [[columns[k] for k in row] for row in sets]
    return SOSConstraint(RangeSet(0, len(sets) - 1), rule=functools.partial(_members, members), sos=1)


def _members(sets: list[list[Any]], _: Any, i: int) -> list[Any]:
    return sets[i]
