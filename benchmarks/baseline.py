"""A hand-built baseline for chains of Gemm and Relu: CROWN, two forms of big-M, HiGHS by arrays.

Stands in for the yardstick where that is not there. Written the way a careful user without a library would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import highspy
import numpy as np
import onnx
import scipy.sparse as sp
from meter import Meter
from ours import replay
from tasks import Task

Layers = list[tuple[np.ndarray, np.ndarray]]
Sides = list[tuple[np.ndarray, np.ndarray]]


def read_chain(path: Any) -> Layers:
    """Return the (weights, bias) of every Gemm of a Gemm and Relu chain."""
    graph = onnx.load(path).graph
    kinds = {node.op_type for node in graph.node}
    if kinds - {"Gemm", "Relu"}:
        raise NotImplementedError(f"the hand-built baseline reads Gemm and Relu only, not {kinds}")
    arrays = {t.name: onnx.numpy_helper.to_array(t).astype(float) for t in graph.initializer}
    return [(arrays[n.input[1]], arrays[n.input[2]]) for n in graph.node if n.op_type == "Gemm"]


def lowest(layers: Layers, pre: Sides, box: tuple[np.ndarray, np.ndarray], k: int) -> np.ndarray:
    """Return lower bounds of ``+`` and ``-`` every output of layer `k`, by linear substitution down to the box."""
    weights, bias = layers[k]
    rows, constant = np.vstack([weights, -weights]), np.concatenate([bias, -bias])
    for (below, shift), (low, high) in zip(
        layers[k - 1 :: -1] if k else [], pre[k - 1 :: -1] if k else [], strict=True
    ):
        slope = np.where(low >= 0, 1.0, np.where(high > 0, high / np.maximum(high - low, 1e-300), 0.0))
        offset = np.where((low < 0) & (high > 0), -slope * low, 0.0)
        flat = np.where((low < 0) & (high > 0), (high > -low).astype(float), slope)
        up, down = np.minimum(rows, 0), np.maximum(rows, 0)
        rows, constant = down * flat + up * slope, constant + up @ offset
        rows, constant = rows @ below, constant + rows @ shift
    return np.maximum(rows, 0) @ box[0] + np.minimum(rows, 0) @ box[1] + constant


def crown(layers: Layers, box: tuple[np.ndarray, np.ndarray]) -> Sides:
    """Return bounds of the pre-activations of every layer; the last are the outputs."""
    pre: Sides = []
    for k, (_, bias) in enumerate(layers):
        found = lowest(layers, pre, box, k)
        pre.append((found[: len(bias)], -found[len(bias) :]))
    return pre


class Rows:
    """A MILP in triplets."""

    def __init__(self) -> None:
        self.sides: list[tuple[np.ndarray, np.ndarray, bool]] = []
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.limits: list[tuple[np.ndarray, np.ndarray]] = []
        self.width = self.height = 0

    def columns(self, low: np.ndarray, high: np.ndarray, integer: bool = False) -> np.ndarray:
        """Append columns."""
        self.sides.append((low, high, integer))
        self.width += len(low)
        return np.arange(self.width - len(low), self.width)

    def rows(self, terms: list[tuple[np.ndarray, Any]], low: Any, high: Any) -> None:
        """Append ``low <= sum of matrix @ columns <= high``; a vector stands for a diagonal."""
        n = 0
        for columns, given in terms:
            matrix = sp.coo_array(given) if np.ndim(given) == 2 else sp.dia_array(sp.diags_array(given)).tocoo()
            n = matrix.shape[0]
            self.parts.append((matrix.row + self.height, columns[matrix.col], matrix.data))
        self.limits.append((np.broadcast_to(low, (n,)).astype(float), np.broadcast_to(high, (n,)).astype(float)))
        self.height += n

    def matrix(self) -> sp.csr_array:
        """Return the rows as CSR."""
        row, column, value = (np.concatenate(p) for p in zip(*self.parts, strict=True))
        return sp.csr_array((value, (row, column)), shape=(self.height, self.width))


def write(
    layers: Layers, pre: Sides, box: tuple[np.ndarray, np.ndarray], form: str
) -> tuple[Rows, list[Any], Any, Any]:
    """Return the MILP, the binaries per layer as (neurons, columns), input and output columns."""
    milp, binaries = Rows(), []
    inputs = current = milp.columns(*box)
    for (weights, bias), (low, high) in zip(layers[:-1], pre[:-1], strict=True):
        y = milp.columns(np.maximum(low, 0), np.maximum(high, 0))
        on, both = np.flatnonzero(low >= 0), np.flatnonzero((low < 0) & (high > 0))
        if len(on):
            milp.rows([(y[on], np.ones(len(on))), (current, -weights[on])], bias[on], bias[on])
        one, l, u, w, b = np.ones(len(both)), low[both], high[both], weights[both], bias[both]  # noqa: E741
        s = milp.columns(np.zeros(len(both)), -l) if form == "slack" else None
        z = milp.columns(np.zeros(len(both)), one, True)
        if s is not None:
            milp.rows([(y[both], one), (s, -one), (current, -w)], b, b)
            milp.rows([(s, one), (z, -l)], -np.inf, -l)
        else:
            milp.rows([(y[both], one), (current, -w)], b, np.inf)
            milp.rows([(y[both], one), (current, -w), (z, -l)], -np.inf, b - l)
        milp.rows([(y[both], one), (z, -u)], -np.inf, 0.0)
        binaries.append((both, z))
        current = y
    weights, bias = layers[-1]
    outputs = milp.columns(*pre[-1])
    milp.rows([(outputs, np.ones(len(bias))), (current, -weights)], bias, bias)
    return milp, binaries, inputs, outputs


def hand_over(milp: Rows, matrix: sp.csr_array, outputs: np.ndarray, weights: np.ndarray) -> Any:
    """Pass the arrays to HiGHS."""
    low, high, kind = (np.concatenate([np.broadcast_to(s[i], s[0].shape) for s in milp.sides]) for i in range(3))
    row_low, row_high = (np.concatenate([limit[i] for limit in milp.limits]) for i in range(2))
    cost = np.zeros(milp.width)
    cost[outputs] = weights
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    code = highs.passModel(
        milp.width, milp.height, int(matrix.nnz), int(highspy.MatrixFormat.kRowwise), int(highspy.ObjSense.kMaximize),
        0.0, cost, low, high, row_low, row_high, matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32),
        matrix.data, kind.astype(np.int32),
    )  # fmt: skip
    if code == highspy.HighsStatus.kError:
        raise RuntimeError("HiGHS refuses the model")
    return highs


def offer_start(highs: Any, layers: Layers, binaries: list[Any], box: Any, weights: np.ndarray) -> None:
    """Set the binaries of the best of 2000 random points."""
    points = np.random.default_rng(0).uniform(*box, (2000, len(box[0])))
    values, states = points, []
    for k, (w, b) in enumerate(layers):
        values = values @ w.T + b
        states.append(values)
        values = np.maximum(values, 0) if k < len(layers) - 1 else values
    best = int((values @ weights).argmax())
    columns = np.concatenate([z for _, z in binaries])
    on = np.concatenate([(state[best, open_] > 0) for (open_, _), state in zip(binaries, states[:-1], strict=True)])
    highs.setSolution(len(columns), columns.astype(np.int32), on.astype(float))


def run_highs(highs: Any, limit: float) -> dict[str, Any]:
    """Solve on one thread to a gap of 1e-4 within a limit of CPU seconds; ``point`` is None without one."""
    for name, value in (("output_flag", False), ("threads", 1), ("mip_rel_gap", 1e-4)):
        highs.setOptionValue(name, value)
    end = time.process_time() + limit

    def poll(event: Any) -> None:
        if time.process_time() > end:
            event.interrupt()

    highs.cbMipInterrupt += poll
    highs.cbSimplexInterrupt += poll
    highs.run()
    info = highs.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    return {
        "status": "optimal" if highs.getModelStatus() == highspy.HighsModelStatus.kOptimal else "stopped",
        "objective": float(info.objective_function_value) if found else None,
        "bound": float(info.mip_dual_bound),
        "nodes": int(info.mip_node_count),
        "point": np.array(highs.getSolution().col_value) if found else None,
    }


def measure(task: Task, form: str, start: bool, limit: float) -> dict[str, Any]:
    """Measure the hand-built way; a limit of 0 ends after the hand-over."""
    meter = Meter()
    box, weights = (np.array(task.lower, float), np.array(task.upper, float)), np.array(task.weights, float)
    with meter.phase("load"):
        layers = read_chain(task.path)
    with meter.phase("bounds"):
        pre = crown(layers, box)
    with meter.phase("build"):
        milp, binaries, inputs, outputs = write(layers, pre, box, form)
        matrix = milp.matrix()
    with meter.phase("hand-over"):
        highs = hand_over(milp, matrix, outputs, weights)
    count = sum(len(z) for _, z in binaries)
    sizes = {"rows": milp.height, "columns": milp.width, "nonzeros": int(matrix.nnz), "binaries": count}
    record: dict[str, Any] = {"unstable": count, **sizes}
    if limit:
        if start:
            with meter.phase("start"):
                offer_start(highs, layers, binaries, box, weights)
        with meter.phase("solve"):
            record |= run_highs(highs, limit)
        point = record.pop("point")
        record |= meter.record()
        return record if point is None else record | replay(task, point[inputs], point[outputs])
    return record | meter.record()


def crown_calls(task: Task) -> tuple[Callable[[], Sides], Callable[[Sides], tuple[int, float]]]:
    """Return a function that computes bounds, and one that counts open neurons and the width of the objective."""
    layers, box = read_chain(task.path), (np.array(task.lower, float), np.array(task.upper, float))

    def judge(pre: Sides) -> tuple[int, float]:
        opened = sum(int(((low < 0) & (high > 0)).sum()) for low, high in pre[:-1])
        return opened, float((pre[-1][1] - pre[-1][0]) @ np.abs(task.weights))

    return lambda: crown(layers, box), judge
