"""Checks of operator readers: what is read is what the ONNX reference computes, or it is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnembed.errors import ModelFileError, UnsupportedOperators
from nnembed.protocols import OpReader
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.onnx_models import OneOp, models_of

_POINTS = 5


@dataclass(frozen=True, eq=False)
class ReaderSubject:
    """A reader with models that use it; for operators outside the standard, whose meaning the kit cannot know.

    Attributes
    ----------
    reader : OpReader
    models : sequence of onnx.ModelProto
        With one floating-point input; the operator defined as a function of the model, so that it can be evaluated.
    """

    reader: OpReader
    models: Sequence[Any]

    @property
    def domain(self) -> str:
        """The reader's domain."""
        return self.reader.domain

    @property
    def op_type(self) -> str:
        """The reader's operator."""
        return self.reader.op_type

    @property
    def since(self) -> int:
        """The first opset version the reader understands."""
        return self.reader.since

    def read(self, node: Any, context: Any) -> Sequence[Any]:
        """Read with the reader."""
        return self.reader.read(node, context)


def _catalogue(reader: OpReader) -> list[OneOp]:
    """Return the standard models of the reader's operator from the version it claims."""
    found = models_of(reader.op_type) if not reader.domain else []
    found = [m for m in found if m.opset >= reader.since]
    if not found:
        raise Unmet(f"the kit has no model of {reader.op_type!r}; pass ReaderSubject(reader, models)")
    return found


def _cases(reader: OpReader) -> list[tuple[str, Any]]:
    if isinstance(reader, ReaderSubject):
        return [(f"model {k}", model) for k, model in enumerate(reader.models)]
    return [(m.label, m.model()) for m in _catalogue(reader)]


def _load(reader: OpReader, model: Any) -> Any:
    """Return the network as read by this reader, with the built-in readers of all other operators."""
    from nnembed.readers import builtin_readers, load

    mine = (reader.domain, reader.op_type)
    others = [r for r in builtin_readers() if (r.domain, r.op_type) != mine]
    return load(model, check=False, readers=[*others, reader])


def _difference(network: Any, model: Any, config: Config) -> str:
    """Return where network and file disagree on random inputs, nothing if they do not.

    The file is run by onnxruntime where it is installed: onnx's reference evaluator reads some operators of old
    versions as those of the latest.
    """
    reference, rng = network.reference, np.random.default_rng(1)
    shapes = {i.name: tuple(d.dim_value or 1 for d in i.type.tensor_type.shape.dim) for i in model.graph.input}
    for _ in range(_POINTS):
        values = {k: np.asarray(rng.normal(size=s), np.float32) for k, s in shapes.items()}
        flat = {s.name: values[s.name].reshape(1, -1).astype(float) for s in network.inputs}
        theirs = reference.run(flat)[network.outputs[0].name].ravel()
        ours = network.flat_outputs(network.forward(flat)).ravel()
        if ours.shape != theirs.shape:
            return f"{len(ours)} entries instead of {len(theirs)}"
        error = np.abs(ours - theirs) - max(config.rtol, 1e-5) * (1 + np.abs(theirs))
        if not (error <= 0).all():
            return f"{ours.tolist()} instead of {theirs.tolist()}"
    return ""


@since("0.1")
def check_reader_declares(reader: OpReader, config: Config = DEFAULT) -> None:
    """Check: domain, operator and version are there and of the right type."""
    assert isinstance(reader.domain, str), "domain must be a string, empty for the standard operators"
    assert reader.domain != "ai.onnx", "the domain of standard operators is written as the empty string"
    assert isinstance(reader.op_type, str) and reader.op_type, "op_type must be the operator's name"
    assert isinstance(reader.since, int) and reader.since >= 1, "since must be an opset version of at least 1"


@since("0.1")
def check_agrees_with_reference(reader: OpReader, config: Config = DEFAULT) -> None:
    """Check: the network as read computes what onnxruntime (or onnx's reference evaluator) does, on random tensors."""
    for label, model in _cases(reader):
        wrong = _difference(_load(reader, model), model, config)
        assert not wrong, f"{label}: {wrong}"


@since("0.1")
def check_computed_operands(reader: OpReader, config: Config = DEFAULT) -> None:
    """Check: an operand that is computed instead of constant is read right or refused by name, never dropped."""
    for this in _catalogue(reader):
        for name in this.constants:
            if this.constants[name].dtype.kind != "f" or "," not in this.nodes[0][1]:
                continue
            model = this.model(computed=name)
            try:
                network = _load(reader, model)
            except UnsupportedOperators as error:
                assert this.nodes[0][0] in str(error), f"{this.label}: the refusal must name the operator: {error}"
                continue
            except ModelFileError:
                continue
            try:
                wrong = _difference(network, model, config)
            except ModelFileError:
                continue  # the file means nothing at random numbers: a dropout ratio above one
            assert not wrong, f"{this.label} with {name!r} computed: {wrong}"


@since("0.1")
def check_broken_node(reader: OpReader, config: Config = DEFAULT) -> None:
    """Check: a broken node (no operands) is refused with an error of nnembed, not with a traceback from inside."""
    this = _catalogue(reader)[0]
    op, inputs, outputs, attributes = this.nodes[0]
    if not inputs:
        raise Unmet(f"{op} has no operands")
    broken = OneOp(((op, "", outputs, attributes), *this.nodes[1:]), this.constants, this.shape, this.opset)
    try:
        _load(reader, broken.model())
    except ModelFileError:
        return
    raise AssertionError(f"{op} without operands was read as if it had some")
