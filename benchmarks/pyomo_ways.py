"""A network in a Pyomo model: laid over its arrays, and written into it as rows for Pyomo's own HiGHS interface."""

from __future__ import annotations

import importlib
from typing import Any

from meter import Meter
from ours import IMPORTS, Observer, TimedBackend, preload
from tasks import Task

import nnembed as nn
from nnembed.hooks.manager import registry

PYOMO = ("pyomo.environ", "pyomo.contrib.solver.solvers.highs", "nnembed.engine.solve")
_HOST = ("input", "variables", "attach", "compile")


def measure(task: Task, way: str) -> dict[str, Any]:
    """Measure the user's model, the embedding and the hand-over to HiGHS; nothing is solved."""
    preload((*IMPORTS, *PYOMO))
    for name in _HOST:
        importlib.import_module(f"nnembed.hosts.pyomo_{name}")
    import pyomo.environ as pyo

    meter = Meter()
    with meter.phase("load"):
        network = nn.load(task.path)
    observer = Observer(meter)
    registry().plugins.register(observer)
    meter.restart()
    model = pyo.ConcreteModel()
    sides = list(zip(task.lower, task.upper, strict=True))
    model.x = pyo.Var(range(len(sides)), bounds=lambda _, i: sides[i])
    meter.lap("model")
    embedding = nn.embed(model, network, model.x, name="net", attach=way == "nnembed:attach")
    outputs = list(embedding.outputs.values())
    terms = [w * y for w, y in zip(task.weights, outputs, strict=True) if w]
    model.objective = pyo.Objective(expr=sum(terms), sense=pyo.maximize)
    meter.lap("attach")
    sizes = attached(model, meter) if way == "nnembed:attach" else laid_over(model, meter)
    return meter.record() | sizes | {"unstable": observer.unstable}


def laid_over(model: Any, meter: Meter) -> dict[str, int]:
    """Compile, lay the network over it and hand over, as `nnembed.solve` does; return the sizes."""
    backend = TimedBackend(registry().get("backend", "highs"), meter, 0.0, compiled="compile")
    nn.solve(model, backend=backend, heuristics="none", progress=False)
    meter.lap("check")
    return backend.sizes


def attached(model: Any, meter: Meter) -> dict[str, int]:
    """Hand over through Pyomo's persistent interface to HiGHS, the one OMLT is measured with; return the sizes."""
    from pyomo.contrib.solver.solvers.highs import Highs

    solver = Highs()
    solver.set_instance(model)
    meter.lap("hand-over")
    highs = solver._solver_model
    return {"rows": highs.numConstrs, "columns": highs.numVariables, "nonzeros": highs.getNumNz()}
