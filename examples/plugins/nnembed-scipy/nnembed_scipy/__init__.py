"""The plugin: what nnembed finds through the entry point."""

from __future__ import annotations

from collections.abc import Iterable

from nnembed import hookimpl
from nnembed_scipy.backend import Scipy

__all__ = ["Scipy", "nnembed_backends"]


@hookimpl
def nnembed_backends() -> Iterable[Scipy]:
    """Return the solvers of this package."""
    return [Scipy()]
