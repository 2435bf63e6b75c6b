"""Gradients of weighted outputs with respect to the inputs: one backward pass over a stored forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Kink, Max, Node, Round, Step, Winner


def gradient(
    network: Network, state: Mapping[str, Array], weights: Mapping[str, Array], *, through: bool = False
) -> dict[str, Array]:
    """Return the gradient of ``sum_o weights[o] . o`` at every point of a batch.

    At a breakpoint the slope on the left is taken, at a tie the first largest member. What jumps has slope zero; with
    `through` a rounding has the slope of its staircase within its limits, for searches that would see nothing otherwise
    (the straight-through estimate of Bengio, Leonard and Courville, 2013).

    Parameters
    ----------
    state : mapping tensor -> array (batch, n)
        As `Network.forward` returns it.
    weights : mapping output name -> array (batch, n) or (n,)

    Returns
    -------
    dict input name -> array (batch, n)
    """
    flow = sensitivities(network, state, weights, through=through)
    batch = len(next(iter(state.values())))
    return {s.name: flow.get(s.name, np.zeros((batch, s.size))) for s in network.inputs}


def sensitivities(
    network: Network, state: Mapping[str, Array], weights: Mapping[str, Array], *, through: bool = False
) -> dict[str, Array]:
    """Return the gradient of ``sum_o weights[o] . o`` with respect to every tensor that it depends on.

    Arguments, slopes at breakpoints and `through` as in `gradient`.

    Returns
    -------
    dict tensor name -> array (batch, n)
    """
    batch = len(next(iter(state.values())))
    flow = {name: np.broadcast_to(w, (batch, np.shape(w)[-1])) for name, w in weights.items()}
    for node in reversed(network.nodes):
        if node.output not in flow:
            continue
        for source, part in _pull(node, state, flow[node.output], through):
            flow[source] = flow[source] + part if source in flow else part
    return flow


def _pull(node: Node, state: Mapping[str, Array], down: Array, through: bool) -> list[tuple[str, Array]]:
    if isinstance(node, Affine):
        return [(t, op.pull(down)) for t, op in zip(node.inputs, node.operators, strict=True)]
    source = node.inputs[0]
    g = state[source]
    if isinstance(node, Kink):
        return [(source, down * np.where(g > 0, node.right, node.left))]
    if isinstance(node, Clip):
        return [(source, down * ((g > node.lower) & (g < node.upper)))]
    if isinstance(node, Round) and through:
        steps = g / node.step - node.shift
        return [(source, down * (node.scale / node.step) * ((steps > node.low - 1) & (steps < node.high)))]
    if isinstance(node, Step | Round | Winner):
        return [(source, np.zeros(g.shape))]
    if isinstance(node, Max):
        return [(source, _pull_max(node, g, down))]
    raise TypeError(f"no gradient for {node.kind}")


def _pull_max(node: Max, g: Array, down: Array) -> Array:
    batch, n = g.shape
    best = np.take_along_axis(
        np.broadcast_to(node.groups, (batch, *node.groups.shape)), g[:, node.groups].argmax(-1)[..., None], -1
    )[..., 0]
    rows = np.repeat(np.arange(batch), best.shape[1])
    scattered = sp.coo_array((down.ravel(), (rows, best.ravel())), shape=(batch, n))
    return np.asarray(scattered.toarray())
