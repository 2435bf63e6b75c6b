"""The few node kinds of a network; every one is frozen and works on flat vectors.

A node reads named tensors and writes one. All tensors are flat, row-major; their shapes are kept
beside, in `Network.tensors`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.errors import InputError
from nnembed.ir.linear import LinearOperator


@dataclass(frozen=True, eq=False)
class Node(ABC):
    """Base of all nodes.

    Attributes
    ----------
    name : str
        Unique in the network; the ONNX node's name where it has one.
    inputs : tuple of str
        Tensors read.
    output : str
        Tensor written.
    """

    name: str
    inputs: tuple[str, ...]
    output: str

    @property
    def kind(self) -> str:
        """The kind in one word, as printed in tables."""
        return type(self).__name__

    @abstractmethod
    def evaluate(self, *values: Array) -> Array:
        """Return the output for inputs of shape (..., n)."""


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """``sum_k M_k x_k + bias``: dense layers, convolutions, average pools, sums, slices, joins."""

    operators: tuple[LinearOperator, ...]
    bias: Array

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        total = self.operators[0].apply(values[0]) + self.bias
        for operator, value in zip(self.operators[1:], values[1:], strict=True):
            total += operator.apply(value)
        return total


class Activation(Node):
    """A piecewise-linear function, output i depending on input i only; exactly one input."""

    @property
    def input(self) -> str:
        """The pre-activation tensor."""
        return self.inputs[0]


@dataclass(frozen=True, eq=False)
class Kink(Activation):
    """Two slopes that meet at zero: ``left * min(g, 0) + right * max(g, 0)``.

    Attributes
    ----------
    left, right : array of shape (n,)
        Slopes below and above zero, per neuron.
    """

    left: Array
    right: Array

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        (g,) = values
        return self.left * np.minimum(g, 0.0) + self.right * np.maximum(g, 0.0)


class Relu(Kink):
    """``max(g, 0)``."""

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        return np.maximum(values[0], 0.0)


class LeakyRelu(Kink):
    """``g`` above zero, ``slope * g`` below, any slope per neuron (PRelu included)."""


class Abs(Kink):
    """``|g|``."""

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        return np.abs(values[0])


@dataclass(frozen=True, eq=False)
class Clip(Activation):
    """``min(max(g, lower), upper)`` with finite ``lower <= upper`` per neuron."""

    lower: Array
    upper: Array

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        return np.clip(values[0], self.lower, self.upper)


@dataclass(frozen=True, eq=False)
class Step(Activation):
    """``high`` where ``g >= 0``, ``low`` below; any two finite numbers per neuron.

    The one node that is not continuous. Its slope is zero everywhere, and next to the threshold rounding decides: two
    ways of computing g that differ in the last digit may give two different answers.

    Attributes
    ----------
    low, high : array of shape (n,)
        Values below zero, and from zero on.
    """

    low: Array
    high: Array

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        return np.where(values[0] >= 0, self.high, self.low)


_ROUNDED = {"even": np.rint, "down": np.floor, "up": np.ceil}
_LEFT_AT = {"even": 0.5, "down": 1.0, "up": 0.0}


@dataclass(frozen=True, eq=False)
class Round(Activation):
    """``scale * min(max(round(g / step), low), high)``: rounding, and quantisation with its limits.

    A staircase: it jumps from level k to level k + 1 at ``(k + shift) * step``. What `Step` says of its threshold holds
    for every one of these places.

    Attributes
    ----------
    step, scale : array of shape (n,)
        Width and height of a stair, above zero.
    low, high : array of shape (n,)
        The least and the greatest level, whole numbers or infinite, ``low <= high``.
    rule : "even", "down" or "up"
        Rounds to the nearest whole number, halves to the even one; down; up.
    """

    step: Array
    scale: Array
    low: Array
    high: Array
    rule: str = "even"

    def __post_init__(self) -> None:
        """Refuse what is no staircase."""
        if self.rule not in _ROUNDED:
            raise InputError(f"layer {self.name!r}: rule {self.rule!r}; one of {', '.join(_ROUNDED)}")
        if not ((self.step > 0) & (self.scale > 0) & np.isfinite(self.step) & np.isfinite(self.scale)).all():
            raise InputError(f"layer {self.name!r}: step and scale of a rounding must be finite and above zero")
        whole = (self.low == np.rint(self.low)) & (self.high == np.rint(self.high))
        if not (whole & (self.low <= self.high) & (self.low < np.inf) & (self.high > -np.inf)).all():
            raise InputError(f"layer {self.name!r}: levels of a rounding must be whole numbers, low <= high")

    @property
    def shift(self) -> float:
        """Level k ends at ``(k + shift) * step``."""
        return _LEFT_AT[self.rule]

    def level(self, steps: Array) -> Array:
        """Return the levels, of shape (..., n), at ``steps = g / step``."""
        out: Array = np.clip(_ROUNDED[self.rule](steps), self.low, self.high) + 0.0  # no negative zeros
        return out

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        return self.scale * self.level(values[0] / self.step)


@dataclass(frozen=True, eq=False)
class Max(Node):
    """The largest member of each group: pools and maxima of several tensors.

    Attributes
    ----------
    groups : int array of shape (n_out, k)
        Positions in the input tensor; a short group repeats one of its members.
    """

    groups: Index = field(default_factory=lambda: np.zeros((0, 1), dtype=np.intp))

    @property
    def input(self) -> str:
        """The tensor the members are taken from."""
        return self.inputs[0]

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        (x,) = values
        best: Array = x[..., self.groups[:, 0]]
        for column in self.groups.T[1:]:  # one pass per member keeps memory at one output
            best = np.maximum(best, x[..., column])
        return best


@dataclass(frozen=True, eq=False)
class Winner(Node):
    """One where a member is the largest of its group, zero elsewhere; of equal members the first one wins.

    As discontinuous as `Step`: where two members are equal, rounding decides.

    Attributes
    ----------
    groups : int array of shape (m, k)
        Positions in the input tensor; a short group repeats one of its members, and repetitions never win. The output
        has m * k entries, group by group.
    """

    groups: Index = field(default_factory=lambda: np.zeros((0, 1), dtype=np.intp))

    @property
    def input(self) -> str:
        """The tensor the members are taken from."""
        return self.inputs[0]

    def evaluate(self, *values: Array) -> Array:
        """See `Node.evaluate`."""
        members = values[0][..., self.groups]
        won = np.arange(self.groups.shape[1]) == members.argmax(axis=-1)[..., None]
        return won.reshape(*won.shape[:-2], -1).astype(float)


def relu(name: str, source: str, output: str, n: int) -> Relu:
    """Return a ReLU layer of `n` neurons."""
    return Relu(name, (source,), output, np.zeros(n), np.ones(n))


def leaky_relu(name: str, source: str, output: str, slope: Array) -> LeakyRelu:
    """Return a leaky ReLU layer with one slope per neuron."""
    return LeakyRelu(name, (source,), output, np.asarray(slope, float), np.ones(len(slope)))


def absolute(name: str, source: str, output: str, n: int) -> Abs:
    """Return a layer of `n` absolute values."""
    return Abs(name, (source,), output, -np.ones(n), np.ones(n))
