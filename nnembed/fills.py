"""Fill rules: how a forward pass determines the values of a block's columns.

One rule serves start vectors, recovered answers and columns' names. Rules are plain objects of arrays over flat
positions ``point * n + entry``, so a whole batch is filled at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnembed.aliases import Array, Index


class Fill(ABC):
    """How a forward pass determines the values of a column group."""

    @abstractmethod
    def __call__(self, state: Mapping[str, Array]) -> Array:
        """Return the values, shape (k,), from all tensors, (batch, n) each."""


class Undetermined(Fill):
    """Columns that no forward pass determines: the user's own."""

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """Refuse: values of such columns come from the solver only."""
        raise ValueError("a forward pass does not determine the user's own columns")


@dataclass(frozen=True, eq=False)
class Value(Fill):
    """The entries `elements` (flat positions over batch and tensor) of a tensor, minus `origin`."""

    tensor: str
    elements: Index
    origin: Array | float = 0.0

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return state[self.tensor].reshape(-1)[self.elements] - self.origin


@dataclass(frozen=True, eq=False)
class Part(Fill):
    """``max(sign * (g - threshold), 0)``: positive or negative part of a pre-activation."""

    tensor: str
    elements: Index
    sign: float = 1.0
    threshold: Array | float = 0.0

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        g = state[self.tensor].reshape(-1)[self.elements]
        return np.maximum(self.sign * (g - self.threshold), 0.0)


@dataclass(frozen=True, eq=False)
class Above(Fill):
    """1 where ``g > threshold``, else 0."""

    tensor: str
    elements: Index
    threshold: Array | float = 0.0

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        g = state[self.tensor].reshape(-1)[self.elements]
        return (g > self.threshold).astype(float)


@dataclass(frozen=True, eq=False)
class AtLeast(Fill):
    """1 where ``g >= 0``, else 0."""

    tensor: str
    elements: Index

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return (state[self.tensor].reshape(-1)[self.elements] >= 0).astype(float)


@dataclass(frozen=True, eq=False)
class Level(Fill):
    """The level of a rounding above level `least`, from its output and the height of its stairs."""

    tensor: str
    elements: Index
    scale: Array
    least: Array

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return np.rint(state[self.tensor].reshape(-1)[self.elements] / self.scale) - self.least


@dataclass(frozen=True, eq=False)
class Winner(Fill):
    """1 for the first largest member of each group, else 0; `owner` says which group a member belongs to."""

    tensor: str
    elements: Index
    owner: Index

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        g = state[self.tensor].reshape(-1)[self.elements]
        order = np.lexsort((np.arange(len(g)), -g, self.owner))
        first = np.ones(len(g), dtype=bool)
        first[1:] = self.owner[order][1:] != self.owner[order][:-1]
        out = np.zeros(len(g))
        out[order[first]] = 1.0
        return out


@dataclass(frozen=True, eq=False)
class Gap(Fill):
    """How far the entries `elements` of a tensor stay below the entries `best` of another one."""

    tensor: str
    elements: Index
    above: str
    best: Index

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return state[self.above].reshape(-1)[self.best] - state[self.tensor].reshape(-1)[self.elements]


@dataclass(frozen=True, eq=False)
class Nonzero(Fill):
    """1 where the places `members` of another group are not zero (beyond rounding), else 0."""

    source: Fill
    members: Index

    def __call__(self, state: Mapping[str, Array]) -> Array:
        """See `Fill`."""
        return (np.abs(self.source(state)[self.members]) > 1e-9).astype(float)
