"""Pruning in stages: after each the weights that stay are solved for again, with curvature where they now are.

In the spirit of the multi-stage l0 regression of Benbaki et al. (CHITA, 2023): layer-wise traces choose the first mask,
optimal-brain-damage scores at the re-solved weights the later ones.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from nnembed.aliases import Array

from nnembed_sparse.calibration import Calibration
from nnembed_sparse.layerwise import all_traces, refit
from nnembed_sparse.layout import Mask
from nnembed_sparse.loss import CrossEntropy, Squared, softmax
from nnembed_sparse.newton import Steps, curvature, resolve
from nnembed_sparse.pruner import Task
from nnembed_sparse.surgeon import magnitude_mask

_JOINT = 0.25  # density down to which the layer-wise choice is left alone
_RATIO = 0.72  # of the densities of successive stages


def smoothed(calibration: Calibration, y: Array) -> Calibration:
    """Return the calibration with targets half way between what was given and the network's own outputs `y`.

    Few labels can be learnt by heart; the network's outputs say more about a sample than its label.
    """
    loss = calibration.loss
    if isinstance(loss, CrossEntropy):
        own = softmax(y / loss.temperature)
        return replace(calibration, loss=replace(loss, target=(loss.target + own) / 2))
    assert isinstance(loss, Squared)
    return replace(calibration, loss=replace(loss, target=(loss.target + y) / 2))


def densities(final: float) -> list[float]:
    """Return the densities of the stages, the last one `final`."""
    if final >= _JOINT:
        return [final]
    count = max(1, int(np.ceil(np.log(_JOINT / final) / -np.log(_RATIO))))
    return list(np.geomspace(_JOINT, final, count + 1))


def staged(task: Task, damping: float, steps: Steps, last: int) -> Array:
    """Return weights pruned in stages.

    Parameters
    ----------
    damping : float
        Of the layer-wise moments, relative to their mean.
    steps : Steps
        Re-solve after every stage.
    last : int
        Gauss-Newton steps at the end.
    """
    layout, n = task.layout, task.layout.count
    calibration = smoothed(task.calibration, task.calibration.outputs(layout.network))
    stages = [round(d * n) for d in densities(max(task.kept, 1) / n)]
    stages[-1] = task.kept
    traced = all_traces(layout, task.calibration, damping, task.rng, task.clock)
    keep = traced.mask(stages[0])
    vector = refit(layout, task.calibration, keep, damping / 10)
    for _, kept in pairwise(stages):
        vector = resolve(layout, calibration, vector, task.whole(keep), steps, task.rng, task.clock)
        if task.clock.expired:  # what the layer-wise choice makes of it in one go
            keep = traced.mask(task.kept)
            return refit(layout, task.calibration, keep, damping / 10)
        keep = _thinned(task, calibration, vector, keep, kept)
        vector = vector * task.whole(keep)
    return resolve(layout, calibration, vector, task.whole(keep), replace(steps, count=last), task.rng, task.clock)


def _thinned(task: Task, calibration: Calibration, vector: Array, keep: Mask, kept: int) -> Mask:
    """Return the mask after the weights with the least second-order loss have gone."""
    n = task.layout.count
    bend = curvature(task.layout, calibration, vector, task.rng).squares()[:n]
    score = np.where(keep, vector[:n] ** 2 * (bend + 1e-3 * bend.mean()), -1.0)
    return magnitude_mask(score, kept) & keep
