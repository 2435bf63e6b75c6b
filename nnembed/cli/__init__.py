"""The command line, ``nnembed``."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line on ``sys.argv`` and leave with its exit code."""
    from nnembed.cli.app import run

    sys.exit(run(sys.argv[1:]))
