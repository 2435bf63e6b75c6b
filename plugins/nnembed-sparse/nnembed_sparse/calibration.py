"""What pruning is measured on: samples, with labels, targets or the network's own outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from nnembed.aliases import Array, Index
from nnembed.bounds.box import Bounds
from nnembed.errors import BoxError, InputError, UnknownName
from nnembed.ir.network import Network

from nnembed_sparse.factor import Factor, factor_at
from nnembed_sparse.layout import Layout
from nnembed_sparse.loss import CrossEntropy, Loss, Squared, one_hot, softmax

LOSSES = ("auto", "labels", "softmax", "squared")
SURE, _HOTTEST = 0.95, 1e6


@dataclass(frozen=True, eq=False)
class Calibration:
    """Samples by input name, flat, and the loss on them.

    Attributes
    ----------
    inputs : mapping input name -> array (samples, n)
    loss : Loss
    labels : int array or None
        Classes of the samples, where they were given.
    """

    inputs: Mapping[str, Array]
    loss: Loss
    labels: Index | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.inputs.values())))

    def outputs(self, network: Network) -> Array:
        """Return all outputs of a network on the samples, (samples, m)."""
        return network.flat_outputs(network.forward(self.inputs))

    def value(self, network: Network) -> float:
        """Return a network's loss."""
        return self.loss.value(self.outputs(network))

    def chosen(self, index: Index) -> Calibration:
        """Return some of the samples."""
        inputs = {name: x[index] for name, x in self.inputs.items()}
        return Calibration(inputs, self.loss.chosen(index), None if self.labels is None else self.labels[index])

    def drawn(self, count: int, rng: np.random.Generator) -> Calibration:
        """Return `count` random samples, all of them if there are no more."""
        return self if count >= len(self) else self.chosen(np.sort(rng.permutation(len(self))[:count]))

    def slope(self, layout: Layout, vector: Array) -> tuple[float, Array]:
        """Return loss and gradient over the layout at some weights."""
        network = layout.rebuilt(vector)
        value, slope = 0.0, np.zeros(layout.size)
        count = layout.affordable(len(self))
        for at in range(0, len(self), count):
            part = self if count == len(self) else self.chosen(np.arange(at, min(at + count, len(self))))
            state = network.forward(part.inputs)
            y = network.flat_outputs(state)
            factor = factor_at(layout, network, state, part.loss.slope(y)[None])
            value += part.loss.value(y) * len(part) / len(self)
            slope += factor.pull(np.ones((1, len(part)))) / len(self)
        return value, slope

    def fisher(self, layout: Layout, vector: Array, rng: np.random.Generator) -> Factor:
        """Return the factor of the empirical Fisher matrix, one row a sample."""
        network = layout.rebuilt(vector)
        state = network.forward(self.inputs)
        return factor_at(layout, network, state, self.loss.drawn(network.flat_outputs(state), rng)[None])

    def curvature(self, layout: Layout, vector: Array, rng: np.random.Generator) -> Factor:
        """Return the factor of the Gauss-Newton matrix, one row per sample and output."""
        network = layout.rebuilt(vector)
        state = network.forward(self.inputs)
        return factor_at(layout, network, state, self.loss.roots(network.flat_outputs(state), rng))


def calibrate(
    network: Network,
    bounds: Bounds,
    samples: object,
    *,
    labels: object,
    loss: str,
    temperature: float,
    count: int,
    rng: np.random.Generator,
) -> Calibration:
    """Return the samples and the loss a pruner works with.

    Parameters
    ----------
    samples : array, mapping by input name, or None
        None draws `count` points of the box.
    labels : int array (samples,), float array (samples, outputs) or None
        Classes, or values the outputs should have; None takes the network's own outputs.
    loss : {"auto", "labels", "softmax", "squared"}
        "auto" is "labels" with classes, else "squared".
    temperature : float
        Of the softmax; 0 takes the least from 1 on at which the network is not surer than `SURE` in the mean.

    Raises
    ------
    InputError
        If samples or labels do not fit the network or each other, or a loss needs labels that are not there.
    BoxError
        If points must be drawn from a box that is not finite.
    """
    if loss not in LOSSES:
        raise UnknownName("loss", loss, LOSSES)
    if samples is None and labels is not None:
        raise InputError("labels were passed without samples; pass samples=, the points that the labels belong to")
    inputs = _given(network, samples) if samples is not None else _drawn(network, bounds, count, rng)
    y = network.flat_outputs(network.forward(inputs))
    given = None if labels is None else _fitting(np.asarray(labels), y)
    classes = given if given is not None and given.ndim == 1 else None
    if loss == "labels" and classes is None:
        raise InputError("loss='labels' needs labels=, one class per sample; loss='softmax' works without")
    if temperature == 0:
        temperature = cool(y)
    chosen: Loss
    if classes is not None and loss in ("auto", "labels"):
        chosen = CrossEntropy(one_hot(classes, y.shape[1]), temperature)
    elif loss == "softmax":
        chosen = CrossEntropy(softmax(y / temperature), temperature, labelled=False)
    else:
        target = given if given is not None and given.ndim == 2 else y
        spread = y.std(axis=0)
        floor = 1e-3 * float(spread.max()) or 1e-3 * float(np.abs(y).max()) or 1.0  # outputs that hardly ever change
        chosen = Squared(target, np.maximum(spread, floor))
    return Calibration(inputs, chosen, classes)


def cool(y: Array) -> float:
    """Return the least temperature from 1 on at which the mean confidence on outputs `y` is at most `SURE`.

    A network that is right and sure of it on all its samples has no gradients left to prune by.
    """
    temperature = 1.0
    while y.shape[1] > 1 and float(softmax(y / temperature).max(axis=1).mean()) > SURE and temperature < _HOTTEST:
        temperature *= 1.1
    return temperature


def _given(network: Network, samples: object) -> dict[str, Array]:
    inputs, lead = network.flatten(samples)  # type: ignore[arg-type]
    if len(lead) != 1 or not lead[0]:
        raise InputError(f"samples need one leading axis with at least one sample, got {lead}")
    for name, x in inputs.items():
        if not np.isfinite(x).all():
            raise InputError(f"samples of input {name!r} hold values that are not finite; leave those samples out")
    return inputs


def _drawn(network: Network, bounds: Bounds, count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return points of the box, every second one a corner: optima over a box are found there."""
    inputs = {}
    for spec in network.inputs:
        low, high = bounds.low[spec.name][0], bounds.high[spec.name][0]
        if not (np.isfinite(low) & np.isfinite(high)).all():
            raise BoxError(f"input {spec.name!r} has no finite box to draw samples from; pass samples= or a finite box")
        u = rng.random((count, spec.size))
        u[1::2] = u[1::2] > 0.5
        inputs[spec.name] = low + u * (high - low)
    return inputs


def _fitting(labels: np.ndarray, y: Array) -> np.ndarray:
    if len(labels) != len(y):
        raise InputError(f"{len(labels)} labels for {len(y)} samples; pass one for each")
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) and y.shape[1] > 1:
        if labels.min() < 0 or labels.max() >= y.shape[1]:
            raise InputError(f"labels must be classes from 0 to {y.shape[1] - 1}, the network has {y.shape[1]} outputs")
        return labels
    values = np.asarray(labels, float).reshape(len(y), -1)
    if values.shape != y.shape:
        raise InputError(
            f"labels of shape {labels.shape} fit no output; pass integer classes ({len(y)},) or values {y.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError("labels hold values that are not finite; leave those samples out")
    return values
