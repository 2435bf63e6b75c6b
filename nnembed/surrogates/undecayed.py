"""What was pruned away, measured by the loss without weight decay.

The score of a weight is ``|theta dT|``, T the loss without decay. Source: Good et al. (2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.ir.gradient import sensitivities
from nnembed.ir.linear import Convolution, Dense, LinearOperator
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine

_CHUNK = 20_000_000  # numbers held at a time
_PROBES = 16  # outputs up to which every one is followed; beyond that random combinations
_SAMPLES = 1000  # without labels, where the square of every sample counts

Place = tuple[int, int]  # node, operator


def undecayed_share(network: Network, twin: Network, points: Mapping[str, Array], labels: Index | None) -> float | None:
    """Return the share of the score of all weights that fell to those that are zero in the twin only.

    Parameters
    ----------
    points : mapping input name -> array (samples, n)
    labels : int array (samples,) or None
        Classes; the loss is the cross-entropy, its gradient the mean over the samples. None: the network is at the
        minimum of its squared error to itself, so the root mean square over single samples is taken, outputs in units
        of their spread.

    Returns
    -------
    float or None
        None where the twin has other layers than the network, or no weight matters.
    """
    before, after = _weights(network), _weights(twin)
    same = before.keys() == after.keys() and all(before[k].shape == after[k].shape for k in before)
    if not same or not before:
        return None
    scores = undecayed_scores(network, points, labels)
    total = sum(float(s.sum()) for s in scores.values())
    gone = sum(float(scores[k][(after[k] == 0) & (before[k] != 0)].sum()) for k in scores)
    return gone / total if total > 0 else None


def undecayed_scores(network: Network, points: Mapping[str, Array], labels: Index | None) -> dict[Place, Array]:
    """Return the score of every weight of dense layers and kernels, by node and operator; see `undecayed_share`."""
    weights = _weights(network)
    count = len(next(iter(points.values())))
    if labels is None and count > _SAMPLES:
        points = {name: x[:: -(-count // _SAMPLES)] for name, x in points.items()}
        count = len(next(iter(points.values())))
    total = {place: np.zeros_like(w) for place, w in weights.items()}
    step = max(1, _CHUNK // max(_width(network), 1))
    spread = network.flat_outputs(network.forward(points)).std(axis=0)
    for at in range(0, count, step):
        state = network.forward({name: x[at : at + step] for name, x in points.items()})
        y = network.flat_outputs(state)
        for vectors in _vectors(y, spread, None if labels is None else labels[at : at + step]):
            flow = sensitivities(network, state, _by_output(network, vectors))
            for place in weights:
                total[place] += _pulled(network, place, state, flow, squares=labels is None) / count
    return {p: np.abs(w * (total[p] if labels is not None else np.sqrt(total[p]))) for p, w in weights.items()}


def patches(operator: LinearOperator, x: Array) -> Array:
    """Return what the rows of an operator weigh, (groups, batch, positions, columns), for inputs (batch, n_in)."""
    if not isinstance(operator, Convolution):
        return x[None, :, None, :]
    batch, g = len(x), operator.groups
    c_in, *taps = operator.kernel.shape[1:]
    padded = np.pad(x.reshape(batch, g, c_in, *operator.size), [(0, 0)] * 3 + list(operator.pads))
    reach = tuple(d * (k - 1) + 1 for d, k in zip(operator.dilations, taps, strict=True))
    axes = tuple(range(3, 3 + len(taps)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    steps = tuple(slice(None, None, s) for s in operator.strides)
    windows = windows[(slice(None),) * 3 + steps + tuple(slice(None, None, d) for d in operator.dilations)]
    rank = len(taps)
    order = (1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    return windows.transpose(order).reshape(g, batch, int(np.prod(operator.out_size)), c_in * int(np.prod(taps)))


def _vectors(y: Array, spread: Array, labels: Index | None) -> Iterator[Array]:
    """Yield weights of the outputs, (samples, outputs), whose gradients are wanted."""
    if labels is not None:
        slope = np.exp(y - y.max(axis=1, keepdims=True))
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(y)), labels] -= 1.0
        yield slope
        return
    floor = 1e-3 * float(spread.max(initial=0.0)) or 1.0
    unit = 1.0 / np.maximum(spread, floor)
    if len(unit) <= _PROBES:
        for row in np.diag(unit):
            yield np.broadcast_to(row, y.shape)
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (_PROBES, *y.shape))
        yield from signs * unit / np.sqrt(_PROBES)


def _pulled(
    network: Network, place: Place, state: Mapping[str, Array], flow: Mapping[str, Array], *, squares: bool
) -> Array:
    """Return the sum over the samples of a weight's gradients, or of their squares."""
    node = network.nodes[place[0]]
    assert isinstance(node, Affine)
    operator, shape = node.operators[place[1]], _entries(node.operators[place[1]]).shape
    delta = flow.get(node.output)
    if delta is None:
        return np.zeros(shape)
    x = state[node.inputs[place[1]]]
    if isinstance(operator, Dense):
        return np.asarray((delta**2).T @ x**2 if squares else delta.T @ x)
    assert isinstance(operator, Convolution)
    found = np.zeros(shape)
    step = max(1, _CHUNK // max(operator.kernel.size * (1 + int(np.prod(operator.out_size))), 1))
    for at in range(0, len(x), step):
        part = patches(operator, x[at : at + step])
        rows = delta[at : at + step].reshape(-1, operator.groups, shape[0] // operator.groups, part.shape[2])
        each = np.einsum("bgop,gbpd->bgod", rows, part, optimize=True)
        found += (each**2 if squares else each).sum(axis=0).reshape(shape)
    return found


def _weights(network: Network) -> dict[Place, Array]:
    return {
        (i, k): _entries(op)
        for i, node in enumerate(network.nodes)
        if isinstance(node, Affine)
        for k, op in enumerate(node.operators)
        if isinstance(op, Dense | Convolution)
    }


def _entries(operator: LinearOperator) -> Array:
    if isinstance(operator, Convolution):
        return operator.kernel
    assert isinstance(operator, Dense)
    return operator.weight


def _width(network: Network) -> int:
    return sum(spec.size for spec in network.tensors.values())


def _by_output(network: Network, v: Array) -> dict[str, Array]:
    out: dict[str, Array] = {}
    at = 0
    for spec in network.outputs:
        piece = v[:, at : at + spec.size]
        out[spec.name] = out[spec.name] + piece if spec.name in out else piece
        at += spec.size
    return out
