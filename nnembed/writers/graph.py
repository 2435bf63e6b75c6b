"""A network as an ONNX graph of standard operators, for any runtime.

Tensors inside the graph are flat, (batch, n); inputs and outputs keep their own shapes. Weights are stored in the
element type of the network's first input (float32 unless the file had float64), so a network that was rewritten in
float64 changes by rounding; `to_onnx` callers can measure it with `Network.self_check` on the file read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.errors import InputError
from nnembed.ir.linear import Convolution, LinearOperator, Selection, Sparse
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Abs, Affine, Clip, Kink, Max, Node, Relu, Round, Step, Winner

_OPSET, _IR = 17, 8
_LARGEST = 250_000_000  # entries of one weight matrix: 1 GB, half of what one ONNX file can hold


def to_onnx(network: Network) -> Any:
    """Return the network as an ``onnx.ModelProto`` (opset 17).

    Raises
    ------
    InputError
        If a layer's matrix is too large for one file.
    """
    return _Graph(network).model()


class _Graph:
    """The nodes and constants written so far."""

    def __init__(self, network: Network):
        self.network = network
        self.dtype = np.dtype("float64" if network.inputs[0].dtype == "float64" else "float32")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names: dict[str, str] = {}  # tensor of the network -> value of the graph
        self._used = {s.name for s in (*network.inputs, *network.outputs)}

    def model(self) -> Any:
        """Return the whole model."""
        from onnx import helper

        network = self.network
        for spec in network.inputs:
            self.names[spec.name] = self.add("Flatten", [spec.name], axis=1)
        for node in network.nodes:
            self.names[node.output] = self._node(node)
        for spec in network.outputs:
            shape = self.constant(np.array([-1, *spec.shape], dtype=np.int64))
            self.add("Reshape", [self.names[spec.name], shape], output=spec.name)
        ends = [[self._value(s) for s in specs] for specs in (network.inputs, network.outputs)]
        graph = helper.make_graph(self.nodes, network.name or "network", *ends, initializer=self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)

    def _value(self, spec: TensorSpec) -> Any:
        from onnx import TensorProto, helper

        kind = TensorProto.DOUBLE if self.dtype == np.float64 else TensorProto.FLOAT
        return helper.make_tensor_value_info(spec.name, kind, ["batch", *spec.shape])

    def add(self, op: str, inputs: Sequence[str], *, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its value."""
        from onnx import helper

        name = output or self._free(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{len(self.nodes)}", **attributes))
        return name

    def constant(self, values: Array | Index) -> str:
        """Add a constant and return its name; floats take the element type of the graph."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(values, dtype=self.dtype if values.dtype.kind == "f" else values.dtype)
        name = self._free("c")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _free(self, stem: str) -> str:
        number = len(self.nodes) + len(self.constants)
        while (name := f"{stem}_{number}") in self._used:
            number += 1
        self._used.add(name)
        return name

    # ---- nodes --------------------------------------------------------------------------------

    def _node(self, node: Node) -> str:
        sources = [self.names[t] for t in node.inputs]
        if isinstance(node, Affine):
            return self._affine(node, sources)
        if isinstance(node, Clip):
            raised = self.add("Max", [sources[0], self.constant(node.lower)])
            return self.add("Min", [raised, self.constant(node.upper)])
        if isinstance(node, Step):
            on = self.add("GreaterOrEqual", [sources[0], self.constant(np.zeros(1))])
            return self.add("Where", [on, self.constant(node.high), self.constant(node.low)])
        if isinstance(node, Round):
            return self._round(node, sources[0])
        if isinstance(node, Winner):
            shape = self.constant(np.array([-1, *node.groups.shape], dtype=np.int64))
            grouped = self.add("Reshape", [self._gather(sources[0], node.groups.ravel()), shape])
            return self.add("Flatten", [self.add("Hardmax", [grouped], axis=-1)], axis=1)
        if isinstance(node, Max):
            members = [self._gather(sources[0], column) for column in node.groups.T]
            return self.add("Max", members) if len(members) > 1 else members[0]
        if isinstance(node, Relu | Abs):
            return self.add("Relu" if isinstance(node, Relu) else "Abs", sources)
        if isinstance(node, Kink):
            return self._kink(node, sources[0])
        raise InputError(f"layer {node.name!r} is a {node.kind}, which has no ONNX writer")

    def _round(self, node: Round, source: str) -> str:
        """Write a rounding; limits that are the same for all neurons become a Clip, which is read back into it."""
        steps = source if (node.step == 1).all() else self.add("Div", [source, self.constant(node.step)])
        level = self.add({"even": "Round", "down": "Floor", "up": "Ceil"}[node.rule], [steps])
        if (node.low == node.low[0]).all() and (node.high == node.high[0]).all():
            ends = [self.constant(side[0]) if np.isfinite(side[0]) else "" for side in (node.low, node.high)]
            level = self.add("Clip", [level, *ends]) if any(ends) else level
        elif not (np.isfinite(node.low) & np.isfinite(node.high)).all():
            raise InputError(f"layer {node.name!r}: some roundings have limits and others have none; split the layer")
        else:
            level = self.add("Min", [self.add("Max", [level, self.constant(node.low)]), self.constant(node.high)])
        return level if (node.scale == 1).all() else self.add("Mul", [level, self.constant(node.scale)])

    def _affine(self, node: Affine, sources: Sequence[str]) -> str:
        if len(sources) == 1 and not isinstance(node.operators[0], Selection | Convolution):
            weight = self.constant(self._full(node, node.operators[0]))
            return self.add("Gemm", [sources[0], weight, self.constant(node.bias)], transB=1)
        parts = [self._apply(node, op, source) for op, source in zip(node.operators, sources, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = self.add("Add", [total, part])
        return self.add("Add", [total, self.constant(node.bias)]) if node.bias.any() else total

    def _apply(self, node: Affine, operator: LinearOperator, source: str) -> str:
        if isinstance(operator, Selection):
            return self._gather(source, operator.index)
        if isinstance(operator, Convolution):
            return self._convolution(operator, source)
        return self.add("MatMul", [source, self.constant(np.ascontiguousarray(self._full(node, operator).T))])

    def _full(self, node: Affine, operator: LinearOperator) -> Array:
        n_out, n_in = operator.shape
        if n_out * n_in > _LARGEST:
            raise InputError(f"layer {node.name!r} is a {n_out} x {n_in} matrix, too large for one ONNX file")
        return operator.csr().toarray() if isinstance(operator, Sparse) else operator.rows(np.arange(n_out))

    def _gather(self, source: str, index: Index) -> str:
        picked = self.add("Gather", [source, self.constant(np.maximum(index, 0).astype(np.int64))], axis=1)
        if (index >= 0).all():
            return picked
        return self.add("Mul", [picked, self.constant((index >= 0).astype(float))])

    def _convolution(self, operator: Convolution, source: str) -> str:
        channels = operator.kernel.shape[1] * operator.groups
        shape = self.constant(np.array([-1, channels, *operator.size], dtype=np.int64))
        image = self.add("Reshape", [source, shape])
        before, after = zip(*operator.pads, strict=True)
        done = self.add(
            "Conv",
            [image, self.constant(operator.kernel)],
            strides=list(operator.strides),
            dilations=list(operator.dilations),
            pads=[*before, *after],
            group=operator.groups,
        )
        return self.add("Flatten", [done], axis=1)

    def _kink(self, node: Kink, source: str) -> str:
        if (node.right == 1).all():
            return self.add("PRelu", [source, self.constant(node.left)])
        above = self.add("Mul", [self.add("Relu", [source]), self.constant(node.right)])
        below = self.add("Min", [source, self.constant(np.zeros(1))])
        return self.add("Add", [above, self.add("Mul", [below, self.constant(node.left)])])
