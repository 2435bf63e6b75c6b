"""Compare a network as read with a runtime nobody here wrote."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnembed.aliases import Array
from nnembed.errors import SelfCheckFailed
from nnembed.ir.network import Network, Reference
from nnembed.ir.nodes import Affine, Kink, Round, Step, Winner

_UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53}


def unit_roundoff(network: Network) -> float:
    """Return the unit roundoff of the network's own arithmetic."""
    return max(_UNIT.get(spec.dtype, 2.0**-24) for spec in network.tensors.values())


def rounding_bound(network: Network, state: Mapping[str, Array], unit: float) -> Array:
    """Return how far arithmetic with roundoff `unit` may stray from the exact outputs.

    A running error bound: ``e_out = |M| e_in + gamma_n (|M| |x| + |b|)`` per affine node, Lipschitz
    constants elsewhere (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3).

    Returns
    -------
    array of shape (batch, output size)
    """
    error = {spec.name: unit * np.abs(state[spec.name]) for spec in network.inputs}
    for node in network.nodes:
        if isinstance(node, Affine):
            total = 4 * unit * (np.abs(node.bias) + np.abs(state[node.output]))
            for operator, source in zip(node.operators, node.inputs, strict=True):
                size = operator.absolute
                gamma = (operator.terms + 4) * unit
                total = total + size.apply(error[source] + gamma * (np.abs(state[source]) + error[source]))
        elif isinstance(node, Kink):
            slope = np.maximum(np.abs(node.left), np.abs(node.right))
            total = slope * error[node.input] + 2 * unit * np.abs(state[node.output])
        elif isinstance(node, Step):  # a threshold within reach of rounding may be passed
            g, reach = state[node.input], error[node.input]
            total = np.where((g - reach < 0) & (g + reach >= 0), np.abs(node.high - node.low), 0.0)
            total = total + 2 * unit * np.abs(state[node.output])
        elif isinstance(node, Round):  # stairs within reach, of the division too
            g = state[node.input]
            reach = error[node.input] + 2 * unit * np.abs(g)
            total = node.scale * (node.level((g + reach) / node.step) - node.level((g - reach) / node.step))
            total = total + 2 * unit * np.abs(state[node.output])
        elif isinstance(node, Winner):
            total = _may_turn(node, state[node.input], error[node.input])
        else:  # clip and max are 1-Lipschitz in the maximum norm
            total = node.evaluate(*(state[t] + error[t] for t in node.inputs)) - state[node.output]
            low = state[node.output] - node.evaluate(*(state[t] - error[t] for t in node.inputs))
            total = np.maximum(total, low)
        error[node.output] = total
    return network.flat_outputs(error)


def _may_turn(node: Winner, g: Array, reach: Array) -> Array:
    """Return 1 for members of groups in which errors of size `reach` may change the winner, (batch, n)."""
    low, high = (g - reach)[..., node.groups], (g + reach)[..., node.groups]
    first = low.argmax(axis=-1)[..., None]
    entry = np.take_along_axis(np.broadcast_to(node.groups, low.shape), first, axis=-1)
    rival = (high >= np.take_along_axis(low, first, axis=-1)) & (node.groups != entry)
    turned = np.broadcast_to(rival.any(axis=-1, keepdims=True), low.shape)
    return turned.reshape(*turned.shape[:-2], -1).astype(float)


def sample_points(network: Network, samples: int, seed: int) -> dict[str, Array]:
    """Return random inputs (samples, n) by name: normal, of magnitudes 0.1 to 10, and one zero point."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-1, 1, (samples, 1))
    scale[0] = 0.0
    points = {}
    for spec in network.inputs:
        raw = rng.normal(size=(samples, spec.size)) * scale
        points[spec.name] = representable(raw, spec.dtype)
    return points


def representable(values: Array, dtype: str) -> Array:
    """Return float64 numbers near `values` that the element type `dtype` of a file can hold."""
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), max(limits.min, -(2**31)), min(limits.max, 2**31))
    if dtype == "float16":
        return np.clip(values, -65504, 65504).astype(np.float16).astype(float)
    single = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "bfloat16":  # the upper half of a float32
        single = (single.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return single.astype(float)


def compare(network: Network, reference: Reference, samples: int, seed: int) -> float:
    """Return the largest difference of `network` to `reference`; see `Network.self_check`.

    A difference within ``1e-4 (1 + |y|)`` (scaled up for half precision) passes; a larger one must be
    explained by `rounding_bound`, else it is an error.
    """
    points = sample_points(network, samples, seed)
    theirs = reference.run(points)
    state = network.forward(points)
    ours = network.flat_outputs(state)
    want = np.concatenate([theirs[s.name] for s in network.outputs], axis=-1)
    if want.shape != ours.shape:
        raise SelfCheckFailed(f"{network.name}: {reference.name} returns shape {want.shape}, we read {ours.shape}")
    difference = np.abs(ours - want)
    unit = unit_roundoff(network)
    slack = max(1e-4, 64 * unit) * (1 + np.abs(ours))
    wrong = ~(difference <= slack)
    if wrong.any():
        wrong &= ~(difference <= 2 * rounding_bound(network, state, unit))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise SelfCheckFailed(
            f"{network.name}: output entry {column} is {ours[row, column]:.9g} as read and {want[row, column]:.9g} in "
            f"{reference.name}; the file is read wrongly. Please report the model; do not use this network."
        )
    return float(difference.max(initial=0.0))
