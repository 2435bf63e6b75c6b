"""The plugin: what nnembed finds through the entry point."""

from __future__ import annotations

from collections.abc import Iterable

from nnembed import hookimpl
from nnembed_zhat.formulation import Zhat

__all__ = ["Zhat", "nnembed_formulations"]


@hookimpl
def nnembed_formulations() -> Iterable[Zhat]:
    """Return the formulations of this package."""
    return [Zhat()]
