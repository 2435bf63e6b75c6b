"""Layer densities by the bound on the number of linear regions, scored on the actual masks.

Cai et al. (CPAIOR 2023). The rank of a masked layer with entries in general position is the term rank of its mask,
a maximum matching, so no sampling of ranks is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array
from nnembed.errors import UnsupportedFeature

from nnembed_sparse.layout import Layout, Mask
from nnembed_sparse.surgeon import magnitude_mask

_FIRST = 0.5  # share of a layer's weights that the first moves of the search give away
_LAST = 0.02


def term_rank(mask: Mask) -> int:
    """Return the rank that a matrix with this pattern and entries in general position has."""
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return int((maximum_bipartite_matching(sp.csr_array(mask), perm_type="column") >= 0).sum())


def log_regions(widths: list[int], ranks: list[int], inputs: int) -> float:
    """Return the natural logarithm of the bound on linear regions of a chain of layers.

    Parameters
    ----------
    widths, ranks : list of int
        Neurons and rank of the weights, layer by layer.
    inputs : int
        Entries of the input.
    """
    from scipy.special import gammaln

    top = max([inputs, *widths])
    dimension = np.arange(top + 1)
    after = np.zeros(top + 1)  # logarithm of the bound of the layers behind, by input dimension
    for n, k in zip(reversed(widths), reversed(ranks), strict=True):
        j = np.arange(min(k, top) + 1)
        choose = gammaln(n + 1) - gammaln(j + 1) - gammaln(n - j + 1)
        left = np.minimum(np.minimum(n - j[None, :], dimension[:, None]), k)
        terms = np.where(j[None, :] <= np.minimum(k, dimension)[:, None], choose + after[left], -np.inf)
        high = terms.max(axis=1)
        after = high + np.log(np.exp(terms - high[:, None]).sum(axis=1))
    return float(after[inputs])


@dataclass(eq=False)
class _Scored:
    """Magnitude masks per layer and the bound they give; ranks are kept by (layer, weights kept)."""

    layout: Layout
    ranks: dict[tuple[int, int], int] = field(default_factory=dict)

    def layer(self, k: int, kept: int) -> Mask:
        part = self.layout.weights[k]
        return magnitude_mask(np.abs(self.layout.start[part.span]), kept)

    def value(self, counts: list[int]) -> float:
        parts = self.layout.weights
        for key in enumerate(counts):
            if key not in self.ranks:
                part = parts[key[0]]
                self.ranks[key] = term_rank(self.layer(*key).reshape(part.rows, part.columns))
        ranks = [self.ranks[key] for key in enumerate(counts)]
        return log_regions([part.rows for part in parts], ranks, parts[0].columns)


def allocate(layout: Layout, kept: int) -> tuple[Mask, float]:
    """Return the mask whose densities give the largest bound, and the bound's logarithm.

    From uniform densities, weights move between pairs of layers as long as the bound rises, in ever smaller lots.

    Raises
    ------
    UnsupportedFeature
        If the network is no chain of dense layers: the bound is about those.
    """
    _refuse_others(layout)
    scored = _Scored(layout)
    sizes = [part.size for part in layout.weights]
    counts = _uniform(sizes, kept)
    best, lot = scored.value(counts), _FIRST
    while lot >= _LAST:
        trials = [_moved(counts, sizes, i, j, lot) for i in range(len(sizes)) for j in range(len(sizes)) if i != j]
        found = [(scored.value(t), t) for t in trials if t is not None]
        value, trial = max(found, key=lambda f: f[0], default=(best, counts))
        if value > best + 1e-9:
            best, counts = value, trial
        else:
            lot /= 2
    return np.concatenate([scored.layer(k, n) for k, n in enumerate(counts)]), best


def _uniform(sizes: list[int], kept: int) -> list[int]:
    counts = [kept * size // sum(sizes) for size in sizes]
    for k in range(kept - sum(counts)):
        counts[-1 - k % len(counts)] += 1
    return counts


def _moved(counts: list[int], sizes: list[int], giver: int, taker: int, lot: float) -> list[int] | None:
    """Return the counts after a share `lot` of the giver's weights has moved, None where nothing can."""
    amount = min(max(1, int(counts[giver] * lot)), counts[giver] - 1, sizes[taker] - counts[taker])
    if amount < 1:
        return None
    out = list(counts)
    out[giver] -= amount
    out[taker] += amount
    return out


def _refuse_others(layout: Layout) -> None:
    from nnembed.ir.nodes import Kink

    tensor = layout.network.inputs[0].name
    for part in layout.weights:
        node = layout.node(part)
        if part.groups > 1 or part.positions > 1:
            raise UnsupportedFeature(
                f"the bound on linear regions is about dense layers, {node.name!r} is a convolution; "
                "choose surrogate='obc' or another one"
            )
        source: str = node.inputs[0]
        producers = layout.network.producers
        if source in producers and isinstance(producers[source], Kink):
            source = producers[source].inputs[0]
        if len(node.inputs) != 1 or source != tensor:
            raise UnsupportedFeature(
                f"the bound on linear regions is about chains of dense layers with activations of two pieces; "
                f"{node.name!r} is not the next layer of one; choose surrogate='obc' or another one"
            )
        tensor = node.output


def densities(layout: Layout, keep: Mask) -> Array:
    """Return the share of weights kept, per layer."""
    return np.array(layout.kept_counts(keep)) / [part.size for part in layout.weights]
