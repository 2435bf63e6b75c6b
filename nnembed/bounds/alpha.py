"""alpha-CROWN: the lines below open neurons are optimised, function by function, by projected gradients.

Every choice of lines gives a valid bound, so the method can stop at any time. Layer by layer forward, the
pre-activations that are still open are bounded with lines of their own for each neuron and side; then the outputs.

Source: Xu et al., ICLR 2021. Slopes here belong to one function, not to a layer; for the linear program of the triangle
relaxation with the same pre-activation bounds this is its dual, and the bounds approach its optimum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from nnembed.aliases import Array, Mask
from nnembed.bounds.alpha_sweep import Functions, Shared, Sweeps, Trace, entries
from nnembed.bounds.backward import Crown
from nnembed.bounds.box import Bounds, Provenance, contenders
from nnembed.bounds.interval import narrow, node_interval
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Max, Winner
from nnembed.options import Budget, Clock

_CHUNK = 400_000  # numbers of one tensor held for all functions of a sweep


class Maximise(Protocol):
    """Bounds functions of tensors from below."""

    def __call__(self, shared: Shared, functions: Functions, clock: Clock) -> Array:
        """Return lower bounds (p,)."""
        ...


@dataclass(frozen=True)
class AlphaCrown:
    """Linear backward bounds with optimised lines.

    Parameters
    ----------
    iterations : int
        Sweeps per layer; each costs a pass down and, but for the last, one up.
    intermediate : bool
        Bound the open neurons of all layers, not the outputs only.
    """

    iterations: int = 5
    intermediate: bool = True

    name = "alpha-crown"
    summary = "linear backward bounds with optimised slopes (alpha-CROWN)"
    sound = True
    cost = 20

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`.

        CROWN runs first unless it has. When the budget ends, what has been reached is returned. Bounds that this method
        was the last to work on, to its end, are returned as they are.
        """

        def maximise(shared: Shared, functions: Functions, clock: Clock) -> Array:
            return maximised(Sweeps(shared, functions), self.iterations, clock)

        return layer_by_layer(self.name, bounds, budget, maximise, intermediate=self.intermediate)


def layer_by_layer(
    name: str, bounds: Bounds, budget: Budget, maximise: Maximise, *, intermediate: bool = True
) -> Bounds:
    """Return bounds narrowed by bounding open pre-activations, layer by layer forward, and outputs.

    Parameters
    ----------
    name : str
        The method, for the history.
    bounds : Bounds
    budget : Budget
    maximise : Maximise
        Bounds functions of tensors.
    intermediate : bool
        Whether to bound more than the outputs. Under a limit of seconds the outputs are bounded first, too.
    """
    if bounds.complete and bounds.history and bounds.history[-1].method == name and bounds.history[-1].finished:
        return bounds
    started, clock = time.perf_counter(), budget.start()
    network = bounds.network
    if not bounds.complete or all(p.method != Crown.name for p in bounds.history):
        bounds = Crown().tighten(network, bounds, budget)
    low, high = dict(bounds.low), dict(bounds.high)
    outputs = {spec.name for spec in network.outputs}
    if budget.seconds is not None or not intermediate:
        _narrow_layers(bounds, low, high, clock, outputs, maximise)
    if intermediate:
        _narrow_layers(bounds, low, high, clock, {node.output for node in network.nodes}, maximise)
    record = Provenance(
        name, time.perf_counter() - started, -1, finished=not clock.expired and budget.layer_seconds is None
    )
    return bounds.intersect(low, high, record)


def _narrow_layers(
    bounds: Bounds,
    low: dict[str, Array],
    high: dict[str, Array],
    clock: Clock,
    targets: set[str],
    maximise: Maximise,
) -> None:
    network = bounds.network
    shared = Shared(network, low, high)
    for position, node in enumerate(network.nodes):
        if clock.expired:
            return
        lo, hi = node_interval(node, [(low[t], high[t]) for t in node.inputs])
        narrow(node.output, lo, hi, (low, high))
        if node.output not in targets or not isinstance(node, Affine):
            continue
        if all(source not in network.producers for source in node.inputs):
            continue  # over the inputs themselves intervals are exact
        box, row = np.nonzero(wanted(replace(bounds, low=low, high=high), node))
        lo, hi = low[node.output].copy(), high[node.output].copy()
        limit = _layer_clock(clock)
        for part in _chunks(network, len(row)):
            if limit.expired:
                break
            at = box[part], row[part]
            sign = np.repeat([1.0, -1.0], len(at[0]))
            both = entries(network, position, np.tile(at[0], 2), np.tile(at[1], 2), sign)
            lo[at], minus_hi = np.split(maximise(shared, both, limit), 2)
            hi[at] = -minus_hi
        narrow(node.output, lo, hi, (low, high))


def maximised(sweeps: Sweeps, iterations: int, clock: Clock) -> Array:
    """Return the best lower bounds (p,) found in a number of sweeps; at least one, with the lines of CROWN."""
    best = np.full(len(sweeps.functions.box), -np.inf)
    for k in range(max(1, iterations)):
        trace = sweeps.bound()
        best = np.maximum(best, trace.value)
        if k + 1 >= iterations or clock.expired:
            break
        advance(sweeps, trace, sweeps.derivatives(trace), 0.8 * 0.05 ** (k / iterations))
    return best


def advance(sweeps: Sweeps, trace: Trace, slopes: Mapping[str, Array], length: float) -> None:
    """Move shares and prices along the derivatives.

    Steps are the cube roots of the derivatives, relative to the largest of the function's layer: between a gradient
    step, which hardly moves most neurons, and a step by signs alone, which moves those most that matter least.
    """
    for name, slope in slopes.items():
        largest = np.abs(slope).max(axis=1, keepdims=True)
        move = length * np.cbrt(np.divide(slope, largest, out=np.zeros_like(slope), where=largest > 0))
        if name in sweeps.shares:
            sweeps.shares[name] = np.clip(sweeps.shares[name] + move, 0.0, 1.0)
        else:
            scale = np.abs(trace.passed[name]).max(axis=1, keepdims=True)
            sweeps.prices[name] = np.maximum(sweeps.prices[name] + scale * move, 0.0)


def wanted(bounds: Bounds, node: Affine) -> Mask:
    """Return the mask (batch, n) of entries whose bounds matter: open neurons, contending members, outputs."""
    network = bounds.network
    mask = np.zeros(bounds.low[node.output].shape, dtype=bool)
    if any(spec.name == node.output for spec in network.outputs):
        mask[:] = True
    for reader in network.activations:
        if reader.inputs[0] != node.output:
            continue
        if not isinstance(reader, Max | Winner):
            mask |= bounds.open(reader)
            continue
        alive = contenders(reader, bounds.low[node.output], bounds.high[node.output])
        alive &= alive.sum(axis=-1, keepdims=True) > 1
        for member in range(alive.shape[-1]):
            at, group = np.nonzero(alive[..., member])
            mask[at, reader.groups[group, member]] = True
    return mask


def _chunks(network: Network, count: int) -> Iterator[slice]:
    widest = max(spec.size for spec in network.tensors.values())
    size = max(1, _CHUNK // (2 * widest))
    return (slice(i, min(i + size, count)) for i in range(0, count, size))


def _layer_clock(clock: Clock) -> Clock:
    """Return the clock of one layer: what is left, or the budget's seconds per layer if they are fewer."""
    per_layer = clock.budget.layer_seconds
    if per_layer is None:
        return clock
    return Budget(seconds=min(per_layer, clock.remaining)).start()
