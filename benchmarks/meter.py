"""CPU and wall seconds per phase, and peak memory over imports, of the running process."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB.

    ``ru_maxrss`` starts at the size of the parent on Linux; ``VmHWM`` does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1024**2 if sys.platform == "darwin" else size / 1024


class Meter:
    """Phases in the order they end; a phase that comes again adds up."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self.base = peak_mb()
        self._modules = set(sys.modules)
        self.restart()

    def restart(self) -> None:
        """Begin a phase here."""
        self._mark = time.process_time(), time.perf_counter()

    def lap(self, name: str) -> None:
        """End a phase here and begin the next."""
        cpu, wall = self._mark
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.memory[name] = peak_mb() - self.base
        self.restart()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block as one phase."""
        self.restart()
        yield
        self.lap(name)

    def record(self) -> dict[str, Any]:
        """Return everything measured; ``late`` are modules that were imported inside phases."""
        late = sorted(m for m in set(sys.modules) - self._modules if "." not in m)
        return {
            "cpu": self.cpu,
            "wall": self.wall,
            "memory": self.memory,
            "base_mb": self.base,
            "over_mb": peak_mb() - self.base,
            "late": late,
        }
