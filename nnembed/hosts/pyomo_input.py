"""What the user passed as network inputs, read into one affine map of Pyomo variables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse as sp
from pyomo.common.numeric_types import native_logical_types
from pyomo.core.base.indexed_component import IndexedComponent
from pyomo.core.base.indexed_component_slice import IndexedComponent_slice
from pyomo.core.base.reference import Reference
from pyomo.core.base.var import VarData
from pyomo.core.expr.numeric_expr import decompose_term
from pyomo.core.expr.numvalue import value
from pyomo.core.expr.visitor import identify_variables, replace_expressions

from nnembed.errors import InputError, WrongModel
from nnembed.hosts.pyomo_variables import labels_of, variables_of
from nnembed.hosts.shapes import Spec, by_input, expected, feature_axes, input_map
from nnembed.problem import InputMap

Labels = tuple[Any, ...]
Terms = tuple[list[Any], list[float], float]


@dataclass(frozen=True, eq=False)
class Axes:
    """What `InputMap.axes` holds for Pyomo.

    Attributes
    ----------
    batch : tuple of tuples
        The index values of each batch axis.
    variables : tuple of VarData
        In the order of `InputMap.labels`; keeps them alive.
    live : tuple of (entry, expression, labels, coefficients, constant)
        Entries whose meaning the user can still change: Params and expressions, as they were read.
    """

    batch: tuple[Labels, ...]
    variables: tuple[Any, ...]
    live: tuple[tuple[int, Any, dict[int, float], float], ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """Objects in an array, with index values where an axis has them."""

    cells: Any
    axes: tuple[Labels | None, ...]
    text: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(self.cells.shape)


@dataclass(eq=False)
class _Rows:
    """Affine rows as they are collected."""

    root: Any
    model: Any
    variables: list[Any] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    indptr: list[int] = field(default_factory=lambda: [0])
    constant: list[float] = field(default_factory=list)
    live: list[tuple[int, Any]] = field(default_factory=list)

    def add(self, cell: Any, spec: Spec) -> None:
        """Append one entry."""
        if isinstance(cell, VarData):
            self.variables.append(cell)
            self.data.append(1.0)
            self.constant.append(0.0)
        elif isinstance(cell, Real | np.number) and cell.__class__ not in native_logical_types:
            self.constant.append(float(cell))
        else:
            variables, data, constant = terms_of(cell, spec.name)
            self.live.append((len(self.constant), cell))
            self.variables += variables
            self.data += data
            self.constant.append(constant)
        self.indptr.append(len(self.data))

    def check(self) -> None:
        """Refuse variables of other models."""
        for v in self.variables:
            if v.model() is not self.root:
                raise WrongModel(
                    f"variable {v.name!r} belongs to another model, or to none, than {self.model.name!r}; pass "
                    "variables of the model the network is embedded in, after they were added to it"
                )


def parse(model: Any, specs: Sequence[Spec], x: Any) -> InputMap:
    """Return the user's `x` as one affine map over all inputs; see `Host.parse`."""
    refuse_model(model)
    arrays, batch = arrange(specs, x)
    lead = tuple(len(axis) for axis in batch)
    rows = _Rows(model.model(), model)
    for spec, cells in zip(specs, arrays, strict=True):
        for cell in cells.reshape(-1).tolist():
            rows.add(cell, spec)
    rows.check()
    labels = labels_of(rows.variables)
    width = int(labels.max(initial=0)) + 1
    shape = (len(rows.constant), width)
    matrix = sp.csr_array((np.array(rows.data), labels.astype(np.int32), np.array(rows.indptr)), shape=shape)
    made = input_map([(matrix, np.array(rows.constant))], lead, None)
    live = tuple((i, cell, *_labelled(terms_of(cell, ""))) for i, cell in rows.live)
    axes = Axes(batch, tuple(variables_of(made.labels)), live)
    return InputMap(made.labels, made.matrix, made.constant, lead, axes)


def arrange(specs: Sequence[Spec], x: Any) -> tuple[list[Any], tuple[Labels, ...]]:
    """Return one array of objects per input, shape (batch points, entries), and the index values of the batch axes."""
    found = [_features(spec, read(v)) for spec, v in zip(specs, by_input(specs, x), strict=True)]
    batch = _common([(axes, f"input {s.name!r}") for s, (_, axes) in zip(specs, found, strict=True)])
    lead = tuple(len(axis) for axis in batch)
    wide = [np.broadcast_to(c, (*lead, s.size)).reshape(-1, s.size) for s, (c, _) in zip(specs, found, strict=True)]
    return wide, batch


def refuse_model(model: Any) -> None:
    """Raise for blocks that cannot take a network."""
    if getattr(model, "is_indexed", lambda: False)():
        raise InputError(f"{model.name!r} is an indexed block; pass one of its members")
    if not model.is_constructed():
        raise InputError(f"the model {model.name!r} is abstract; call create_instance() and embed in the instance")


def refuse_changed(inputs: InputMap) -> None:
    """Raise if a Param or named expression among the inputs no longer means what it meant when it was read."""
    for i, cell, terms, constant in inputs.axes.live:
        if _labelled(terms_of(cell, "")) != (terms, constant):
            raise InputError(
                f"input entry {i}, {cell}, has changed since the network was embedded (a Param or Expression got "
                "another value); call remove() on the embedding and embed again, or use a fixed variable instead"
            )


# ---- one entry ---------------------------------------------------------------------------------------


def terms_of(cell: Any, name: str) -> Terms:
    """Return variables, coefficients and constant of a linear expression; fixed variables stay variables."""
    if not getattr(cell, "is_numeric_type", lambda: False)() or getattr(cell, "is_indexed", lambda: False)():
        hint = "; pass its associated binary variable" if hasattr(cell, "get_associated_binary") else ""
        kind = type(cell).__name__
        raise InputError(f"input {name!r} holds a {kind}, which is no variable, linear expression or number{hint}")
    linear, terms = decompose_term(cell)
    if not linear:
        linear, terms = decompose_term(replace_expressions(cell, {}, remove_named_expressions=True))
    if not linear or any(_varies(factor) for factor, _ in terms):
        raise InputError(
            f"input {name!r}: the expression {cell} is not linear; a network takes variables and linear expressions of "
            "them (a fixed variable is no coefficient, use a Param): add a variable and a constraint that ties it"
        )
    variables = [v for _, v in terms if v is not None]
    try:
        data = [float(value(factor)) for factor, v in terms if v is not None]
        constant = float(sum(value(factor) for factor, v in terms if v is None))
    except (ValueError, TypeError) as error:
        raise InputError(f"input {name!r}: {cell} has no value: {error}") from None
    return variables, data, constant


def _varies(factor: Any) -> bool:
    return hasattr(factor, "is_potentially_variable") and next(identify_variables(factor), None) is not None


def _labelled(terms: Terms) -> tuple[dict[int, float], float]:
    variables, data, constant = terms
    total: dict[int, float] = {}
    for label, factor in zip(labels_of(variables).tolist(), data, strict=True):
        total[label] = total.get(label, 0.0) + factor
    return total, constant


# ---- arrays of entries ---------------------------------------------------------------------------------


def read(x: Any) -> list[Piece]:
    """Return the pieces of what was passed for one input; several when they are to be joined along the features."""
    if not isinstance(x, list | tuple):
        return [_piece(x)]
    pieces = [p for item in x for p in _joined(item)]
    if not pieces:
        raise InputError("an empty list was passed as network input")
    same = len({p.shape for p in pieces}) == 1
    if same and all(a is None for p in pieces for a in p.axes) and not any(_indexed(item) for item in x):
        return [Piece(np.stack([p.cells for p in pieces]), (None, *pieces[0].axes), f"a list of {len(pieces)}")]
    return pieces


def _joined(item: Any) -> list[Piece]:
    """Return an item of a list as one piece; a nested list may not hold pieces of its own."""
    found = read(item)
    if len(found) > 1:
        raise InputError(
            "a nested list has rows of different lengths, or holds indexed components; write its entries out one by one"
        )
    return found


def _indexed(x: Any) -> bool:
    return isinstance(x, IndexedComponent_slice) or (isinstance(x, IndexedComponent) and x.is_indexed())


def _piece(x: Any) -> Piece:
    if isinstance(x, IndexedComponent_slice):
        x = Reference(x)
    if _indexed(x):
        return _component(x)
    if isinstance(x, np.ndarray) or (hasattr(x, "__array__") and not hasattr(x, "is_expression_type")):
        array = np.asarray(x)
        if array.dtype != object and not np.issubdtype(array.dtype, np.number):
            raise InputError(f"an array of {array.dtype} was passed as network input; it can hold numbers or variables")
        return Piece(array.astype(object), (None,) * array.ndim, f"an array of shape {array.shape}")
    cell = np.empty((), dtype=object)
    cell[()] = x
    return Piece(cell, (), "one entry")


def _component(x: Any) -> Piece:
    """Return an indexed component with one axis per dimension of its index."""
    name = x.name if x.name is not None else "the slice"
    keys = list(x.index_set())
    tuples = [k if isinstance(k, tuple) else (k,) for k in keys]
    if not tuples:
        raise InputError(f"{name} has an empty index; a network needs its inputs")
    if len({len(k) for k in tuples}) > 1:
        raise InputError(f"the index of {name} has entries of different lengths; pass a list of its members")
    axes = tuple(tuple(dict.fromkeys(column)) for column in zip(*tuples, strict=True))
    shape = tuple(len(a) for a in axes)
    if len(tuples) != np.prod(shape):
        raise InputError(f"the index of {name} is no full product of {shape} values; pass a list of its members")
    try:
        members = dict(zip(tuples, (x[k] for k in keys), strict=True))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    cells = np.empty(len(tuples), dtype=object)
    cells[:] = [members[k] for k in itertools.product(*axes)]
    return Piece(cells.reshape(shape), axes, f"{name} with sizes {shape}")


# ---- features and batch ----------------------------------------------------------------------------------


def _features(spec: Spec, pieces: list[Piece]) -> tuple[Any, tuple[Labels | None, ...]]:
    """Return cells of shape (*batch, entries) and the index values of the batch axes."""
    if any(0 in p.shape for p in pieces):
        raise InputError(f"input {spec.name!r}: {pieces[0].text} has an axis of length 0")
    if len(pieces) == 1 and (rank := feature_axes(pieces[0].shape, spec)) is not None:
        piece = pieces[0]
        split = len(piece.shape) - rank
        return piece.cells.reshape(*piece.shape[:split], -1), _filled(piece, split)
    if len(pieces) > 1 or pieces[0].shape:
        # Every piece has the batch axes, with or without features behind; only one number of batch axes can add up.
        for lead in range(max(len(p.shape) for p in pieces) + 1):
            if (joined := _join(spec, pieces, lead)) is not None:
                return joined
    given = "; ".join(p.text for p in pieces)
    raise InputError(f"input {spec.name!r} expects {expected(spec)}; got {given}")


def _join(spec: Spec, pieces: list[Piece], lead: int) -> tuple[Any, tuple[Labels | None, ...]] | None:
    parts, axes = [], []
    for p in pieces:
        rank = len(p.shape)
        if rank not in (0, lead, lead + 1):
            return None
        split = min(rank, lead)
        parts.append(p.cells.reshape(*p.shape[:split], -1))
        axes.append((_filled(p, split), p.text))
    sizes = {part.shape[:-1] for part in parts if part.ndim > 1}
    if sum(part.shape[-1] for part in parts) != spec.size or len(sizes) > 1:
        return None
    batch = _common(axes)
    shape = tuple(len(a) for a in batch)
    return np.concatenate([np.broadcast_to(c, (*shape, c.shape[-1])) for c in parts], axis=-1), batch


def _filled(piece: Piece, split: int) -> tuple[Labels | None, ...]:
    """Return the batch axes; those without index values as ranges, marked by their type."""
    return tuple(a if a is not None else range(n) for a, n in zip(piece.axes[:split], piece.shape, strict=False))  # type: ignore[misc]


def _common(found: Sequence[tuple[tuple[Any, ...], str]]) -> tuple[Labels, ...]:
    """Return the batch axes all have; pieces without batch axes fit everywhere, plain ranges fit by size."""
    batch: tuple[Any, ...] = ()
    first = ""
    for axes, text in found:
        if not axes:
            continue
        if not batch:
            batch, first = axes, text
            continue
        if tuple(map(len, axes)) != tuple(map(len, batch)):
            sizes = tuple(map(len, batch)), tuple(map(len, axes))
            raise InputError(f"the batch axes of {first} and {text} do not fit together: {sizes[0]} and {sizes[1]}")
        batch = tuple(_same_axis(a, b, first, text) for a, b in zip(batch, axes, strict=True))
    return batch


def _same_axis(a: Any, b: Any, first: str, text: str) -> Any:
    if isinstance(a, range) or isinstance(b, range):
        return b if isinstance(a, range) else a
    if a != b:
        raise InputError(
            f"{first} and {text} have different batch indices, {list(a[:4])} ... and {list(b[:4])} ...; "
            "pass entries in the same order"
        )
    return a
