"""Other systems: the yardstick's own measuring script when it is there, and OMLT with Pyomo's HiGHS interface."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tasks import SCIP_PLUGIN, Task

_PHASES = {"load": "load", "bounds": "bounds", "matrix": "build", "handoff": "hand-over", "start": "start"}

_GIVEN = {"omlt": "omlt:bigm", "pyscipopt_ml": "pyscipopt_ml:sos"}
_NO_CUTS = ["--opt", "separating/maxrounds=0", "--opt", "separating/maxroundsroot=0"]


def installed(*packages: str) -> bool:
    """Return whether all of some packages are installed."""
    return all(importlib.util.find_spec(name) is not None for name in packages)


def has_scip() -> bool:
    """Return whether PySCIPOpt is installed, and nnembed's plugin for it installed or in this repository."""
    return installed("pyscipopt") and (installed("nnembed_scip") or SCIP_PLUGIN.is_dir())


def by_yardstick(folder: Path, task: str, way: str, limit: float, solver: str = "highs") -> dict[str, Any]:
    """Run the yardstick's script and return its record under the names used here.

    SCIP gets the hand-built models with separation off, which is what is fastest, and PySCIPOpt-ML's as it makes them.
    """
    kind, *options = way.split("+")
    given = _GIVEN.get(kind, f"hand:C_crown:{kind.removeprefix('hand:')}")
    command = [sys.executable, str(folder / "run_one.py"), task, given, solver, "--limit", str(limit or 60)]
    command += ["--opt", "start=true"] if "start" in options else []
    command += _NO_CUTS if solver == "scip" and kind.startswith("hand:") else []
    command += [] if limit else ["--build-only"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return translated(json.loads(done.stdout.splitlines()[-1]))


def translated(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a record of the yardstick in the form of `measure`."""
    names = {**_PHASES, "solve": "solve"}
    record: dict[str, Any] = {
        "cpu": {new: raw[f"cpu_{old}"] for old, new in names.items() if f"cpu_{old}" in raw},
        "wall": {new: raw[f"t_{old}"] for old, new in names.items() if f"t_{old}" in raw},
        "base_mb": raw.get("base_mb"),
        "late": [],
    }
    if "peak_mb" in raw and "base_mb" in raw:
        record["over_mb"] = raw["peak_mb"] - raw["base_mb"]
    short = {"n_row": "rows", "n_col": "columns", "nnz": "nonzeros", "n_bin": "binaries", "obj": "objective"}
    record |= {new: raw[old] for old, new in short.items() if old in raw}
    record |= {key: raw[key] for key in ("bound", "nodes", "unstable", "error") if key in raw}
    if "status" in raw:
        record["status"] = "optimal" if raw["status"] in ("Optimal", "optimal", "gaplimit") else "stopped"
    if "err_ort" in raw:
        record |= {"residual": raw["err_ort"], "outside": raw["box_violation"]}
    return record


def crown_calls(folder: Path, task: Task) -> tuple[Callable[[], Any], Callable[[Any], tuple[int, float]]]:
    """Return the yardstick's CROWN as a function, and one that reads its result."""
    sys.path.insert(0, str(folder))
    import core

    operations = core.load_net(task.path)
    low, high = np.array(task.lower, float), np.array(task.upper, float)

    def judge(bounds: Any) -> tuple[int, float]:
        width = float((bounds[-1][1] - bounds[-1][0]) @ np.abs(task.weights))
        return core.unstable(operations, bounds), width

    return lambda: core.crown_bounds(operations, low, high), judge


def omlt(task: Task, limit: float) -> dict[str, Any]:
    """Measure OMLT's big-M formulation on a chain of dense layers."""
    import onnx
    import pyomo.environ as pyo
    from baseline import run_highs
    from meter import Meter
    from omlt import OmltBlock
    from omlt.io.onnx import load_onnx_neural_network
    from omlt.neuralnet import ReluBigMFormulation
    from ours import replay
    from pyomo.contrib.solver.solvers.highs import Highs

    meter = Meter()
    with meter.phase("load"):
        box = dict(enumerate(zip(task.lower, task.upper, strict=True)))
        definition = load_onnx_neural_network(explicit(onnx.load(task.path)), input_bounds=box)
    with meter.phase("build"):
        model = pyo.ConcreteModel()
        model.net = OmltBlock()
        model.net.build_formulation(ReluBigMFormulation(definition))
        terms = [w * model.net.outputs[j] for j, w in enumerate(task.weights) if w]
        model.objective = pyo.Objective(expr=sum(terms), sense=pyo.maximize)
    with meter.phase("hand-over"):
        solver = Highs()
        solver.set_instance(model)
    highs, places = solver._solver_model, solver._pyomo_var_to_solver_var_map
    record = {"rows": highs.numConstrs, "columns": highs.numVariables, "nonzeros": highs.getNumNz()}
    if not limit:
        return record | meter.record()
    with meter.phase("solve"):
        record |= run_highs(highs, limit)
    point = record.pop("point")
    record |= meter.record()
    if point is None:
        return record
    x = np.array([point[places[id(model.net.inputs[i])]] for i in range(len(task.lower))])
    y = np.array([point[places[id(model.net.outputs[j])]] for j in range(len(task.weights))])
    return record | replay(task, x, y)


def explicit(model: Any) -> Any:
    """Write out the attributes of Gemm that OMLT does not default."""
    from onnx import helper

    for node in model.graph.node:
        present = {attribute.name for attribute in node.attribute}
        for name, value in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0)):
            if node.op_type == "Gemm" and name not in present:
                node.attribute.append(helper.make_attribute(name, value))
    return model
