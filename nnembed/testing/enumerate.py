"""The optimum of a small network by enumeration of all linear pieces: one LP each, no MILP, no formulation of ours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink, Max, Node, Round, Step, Winner

#: y = slope g + offset where G g >= h, for one neuron (or a group of winners) over its layer's pre-activations
_Choice = tuple[Array, Array | float, Array, Array]


def enumerate_optimum(network: Network, low: Array, high: Array, weights: Array, *, maximize: bool = True) -> float:
    """Return the exact optimum of ``weights . outputs`` over a box.

    Pieces are closed: where a layer jumps (the threshold of a step, the stairs of a rounding, equal members of winners)
    both values count, so that the optimum is that of the network and its limits, a supremum that the network itself
    need not reach.

    Parameters
    ----------
    network : Network
        One input; at most about a dozen neurons, the number of LPs is the product of their pieces.
    low, high : arrays (inputs,)
    weights : array (outputs,)

    Returns
    -------
    float
    """
    from scipy.optimize import linprog

    sign = -1.0 if maximize else 1.0
    best = np.inf
    for matrix, constant, rows, sides in _pieces(network, len(low)):
        cost = sign * (weights @ matrix)
        limits = (-rows, -sides) if len(rows) else (None, None)
        found = linprog(cost, A_ub=limits[0], b_ub=limits[1], bounds=np.stack([low, high], axis=1), method="highs")
        if found.status == 0:
            best = min(best, found.fun + sign * float(weights @ constant))
    return float(sign * best)


def _pieces(network: Network, n: int) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield outputs ``M x + c`` and region ``R x >= r`` of every combination of pieces."""
    neurons = [(node, _choices(node, network)) for node in network.activations]
    flat = [options for _, layer in neurons for options in layer]
    for picked in product(*flat):
        yield _compose(network, n, dict(zip((node.name for node, _ in neurons), _split(picked, neurons), strict=True)))


def _split(picked: tuple[_Choice, ...], neurons: list[tuple[Node, list[list[_Choice]]]]) -> list[list[_Choice]]:
    cuts = np.cumsum([0] + [len(layer) for _, layer in neurons])
    return [list(picked[a:b]) for a, b in pairwise(cuts)]


def _compose(network: Network, n: int, choice: dict[str, list[_Choice]]) -> tuple[Array, Array, Array, Array]:
    maps: dict[str, tuple[Array, Array]] = {network.inputs[0].name: (np.eye(n), np.zeros(n))}
    rows, sides = [np.zeros((0, n))], [np.zeros(0)]
    for node in network.nodes:
        if isinstance(node, Affine):
            parts = [op.csr() @ maps[t][0] for op, t in zip(node.operators, node.inputs, strict=True)]
            shift = [op.csr() @ maps[t][1] for op, t in zip(node.operators, node.inputs, strict=True)]
            maps[node.output] = np.sum(parts, axis=0), np.sum(shift, axis=0) + node.bias
            continue
        matrix, constant = maps[node.inputs[0]]
        picks = choice[node.name]
        slopes, offsets = np.vstack([p[0] for p in picks]), np.concatenate([np.atleast_1d(p[1]) for p in picks])
        maps[node.output] = slopes @ matrix, slopes @ constant + offsets
        for _, _, normal, side in picks:
            rows.append(normal @ matrix)
            sides.append(side - normal @ constant)
    matrices = [maps[s.name] for s in network.outputs]
    return (
        np.vstack([m for m, _ in matrices]),
        np.concatenate([c for _, c in matrices]),
        np.vstack(rows),
        np.concatenate(sides),
    )


def _choices(node: Node, network: Network) -> list[list[_Choice]]:
    """Return the pieces of every neuron of a layer."""
    size = network.tensors[node.inputs[0]].size
    unit = np.asarray(sp.eye_array(size).toarray())
    if isinstance(node, Kink):
        return [
            [(node.left[i] * e, 0.0, -e[None], np.zeros(1)), (node.right[i] * e, 0.0, e[None], np.zeros(1))]
            for i, e in enumerate(unit)
        ]
    if isinstance(node, Clip):
        return [
            [
                (0 * e, node.lower[i], -e[None], np.array([-node.lower[i]])),
                (e, 0.0, np.stack([e, -e]), np.array([node.lower[i], -node.upper[i]])),
                (0 * e, node.upper[i], e[None], np.array([node.upper[i]])),
            ]
            for i, e in enumerate(unit)
        ]
    if isinstance(node, Step):
        return [
            [(0 * e, node.low[i], -e[None], np.zeros(1)), (0 * e, node.high[i], e[None], np.zeros(1))]
            for i, e in enumerate(unit)
        ]
    if isinstance(node, Round):
        return [_stairs(node, i, e) for i, e in enumerate(unit)]
    if isinstance(node, Winner):
        return [_winners(group, unit) for group in node.groups]
    assert isinstance(node, Max)
    return [[(unit[m], 0.0, unit[m] - unit[group], np.zeros(len(group))) for m in group] for group in node.groups]


def _stairs(node: Round, i: int, e: Array) -> list[_Choice]:
    """Return the levels of one rounding, which must be few."""
    low, high = node.low[i], node.high[i]
    if not high - low < 100:
        raise ValueError(f"layer {node.name!r}: {high - low:g} levels are too many to enumerate")
    found: list[_Choice] = []
    for k in np.arange(low, high + 1):
        sides = [(k - 1 + node.shift) * node.step[i]] * int(k > low), [-(k + node.shift) * node.step[i]] * int(k < high)
        rows = np.array([e] * len(sides[0]) + [-e] * len(sides[1])).reshape(-1, len(e))
        found.append((0 * e, node.scale[i] * k, rows, np.array([*sides[0], *sides[1]])))
    return found


def _winners(group: Array, unit: Array) -> list[_Choice]:
    """Return the winners of one group; repeated members win once."""
    place = np.arange(len(group))
    return [
        (np.zeros((len(group), len(unit))), (place == k).astype(float), unit[m] - unit[group], np.zeros(len(group)))
        for k, m in enumerate(group)
        if m not in group[:k]
    ]
