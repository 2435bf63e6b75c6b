"""Re-solving the weights that stay: damped Gauss-Newton steps by conjugate gradients, no matrix is formed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nnembed.aliases import Array
from nnembed.options import Clock

from nnembed_sparse.calibration import Calibration
from nnembed_sparse.factor import Factor
from nnembed_sparse.layout import Layout, Mask
from nnembed_sparse.loss import PROBES

_SAMPLES = 1500  # of the curvature; the gradient is of all
_HALVINGS = 6


@dataclass(frozen=True)
class Steps:
    """Parameters of the re-solve.

    Attributes
    ----------
    count : int
        Gauss-Newton steps.
    inner : int
        Iterations of conjugate gradients per step.
    damping : float
        First Levenberg-Marquardt damping, relative to the mean curvature of the weights that stay.
    decay : float
        Pull towards zero, relative likewise, so that few samples do not blow weights up.
    """

    count: int = 3
    inner: int = 20
    damping: float = 0.1
    decay: float = 1e-3


def resolve(
    layout: Layout,
    calibration: Calibration,
    vector: Array,
    keep: Mask,
    steps: Steps,
    rng: np.random.Generator,
    clock: Clock,
) -> Array:
    """Return weights with a smaller loss, zero where they were zero; never worse than `vector` on the samples.

    Parameters
    ----------
    keep : bool array over the layout
        What may move.
    """
    damping = steps.damping
    value, slope = calibration.slope(layout, vector)
    for _ in range(steps.count):
        if clock.expired:
            break
        factor = curvature(layout, calibration, vector, rng)
        diagonal = factor.squares() * keep
        unit = diagonal.sum() / max(1, int(keep.sum())) or 1.0
        shift = damping * (diagonal + unit)
        step = _conjugate(factor, -slope * keep, diagonal, shift, keep, steps.inner)
        found = _line(layout, calibration, vector, step, value)
        if found is None:
            damping *= 10.0
            continue
        vector, better = found
        damping *= 0.3 if better < value else 3.0
        value, slope = calibration.slope(layout, vector)
    return vector


def curvature(layout: Layout, calibration: Calibration, vector: Array, rng: np.random.Generator) -> Factor:
    """Return the Gauss-Newton factor on as many samples as fit into memory."""
    count = layout.affordable(_SAMPLES, min(PROBES, layout.network.output_size))
    return calibration.drawn(count, rng).curvature(layout, vector, rng)


def _line(
    layout: Layout, calibration: Calibration, vector: Array, step: Array, value: float
) -> tuple[Array, float] | None:
    """Return the first of the halved steps that lowers the loss."""
    for k in range(_HALVINGS):
        trial = vector + step * 0.5**k
        found = calibration.value(layout.rebuilt(trial))
        if found < value:
            return trial, found
    return None


def _conjugate(factor: Factor, rhs: Array, diagonal: Array, shift: Array, keep: Mask, most: int) -> Array:
    """Return an approximate solution of ``(F^T F / samples + diag(shift)) x = rhs`` over the kept entries."""
    scale = np.where(keep, 1.0 / np.maximum(diagonal + shift, 1e-300), 0.0)
    x, r = np.zeros_like(rhs), rhs.copy()
    z = scale * r
    p, rz = z.copy(), float(r @ z)
    first = rz
    for _ in range(most):
        if rz <= 1e-8 * first:
            break
        q = (factor.pull(factor.dot(p)) / factor.samples + shift * p) * keep
        curve = float(p @ q)
        if curve <= 0.0:
            break
        x += (rz / curve) * p
        r -= (rz / curve) * q
        z = scale * r
        rz, old = float(r @ z), rz
        p = z + (rz / old) * p
    return x
