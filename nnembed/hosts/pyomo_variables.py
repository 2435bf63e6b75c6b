"""Numbers, bounds and kinds of Pyomo variables, and which blocks hold networks."""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnembed.aliases import Array, Index, Mask
from nnembed.errors import InputError, UnsupportedFeature, WrongModel


class _Numbers:
    """A number for every variable that a network reads or writes, for as long as the variable lives.

    Pyomo's variables cannot be hashed, blocks move from model to model, and neither has a place for our numbers: so
    they are kept here, by identity, and forgotten with the variable.
    """

    def __init__(self) -> None:
        self._label: dict[int, int] = {}
        self._variable: dict[int, weakref.ref[Any]] = {}
        self._count = itertools.count()

    def label(self, variable: Any) -> int:
        """Return the number of a variable, a new one at the first call."""
        key = id(variable)
        label = self._label.get(key)
        if label is None:
            label = self._label[key] = next(self._count)
            self._variable[label] = weakref.ref(variable, functools.partial(self._forget, key, label))
        return label

    def find(self, variables: Iterable[Any], start: int) -> list[int]:
        """Return known numbers; variables without one get ``start, start - 1, ...``."""
        known, fresh = self._label.get, itertools.count(start, -1)
        return [label if (label := known(id(v))) is not None else next(fresh) for v in variables]

    def variable(self, label: int) -> Any:
        """Return the variable of a number, None when it is gone."""
        reference = self._variable.get(label)
        return None if reference is None else reference()

    def _forget(self, key: int, label: int, _: object) -> None:
        self._variable.pop(label, None)
        self._label.pop(key, None)


_NUMBERS = _Numbers()


def labels_of(variables: Sequence[Any]) -> Index:
    """Return the numbers of variables."""
    return np.array([_NUMBERS.label(v) for v in variables], dtype=np.intp)


def known_labels(variables: Sequence[Any]) -> Index:
    """Return the numbers of variables, negative ones where no network uses the variable."""
    return np.array(_NUMBERS.find(variables, -2), dtype=np.intp)


def variables_of(labels: Index) -> list[Any]:
    """Return the variables of numbers.

    Raises
    ------
    WrongModel
        If one does not exist any more.
    """
    found = [_NUMBERS.variable(label) for label in labels.tolist()]
    if any(v is None for v in found):
        raise WrongModel("a variable of the network was deleted; call remove() on the embedding and embed again")
    return found


# ---- networks in blocks ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Note:
    """What a block of ours stands for.

    Attributes
    ----------
    variables : tuple of VarData
        Inputs, outputs and columns of ours: columns of a problem even where no row has them.
    outputs : tuple of VarData
    guard : Constraint or None
        The row that keeps others from solving a model whose network was only declared.
    products : tuple of ConstraintData, pairs : tuple of (VarData, VarData)
        Nonlinear rows of ours, and the variables of which each says that one is zero.
    """

    variables: tuple[Any, ...]
    outputs: tuple[Any, ...]
    guard: Any = None
    products: tuple[Any, ...] = ()
    pairs: tuple[tuple[Any, Any], ...] = ()


# Beside the blocks, not in them: a copy or a pickle of a model must not take a network's place for the original.
_NOTES: weakref.WeakKeyDictionary[Any, Note] = weakref.WeakKeyDictionary()


def note(block: Any, content: Note | None) -> None:
    """Remember what a block stands for; None forgets it."""
    if content is None:
        _NOTES.pop(block, None)
    else:
        _NOTES[block] = content


def notes_of(blocks: Iterable[Any]) -> list[Note]:
    """Return the notes of those of `blocks` that are networks."""
    return [found for b in blocks if (found := _NOTES.get(b)) is not None]


def network_elsewhere(columns: set[int], inside: Sequence[Note]) -> Any:
    """Return the block of a network that is not `inside` though one of its outputs (by id) is used; else None."""
    here = {id(n) for n in inside}
    for block, content in list(_NOTES.items()):
        if id(content) not in here and any(id(v) in columns for v in content.outputs):
            return block
    return None


# ---- bounds ----------------------------------------------------------------------------------------


def bounds_of(variables: Sequence[Any]) -> tuple[Array, Array, Mask]:
    """Return lower and upper bounds and integrality, from bounds, domains and fixed values as they are now.

    A fixed variable has its value as both bounds, whatever its domain. Domains with gaps count as continuous here;
    see `refuse_gaps`.

    Raises
    ------
    InputError
        If a fixed variable has no value, or a bound is not a number.
    """
    low, high = np.empty(len(variables)), np.empty(len(variables))
    whole = np.zeros(len(variables), dtype=bool)
    steps: dict[int, Any] = {}
    for i, v in enumerate(variables):
        if v.fixed:
            low[i] = high[i] = _fixed_value(v)
            continue
        domain = v.domain
        step = steps.get(id(domain), steps)
        if step is steps:
            step = steps[id(domain)] = _step(domain)
        try:
            a, b = v.bounds
        except ValueError as error:
            raise InputError(f"the bounds of variable {v.name!r} are not numbers: {error}") from None
        low[i], high[i] = -math.inf if a is None else a, math.inf if b is None else b
        whole[i] = step == 1
    if np.isnan(low).any() or np.isnan(high).any():
        bad = variables[int(np.flatnonzero(np.isnan(low) | np.isnan(high))[0])]
        raise InputError(f"a bound of variable {bad.name!r} is NaN; give a number or None")
    # solvers take integers within a tolerance, so a bound of 2.0000001 still allows 2
    low[whole], high[whole] = np.ceil(low[whole] - 1e-6), np.floor(high[whole] + 1e-6)
    return low, high, whole


def change_bounds(labels: Index, old: tuple[Array, Array], new: tuple[Array, Array]) -> None:
    """Give variables the bounds `new` where they still have the bounds `old`; pairs of arrays over `labels`."""
    sides = zip(*(side.tolist() for side in (*old, *new)), strict=True)
    for v, (low, high, lower, upper) in zip(variables_of(labels), sides, strict=True):
        if v.lb == low:
            v.setlb(lower)
        if v.ub == high:
            v.setub(upper)


def refuse_gaps(variables: Sequence[Any]) -> None:
    """Raise if a variable has a domain that is neither an interval nor integers."""
    seen: dict[int, Any] = {}
    for v in variables:
        domain = v.domain
        if id(domain) not in seen:
            seen[id(domain)] = _step(domain)
        if seen[id(domain)] is None and not v.fixed:
            raise UnsupportedFeature(
                f"variable {v.name!r} has the domain {domain}, which is neither an interval nor consecutive integers; "
                "write it with binary variables, or attach the network (attach=True) and use a solver that takes it"
            )


def _step(domain: Any) -> int | None:
    """Return 0 for an interval, 1 for consecutive integers, None for anything else."""
    start, end, step = domain.get_interval()
    if step == 0:
        return 0
    origin = start if start is not None else end
    if step is not None and abs(step) == 1 and (origin is None or float(origin).is_integer()):
        return 1
    return None


def _fixed_value(variable: Any) -> float:
    value = variable.value
    if value is None or not math.isfinite(value):
        raise InputError(f"variable {variable.name!r} is fixed without a value; fix it to a number")
    return float(value)
