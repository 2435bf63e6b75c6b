"""Biases that take over what pruned weights contributed, and the units in which weights of inputs compare.

A weight that becomes zero takes the mean of its contribution with it. Where points are known (samples, or points of the
box) the bias of every layer is moved so that the layer's mean is what it was, layer after layer, on the twin's own
values. Without points there is one thing to go by: a normalisation of the inputs that was folded into a layer left
biases that are a multiple of the layer's row sums; then weights shrink together with the biases they brought along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.box import Bounds
from nnembed.errors import InputError
from nnembed.ir.linear import Convolution, Dense
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Node

_POINTS, _NUMBERS = 512, 8_000_000  # points of a box, and numbers of one tensor, that are held
_ROWS, _EXPLAINED = 10, 0.5  # biases must be explained to this part, or to _ROWS / rows: few rows are alike by chance


def points_of(network: Network, bounds: Bounds, samples: Any, seed: int) -> dict[str, Array] | None:
    """Return flat points by input name: the samples, or points of the box, every second one a corner.

    Returns
    -------
    dict or None
        None where there are no samples and the box is not finite.

    Raises
    ------
    InputError
        If samples do not fit the network or are not finite.
    """
    if samples is not None:
        flat, _ = network.flatten(samples)
        found = {name: x.reshape(-1, x.shape[-1]) for name, x in flat.items()}
        if not all(len(x) and np.isfinite(x).all() for x in found.values()):
            raise InputError("samples hold no point, or values that are not finite; leave those samples out")
        return found
    sides = {s.name: (bounds.low[s.name].min(axis=0), bounds.high[s.name].max(axis=0)) for s in network.inputs}
    if not all(np.isfinite(side).all() for side in sides.values()):
        return None
    rng = np.random.default_rng(seed)
    widest = max(spec.size for spec in network.tensors.values())
    count = int(np.clip(_NUMBERS // max(widest, 1), 16, _POINTS))
    found = {}
    for name, (low, high) in sides.items():
        u = rng.random((count, len(low)))
        u[1::2] = u[1::2] > 0.5
        found[name] = low + u * (high - low)
    return found


def units_of(network: Network, bounds: Bounds, points: Mapping[str, Array] | None, samples: Any) -> dict[str, Array]:
    """Return the spread of every network input, which weights are multiplied with before they are compared.

    The standard deviation over samples, else that of the box's width; relative to its root mean square over the input,
    but where a normalisation was folded in: there it undoes the scale that this brought into the layer.
    """
    found = {}
    folded = folded_centres(network)
    for name, x in (points or {}).items():
        wide = bounds.high[name].max(axis=0) - bounds.low[name].min(axis=0)
        spread = wide / np.sqrt(12.0) if samples is None else x.std(axis=0)
        size = float(np.sqrt((spread**2).mean())) if len(spread) else 0.0
        if size > 0:
            found[name] = spread if name in folded else spread / size
    return found


def in_units(operator: Dense | Convolution, sizes: Array, unit: Array) -> Array:
    """Return the sizes of an operator's weights in units of the spread of its inputs."""
    if isinstance(operator, Dense):
        return sizes * unit
    groups, kernel = operator.groups, operator.kernel
    each = np.sqrt((unit.reshape(groups, kernel.shape[1], -1) ** 2).mean(axis=2))
    return sizes * np.repeat(each, len(kernel) // groups, axis=0).reshape(kernel.shape[:2] + (1,) * (kernel.ndim - 2))


def balanced(
    network: Network, nodes: Sequence[Node], bounds: Bounds, points: Mapping[str, Array] | None, samples: Any
) -> list[Node]:
    """Return the nodes of a twin with biases that took over what pruned weights contributed.

    Where a normalisation was folded in, its centre says where the network was trained; it is believed where the box
    does not say otherwise, or where the outputs on the samples are closer to the original's.
    """
    centres = folded_centres(network)
    if points is None:
        return unfolded(network, nodes) if centres else list(nodes)
    moved = rebalanced(network, nodes, points)
    if not centres:
        return moved
    shrunk = unfolded(network, nodes)
    if samples is None:
        inside = ((c >= bounds.low[t].max()) and (c <= bounds.high[t].min()) for t, c in centres.items())
        return shrunk if all(inside) else moved
    return min((moved, shrunk), key=lambda found: _apart(network, found, points))


def rebalanced(network: Network, nodes: Sequence[Node], points: Mapping[str, Array]) -> list[Node]:
    """Return the nodes of a twin with biases that make the mean of every layer on the points what it was."""
    truth, twin = dict(points), dict(points)
    result: list[Node] = []
    for old, new in zip(network.nodes, nodes, strict=True):
        truth[old.output] = old.evaluate(*(truth[t] for t in old.inputs))
        value = new.evaluate(*(twin[t] for t in new.inputs))
        rows = rows_of(new)
        if isinstance(new, Affine) and rows:
            shift = (truth[old.output] - value).mean(axis=0).reshape(rows, -1)
            entries = np.repeat(shift.mean(axis=1), shift.shape[1])
            result.append(replace(new, bias=new.bias + entries))
            twin[new.output] = value + entries
        else:
            result.append(new)
            twin[new.output] = value
    return result


def folded_centres(network: Network) -> dict[str, float]:
    """Return the centre of every network input that has a normalisation folded into the layer behind it."""
    given, found = {s.name for s in network.inputs}, {}
    for node in network.nodes:
        centre = _centre(node)
        if centre is not None and node.inputs[0] in given:
            found[node.inputs[0]] = centre
    return found


def unfolded(network: Network, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes of a twin with biases that shrank with the weights, where biases are multiples of row sums."""
    result: list[Node] = []
    for old, new in zip(network.nodes, nodes, strict=True):
        result.append(new)
        centre = _centre(old)
        if centre is not None and isinstance(old, Affine) and isinstance(new, Affine):
            shift = centre * (_sums(old) - _sums(new))
            result[-1] = replace(new, bias=new.bias + np.repeat(shift, len(new.bias) // len(shift)))
    return result


def _centre(node: Node) -> float | None:
    """Return the centre of a node's inputs if its biases can hardly come from anything else."""
    rows = rows_of(node)
    if not isinstance(node, Affine) or rows <= _ROWS or len(node.operators) > 1:
        return None
    centre, share = explaining_centre(_sums(node), node.bias.reshape(rows, -1).mean(axis=1))
    return centre if share > max(_EXPLAINED, _ROWS / rows) else None


def _sums(node: Affine) -> Array:
    entries = _entries(node.operators[0])
    return np.asarray(entries.reshape(len(entries), -1).sum(axis=1))


def _apart(network: Network, nodes: Sequence[Node], points: Mapping[str, Array]) -> float:
    """Return how far a twin's outputs are from the network's: the mean divergence of their softmax.

    Squared errors would rank twins of classifiers by outputs that shrink; a single output has nothing else.
    """
    twin = replace(network, nodes=tuple(nodes), reference=None)
    first, second = (net.flat_outputs(net.forward(points)) for net in (network, twin))
    if first.shape[1] == 1:
        return float(((first - second) ** 2).mean())
    logs = [y - y.max(axis=1, keepdims=True) for y in (first, second)]
    logs = [z - np.log(np.exp(z).sum(axis=1, keepdims=True)) for z in logs]
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


def explaining_centre(sums: Array, bias: Array) -> tuple[float, float]:
    """Return the centre of the inputs that explains most of the biases, and which share of their squares.

    Parameters
    ----------
    sums, bias : array (rows,)
        Sums of the weights of each row, and the biases: ``W (x - c)`` has the bias ``-c * sums``.
    """
    size, total, common = float(sums @ sums), float(bias @ bias), float(bias @ sums)
    if size == 0 or total == 0:
        return 0.0, 0.0
    return -common / size, common**2 / (size * total)


def rows_of(node: Node) -> int:
    """Return the rows (neurons or channels) of a node that weights write; 0 for others."""
    weighing = [op for op in getattr(node, "operators", ()) if isinstance(op, Dense | Convolution)]
    return min((len(_entries(op)) for op in weighing), default=0)


def _entries(operator: Any) -> Array:
    entries: Array = operator.weight if isinstance(operator, Dense) else operator.kernel
    return entries
