"""Layer-wise pruning by second-order reconstruction: row traces, a global budget, least squares at the end.

Frantar, Alistarh (2022) for the traces; the shared-Cholesky sweep for big layers follows SparseGPT (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from nnembed.aliases import Array, Index
from nnembed.options import Clock

from nnembed_sparse.calibration import Calibration
from nnembed_sparse.layout import Layout, Mask, Part, layout_of, patches
from nnembed_sparse.loss import PROBES

_DELAY = 32  # eliminated directions that are collected before the inverses are rewritten
_WORK = 3e12  # operations of one panel's traces
_BATCH = 25_000_000  # numbers of inverses held at a time


class Panel(NamedTuple):
    """Rows of one layer that see the same inputs: a dense layer, or one channel group of a convolution."""

    part: Part
    rows: slice
    group: int


def panels(layout: Layout) -> list[Panel]:
    """Return the panels of all weights in the order of the layout."""
    found = []
    for part in layout.weights:
        each = part.rows // part.groups
        found += [Panel(part, slice(g * each, (g + 1) * each), g) for g in range(part.groups)]
    return found


def moments(x: Array, damping: float) -> Array:
    """Return the damped second moments of columns, (d, d)."""
    h = x.T @ x / len(x)
    h[np.diag_indices_from(h)] += max(damping * float(np.trace(h)) / len(h), 1e-12)
    return h


def design(layout: Layout, panel: Panel, state: dict[str, Array]) -> Array:
    """Return the inputs of a panel, (samples * positions, columns)."""
    node = layout.node(panel.part)
    source = patches(node.operators[panel.part.operator], state[node.inputs[panel.part.operator]])
    return source[panel.group].reshape(-1, panel.part.columns)


def sensitivity(layout: Layout, calibration: Calibration, rng: np.random.Generator) -> dict[int, Array]:
    """Return per node what one unit of squared error in each row costs, as mean curvature of the loss."""
    sample = calibration.drawn(layout.affordable(1000, min(PROBES, layout.network.output_size)), rng)
    free = layout_of(layout.network, layout.network.forward(sample.inputs))
    factor = sample.curvature(free, free.start, rng)
    return {b.part.node: b.squares() / len(sample) for b in factor.blocks if b.part.operator < 0}


def traces(weights: Array, inverse: Array) -> tuple[Index, Array]:
    """Return, for every row, the order in which its weights go and what each costs (half the squared error).

    Parameters
    ----------
    weights : array (rows, d)
    inverse : array (d, d)
        Inverse of the second moments, shared by the rows.

    Returns
    -------
    order, cost : arrays (rows, d)
        Position t holds the t-th weight to go.
    """
    step = max(1, _BATCH // inverse.size)
    found = [_traces(weights[i : i + step], inverse) for i in range(0, len(weights), step)]
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _traces(weights: Array, inverse: Array) -> tuple[Index, Array]:
    b, d = weights.shape
    rows = np.arange(b)
    order, cost = np.empty((b, d), int), np.empty((b, d))
    names = np.broadcast_to(np.arange(d), (b, d)).copy()
    w, held = weights.copy(), np.broadcast_to(inverse, (b, d, d)).copy()
    diagonal = np.broadcast_to(np.diagonal(inverse), (b, d)).copy()
    done, waiting = np.zeros((b, d), bool), np.zeros((b, _DELAY, d))
    for t in range(d):
        k = t % _DELAY
        if k == 0 and t:
            held -= waiting.transpose(0, 2, 1) @ waiting
            if (live := d - t) < 0.85 * w.shape[1]:
                index = np.nonzero(~done)[1].reshape(b, live)
                names = np.take_along_axis(names, index, 1)
                w, diagonal = np.take_along_axis(w, index, 1), np.take_along_axis(diagonal, index, 1)
                held = held[rows[:, None, None], index[:, :, None], index[:, None, :]]
                done, waiting = np.zeros((b, live), bool), np.zeros((b, _DELAY, live))
        score = np.where(done, np.inf, w**2 / diagonal)
        p = score.argmin(axis=1)
        order[:, t], cost[:, t] = names[rows, p], score[rows, p] / 2
        column = held[rows, p] - np.einsum("bkd,bk->bd", waiting[:, :k], waiting[rows, :k, p])
        pivot = np.maximum(column[rows, p], 1e-300)
        w -= (w[rows, p] / pivot)[:, None] * column
        waiting[:, k] = column / np.sqrt(pivot)[:, None]
        diagonal = np.maximum(diagonal - waiting[:, k] ** 2, 1e-300)
        done[rows, p] = True
        w[done] = 0.0
    return order, cost


@dataclass(frozen=True, eq=False)
class Traces:
    """Traces of all panels with costs in units of the loss, so that layers and rows compare."""

    layout: Layout
    cost: Array  # over the weights of the layout: the price at which a weight goes

    def mask(self, kept: int) -> Mask:
        """Return the `kept` weights whose price is highest: a heap over the heads of all rows gives the same."""
        keep = np.zeros(self.layout.count, bool)
        keep[np.argsort(-self.cost, kind="stable")[:kept]] = True
        return keep


def all_traces(
    layout: Layout, calibration: Calibration, damping: float, rng: np.random.Generator, clock: Clock
) -> Traces:
    """Return the traces of a whole network; where time or size forbid them, one-shot saliencies."""
    state = layout.network.forward(calibration.inputs)
    price = sensitivity(layout, calibration, rng)
    cost = np.empty(layout.count)
    for panel in panels(layout):
        part = panel.part
        x = design(layout, panel, state) - layout.centres[layout.weights.index(part)][panel.group]
        w = layout.start[part.span].reshape(part.rows, part.columns)[panel.rows]
        live = np.flatnonzero(x.any(axis=0))  # an input that never moves costs nothing
        own = np.zeros_like(w)
        if len(live):
            inverse = np.asarray(np.linalg.inv(moments(x[:, live], damping)), float)
            unit = price[part.node][panel.rows, None] * part.positions
            if clock.expired or len(w) * float(len(live)) ** 3 > _WORK:
                own[:, live] = w[:, live] ** 2 / np.diagonal(inverse) / 2 * unit
            else:
                order, raw = traces(w[:, live], inverse)
                rising = np.maximum.accumulate(raw, axis=1) * unit
                np.put_along_axis(own, live[order], rising * (1 + 1e-12 * np.arange(len(live))), axis=1)
        cost[part.span].reshape(part.rows, part.columns)[panel.rows] = own
    return Traces(layout, cost)


def refit(layout: Layout, calibration: Calibration, keep: Mask, damping: float) -> Array:
    """Return kept weights that reproduce every layer's outputs best, layer after layer, on the pruned inputs.

    Each layer sees what the pruned layers before it give and aims at what the original layer gave.
    """
    truth = layout.network.forward(calibration.inputs)
    vector = layout.start.copy()
    vector[: layout.count] *= keep
    biases = {part.node: part for part in layout.biases}
    for panel in panels(layout):
        part, node = panel.part, layout.node(panel.part)
        network = layout.rebuilt(vector)
        state = network.forward(calibration.inputs)
        x = design(layout, panel, state)
        now = vector[part.span].reshape(part.rows, part.columns)[panel.rows].copy()
        missing = (truth[node.output] - state[node.output]).reshape(-1, part.rows, part.positions)[:, panel.rows]
        target = missing.transpose(0, 2, 1).reshape(len(x), -1) + x @ now.T
        free = part.node in biases and biases[part.node].rows == part.rows
        mean_x, mean_t = (x.mean(axis=0), target.mean(axis=0)) if free else (0.0, 0.0)
        mask = keep[part.span].reshape(part.rows, part.columns)[panel.rows]
        fitted = _rows_fitted(moments(x - mean_x, damping), (x - mean_x).T @ (target - mean_t) / len(x), mask, now)
        vector[part.span].reshape(part.rows, part.columns)[panel.rows] = fitted
        if free:
            centre = layout.centres[layout.weights.index(part)][panel.group]
            vector[biases[part.node].span][panel.rows] += mean_t - fitted @ mean_x + (fitted - now) @ centre
    return vector


def _rows_fitted(h: Array, right: Array, mask: Mask, now: Array) -> Array:
    """Return least-squares rows on their masks; damping pulls them towards what they are now."""
    ridge = max(float(np.trace(h)) / len(h) * 1e-6, 1e-12)
    out = np.zeros_like(now)
    for i, chosen in enumerate(map(np.flatnonzero, mask)):  # every row has a system of its own size
        if len(chosen):
            own = h[np.ix_(chosen, chosen)]
            own[np.diag_indices_from(own)] += ridge
            out[i, chosen] = np.linalg.solve(own, right[chosen, i] + ridge * now[i, chosen])
    return out
