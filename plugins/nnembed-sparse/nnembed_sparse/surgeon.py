"""The combinatorial brain surgeon: choose the weights together, then move the others together.

Yu, Serra, Ramalingam, Zhe (ICML 2022). Selection: random magnitude-pruned buckets, then swaps on the Fisher
matrix. Update: the least increase of the quadratic model over all weights that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from nnembed.aliases import Array, Index
from nnembed.options import Clock

from nnembed_sparse.factor import Factor
from nnembed_sparse.layout import Layout, Mask


@dataclass(frozen=True)
class Search:
    """Parameters of the selection.

    Attributes
    ----------
    starts : int
        Random partitions tried.
    buckets : int
        Buckets of a partition.
    least : float
        Least decrease that counts.
    reach : int
        Partners tried to either side of the weight's own rank.
    failures : int
        Weights without a partner after which a step ends.
    steps, patience : int
        Steps at most, and steps without a better sample loss.
    """

    starts: int = 50
    buckets: int = 10
    least: float = 1e-4
    reach: int = 10
    failures: int = 20
    steps: int = 50
    patience: int = 5


def magnitude_mask(scores: Array, kept: int) -> Mask:
    """Return a mask of the `kept` largest scores; ties keep the earlier entry."""
    keep = np.zeros(len(scores), bool)
    keep[np.argsort(-scores, kind="stable")[:kept]] = True
    return keep


def bucketed(scores: Array, kept: int, buckets: int, rng: np.random.Generator) -> Mask:
    """Return a mask that keeps the largest scores of each bucket of a random partition."""
    n = len(scores)
    bucket = rng.permutation(n) % buckets
    order = np.lexsort((-scores, bucket))
    sizes = np.bincount(bucket, minlength=buckets)
    rank = np.empty(n, int)
    rank[order] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    quota = kept * sizes // n
    short = rng.permutation(buckets)[: kept - quota.sum()]
    quota[short] += 1
    return rank < quota[bucket]


def construct(
    scores: Array, kept: int, judge: Callable[[Mask], float], search: Search, rng: np.random.Generator, clock: Clock
) -> tuple[float, Mask]:
    """Return sample loss and mask of the best of plain pruning by `scores` and of random bucketed ones."""
    best = magnitude_mask(scores, kept)
    value = judge(best)
    buckets = max(1, min(search.buckets, len(scores) // 8))
    for _ in range(search.starts):
        if clock.expired:
            break
        trial = bucketed(scores, kept, buckets, rng)
        if (found := judge(trial)) < value:
            best, value = trial, found
    return value, best


def improve(
    layout: Layout, factor: Factor, keep: Mask, judge: Callable[[Mask], float], search: Search, clock: Clock
) -> Mask:
    """Return the mask with the best sample loss that swaps on the quadratic model lead to."""
    weights = layout.start
    n = layout.count
    norms = factor.squares()[:n] * factor.samples * weights[:n] ** 2
    swaps = _Swaps(factor, weights, keep.copy(), norms)
    best, value, stale = keep, judge(keep), 0
    for _ in range(search.steps):
        if clock.expired or not swaps.step(search, clock):
            break
        found = judge(swaps.keep)
        best, value, stale = (swaps.keep.copy(), found, 0) if found < value else (best, value, stale + 1)
        if stale >= search.patience:
            break
    return best


@dataclass(eq=False)
class _Swaps:
    """A kept set that changes; `norms` are the squared lengths of the columns ``a_i = g_i w_i``."""

    factor: Factor
    weights: Array
    keep: Mask
    norms: Array

    def step(self, search: Search, clock: Clock) -> bool:
        """Swap pruned weights for kept ones where that lowers the quadratic model; return whether any was swapped."""
        n, K = len(self.keep), self.factor.samples
        gone = np.zeros(self.factor.layout.size)
        gone[:n][~self.keep] = self.weights[:n][~self.keep]
        r = self.factor.dot(gone).ravel()
        w = self.weights[:n]
        lean = self.factor.pull(r.reshape(-1, K))[:n] * w  # a_i . r
        inside, outside = np.flatnonzero(~self.keep), np.flatnonzero(self.keep)
        if not len(inside) or not len(outside):
            return False
        alpha = (2 * lean - self.norms)[inside] / K
        pi = inside[np.argsort(-alpha, kind="stable")]
        first = self.factor.columns(pi[:1]).reshape(-1, K) * w[pi[0]]
        gamma = 2 * self.factor.pull(first)[:n] * w / K
        beta = ((2 * lean + self.norms) / K - gamma)[outside]
        theta = outside[np.argsort(beta, kind="stable")]
        if beta.min() - alpha.max() > -search.least:
            return False
        return self._accept(pi, theta, r, search, clock)

    def _accept(self, pi: Index, theta: Index, r: Array, search: Search, clock: Clock) -> bool:
        taken = np.zeros(len(theta), bool)
        failures, swapped = 0, False
        K = self.factor.samples
        for k, i in enumerate(pi[: len(theta) + search.reach]):
            lo = max(0, k - search.reach)
            partners = lo + np.flatnonzero(~taken[lo : k + search.reach + 1])
            if not len(partners) or failures >= search.failures or clock.expired:
                break
            index = np.concatenate([[i], theta[partners]])
            a = self.factor.columns(index) * self.weights[index][:, None]
            move = a[1:] - a[0]
            change = (2 * (move @ r) + np.einsum("ij,ij->i", move, move)) / K
            p = int(change.argmin())
            if change[p] > -search.least:
                failures += 1
                continue
            taken[partners[p]] = True
            self.keep[i], self.keep[theta[partners[p]]] = True, False
            r += move[p]
            swapped = True
        return swapped


def update(factor: Factor, vector: Array, keep: Mask, dampings: Sequence[float]) -> list[Array]:
    """Return the weights that raise the damped quadratic model least when those not kept become zero.

    Parameters
    ----------
    vector : array
        Weights before, the pruned ones with their old values.
    keep : bool array over the whole layout
        What stays; biases that may move count as kept.
    dampings : sequence of float
        Each is added to the diagonal of the curvature once.

    Returns
    -------
    list of array
        One per damping; zero where not kept and not a bias.
    """
    gone = np.where(keep, 0.0, vector)
    gone[factor.layout.count :] = 0.0
    K = factor.samples
    loss = factor.dot(gone).ravel()
    chosen = np.flatnonzero(keep)
    least = 1e-10 * float(factor.squares().sum())  # below that the systems are singular
    small = len(chosen) <= factor.rows
    columns = factor.columns(chosen) if small else np.empty((0, 0))
    system = columns @ columns.T / K if small else factor.gram(keep) / K
    found = []
    for damping in dampings:
        damped = system + max(damping, least) * np.eye(len(system))
        moved = vector - gone
        if small:
            moved[chosen] += np.linalg.solve(damped, columns @ loss / K)
        else:
            moved[chosen] += factor.pull(np.asarray(np.linalg.solve(damped, loss / K), float).reshape(-1, K))[chosen]
        found.append(moved)
    return found
