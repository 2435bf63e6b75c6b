r"""Neurons that are the negative of each other share one binary: ``(max(g, 0), max(-g, 0))``, known as CReLU.

For an open pair with pre-activations g and -g, ``L <= g <= U`` proven, *slack* already has both outputs as columns:

    g = r - s,   0 <= r <= U z,   0 <= s <= -L (1 - z),      y_1 = r,   y_2 = s

One binary, two columns and three rows for two neurons. The same holds for neurons that are equal, for leaky slopes
(``y = right r - left s`` with r and s exchanged for -g), and for pairs in different layers (``Concat(Relu(x),
Relu(Neg(x)))``) as long as both layers are written in this form. Pairs are found by their rows over the block's
columns, which must be the exact negative of each other; all other neurons are written as in *slack*.

Assumes finite proven bounds. Sources: Shang, Sohn, Almeida and Lee, ICML 2016 (CReLU); rows as *slack*.

>>> import numpy as np
>>> from nnembed.builder import BlockBuilder
>>> from nnembed.bounds.box import input_bounds
>>> from nnembed.bounds.interval import Interval
>>> from nnembed.ir.linear import Dense
>>> from nnembed.ir.network import Network, TensorSpec
>>> from nnembed.ir.nodes import Affine, relu
>>> from nnembed.options import Budget
>>> x, g, y = TensorSpec("x", (1,)), TensorSpec("g", (2,)), TensorSpec("y", (2,))
>>> both = Affine("both", ("x",), "g", (Dense(np.array([[1.0], [-1.0]])),), np.zeros(2))
>>> net = Network((x,), (y,), (both, relu("crelu", "g", "y", 2)), {"x": x, "g": g, "y": y})
>>> bounds = Interval().tighten(net, input_bounds(net, (-1.0, 2.0)), Budget())
>>> block = BlockBuilder(net, bounds)
>>> CRelu().emit(net.nodes[1], bounds, block)
>>> print(block.finish().to_text())
input.in[0] in [-1, 2]
crelu.post[0] in [0, 2]
crelu.slack[0] in [0, 1]
crelu.both.on[0] binary
y.out[0] in [0, 2]
y.out[1] in [0, 1]
+1 input.in[0] -1 crelu.post[0] +1 crelu.slack[0] == 0
+1 crelu.post[0] -2 crelu.both.on[0] <= 0
+1 crelu.slack[0] +1 crelu.both.on[0] <= 1
-1 crelu.post[0] +1 y.out[0] == 0
-1 crelu.slack[0] +1 y.out[1] == 0
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.block import ColumnGroup, Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.features import Feature
from nnembed.fills import Part
from nnembed.formulations.bigm import ALL_KINDS, one_hot, ordered_pair, slack_columns
from nnembed.formulations.layers import emit_layer
from nnembed.formulations.pieces import Kinks, join
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Kink, Node
from nnembed.matrices import canonical

# A binary that several neurons hang on is no neuron's own: it is kept integer whatever the price of one of them says.
_BOTH = ".both"


class CRelu:
    """Positive and negative part of a pre-activation as the outputs of two neurons."""

    name = "crelu"
    summary = "as slack, one binary for neurons that are equal or the negative of each other"
    emits = Feature.LINEAR | Feature.INTEGER
    handles = ALL_KINDS
    exact = True
    needs_finite_bounds = True

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        emit_layer(node, bounds, block, _kinks, ordered_pair, one_hot)


def _kinks(k: Kinks, block: BlockBuilder) -> Rows:
    """Return ``y - value`` after splitting one neuron of every class of equal and opposite ones."""
    count = len(k.elements)
    rows, r, s = _present(k, block)
    known = len(rows)
    own = Rows(canonical(k.pre.matrix), k.pre.constant)
    first, sign = classes(join(rows, own, block.width))
    head, sign = first[known:], sign[known:]
    new = np.flatnonzero(head == known + np.arange(count))
    fresh = slack_columns(_some(k, new), block, binaries=k.layer + _BOTH) if len(new) else (new, new)
    place = np.full(known + count, -1)
    place[known + new] = known + np.arange(len(new))
    place[:known] = np.arange(known)
    at = place[head]
    positive, negative = np.concatenate([r, fresh[0]])[at], np.concatenate([s, fresh[1]])[at]
    up, down = np.where(sign > 0, positive, negative), np.where(sign > 0, negative, positive)
    total = sp.csr_array(block.unit(up, k.right).matrix + block.unit(down, -k.left).matrix)
    total.eliminate_zeros()
    return Rows(total, np.zeros(count))


def classes(rows: Rows) -> tuple[Index, Array]:
    """Return for every row the first one that equals it or its negative, and the sign (1 or -1) between them."""
    n, rng = len(rows), np.random.default_rng(0)
    matrix = sp.csr_array(sp.hstack([rows.matrix, sp.csr_array(rows.constant[:, None])], format="csr"))
    probe = matrix @ rng.uniform(1, 2, matrix.shape[1])
    order = np.argsort(np.abs(probe), kind="stable")
    size = np.abs(probe)[order]
    start = np.append(True, size[1:] - size[:-1] > 1e-12 * size[1:])[:n]
    head = order[np.maximum.accumulate(np.where(start, np.arange(n), 0))]
    found, sign = np.arange(n), np.ones(n)
    for factor in (1.0, -1.0):
        there = order[head != order]
        difference = sp.csr_array(matrix[there] - factor * matrix[head[head != order]])
        same = np.bincount(
            np.repeat(np.arange(len(there)), np.diff(difference.indptr)), np.abs(difference.data), minlength=len(there)
        )
        equal = there[same == 0]
        found[equal], sign[equal] = head[head != order][same == 0], factor
    return found, sign


def _present(k: Kinks, block: BlockBuilder) -> tuple[Rows, Index, Index]:
    """Return the pre-activations of neurons of earlier layers that are split into columns, and these columns."""
    rows = Rows(sp.csr_array((0, block.width)), np.zeros(0))
    r, s = np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    if k.tensor not in block.network.tensors:  # in other units: not compared
        return rows, r, s
    layers = {g.layer for g in block.groups}
    negative = {g.layer: g for g in block.groups if _is_part(g, Role.SLACK, -1.0) and g.layer + _BOTH in layers}
    for group in [g for g in block.groups if _is_part(g, Role.POST, 1.0) and g.layer in negative]:
        other, fill = negative[group.layer], group.fill
        assert isinstance(fill, Part)
        g = block.expression(fill.tensor, group.elements)
        if g.matrix.shape[1] <= block.width and fill.tensor in block.network.tensors:
            rows = join(rows, Rows(canonical(g.matrix), g.constant - fill.threshold), block.width)
            r = np.append(r, group.start + np.arange(len(group.elements)))
            s = np.append(s, other.start + np.arange(len(group.elements)))
    return rows, r, s


def _is_part(group: ColumnGroup, role: Role, sign: float) -> bool:
    return group.role is role and isinstance(group.fill, Part) and group.fill.sign == sign


def _some(k: Kinks, which: Index) -> Kinks:
    arrays = ("elements", "low", "high", "left", "right", "threshold", "value")
    return replace(k, pre=k.pre.take(which), **{name: getattr(k, name)[which] for name in arrays})


def twins(network: Network, bounds: Bounds, node: Kink) -> int:
    """Return how many open neurons of a layer seem to be equal to another one, or its negative.

    Seen at random values of what the layer reads, among all layers that are affine in the same; the formulation
    compares rows.
    """
    values, rng = dict[str, Array](), np.random.default_rng(0)
    layers, found = [], []
    for other in (node, *(n for n in network.activations if isinstance(n, Kink) and n is not node)):
        source = network.producers.get(other.input)
        if other is node:
            read = source.inputs if isinstance(source, Affine) else node.inputs
            values |= {t: rng.normal(size=(3, network.tensors[t].size)) for t in read}
        if other.input not in values and isinstance(source, Affine) and values.keys() >= set(source.inputs):
            values[other.input] = source.evaluate(*(values[t] for t in source.inputs))
        if other.input in values:
            layers.append(np.full(int(bounds.open(other)[0].sum()), other is node))
            found.append(values[other.input][:, bounds.open(other)[0]])
    if not found:
        return 0
    mine, g = np.concatenate(layers), np.concatenate(found, axis=1)
    g = g * np.sign(g[0])
    order = np.argsort(g[0], kind="stable")
    g, mine = g[:, order], mine[order]
    near = (np.abs(np.diff(g, axis=1)) <= 1e-12 * np.abs(g[:, 1:])).all(axis=0)
    return int((mine[1:] & near | mine[1:] & np.append(near[1:], False)).sum() + (mine[:1] & near[:1]).sum())
