"""The original model, run by onnxruntime or by onnx's reference evaluator."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.errors import ModelFileError
from nnembed.readers.interface import Slot
from nnembed.readers.tensors import AnyArray, numpy_type

Run = Callable[[dict[str, AnyArray]], list[AnyArray]]


class _Unsupported(Exception):
    """The runtime cannot run a model that is otherwise in order."""


class OriginalModel:
    """Replays points on the file itself; see `nnembed.ir.network.Reference`.

    Parameters
    ----------
    blob : bytes
        The serialised model; kept, so that the object can be pickled.
    path : Path or None
        Where it came from, needed when weights lie beside it.
    inputs, outputs : sequence of Slot
        What it takes and gives.
    """

    def __init__(self, blob: bytes, path: Path | None, inputs: Sequence[Slot], outputs: Sequence[Slot]):
        self._source: bytes | Path | None = blob if path is None else path
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._run: Run | None = None
        self._name = ""
        self._one_by_one = not all(slot.symbolic for slot in inputs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the running session behind; the copy starts its own."""
        return {**self.__dict__, "_run": None, "_name": ""}

    @property
    def name(self) -> str:
        """Which runtime it is."""
        self._start()
        return self._name

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return flat outputs (batch, n) by name for flat inputs (batch, n) by name.

        An open batch axis is fed as a whole, which shows graphs that mix the points of a batch.

        Raises
        ------
        ModelFileError
            If the runtime refuses the model, or an output does not follow the batch.
        """
        run = self._start()
        count = len(next(iter(inputs.values())))
        if not self._one_by_one and count != 1:
            results = self._try(run, inputs, count)
            if results is not None:
                return {s.spec.name: self._rows(r, s, count) for s, r in zip(self._outputs, results, strict=True)}
            self._one_by_one = True  # a Reshape inside insists on one point
        try:
            rows = [run(self._feeds({n: v[k : k + 1] for n, v in inputs.items()}, 1)) for k in range(count)]
        except _Unsupported as error:
            raise ModelFileError(
                f"{self._name} cannot run the model ({error}), so the reading cannot be checked; export with a newer "
                "operator set (onnx.version_converter), or load with check=False at your own risk"
            ) from error
        stacked = {}
        for position, slot in enumerate(self._outputs):
            stacked[slot.spec.name] = np.concatenate([self._rows(row[position], slot, 1) for row in rows])
        return stacked

    def _try(self, run: Run, inputs: Mapping[str, Array], count: int) -> list[AnyArray] | None:
        try:
            return run(self._feeds(inputs, count))
        except _Unsupported:
            return None

    def _feeds(self, inputs: Mapping[str, Array], count: int) -> dict[str, AnyArray]:
        feeds = {}
        for slot in self._inputs:
            shape = (count, *slot.shape[1:]) if slot.batched else slot.shape
            feeds[slot.spec.name] = inputs[slot.spec.name].reshape(shape).astype(numpy_type(slot.spec.dtype))
        return feeds

    def _rows(self, value: AnyArray, slot: Slot, count: int) -> Array:
        size = math.prod(slot.shape)
        if slot.fixed:
            return np.tile(value.astype(float).ravel(), (count, 1))
        if value.size != count * size or (count > 1 and (not value.ndim or value.shape[0] != count)):
            raise ModelFileError(
                f"output {slot.spec.name!r} has shape {value.shape} for a batch of {count} points: it does not "
                "follow the batch axis of the input, the graph mixes points; if a batch of one is meant, fix that axis "
                "to 1 in the file"
            )
        return value.astype(float).reshape(count, size)

    def _start(self) -> Run:
        if self._run is None:
            assert self._source is not None
            try:
                if find_spec("onnxruntime") is None:
                    raise _Unsupported
                self._run, self._name = _onnxruntime(self._source)
            except _Unsupported:
                self._run, self._name = _reference_evaluator(self._source)
        return self._run


def _onnxruntime(source: bytes | Path) -> tuple[Run, str]:
    """Start onnxruntime on one thread.

    Raises
    ------
    _Unsupported
        If it lacks a kernel or does not know the operator set yet.
    ModelFileError
        If it finds the model invalid.
    """
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # it would compute with other numbers
    errors = tuple(e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception))
    try:
        model = source if isinstance(source, bytes) else str(source)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except errors as error:
        text = " ".join(str(error).split())
        if isinstance(error, state.NotImplemented) or "opset" in text.lower() or "ir version" in text.lower():
            raise _Unsupported from None
        raise ModelFileError(f"onnxruntime refuses the model: {text}; export it again") from error
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, AnyArray]) -> list[AnyArray]:
        try:
            return [np.asarray(value) for value in session.run(names, feeds)]
        except errors as error:
            raise _Unsupported(str(error)) from error

    return run, f"onnxruntime {ort.__version__}"


def _reference_evaluator(source: bytes | Path) -> tuple[Run, str]:
    """Start onnx's reference evaluator, with BatchNormalization put right.

    Its own version ignores the attribute epsilon at some operator sets (13 among them).
    """
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):  # type: ignore[misc]
        def _run(self, x: AnyArray, *statistics: AnyArray, **attributes: Any) -> tuple[AnyArray, ...]:
            wide = (-1, *(1,) * max(x.ndim - 2, 0)) if x.ndim > 1 else (1,)
            scale, bias, mean, variance = (s.reshape(wide if s.ndim == 1 else s.shape) for s in statistics)
            epsilon = attributes.get("epsilon")
            deviation = np.sqrt(variance + (1e-5 if epsilon is None else epsilon))
            return ((scale * (x - mean) / deviation + bias).astype(x.dtype),)

    model: Any = str(source) if isinstance(source, Path) else onnx.load_model(io.BytesIO(source))
    evaluator = ReferenceEvaluator(model, new_ops=[BatchNormalization])

    def run(feeds: dict[str, AnyArray]) -> list[AnyArray]:
        """Return the outputs; whatever the evaluator raises means that it cannot run the model."""
        try:
            return [np.asarray(value) for value in evaluator.run(None, feeds)]
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise _Unsupported(f"{type(error).__name__}: {error}") from error

    return run, f"onnx {onnx.__version__} reference evaluator"
