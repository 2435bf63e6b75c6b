"""Columns and rows of a block in a linopy model: written whole, or declared by their outputs only."""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import linopy
import numpy as np
import pandas as pd
import scipy.sparse as sp
import xarray as xr

from nnembed.aliases import Array, Index
from nnembed.block import Block
from nnembed.errors import InputError
from nnembed.hosts.linopy_csr import add_frozen, add_padded
from nnembed.hosts.linopy_pieces import Axis
from nnembed.hosts.linopy_special import add_indicators, mark_sets
from nnembed.hosts.shapes import Spec, by_output, one_sided
from nnembed.matrices import relabel
from nnembed.problem import Binding, InputMap, bind
from nnembed.protocols import Attached

# ends the names of guards; readable in a message, and a name every LP file reader takes
GUARD = "_NETWORK_IS_NOT_IN_THIS_MODEL_use_nnembed_solve"
INTERNAL = "nnembed_internal"


class Guard(linopy.Variable):  # type: ignore[misc]
    """The fixed variable of a declared network; it knows the model it was made in.

    Copies and reloaded models hold a plain variable instead: they stay infeasible, and nobody takes the guard out.
    """

    __slots__ = ("_owner",)

    @classmethod
    def add(cls, model: Any, name: str) -> None:
        """Make `model` infeasible for everybody who solves it without the network."""
        plain = model.add_variables(0.0, 0.0, name=name + GUARD)
        guard = cls(plain.data, model, plain.name, skip_broadcast=True)
        guard._owner = weakref.ref(model)
        model.variables.add(guard)
        model.add_constraints(1 * plain >= 1, name=name + GUARD)

    @staticmethod
    def names(model: Any) -> list[str]:
        """Return the names of all guards in `model`.

        Raises
        ------
        InputError
            If a guard came with a copy or a file: the network it stands for did not.
        """
        names = [n for n in model.variables if n.endswith(GUARD)]
        for name in names:
            owner = getattr(model.variables[name], "_owner", None)
            if owner is None or owner() is not model:
                raise InputError(
                    f"the network {name.removesuffix(GUARD)!r} was declared in another model and did not come along "
                    "with the copy or the file; embed it again"
                )
        return names

    def __getstate__(self) -> Any:
        """Leave the owner out, so that a pickled guard stays a guard of nobody."""
        return None, {"_data": self._data, "_model": self._model}


def declare(model: Any, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[Spec], name: str) -> Attached:
    """Add output variables and the guard; see `Host.declare`."""
    check_name(model, name)
    with _atomic(model) as added:
        variables = _output_variables(model, bounds, inputs, outputs, name)
        Guard.add(model, name)
    labels = np.concatenate([_labels(v) for v in variables])
    return Attached(_given(variables, outputs), labels, None, added.remove)


def attach(model: Any, block: Block, inputs: InputMap, outputs: Sequence[Spec], name: str, *, frozen: bool) -> Attached:
    """Write the whole block into the model; see `Host.attach`."""
    check_name(model, name)
    binding = bind(block, inputs)
    labels = binding.labels.copy()
    with _atomic(model) as added:
        box = block.lower[block.outputs], block.upper[block.outputs]
        variables = _output_variables(model, box, inputs, outputs, name)
        own = np.concatenate([_labels(v) for v in variables])
        first = np.zeros(len(own), dtype=bool)
        first[np.unique(block.outputs, return_index=True)[1]] = True
        free = first & (labels[block.outputs] < 0) & (block.outputs >= block.n_inputs)
        labels[block.outputs[free]] = own[free]
        rest = _set_variables(model, block, labels, name)
        _hidden_variables(model, block, labels, name)
        rows = _Rows(model, name, frozen)
        rows.block(block.matrix, labels, block.row_lower, block.row_upper)
        rows.ties(binding, labels, inputs)
        # an output that is an input, or asked for twice, is a variable of its own that equals the column
        rows.pairs("outputs", own[~free], labels[block.outputs[~free]])
        rows.pairs("sets", *_copied_sets(model, block, labels, rest, name))
        add_indicators(model, f"{name}.indicators", block.indicators, labels)
    return Attached(_given(variables, outputs), own, labels, added.remove)


def check_name(model: Any, name: str) -> None:
    """Refuse a name that the model already uses."""
    if not name:
        raise InputError("an embedding needs a name that is not empty")
    for known in (*model.variables, *model.constraints):
        if known == name or known.startswith((f"{name}.", name + GUARD)):
            raise InputError(f"the model already has {known!r}; choose another name than {name!r} for this embedding")


class _Added:
    """Names of what has come into a model since a moment."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._before = set(model.variables), set(model.constraints)
        self._names: tuple[list[str], list[str]] | None = None

    def close(self) -> None:
        self._names = self._new()

    def remove(self) -> None:
        """Take out what was added; a second call does nothing."""
        variables, constraints = self._new() if self._names is None else self._names
        self._names = [], []
        model = self.model
        for name in constraints:
            if name in model.constraints:
                model.remove_constraints(name)
        variables = [v for v in variables if v in model.variables]
        priced = [v for v in variables if self._priced(v)]
        for name in variables:
            model.remove_variables(name)
        if priced:
            text = f"removing {', '.join(map(repr, priced))} also removes its terms from the objective"
            warnings.warn(text, UserWarning, stacklevel=2)

    def _new(self) -> tuple[list[str], list[str]]:
        variables, constraints = self._before
        return (
            [v for v in self.model.variables if v not in variables],
            [c for c in self.model.constraints if c not in constraints],
        )

    def _priced(self, name: str) -> bool:
        used, _ = self.model.objective.linear_terms()
        start, end = self.model.variables[name].range
        return bool(((used >= start) & (used < end)).any())


@contextmanager
def _atomic(model: Any) -> Iterator[_Added]:
    """Take out again what was added when anything fails, Ctrl-C included."""
    added = _Added(model)
    done = False
    try:
        yield added
        done = True
    finally:
        if done:
            added.close()
        else:
            added.remove()


# ---- columns ---------------------------------------------------------------------------------------


def _output_variables(
    model: Any, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[Spec], name: str
) -> list[Any]:
    lower, upper = (by_output(outputs, inputs.batch, side) for side in bounds)
    variables = []
    for spec, low, high in zip(outputs, lower, upper, strict=True):
        called = name if len(outputs) == 1 else _free(model, f"{name}.{_plain(spec.name)}")
        axes = (*inputs.axes, *_output_axes(model, inputs.axes, spec, called, single=len(outputs) == 1))
        coords = [pd.Index(a.index, name=a.name) for a in axes]
        shape = tuple(a.size for a in axes)
        box = (xr.DataArray(side.reshape(shape), coords) for side in (low, high))
        variables.append(model.add_variables(*box, coords=coords, name=called))
    return variables


def _output_axes(model: Any, batch: Sequence[Axis], spec: Spec, called: str, *, single: bool) -> list[Axis]:
    """Return the axes of an output behind the batch axes; a dimension may not share its name with a variable."""
    taken = {a.name for a in batch} | {called, *model.variables}
    stem = "output" if single else _plain(spec.name)
    while any(n in taken for n in _numbered(stem, len(spec.shape))):
        stem += "_out"
    names = _numbered(stem, len(spec.shape))
    return [Axis(n, size, pd.RangeIndex(size)) for n, size in zip(names, spec.shape, strict=True)]


def _numbered(stem: str, rank: int) -> list[str]:
    return [stem] if rank == 1 else [f"{stem}_{i}" for i in range(rank)]


def _given(variables: list[Any], outputs: Sequence[Spec]) -> Any:
    if len(variables) == 1:
        return variables[0]
    return {spec.name: v for spec, v in zip(outputs, variables, strict=True)}


def _labels(variable: Any) -> Index:
    return np.asarray(variable.labels.values, dtype=np.intp).reshape(-1)


def _hidden_variables(model: Any, block: Block, labels: Index, name: str) -> None:
    """Add one variable per column group for the columns that have no label yet, and note their labels."""
    for group in block.groups:
        columns = np.arange(group.columns.start, group.columns.stop)
        columns = columns[labels[columns] < 0]
        stem = f"{name}.{_plain(group.layer)}.{group.role.value}"
        for integer in (False, True):
            chosen = columns[block.integer[columns] == integer]
            if len(chosen):
                called = _free(model, stem)
                # a dimension of its own per variable: linopy joins shared ones when it collects the solution
                index = pd.Index(group.elements[chosen - group.start], name=f"{called}.entry")
                box = block.lower[chosen], block.upper[chosen]
                binary = bool(integer and np.isin(box, (0, 1)).all())
                kind = {"binary": binary, "integer": integer and not binary}
                new = model.add_variables(*box, coords=[index], name=called, **kind)
                new.attrs[INTERNAL] = 1
                labels[chosen] = _labels(new)


def _set_variables(model: Any, block: Block, labels: Index, name: str) -> list[Index]:
    """Add an array per family of sets for members that are new and in one set only; return the other sets.

    linopy knows sets as one dimension of one array of variables.
    """
    members = np.concatenate([np.zeros(0, np.intp), *(s.columns.reshape(-1) for s in block.sos1)])
    plain = (labels < 0) & ~block.integer & (np.bincount(members, minlength=block.n_columns) == 1)
    rest = []
    for sets in block.sos1:
        whole = plain[sets.columns].all(axis=1)
        rest.append(sets.columns[~whole])
        chosen = sets.columns[whole]
        if len(chosen):
            labels[chosen] = _set_array(model, block, chosen, name)
    return [sets for sets in rest if len(sets)]


def _copied_sets(model: Any, block: Block, labels: Index, rest: list[Index], name: str) -> tuple[Index, Index]:
    """Add sets over copies of columns that are variables of their own; return the pairs that must be equal."""
    copies = [_set_array(model, block, columns, name).reshape(-1) for columns in rest]
    originals = [labels[columns].reshape(-1) for columns in rest]
    none = np.zeros(0, np.intp)
    return np.concatenate([none, *copies]), np.concatenate([none, *originals])


def _set_array(model: Any, block: Block, columns: Index, name: str) -> Index:
    """Add variables (sets, members) with the bounds of `columns`, and say that they are sets; return their labels."""
    group = next(g for g in block.groups if g.columns.start <= columns[0, 0] < g.columns.stop)
    called = _free(model, f"{name}.{_plain(group.layer)}.sos1")
    sizes = zip(("entry", "member"), columns.shape, strict=True)
    coords = [pd.RangeIndex(size, name=f"{called}.{axis}") for axis, size in sizes]
    box = (xr.DataArray(side[columns], coords) for side in (block.lower, block.upper))
    new = model.add_variables(*box, coords=coords, name=called)
    new.attrs[INTERNAL] = 1
    mark_sets(model, new, coords[1].name)
    return np.asarray(new.labels.values, dtype=np.intp)


def _plain(name: str) -> str:
    """Return an ONNX name without characters that LP files or netCDF files cannot hold."""
    return re.sub(r"[^0-9A-Za-z_.]+", "_", name).strip("_") or "_"


def _free(model: Any, stem: str) -> str:
    k, name = 1, stem
    while name in model.variables:
        k += 1
        name = f"{stem}.{k}"
    return name


# ---- rows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Writes rows into a model under one prefix, frozen or padded."""

    model: Any
    prefix: str
    frozen: bool

    def block(self, matrix: sp.csr_array, labels: Index, lower: Array, upper: Array) -> None:
        """Add ``lower <= matrix @ columns <= upper``."""
        rows, sign, rhs = one_sided(matrix, lower, upper)
        self._add("rows", relabel(rows, labels, self.model.shape[1]), sign, rhs)

    def ties(self, binding: Binding, labels: Index, inputs: InputMap) -> None:
        """Add ``column - expression == constant`` for the inputs that are expressions."""
        m, width = len(binding.equal), self.model.shape[1]
        own = sp.csr_array((np.ones(m), labels[binding.equal].astype(np.int32), np.arange(m + 1)), shape=(m, width))
        matrix = sp.csr_array(own - relabel(binding.matrix, inputs.labels, width))
        self._add("inputs", matrix, np.full(m, "="), binding.rhs)

    def pairs(self, part: str, left: Index, right: Index) -> None:
        """Add ``left - right == 0`` per pair of labels."""
        m = len(left)
        pairs = np.stack([left, right], axis=1).astype(np.int32).reshape(-1)
        shape = (m, self.model.shape[1])
        matrix = sp.csr_array((np.tile([1.0, -1.0], m), pairs, np.arange(0, 2 * m + 1, 2)), shape=shape)
        self._add(part, matrix, np.full(m, "="), np.zeros(m))

    def _add(self, part: str, matrix: sp.csr_array, sign: Any, rhs: Array) -> None:
        if len(rhs):
            add = add_frozen if self.frozen else add_padded
            add(self.model, f"{self.prefix}.{part}", matrix, sign, rhs)
