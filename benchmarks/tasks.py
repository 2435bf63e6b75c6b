"""What is measured: networks with a box and an objective.

The tasks of the yardstick (``../shared/bench`` beside the repository, or the folder NNEMBED_BENCH names) when it is
there, else small ones trained and written on first use by `generate`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FAMILIES = ("import", "build", "crown", "load", "pyomo", "batch", "scip", "solve", "revenue")
POINTS, BANDS = (1, 2, 100, 1000), (5, 10, 20)  # `batch`: points; `revenue`: percent around today's price
SCIP_PLUGIN = ROOT / "plugins" / "nnembed-scip"


@dataclass(frozen=True)
class Task:
    """Maximise ``weights @ network(x)`` over ``lower <= x <= upper``.

    Attributes
    ----------
    name, family : str
    path : Path
        The ONNX file.
    lower, upper, weights : list of float
    """

    name: str
    family: str
    path: Path
    lower: list[float]
    upper: list[float]
    weights: list[float]


def yardstick() -> Path | None:
    """Return the folder of the yardstick, None without it."""
    folder = Path(os.environ.get("NNEMBED_BENCH") or ROOT / ".." / "shared" / "bench").resolve()
    return folder if (folder / "nets" / "tasks.json").is_file() else None


def data_folder() -> Path | None:
    """Return the folder of networks to load, None without it."""
    folder = Path(os.environ.get("NNEMBED_DATA") or ROOT / ".." / "shared" / "data").resolve()
    return folder if folder.is_dir() else None


def generated() -> Path:
    """Return the folder of the small tasks; they are trained on first use, in a process of their own."""
    folder = Path(os.environ.get("NNEMBED_BENCH_CACHE") or Path(tempfile.gettempdir()) / "nnembed-bench-2")
    if not (folder / "tasks.json").is_file():
        print(f"training small networks into {folder}", file=sys.stderr)
        done = subprocess.run([sys.executable, str(HERE / "generate.py"), str(folder)], check=False)
        if done.returncode:
            sys.exit("the small networks could not be trained (see above); pip install scikit-learn onnx")
    return folder


def load_tasks() -> dict[str, Task]:
    """Return all tasks by name."""
    base = yardstick()
    nets = base / "nets" if base else generated()
    tasks = {}
    for item in json.loads((nets / "tasks.json").read_text()):
        path = nets / f"{item['net']}.onnx"
        tasks[item["name"]] = Task(item["name"], item["family"], path, item["lb"], item["ub"], item["c"])
    return tasks


def networks() -> list[Path]:
    """Return the networks of the `load` family: all of the data folder, else those of the tasks."""
    folder = data_folder()
    if folder is None:
        return sorted({task.path for task in load_tasks().values()})
    return sorted(path for path in folder.rglob("*") if path.name.endswith((".onnx", ".onnx.gz")))
