"""Pruning for nnembed: sparse twins of networks.

>>> import nnembed as nn
>>> twin = nn.surrogate(net, "obc", sparsity=0.9, samples=x, labels=y)  # doctest: +SKIP
"""

from __future__ import annotations

from nnembed_sparse.methods import Multi, Obc, Regions, SparseGpt, Surgeon, Undecayed
from nnembed_sparse.newton import Steps
from nnembed_sparse.surgeon import Search

__all__ = ["Multi", "Obc", "Regions", "Search", "SparseGpt", "Steps", "Surgeon", "Undecayed"]
