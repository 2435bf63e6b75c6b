"""Interval bounds, rounded outward.

The sum of n products in floating point is off by at most ``gamma_n sum |m_i x_i|``, ``gamma_n = n u / (1 - n u)``, in
whatever order it is computed (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); that much is added
to both sides, so every bound holds in real arithmetic. Entries whose terms are all zero stay exact.
"""

from __future__ import annotations

import time

import numpy as np

from nnembed.aliases import Array, Mask
from nnembed.bounds.box import Bounds, Provenance, contenders, levels
from nnembed.ir.linear import Selection
from nnembed.ir.network import Network
from nnembed.ir.nodes import Abs, Affine, Clip, Kink, Max, Node, Relu, Round, Step, Winner
from nnembed.options import Budget

UNIT = 2.0**-53


def gamma(n: int) -> float:
    """Return a bound on the relative error of a sum of `n` products, with room for a few more operations."""
    return 1.01 * (n + 4) * UNIT


def affine_interval(node: Affine, sources: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return bounds (batch, n_out) of an affine node from bounds of its inputs."""
    low = high = node.bias[None]
    error_low = error_high = np.abs(node.bias)[None]
    terms = len(sources)
    for operator, (lo, hi) in zip(node.operators, sources, strict=True):
        sides = np.stack([lo, hi, np.abs(lo), np.abs(hi)])  # one product for all four
        if isinstance(operator, Selection):
            parts = operator.apply(sides)
        else:
            positive, negative = operator.signs()
            parts, down = positive.apply(sides), negative.apply(sides)
            parts[:2] += down[1::-1]
            parts[2:] -= down[:1:-1]
            terms += operator.terms
        low, high = low + parts[0], high + parts[1]
        error_low, error_high = error_low + parts[2], error_high + parts[3]
    if terms == 1 and isinstance(node.operators[0], Selection) and not node.bias.any():
        return low, high  # a copy is exact
    slack = gamma(terms)
    return low - slack * error_low, high + slack * error_high


def node_interval(node: Node, sources: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return bounds (batch, n) of a node's output from bounds of its inputs."""
    if isinstance(node, Affine):
        return affine_interval(node, sources)
    lo, hi = sources[0]
    if isinstance(node, Kink):
        return _kink_interval(node, lo, hi)
    if isinstance(node, Step):
        ends = node.evaluate(lo), node.evaluate(hi)
        return np.minimum(*ends), np.maximum(*ends)
    if isinstance(node, Round):
        first, last = levels(node, lo, hi)
        exact = np.frexp(node.scale)[0] == 0.5
        lo, hi = node.scale * first, node.scale * last
        return np.where(exact, lo, np.nextafter(lo, -np.inf)), np.where(exact, hi, np.nextafter(hi, np.inf))
    if isinstance(node, Winner):
        return one_hot(contenders(node, lo, hi))
    if isinstance(node, Clip | Max):  # monotone, and exact in floating point
        return node.evaluate(lo), node.evaluate(hi)
    raise TypeError(f"no interval rule for {node.kind}")


def _kink_interval(node: Kink, lo: Array, hi: Array) -> tuple[Array, Array]:
    ends = node.evaluate(lo), node.evaluate(hi)
    if isinstance(node, Relu):
        return ends
    inside = (lo < 0) & (hi > 0)
    low, high = np.minimum(*ends), np.maximum(*ends)
    low, high = np.where(inside, np.minimum(low, 0.0), low), np.where(inside, np.maximum(high, 0.0), high)
    if isinstance(node, Relu | Abs):  # slopes of one and zero are exact
        return low, high
    return low - 2 * UNIT * np.abs(low), high + 2 * UNIT * np.abs(high)


def one_hot(alive: Mask) -> tuple[Array, Array]:
    """Return bounds (batch, n) of winners from the mask (batch, groups, members) of those that may win."""
    sure = alive & (alive.sum(axis=-1, keepdims=True) == 1)
    return sure.reshape(len(alive), -1).astype(float), alive.reshape(len(alive), -1).astype(float)


def narrow(name: str, low: Array, high: Array, into: tuple[dict[str, Array], dict[str, Array]]) -> None:
    """Store new bounds of a tensor, intersected with what was known of it."""
    if name in into[0]:
        lo, hi = np.maximum(into[0][name], low), np.minimum(into[1][name], high)
        crossed = lo > hi  # by rounding only; keep the older pair
        low, high = np.where(crossed, into[0][name], lo), np.where(crossed, into[1][name], hi)
    into[0][name], into[1][name] = np.ascontiguousarray(low), np.ascontiguousarray(high)


class Interval:
    """Interval arithmetic, layer by layer."""

    name = "interval"
    summary = "interval arithmetic, layer by layer"
    sound = True
    cost = 0

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`."""
        started = time.perf_counter()
        low, high = dict(bounds.low), dict(bounds.high)
        for node in network.nodes:
            lo, hi = node_interval(node, [(low[t], high[t]) for t in node.inputs])
            narrow(node.output, lo, hi, (low, high))
        return bounds.intersect(low, high, Provenance(self.name, time.perf_counter() - started, -1))
