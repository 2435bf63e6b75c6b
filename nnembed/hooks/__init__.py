"""What a plugin imports: the project name and the marker of hook implementations."""

from __future__ import annotations

import pluggy

NAME = "nnembed"
hookimpl = pluggy.HookimplMarker(NAME)

__all__ = ["NAME", "hookimpl"]
