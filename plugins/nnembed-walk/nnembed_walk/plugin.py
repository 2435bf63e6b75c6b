"""What nnembed's entry point loads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnembed.hooks import hookimpl

if TYPE_CHECKING:
    from nnembed.protocols import Heuristic


@hookimpl
def nnembed_heuristics() -> Iterable[Heuristic]:
    """Return the walks."""
    from nnembed_walk import heuristics

    return heuristics()
