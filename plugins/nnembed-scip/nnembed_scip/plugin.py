"""What nnembed's entry point loads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnembed.hooks import hookimpl

if TYPE_CHECKING:
    from nnembed.protocols import Backend


@hookimpl
def nnembed_backends() -> Iterable[Backend]:
    """Return SCIP."""
    from nnembed_scip.backend import Scip

    return [Scip()]
