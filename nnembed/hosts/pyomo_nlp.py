"""A network as nested Pyomo expressions (reduced space), for models that a nonlinear solver solves.

The full-space form needs nothing of this file: ``nnembed.embed(model, net, x, formulation="complementarity")`` writes
variables, linear rows and products that are at most zero. Here nothing is added but named expressions: the outputs are
functions of the inputs, ``max(g, 0)`` being ``(g + |g|) / 2``, which is exact. Use it with few inputs and solvers that
take absolute values, as SCIP does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pyomo.common.gc_manager import PauseGC
from pyomo.core.base.block import Block
from pyomo.core.base.expression import Expression
from pyomo.core.base.indexed_component import IndexedComponent
from pyomo.core.expr.numeric_expr import LinearExpression, UnaryFunctionExpression
from pyomo.core.expr.numvalue import value
from pyomo.core.expr.visitor import identify_variables

from nnembed.aliases import Array
from nnembed.errors import InputError, UnknownName, UnsupportedFeature, WrongModel
from nnembed.hosts.pyomo_attach import check_name, free_name, index_of, plain
from nnembed.hosts.pyomo_input import arrange, refuse_model

Size = Callable[[Any], Any]


def _unary(g: Any) -> Any:
    return UnaryFunctionExpression((g,), "abs", abs)


_ABSOLUTE: dict[str, Size] = {"abs": abs, "unary": _unary}


@dataclass(frozen=True, eq=False)
class ExpressionEmbedding:
    """A network written as expressions.

    Attributes
    ----------
    name : str
    network : Network
    outputs : Expression (a dict by name for several outputs)
        Indexed by the batch and the output's own axes.
    block : Block
        What `remove` takes out.
    cells : tuple of object arrays (batch, entries)
        The input entries, one array per input.
    """

    name: str
    network: Any
    outputs: Any
    block: Any
    cells: tuple[Any, ...]

    def residual(self) -> float:
        """Return the largest relative difference between the expressions' values and the network.

        Raises
        ------
        InputError
            If a variable has no value.
        """
        specs = self.network.inputs
        state = self.network.forward({s.name: _values(c) for s, c in zip(specs, self.cells, strict=True)})
        given = self.outputs if isinstance(self.outputs, dict) else {self.network.outputs[0].name: self.outputs}
        worst = 0.0
        for spec in self.network.outputs:
            ours = state[spec.name].reshape(-1)
            theirs = np.array([value(e) for e in given[spec.name].values()])
            worst = max(worst, float((np.abs(theirs - ours) / (1 + np.abs(ours))).max(initial=0.0)))
        return worst

    def remove(self) -> None:
        """Take the expressions out of the model; a second call does nothing."""
        parent = self.block.parent_block()
        if parent is not None:
            parent.del_component(self.block)


def embed_expressions(
    model: Any, network: Any, x: Any, *, name: str = "network", absolute: Literal["abs", "unary"] = "abs"
) -> ExpressionEmbedding:
    """Write a network as expressions of its inputs.

    Parameters
    ----------
    model : ConcreteModel or Block
    network : Network
    x : as in `nnembed.embed`
        Entries may be nonlinear expressions, and need no bounds.
    name : str
        Name of the block that holds the expressions.
    absolute : "abs" or "unary"
        Write absolute values as Pyomo's own ``abs(g)``, which the NL, GAMS and BARON writers take, or as a general
        unary function, the only form that Pyomo's ``scip_direct`` takes.

    Returns
    -------
    ExpressionEmbedding

    Raises
    ------
    InputError, WrongModel
        If the inputs do not fit, or the name is taken.
    UnsupportedFeature
        If the network has a node without such an expression; names it.
    """
    refuse_model(model)
    check_name(model, name)
    arrays, batch = arrange(network.inputs, x)
    _check(model, network.inputs, arrays)
    if absolute not in _ABSOLUTE:
        raise UnknownName("way to write absolute values", absolute, _ABSOLUTE)
    home, state = Block(concrete=True), dict(zip((s.name for s in network.inputs), arrays, strict=True))
    with PauseGC():
        for node in network.nodes:
            state[node.output] = _written(node, state, home, _ABSOLUTE[absolute])
        outputs = {}
        for spec in network.outputs:
            called = "outputs" if len(network.outputs) == 1 else free_name(home, plain(spec.name))
            keys = index_of([*batch, *(range(n) for n in spec.shape)])
            outputs[spec.name] = _named(home, called, keys, state[spec.name].reshape(-1).tolist())
        model.add_component(name, home)
    given = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    return ExpressionEmbedding(name, network, given, home, tuple(arrays))


def _check(model: Any, specs: Sequence[Any], arrays: Sequence[Any]) -> None:
    root = model.model()
    for spec, cells in zip(specs, arrays, strict=True):
        for cell in cells.reshape(-1).tolist():
            numeric = isinstance(cell, float | int | np.number) and not isinstance(cell, bool)
            if not numeric and (isinstance(cell, IndexedComponent) and cell.is_indexed()):
                raise InputError(f"input {spec.name!r} holds the indexed component {cell.name!r}; pass its members")
            if not numeric and not getattr(cell, "is_numeric_type", lambda: False)():
                raise InputError(f"input {spec.name!r} holds a {type(cell).__name__}, which is no expression or number")
            for v in () if numeric else identify_variables(cell, include_fixed=True):
                if v.model() is not root:
                    raise WrongModel(f"variable {v.name!r} belongs to another model, or to none, than {model.name!r}")


def _written(node: Any, state: Mapping[str, Any], home: Any, size: Size) -> Any:
    """Return the output of a node as an array of expressions (batch, n); nodes are told apart by what they hold."""
    for mark, write in _WRITERS.items():
        if hasattr(node, mark):
            return write(node, state, home, size)
    raise UnsupportedFeature(
        f"node {node.name!r} ({node.kind}) cannot be written as an expression; use nnembed.embed with a formulation"
    )


def _affine(node: Any, state: Mapping[str, Any], home: Any, size: Size) -> Any:
    """Name every pre-activation, so that it is written once however often it is used."""
    matrices = [operator.csr() for operator in node.operators]
    batch = len(state[node.inputs[0]])
    bodies = []
    for point in range(batch):
        sources = [state[t][point] for t in node.inputs]
        for row, bias in enumerate(node.bias.tolist()):
            bodies.append(_sum(bias, [(m, row, s) for m, s in zip(matrices, sources, strict=True)]))
    keys = index_of([range(batch), range(len(node.bias))])
    made = _named(home, free_name(home, plain(node.name)), keys, bodies)
    out = np.empty(len(bodies), dtype=object)
    out[:] = list(made.values())
    return out.reshape(batch, -1)


def _sum(bias: float, parts: Sequence[tuple[Any, int, Any]]) -> Any:
    data: list[float] = []
    cells: list[Any] = []
    for matrix, row, source in parts:
        a, b = matrix.indptr[row], matrix.indptr[row + 1]
        data += matrix.data[a:b].tolist()
        cells += source[matrix.indices[a:b]].tolist()
    if all(hasattr(c, "is_variable_type") and c.is_variable_type() for c in cells):
        return LinearExpression(constant=bias, linear_coefs=data, linear_vars=cells)
    return bias + sum(factor * cell for factor, cell in zip(data, cells, strict=True))


def _kink(node: Any, state: Mapping[str, Any], home: Any, size: Size) -> Any:
    mean, half = 0.5 * (node.left + node.right), 0.5 * (node.right - node.left)
    return _each(state[node.inputs[0]], lambda g, k: float(mean[k]) * g + float(half[k]) * size(g))


def _clip(node: Any, state: Mapping[str, Any], home: Any, size: Size) -> Any:
    low, high = node.lower.tolist(), node.upper.tolist()
    return _each(
        state[node.inputs[0]], lambda g, k: 0.5 * (low[k] + high[k]) + 0.5 * size(g - low[k]) - 0.5 * size(g - high[k])
    )


def _max(node: Any, state: Mapping[str, Any], home: Any, size: Size) -> Any:
    """Compare members two by two; every winner is named before it is used twice."""
    source, level = state[node.inputs[0]], 0
    members = source[:, node.groups]
    while members.shape[2] > 1:
        pairs = members.shape[2] // 2
        first, second = members[:, :, :pairs], members[:, :, pairs : 2 * pairs]
        bodies = [0.5 * (a + b) + 0.5 * size(a - b) for a, b in zip(first.ravel(), second.ravel(), strict=True)]
        keys = index_of([range(n) for n in first.shape])
        made = _named(home, free_name(home, f"{plain(node.name)}_{level}"), keys, bodies)
        won = np.empty(len(bodies), dtype=object)
        won[:] = list(made.values())
        members = np.concatenate([won.reshape(first.shape), members[:, :, 2 * pairs :]], axis=2)
        level += 1
    return members[:, :, 0]


# in this order: what a node holds that no other kind before it holds
_WRITERS: dict[str, Callable[[Any, Mapping[str, Any], Any, Size], Any]] = {
    "operators": _affine,
    "groups": _max,
    "left": _kink,
    "lower": _clip,
}


def _each(cells: Any, function: Callable[[Any, int], Any]) -> Any:
    out = np.empty(cells.shape, dtype=object)
    for point, row in enumerate(cells):
        for k, g in enumerate(row):
            out[point, k] = function(g, k)
    return out


def _named(home: Any, name: str, keys: list[Any] | None, bodies: list[Any]) -> Any:
    """Add a named expression per body."""
    if keys is None:
        made = Expression(expr=bodies[0])
    else:
        made = Expression(keys, initialize=dict(zip(keys, bodies, strict=True)))
    home.add_component(name, made)
    return made


def _values(cells: Any) -> Array:
    try:
        return np.array([[value(c) for c in row] for row in cells], dtype=float)
    except (ValueError, TypeError) as error:
        raise InputError(f"an input has no value: solve the model first ({error})") from None
