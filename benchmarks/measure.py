"""One measurement in a process of its own; prints one JSON line (`load`: one per network).

    python benchmarks/measure.py FAMILY TASK WAY [--limit CPU_SECONDS]

FAMILY as in `run.py`. WAY nnembed, nnembed:unchecked (no self-check on loading), nnembed:linopy, nnembed:overlay,
nnembed:attach, nnembed:arrays, nnembed:model, hand:two_row, hand:slack (+start), omlt, pyscipopt_ml; for `import` the
name of a package. TASK is a number of points for `batch` and a band in percent for `revenue`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

from tasks import FAMILIES, ROOT, Task, load_tasks, networks, yardstick

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # behind everything: an installed nnembed wins

#: What `import nnembed` must leave alone.
FORBIDDEN = ("onnx", "onnxruntime", "linopy", "highspy", "xarray", "scipy.optimize", "pandas", "matplotlib", "pyomo")
_REPEATS = 9


def measured(family: str, task: str, way: str, limit: float) -> Iterator[dict[str, Any]]:
    """Yield the records of one job."""
    if family == "import":
        yield imported(way)
    elif family == "load":
        yield from loaded()
    elif family == "crown":
        yield crown(load_tasks()[task])
    elif way.startswith("nnembed"):
        yield own(family, task, way, limit)
    elif (folder := yardstick()) is not None:
        from peers import by_yardstick

        yield by_yardstick(folder, task, way, limit, "scip" if family == "scip" else "highs")
    elif way == "omlt":
        from peers import omlt

        yield omlt(load_tasks()[task], limit)
    else:
        from baseline import measure

        form, _, extra = way.removeprefix("hand:").partition("+")
        yield measure(load_tasks()[task], form, extra == "start", limit)


def own(family: str, name: str, way: str, limit: float) -> dict[str, Any]:
    """Measure a way of nnembed."""
    if family == "batch":
        from batch import embed

        return embed(int(name), way)
    if family == "revenue":
        from revenue import measure as revenue

        return revenue(float(name) / 100, limit)
    task: Task = load_tasks()[name]
    if family == "pyomo":
        from pyomo_ways import measure

        return measure(task, way)
    from ours import attach, maximize, scip

    if family == "scip":
        return maximize(task, limit, solver=scip())
    return attach(task) if way == "nnembed:linopy" else maximize(task, limit, check=way != "nnembed:unchecked")


def imported(package: str) -> dict[str, Any]:
    """Measure an import in a bare interpreter; ``nnembed:maximize`` also looks that name up."""
    name, _, public = package.partition(":")
    lines = [
        "import json, sys, time",
        f"sys.path.append({str(ROOT)!r})",
        "cpu, wall = time.process_time(), time.perf_counter()",
        f"import {name}",
        f"{name}.{public}" if public else "",
        "spent = {'cpu': {'import': time.process_time() - cpu}, 'wall': {'import': time.perf_counter() - wall}}",
        f"found = [m for m in {FORBIDDEN!r} if m in sys.modules]",
        "print(json.dumps(spent | {'modules': len(sys.modules), 'forbidden': found}))",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def crown(task: Task) -> dict[str, Any]:
    """Measure CROWN by hand and by nnembed in turns; the least of several repeats counts."""
    import numpy as np

    import nnembed as nn
    from nnembed.ir.nodes import Max

    folder = yardstick()
    if folder is not None:
        from peers import crown_calls as calls

        theirs, judge = calls(folder, task)
    else:
        from baseline import crown_calls

        theirs, judge = crown_calls(task)
    network = nn.load(task.path)
    box = np.array(task.lower, float), np.array(task.upper, float)
    best = {"nnembed": np.inf, "hand": np.inf}
    bounds, reference = nn.tighten(network, box, "crown"), theirs()
    for _ in range(_REPEATS):
        bounds, spent = timed(lambda: nn.tighten(network, box, "crown"))
        best["nnembed"] = min(best["nnembed"], spent)
        reference, spent = timed(theirs)
        best["hand"] = min(best["hand"], spent)
    opened, width = judge(reference)
    output = network.outputs[0].name
    own_width = float((bounds.high[output] - bounds.low[output]).ravel() @ np.abs(task.weights))
    neurons = [node for node in network.activations if not isinstance(node, Max)]
    return {
        "cpu": best,
        "unstable": sum(int(bounds.open(node).sum()) for node in neurons),
        "unstable_hand": opened,
        "neurons": sum(bounds.open(node).size for node in neurons),
        "width": own_width,
        "width_hand": width,
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a call and its CPU seconds."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def loaded() -> Iterator[dict[str, Any]]:
    """Load every network with its self-check: read, refused by name, or an error that should not be."""
    import numpy  # noqa: F401 - not part of the first network's time
    import onnxruntime  # noqa: F401

    import nnembed as nn

    for path in networks():
        cpu, wall = time.process_time(), time.perf_counter()
        record: dict[str, Any] = {"task": label(path)}
        try:
            network = nn.load(path)
            sizes = [network.tensors[node.output].size for node in network.activations]
            record |= {"status": "read", "neurons": sum(sizes)}
        except nn.UnsupportedOperators as error:
            record |= {"status": "refused", "reason": str(error)}
        except nn.SelfCheckFailed as error:
            record |= {"status": "failed", "reason": str(error)}
        except nn.ModelFileError as error:
            record |= {"status": "invalid", "reason": str(error)}
        except nn.NnembedError as error:
            record |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        if "reason" in record:
            record["reason"] = record["reason"].removeprefix(f"{path}: ")
        record["cpu"] = {"load": time.process_time() - cpu}
        yield record | {"wall": {"load": time.perf_counter() - wall}}


def label(path: Path) -> str:
    """Return a path without what all of them have in common."""
    from tasks import data_folder

    folder = data_folder()
    return str(path.relative_to(folder)) if folder and path.is_relative_to(folder) else path.name


def main() -> None:
    """Measure and print; an error is a result too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("task")
    parser.add_argument("way")
    parser.add_argument("--limit", type=float, default=0.0, help="CPU seconds of solving; 0 builds only")
    given = parser.parse_args()
    answer = os.dup(1)
    os.dup2(2, 1)  # what solvers print is not the answer
    head = {"family": given.family, "task": given.task, "way": given.way, "limit": given.limit}
    try:
        for record in measured(given.family, given.task, given.way, given.limit):
            os.write(answer, (json.dumps(head | record, default=float) + "\n").encode())
    except Exception as error:  # noqa: BLE001 - a way that cannot do a task is a result too
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        os.write(answer, (json.dumps(head | {"error": text}) + "\n").encode())
        sys.exit(1)


if __name__ == "__main__":
    main()
