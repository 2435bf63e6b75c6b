"""Losses on the outputs: value, gradient, and vectors whose outer products sum to the Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from nnembed.aliases import Array

PROBES = 16  # outputs up to which the Hessian's root is exact; beyond that it is sampled


class Loss(Protocol):
    """A mean over samples; outputs have shape (samples, m)."""

    def value(self, y: Array) -> float:
        """Return the loss."""
        ...

    def slope(self, y: Array) -> Array:
        """Return the gradient of each sample's loss, (samples, m)."""
        ...

    def drawn(self, y: Array, rng: np.random.Generator) -> Array:
        """Return one vector per sample, (samples, m): the empirical Fisher's, or one that has it as second moment."""
        ...

    def roots(self, y: Array, rng: np.random.Generator) -> Array:
        """Return r vectors per sample, (r, samples, m); summed outer products (expected ones) are the Hessian."""
        ...

    def chosen(self, index: np.ndarray) -> Loss:
        """Return the loss of some of the samples."""
        ...


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """Cross-entropy of ``softmax(y / temperature)`` with target probabilities.

    Attributes
    ----------
    target : array (samples, classes)
    temperature : float
    labelled : bool
        Whether the targets are labels; else vectors of the Fisher draw their labels from the network's softmax.
    """

    target: Array
    temperature: float = 1.0
    labelled: bool = True

    def value(self, y: Array) -> float:
        """See `Loss.value`."""
        z = y / self.temperature
        top = z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(z - top).sum(axis=1)) + top[:, 0]
        return float((log_sum * self.target.sum(axis=1) - (self.target * z).sum(axis=1)).mean())

    def slope(self, y: Array) -> Array:
        """See `Loss.slope`."""
        return (softmax(y / self.temperature) - self.target) / self.temperature

    def drawn(self, y: Array, rng: np.random.Generator) -> Array:
        """See `Loss.drawn`."""
        if self.labelled:
            return self.slope(y)
        p = softmax(y / self.temperature)
        return (p - _one_hot_draw(p, rng)) / self.temperature

    def roots(self, y: Array, rng: np.random.Generator) -> Array:
        """See `Loss.roots`."""
        p = softmax(y / self.temperature)
        classes = p.shape[1]
        if classes > PROBES:
            return ((_one_hot_draw(p, rng) - p) / self.temperature)[None]
        units = np.eye(classes)[:, None, :] - p
        return np.sqrt(p).T[:, :, None] * units / self.temperature

    def chosen(self, index: np.ndarray) -> CrossEntropy:
        """See `Loss.chosen`."""
        return CrossEntropy(self.target[index], self.temperature, self.labelled)


@dataclass(frozen=True, eq=False)
class Squared:
    """Half the squared distance to targets, each output measured in its own `scale`."""

    target: Array
    scale: Array

    def value(self, y: Array) -> float:
        """See `Loss.value`."""
        return float((((y - self.target) / self.scale) ** 2).sum(axis=1).mean() / 2)

    def slope(self, y: Array) -> Array:
        """See `Loss.slope`."""
        return (y - self.target) / self.scale**2

    def drawn(self, y: Array, rng: np.random.Generator) -> Array:
        """See `Loss.drawn`; random signs, because the gradient at the targets is zero."""
        return rng.choice((-1.0, 1.0), size=y.shape) / self.scale

    def roots(self, y: Array, rng: np.random.Generator) -> Array:
        """See `Loss.roots`."""
        samples, m = y.shape
        if m > PROBES:
            return self.drawn(y, rng)[None]
        return np.repeat((np.eye(m) / self.scale)[:, None, :], samples, axis=1)

    def chosen(self, index: np.ndarray) -> Squared:
        """See `Loss.chosen`."""
        return Squared(self.target[index], self.scale)


def softmax(z: Array) -> Array:
    """Return the softmax of the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def one_hot(labels: Sequence[int] | np.ndarray, classes: int) -> Array:
    """Return labels as rows of an identity matrix."""
    return np.eye(classes)[np.asarray(labels, dtype=np.int64)]


def _one_hot_draw(p: Array, rng: np.random.Generator) -> Array:
    chosen = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
    return one_hot(np.minimum(chosen, p.shape[1] - 1), p.shape[1])
