"""The command line, ``nnembed``."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line on ``sys.argv`` and leave with its exit code."""
    try:
        from nnembed.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the part that handles it
        if sys.stderr is not None:
            sys.stderr.write("nnembed: interrupted\n")
        code = 130
    sys.exit(code)
