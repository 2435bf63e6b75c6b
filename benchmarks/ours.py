"""Measurements of nnembed itself, through its public calls, its hooks and a solver that is timed from outside."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from meter import Meter
from tasks import SCIP_PLUGIN, Task

import nnembed as nn
from nnembed.events import BlockEmitted, BoundsTightened, Event
from nnembed.hooks.manager import registry
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend, Session, Solution

#: Everything that is imported on first use and is not to count as work.
IMPORTS = ("onnx", "onnx.reference", "onnxruntime", "highspy", "scipy.sparse", "gzip", "nnembed.engine")
LINOPY = ("linopy", "linopy.io", "xarray", "pandas")
SCIP = ("pyscipopt", "nnembed_scip.session", "nnembed_scip.linear", "concurrent.futures.thread")


def preload(modules: tuple[str, ...]) -> None:
    """Import what the measured calls need."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # an extra that is not installed is not used either
    reg = registry()
    reg.readers()
    for point in ("backend", "host", "formulation", "heuristic", "bound tightener"):
        reg.parts(point)
    for name in ("nnembed.readers.graph", "nnembed.readers.files", "nnembed.readers.reference", "nnembed.ir.simplify"):
        importlib.import_module(name)
    for name in ("nnembed.report.progress", "nnembed.bounds.backward", "nnembed.heuristics.forward"):
        importlib.import_module(name)


def scip() -> Backend:
    """Return nnembed's SCIP, everything it imports on first use imported."""
    if importlib.util.find_spec("nnembed_scip") is None:
        sys.path.append(str(SCIP_PLUGIN))
    preload((*IMPORTS, *SCIP))
    backend: Backend = importlib.import_module("nnembed_scip.backend").Scip()
    return backend


class Observer:
    """Ends the phases that the library announces."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.unstable: int | None = None

    @nn.hookimpl
    def nnembed_event(self, event: Event) -> None:
        """Take the time."""
        if isinstance(event, BoundsTightened):
            self.meter.lap("bounds")
            self.unstable = event.unstable
        elif isinstance(event, BlockEmitted):
            self.meter.lap("build")


class TimedSession:
    """A session whose first solve has a limit in CPU seconds; a limit of 0 hands over and solves nothing."""

    def __init__(self, inner: Session, meter: Meter, limit: float) -> None:
        self.inner, self.meter, self.limit = inner, meter, limit
        self.solved = False

    def __enter__(self) -> TimedSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve and take the time of the first call."""
        if self.solved:
            return self.inner.solve(on_event, should_stop)
        self.solved = True
        self.meter.lap("hand-over")
        if self.limit == 0:
            return Solution("time_limit")
        end = time.process_time() + self.limit
        found = self.inner.solve(on_event, lambda: time.process_time() > end or should_stop())
        self.meter.lap("solve")
        return found


class TimedBackend:
    """A solver that takes the time around each call and remembers the size of the problem."""

    def __init__(self, inner: Backend, meter: Meter, limit: float, compiled: str = "build") -> None:
        self.inner, self.meter, self.limit, self.compiled = inner, meter, limit, compiled
        self.name, self.summary = inner.name, inner.summary
        self.accepts, self.capabilities = inner.accepts, inner.capabilities
        self.sizes: dict[str, int] = {}

    def available(self) -> Any:
        """Say whether it can be used; asked between building the problem and looking for a start."""
        self.meter.lap(self.compiled)
        return self.inner.available()

    def load(self, problem: Problem, options: Options) -> Session:
        """Hand over."""
        if not self.sizes:
            self.meter.lap("start")
        free = problem.integer & (problem.lower < problem.upper)
        self.sizes = self.sizes or {
            "rows": problem.n_rows,
            "columns": problem.n_columns,
            "nonzeros": int(problem.matrix.nnz),
            "binaries": int(free.sum()),
        }
        return TimedSession(self.inner.load(problem, options), self.meter, self.limit)  # type: ignore[return-value]


def maximize(task: Task, limit: float, *, check: bool = True, solver: Backend | None = None) -> dict[str, Any]:
    """Measure `nnembed.maximize` with a solver (HiGHS); a limit of 0 ends after the hand-over."""
    preload(IMPORTS)
    meter = Meter()
    with meter.phase("load"):
        network = nn.load(task.path, check=check)
    observer, backend = Observer(meter), TimedBackend(solver or registry().get("backend", "highs"), meter, limit)
    registry().plugins.register(observer)
    box, weights = (np.array(task.lower, float), np.array(task.upper, float)), np.array(task.weights, float)
    meter.restart()
    result = nn.maximize(
        network, box, weights, backend=backend, heuristics="auto" if limit else "none", progress=False,
        time_limit=limit or None,
    )  # fmt: skip
    meter.lap("check" if backend.sizes else "solve")  # some are proved before there is anything to hand over
    record = meter.record() | backend.sizes | {"unstable": observer.unstable}
    if limit == 0:
        return record
    record |= {"objective": result.objective, "bound": result.bound, "gap": result.gap, "nodes": result.nodes}
    record["status"] = result.status
    if result.certificate is not None:
        record["certificate"] = result.certificate.ok
        record |= replay(task, np.asarray(result.x), np.asarray(result.y))
    return record


def attach(task: Task) -> dict[str, Any]:
    """Measure embedding into a plain linopy model, and linopy's own hand-over to HiGHS."""
    preload((*IMPORTS, *LINOPY))
    import linopy
    import pandas as pd

    for name in ("linopy_attach", "linopy_input", "linopy_bounds", "linopy_pieces", "linopy_csr"):
        importlib.import_module(f"nnembed.hosts.{name}")
    first = linopy.Model()  # linopy imports dask and others when the first objects are made
    first.add_objective(first.add_variables(0, 1, coords=[pd.RangeIndex(2)], name="first").sum())
    meter = Meter()
    with meter.phase("load"):
        network = nn.load(task.path)
    observer = Observer(meter)
    registry().plugins.register(observer)
    meter.restart()
    model = linopy.Model()
    index = pd.RangeIndex(len(task.lower), name="entry")
    x = model.add_variables(np.array(task.lower, float), np.array(task.upper, float), coords=[index], name="x")
    embedding = nn.embed(model, network, x, name="net")
    model.add_objective((embedding.outputs * np.array(task.weights)).sum(), sense="max")
    meter.lap("attach")
    highs = linopy.io.to_highspy(model)
    meter.lap("hand-over")
    sizes = {"rows": highs.numConstrs, "columns": highs.numVariables, "nonzeros": highs.getNumNz()}
    return meter.record() | sizes | {"binaries": embedding.block.binaries, "unstable": observer.unstable}


def replay(task: Task, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return the residual ``|y - y_ort| / (1 + |y_ort|)`` and how far the point leaves its box."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(task.path), providers=["CPUExecutionProvider"])
    spec = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    theirs = session.run(None, {spec.name: x.reshape(shape).astype(np.float32)})[0].ravel().astype(float)
    outside = np.maximum(np.array(task.lower) - x.ravel(), x.ravel() - np.array(task.upper)).max()
    residual = (np.abs(y.ravel() - theirs) / (1 + np.abs(theirs))).max()
    return {"residual": float(residual), "outside": float(max(outside, 0.0))}
