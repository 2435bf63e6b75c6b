"""The column sweep for big layers: one Cholesky factor shared by all rows, errors pushed to the columns ahead."""

from __future__ import annotations

import numpy as np
from nnembed.aliases import Array

from nnembed_sparse.calibration import Calibration
from nnembed_sparse.layerwise import design, moments, panels, sensitivity
from nnembed_sparse.layout import Layout

_BLOCK = 128  # columns whose mask is chosen together


def sweep(layout: Layout, calibration: Calibration, kept: int, damping: float, rng: np.random.Generator) -> Array:
    """Return pruned weights; layers share the budget by weight squared times power of its input times row price."""
    truth = layout.network.forward(calibration.inputs)
    price = sensitivity(layout, calibration, rng)
    budgets = _budgets(layout, truth, kept, price)
    vector = layout.start.copy()
    biases = {part.node: part for part in layout.biases}
    for panel, count in zip(panels(layout), budgets, strict=True):
        part, node = panel.part, layout.node(panel.part)
        state = layout.rebuilt(vector).forward(calibration.inputs)
        x = design(layout, panel, state)
        free = part.node in biases and biases[part.node].rows == part.rows
        mean = x.mean(axis=0) if free else np.zeros(part.columns)
        weights = vector[part.span].reshape(part.rows, part.columns)[panel.rows]
        swept = swept_rows(weights, moments(x - mean, damping), count, price[part.node][panel.rows])
        vector[part.span].reshape(part.rows, part.columns)[panel.rows] = swept
        if free:
            missing = truth[node.output] - layout.rebuilt(vector).forward(calibration.inputs)[node.output]
            shift = missing.reshape(-1, part.rows, part.positions).mean(axis=(0, 2))
            vector[biases[part.node].span][panel.rows] += shift[panel.rows]
    return vector


def swept_rows(weights: Array, h: Array, kept: int, price: Array) -> Array:
    """Return rows of which exactly `kept` entries are left.

    Parameters
    ----------
    weights : array (rows, d)
    h : array (d, d)
        Damped second moments of the inputs.
    price : array (rows,)
        What a unit of squared error costs in each row.
    """
    d = weights.shape[1]
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    w = weights.copy()
    left = kept
    for start in range(0, d, _BLOCK):
        stop = min(d, start + _BLOCK)
        score = (w[:, start:] / np.diagonal(upper)[start:]) ** 2 * price[
            :, None
        ]  # what is ahead shares what is left of the budget
        mask = np.zeros(score.size, bool)
        mask[np.argsort(-score, axis=None, kind="stable")[:left]] = True
        own = mask.reshape(score.shape)[:, : stop - start]
        left -= int(own.sum())
        errors = np.zeros((len(w), stop - start))
        for j in range(start, stop):
            k = j - start
            errors[:, k] = np.where(own[:, k], 0.0, w[:, j]) / upper[j, j]
            w[:, j:stop] -= errors[:, k, None] * upper[j, j:stop]
            w[~own[:, k], j] = 0.0
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    return w


def _budgets(layout: Layout, state: dict[str, Array], kept: int, price: dict[int, Array]) -> list[int]:
    scores = []
    for panel in panels(layout):
        part = panel.part
        x = design(layout, panel, state)
        x = x - layout.centres[layout.weights.index(part)][panel.group]
        power = (x**2).mean(
            axis=0
        )  # not the inverse's diagonal: of inputs that say the same, each alone looks dispensable
        w = layout.start[part.span].reshape(part.rows, part.columns)[panel.rows]
        scores.append((w**2 * power * price[part.node][panel.rows, None] * part.positions).ravel())
    owner = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    chosen = np.argsort(-np.concatenate(scores), kind="stable")[:kept]
    return np.bincount(owner[chosen], minlength=len(scores)).tolist()
