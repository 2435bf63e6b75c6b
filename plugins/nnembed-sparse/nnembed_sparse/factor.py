"""The Fisher factor: gradients of single samples with respect to all weights, never held as one big matrix.

A dense layer's gradient on one sample is an outer product, so the factor keeps its two vectors; rows are
(sample, probe) pairs, columns are entries of a `Layout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from nnembed.aliases import Array, Index
from nnembed.ir.gradient import sensitivities
from nnembed.ir.network import Network

from nnembed_sparse.layout import Layout, Mask, Part, patches

_CHUNK = 4096  # columns that are written out at a time


@dataclass(frozen=True, eq=False)
class Outer:
    """A dense layer: gradient (row, column) of sample k, probe r is ``delta[row, r, k] * x[column, k]``."""

    part: Part
    delta: Array
    x: Array

    def dot(self, v: Array) -> Array:
        """Return the factor times `v`, (probes, samples)."""
        return np.einsum("orK,oK->rK", self.delta, v.reshape(self.part.rows, -1) @ self.x, optimize=True)

    def pull(self, u: Array) -> Array:
        """Return `u` (probes, samples) times the factor."""
        return (np.einsum("orK,rK->oK", self.delta, u, optimize=True) @ self.x.T).ravel()

    def squares(self) -> Array:
        """Return the column sums of squares."""
        return ((self.delta**2).sum(axis=1) @ (self.x**2).T).ravel()

    def columns(self, index: Index) -> Array:
        """Return chosen columns, (len(index), probes * samples)."""
        row, column = np.divmod(index, self.part.columns)
        return (self.delta[row] * self.x[column][:, None, :]).reshape(len(index), -1)


@dataclass(frozen=True, eq=False)
class Written:
    """A kernel or a bias: the gradients as an array (entries, probes, samples)."""

    part: Part
    g: Array

    def dot(self, v: Array) -> Array:
        """See `Outer.dot`."""
        return np.tensordot(v, self.g, axes=1)

    def pull(self, u: Array) -> Array:
        """See `Outer.pull`."""
        return self.g.reshape(len(self.g), -1) @ u.ravel()

    def squares(self) -> Array:
        """See `Outer.squares`."""
        return (self.g**2).sum(axis=(1, 2))

    def columns(self, index: Index) -> Array:
        """See `Outer.columns`."""
        return self.g[index].reshape(len(index), -1)


@dataclass(frozen=True, eq=False)
class Factor:
    """The rows of single-sample gradients of a network at some weights.

    Attributes
    ----------
    samples : int
        Samples; the matrix ``factor.T @ factor / samples`` is the curvature.
    rows : int
        Samples times probes.
    """

    layout: Layout
    blocks: tuple[Outer | Written, ...]
    samples: int
    rows: int

    def dot(self, v: Array) -> Array:
        """Return the factor times a vector, (probes, samples)."""
        total = self.blocks[0].dot(v[self.blocks[0].part.span])
        for block in self.blocks[1:]:
            total = total + block.dot(v[block.part.span])
        return total

    def pull(self, u: Array) -> Array:
        """Return `u` (probes, samples) times the factor, over the whole layout."""
        out = np.zeros(self.layout.size)
        for block in self.blocks:
            out[block.part.span] = block.pull(u)
        return out

    def squares(self) -> Array:
        """Return the diagonal of the curvature."""
        out = np.zeros(self.layout.size)
        for block in self.blocks:
            out[block.part.span] = block.squares() / self.samples
        return out

    def columns(self, index: Index) -> Array:
        """Return chosen columns, (len(index), rows)."""
        out = np.empty((len(index), self.rows))
        for block in self.blocks:
            inside = np.flatnonzero((index >= block.part.start) & (index < block.part.span.stop))
            if len(inside):
                out[inside] = block.columns(index[inside] - block.part.start)
        return out

    def gram(self, keep: Mask) -> Array:
        """Return ``F F^T`` over the kept columns, (rows, rows)."""
        out = np.zeros((self.rows, self.rows))
        chosen = np.flatnonzero(keep)
        for at in range(0, len(chosen), _CHUNK):
            block = self.columns(chosen[at : at + _CHUNK])
            out += block.T @ block
        return out


def factor_at(layout: Layout, network: Network, state: Mapping[str, Array], vectors: Array) -> Factor:
    """Return the factor of a network with the given layout.

    Parameters
    ----------
    network : Network
        The layout's network or one rebuilt from it.
    state : mapping tensor -> array (samples, n)
        Its forward pass.
    vectors : array (probes, samples, outputs)
        Weights of the outputs, per probe and sample.
    """
    flows = [sensitivities(network, state, _by_output(network, v)) for v in vectors]
    probes, samples = vectors.shape[:2]
    blocks: list[Outer | Written] = []
    centres = [*layout.centres, *(None for _ in layout.biases)]
    for part, centre in zip(layout.parts, centres, strict=True):
        node = layout.node(part)
        zero = np.zeros((samples, part.rows * part.positions))
        delta = np.stack([flow.get(node.output, zero) for flow in flows])
        shaped = delta.reshape(probes, samples, part.rows, part.positions)
        if centre is None:
            blocks.append(Written(part, np.ascontiguousarray(shaped.sum(axis=3).transpose(2, 0, 1))))
            continue
        source = patches(node.operators[part.operator], state[node.inputs[part.operator]])
        source = source - centre[:, None, None, :]
        if part.positions == 1 and part.groups == 1:
            columns = np.ascontiguousarray(source[0, :, 0].T)
            blocks.append(Outer(part, np.ascontiguousarray(delta.transpose(2, 0, 1)), columns))
        else:
            grouped = shaped.reshape(probes, samples, part.groups, part.rows // part.groups, part.positions)
            g = np.einsum("rkgop,gkpd->godrk", grouped, source, optimize=True)
            blocks.append(Written(part, np.ascontiguousarray(g.reshape(part.size, probes, samples))))
    return Factor(layout, tuple(blocks), samples, probes * samples)


def _by_output(network: Network, v: Array) -> dict[str, Array]:
    out: dict[str, Array] = {}
    at = 0
    for spec in network.outputs:
        piece = v[:, at : at + spec.size]
        out[spec.name] = out[spec.name] + piece if spec.name in out else piece
        at += spec.size
    return out
