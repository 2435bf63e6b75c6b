"""What all pruners share: options, calibration, the report and the proof."""

from __future__ import annotations

import math
import numbers
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from nnembed.aliases import Array
from nnembed.bounds.box import Bounds
from nnembed.errors import InputError, UnknownName
from nnembed.ir.network import Network
from nnembed.options import Budget, Clock
from nnembed.surrogates.difference import error_bound
from nnembed.surrogates.twin import LayerCount, Twin, TwinReport, agreement

from nnembed_sparse.calibration import LOSSES, Calibration, calibrate
from nnembed_sparse.layout import Layout, Mask, layout_of


@dataclass(frozen=True, eq=False)
class Task:
    """What a pruner is given: the weights, the samples, how many weights stay, randomness and a clock."""

    layout: Layout
    calibration: Calibration
    kept: int
    rng: np.random.Generator
    clock: Clock

    def whole(self, keep: Mask) -> Mask:
        """Return a mask of weights with the biases added, which stay."""
        return np.concatenate([keep, np.ones(self.layout.size - self.layout.count, bool)])

    def value(self, vector: Array) -> float:
        """Return the loss of these weights."""
        return self.calibration.value(self.layout.rebuilt(vector))


@dataclass(frozen=True, eq=False)
class Pruned:
    """Weights with a layout, and facts for the report."""

    layout: Layout
    vector: Array
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruner(ABC):
    """Options of every pruner.

    Parameters
    ----------
    sparsity : float
        Share of the weights that become zero, over all layers; 0 <= sparsity < 1. Biases do not count.
    labels : int array (samples,), float array (samples, outputs) or None
        Classes or target values of the samples.
    loss : {"auto", "labels", "softmax", "squared"}
        "labels": cross-entropy with the classes; "softmax": cross-entropy with the network's own softmax, for
        classifiers without labels; "squared": squared error of the outputs, each in units of its spread, to float
        labels or to the network's own outputs; "auto": "labels" where there are classes, else "squared".
    temperature : float
        Of the softmax in both cross-entropies; 0 takes the least from 1 on at which the network is sure of its classes
        to 95 % in the mean, so that networks that make no mistakes on the samples have gradients left.
    points : int
        Points drawn from the box when there are no samples.
    biases : bool
        Let biases take over the mean of what is pruned; False keeps them as they are.
    finetune : int
        Epochs of Adam on the weights that stay, with torch; 0 is none.
    """

    sparsity: float = 0.5
    labels: Any = field(default=None, repr=False, compare=False)
    loss: str = "auto"
    temperature: float = 0.0
    points: int = 1000
    biases: bool = True
    finetune: int = 0
    proves: bool = field(default=True, init=False, repr=False)  # False where only the network is wanted

    name = "pruner"
    summary = ""
    sound = True

    def __post_init__(self) -> None:
        """Refuse options that nothing could be pruned by."""
        s = self.sparsity
        if isinstance(s, bool) or not isinstance(s, numbers.Real) or not 0 <= s < 1:
            raise InputError(f"sparsity={s!r}; give a share of the weights, 0 <= sparsity < 1")
        if self.loss not in LOSSES:
            raise UnknownName("loss", self.loss, LOSSES)
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise InputError(
                f"temperature={self.temperature}; give a number > 0, 1 leaves the outputs as they are, 0 chooses one"
            )
        if self.points < 1 or self.finetune < 0:
            raise InputError(f"points={self.points}, finetune={self.finetune}; give points >= 1 and finetune >= 0")

    @abstractmethod
    def prune(self, task: Task) -> Pruned:
        """Return weights of which at most `task.kept` differ from zero."""

    def build(self, network: Network, bounds: Bounds, samples: Any, budget: Budget) -> Twin:
        """Return the twin; its error is proved where `bounds` are finite; see `nnembed.protocols.Surrogate`.

        Raises
        ------
        InputError
            If the network has no weights to prune, or samples and labels do not fit.
        BoxError
            If there are neither samples nor a finite box.
        """
        started, clock = time.perf_counter(), budget.start()
        task = self._task(network, bounds, samples, budget, clock)
        whole = task.kept == task.layout.count
        pruned = Pruned(task.layout, task.layout.start) if whole else self.prune(task)
        if self.finetune:
            from nnembed_sparse.finetune import finetuned

            pruned = replace(pruned, vector=finetuned(task.calibration, pruned, self.finetune, budget.seed))
        keep = self._checked(task, pruned.vector)
        twin = pruned.layout.rebuilt(pruned.vector)
        left = None if budget.seconds is None else clock.remaining
        error = error_bound(network, twin, bounds, replace(budget, seconds=left)) if self.proves else None
        return Twin(twin, error, self._report(task, twin, keep, pruned.facts, samples, started))

    def _task(self, network: Network, bounds: Bounds, samples: Any, budget: Budget, clock: Clock) -> Task:
        rng = np.random.default_rng(budget.seed)
        layout = layout_of(network)  # refuses networks without weights before anything is computed
        calibration = calibrate(
            network,
            bounds,
            samples,
            labels=self.labels,
            loss=self.loss,
            temperature=self.temperature,
            count=self.points,
            rng=rng,
        )
        if self.biases:
            layout = layout_of(network, network.forward(calibration.inputs))
        gone = math.ceil(self.sparsity * layout.count - 1e-9)
        return Task(layout, calibration, layout.count - gone, rng, clock)

    def _checked(self, task: Task, vector: Array) -> Mask:
        """Return what stays, after a check that it is neither too much nor broken."""
        if not np.isfinite(vector).all():
            raise InputError(f"{self.name}: the weights became infinite; pass more samples, or fewer zero inputs")
        keep = vector[: task.layout.count] != 0
        assert keep.sum() <= task.kept, "more weights are left than were asked for"
        return keep

    def _report(
        self, task: Task, twin: Network, keep: Mask, own: Mapping[str, float], samples: Any, started: float
    ) -> TwinReport:
        layout, calibration = task.layout, task.calibration
        counts = layout.kept_counts(keep)
        layers = tuple(LayerCount(layout.label(p), p.size, n) for p, n in zip(layout.weights, counts, strict=True))
        score = undecayed_scores(layout, calibration, np.random.default_rng(0))
        total = float(score.sum())
        facts = {
            "loss": calibration.value(layout.network),
            "twin_loss": calibration.value(twin),
            "undecayed": float(score[~keep].sum()) / total if total > 0 else 0.0,
            **own,
        }
        found = None
        if calibration.labels is not None and samples is not None:
            found = agreement(layout.network, twin, samples, calibration.labels)
            facts["alpha"] = math.nan if found.balance is None else found.balance
        return TwinReport(self.name, layers, time.perf_counter() - started, found, facts)


def undecayed_scores(layout: Layout, calibration: Calibration, rng: np.random.Generator) -> Array:
    """Return ``|theta dT|`` of every weight, T the loss without decay, its gradient the mean over all samples.

    Good et al. (2022). Without labels the network sits at the minimum of its loss and the gradient is zero; then the
    root mean square over single samples is taken.
    """
    theta = layout.start[: layout.count]
    if calibration.labels is not None:
        return np.abs(theta * calibration.slope(layout, layout.start)[1][: layout.count])
    factor = calibration.drawn(layout.affordable(1000), rng).fisher(layout, layout.start, rng)
    return np.abs(theta) * np.sqrt(factor.squares()[: layout.count])
