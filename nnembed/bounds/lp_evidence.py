"""Values that a network is seen to take: what no bound can pass, so what need not be tried.

Evidence proves nothing and narrows nothing; it only saves work.
"""

from __future__ import annotations

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.bounds.box import Bounds
from nnembed.ir.gradient import gradient

_SAMPLES = 128
_STEPS = 2


class Evidence:
    """The smallest and largest value seen of every entry of every tensor, flat over the batch.

    Parameters
    ----------
    bounds : Bounds
        Of the inputs at least.
    seed : int
    empty : bool
        Begin without samples, where points of the box need not be points of interest.
    """

    def __init__(self, bounds: Bounds, seed: int = 0, *, empty: bool = False):
        self._network, self._bounds, self._rng = bounds.network, bounds, np.random.default_rng(seed)
        self._empty = empty
        self._low: dict[str, Array] = {}
        self._high: dict[str, Array] = {}
        if not empty:
            share = self._rng.uniform(size=(_SAMPLES, bounds.batch, self._network.input_size))
            share[::2] = np.round(share[::2])  # corners
            self.look(self._at(share))

    def seen(self, tensor: str) -> tuple[Array, Array]:
        """Return the smallest and largest values, ``inf`` and ``-inf`` where nothing was seen."""
        n = self._bounds.batch * self._network.tensors[tensor].size
        return self._low.get(tensor, np.full(n, np.inf)), self._high.get(tensor, np.full(n, -np.inf))

    def look(self, inputs: dict[str, Array]) -> None:
        """Evaluate the network at points, (points, batch, n) by input name."""
        self._keep(self._network.forward(inputs))

    def points(self, columns: Array) -> None:
        """Evaluate the network at points whose input columns are given, (points, all inputs over the batch)."""
        if not columns.size:
            return  # none, or of a program that does not begin at the inputs
        found, start = {}, 0
        for spec in self._network.inputs:
            size = self._bounds.batch * spec.size
            low, high = self._bounds.low[spec.name], self._bounds.high[spec.name]
            part = columns[:, start : start + size].reshape(len(columns), self._bounds.batch, spec.size)
            found[spec.name] = np.clip(part, low, high)
            start += size
        self.look(found)

    def climb(self, tensor: str, entries: Index) -> None:
        """Look where sign-gradient steps lead that lower and raise the given entries (flat over the batch)."""
        if self._empty or not len(entries):
            return
        n = self._network.tensors[tensor].size
        point, entry = np.divmod(np.concatenate([entries, entries]), n)
        sign = np.repeat([-1.0, 1.0], len(entries))
        weights = np.zeros((len(point), n))
        weights[np.arange(len(point)), entry] = sign
        bounds = self._bounds
        sides = {s.name: (bounds.low[s.name][point], bounds.high[s.name][point]) for s in self._network.inputs}
        x = {name: 0.5 * (low + high) for name, (low, high) in sides.items()}
        for _ in range(_STEPS):
            slopes = gradient(self._network, self._network.forward(x), {tensor: weights})
            x = {name: np.where(slopes[name] > 0, high, low) for name, (low, high) in sides.items()}
        state = self._network.forward(x)
        self._keep({name: v[:, None] for name, v in state.items()} if bounds.batch == 1 else {})

    def _at(self, share: Array) -> dict[str, Array]:
        inputs, start = {}, 0
        for spec in self._network.inputs:
            low, high = self._bounds.low[spec.name], self._bounds.high[spec.name]
            inputs[spec.name] = low + share[..., start : start + spec.size] * (high - low)
            start += spec.size
        return inputs

    def _keep(self, state: dict[str, Array]) -> None:
        for name, value in state.items():
            flat = value.reshape(len(value), -1)
            low, high = self.seen(name)
            self._low[name] = np.minimum(low, flat.min(axis=0, initial=np.inf))
            self._high[name] = np.maximum(high, flat.max(axis=0, initial=-np.inf))
