"""What nnembed's entry point loads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnembed.hooks import hookimpl

if TYPE_CHECKING:
    from nnembed.protocols import Surrogate


@hookimpl
def nnembed_surrogates() -> Iterable[Surrogate]:
    """Return the pruners."""
    from nnembed_sparse.methods import Multi, Obc, Regions, SparseGpt, Surgeon, Undecayed

    return [Surgeon(), Obc(), SparseGpt(), Regions(), Undecayed(), Multi()]
