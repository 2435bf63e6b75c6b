"""One small ONNX model or more per standard operator, to put readers to the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_PLAIN, _SQUARE, _IMAGE = (1, 3), (1, 2, 3), (1, 2, 5, 6)


@dataclass(frozen=True, eq=False)
class OneOp:
    """A model around one operator.

    Attributes
    ----------
    nodes : tuple of (op_type, inputs, outputs, attributes)
        The first one is under test; names as in ``"x,w"``, the network's input is ``x``, its output ``y``.
    constants : mapping name -> array
    shape : tuple of int
        Full shape of ``x``.
    opset : int
    """

    nodes: tuple[tuple[str, str, str, Mapping[str, Any]], ...]
    constants: Mapping[str, np.ndarray]
    shape: tuple[int, ...]
    opset: int = 17

    @property
    def label(self) -> str:
        """The operator with its attributes, for messages."""
        op, inputs, _, attributes = self.nodes[0]
        return f"{op}({inputs}; {', '.join(f'{k}={v}' for k, v in attributes.items())}) at opset {self.opset}"

    def model(self, computed: str | None = None) -> Any:
        """Return the onnx.ModelProto; the constant `computed` becomes a second input of the network."""
        from onnx import TensorProto, helper, numpy_helper

        kind = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
        nodes = [
            helper.make_node(op, inputs.split(",") if inputs else [], outputs.split(","), **attributes)
            for op, inputs, outputs, attributes in self.nodes
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        if computed is not None:
            value = self.constants[computed]
            inputs.append(helper.make_tensor_value_info(computed, kind[value.dtype.kind], value.shape))
        constants = [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k != computed]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph(nodes, "one_op", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


@dataclass(eq=False)
class _Book:
    """Collects the models; `add` takes them in one line each."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(8))
    models: list[OneOp] = field(default_factory=list)

    def f(self, *shape: int) -> np.ndarray:
        """Return random float32 numbers."""
        return np.asarray(self.random.normal(size=shape), np.float32)

    def add(
        self,
        op: str,
        inputs: str = "x",
        constants: Mapping[str, Any] | None = None,
        *,
        shape: tuple[int, ...] = _PLAIN,
        opset: int = 17,
        outputs: str = "y",
        then: tuple[tuple[str, str, str, Mapping[str, Any]], ...] = (),
        **attributes: Any,
    ) -> None:
        """Add a model of one node, or of one node and others behind it."""
        arrays = {k: np.asarray(v) for k, v in (constants or {}).items()}
        self.models.append(OneOp(((op, inputs, outputs, attributes), *then), arrays, shape, opset))


def models_of(op_type: str) -> list[OneOp]:
    """Return the models that test a standard operator, none if the kit knows none."""
    book = _Book()
    for chapter in (_elementwise, _jumps, _linear, _windows, _shapes, _reductions):
        chapter(book)
    return [m for m in book.models if m.nodes[0][0] == op_type]


def _elementwise(b: _Book) -> None:
    for op in ("Relu", "LeakyRelu", "Abs", "HardSigmoid", "Identity", "Neg", "Dropout"):
        b.add(op)
        b.add(op, shape=_SQUARE, opset=14)
    for alpha in (0.3, -0.5, 1.5, 0.0):
        b.add("LeakyRelu", alpha=alpha)
    b.add("HardSigmoid", alpha=0.4, beta=0.3)
    for slope in (b.f(1), b.f(2, 1), b.f(1, 2, 3)):
        b.add("PRelu", "x,s", {"s": slope}, shape=_SQUARE)
    number = np.float32
    b.add("Clip", "x,l,u", {"l": number(-0.5), "u": number(1)})
    b.add("Clip", "x,l", {"l": number(-0.5)})
    b.add("Clip", "x,l", {"l": number(0)})
    b.add("Clip", "x,,u", {"u": number(0.7)})
    b.add("Clip", "x,l,u", {"l": number(1), "u": number(-1)})
    b.add("Clip")
    b.add("Clip", opset=10, min=-0.5, max=0.5)
    b.add("Dropout", "x,r,t", {"r": number(0.5), "t": np.array(False)})
    b.add("Cast", to=1)
    b.add("CastLike", "x,c", {"c": b.f(1)})
    for op in ("Add", "Sub", "Mul", "Div"):
        b.add(op, "x,c", {"c": np.abs(b.f(3)) + 1})
        b.add(op, "x,c", {"c": np.abs(b.f(2, 1)) + 1}, shape=_SQUARE)
        b.add(op, "x,c", {"c": number(-2)}, shape=_SQUARE, opset=13)
    b.add("Add", "x,x")
    b.add("Sub", "c,x", {"c": b.f(3)})
    for op in ("Sum", "Mean", "Max", "Min"):
        b.add(op, "x,c,d", {"c": b.f(3), "d": b.f(2, 1)}, shape=_SQUARE)
        b.add(op, "x")
    b.add("Where", "c,x,d", {"c": np.array([True, False, True]), "d": b.f(2, 3)}, shape=_SQUARE)


def _jumps(b: _Book) -> None:
    number = np.float32
    for op in ("Round", "Floor", "Ceil", "Sign"):
        b.add(op)
        b.add(op, shape=_SQUARE, opset=14)
    to_float = (("Cast", "b", "y", {"to": 1}),)
    for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        b.add(op, "x,c", {"c": b.f(3)}, outputs="b", then=to_float)
        b.add(op, "c,x", {"c": b.f(2, 1)}, shape=_SQUARE, outputs="b", then=to_float, opset=13)
    for op in ("ArgMax", "ArgMin"):
        b.add(op, shape=_SQUARE, outputs="b", then=to_float, axis=1, keepdims=0)
        b.add(op, shape=_SQUARE, outputs="b", then=to_float, axis=-1, select_last_index=1)
    b.add("Hardmax", shape=_SQUARE)
    b.add("Hardmax", shape=_SQUARE, axis=1, opset=11)
    back = (("DequantizeLinear", "q,s,z", "y", dict[str, Any]()),)
    b.add("QuantizeLinear", "x,s,z", {"s": number(0.25), "z": np.uint8(9)}, outputs="q", then=back)
    b.add(
        "QuantizeLinear",
        "x,s,z",
        {"s": b.f(3) ** 2 + number(0.1), "z": np.array([0, 1, -3], np.int8)},
        outputs="q",
        then=((*back[0][:3], {"axis": 1}),),
        axis=1,
    )


def _linear(b: _Book) -> None:
    b.add("Gemm", "x,w,c", {"w": b.f(3, 4), "c": b.f(4)})
    b.add("Gemm", "x,w", {"w": b.f(3, 4)}, opset=13)
    b.add("Gemm", "x,w,c", {"w": b.f(4, 3), "c": b.f(1, 4)}, alpha=2.0, beta=0.5, transB=1)
    b.add("Gemm", "x,w", {"w": b.f(5, 4)}, shape=(5, 3), transA=1)
    b.add("MatMul", "x,w", {"w": b.f(3, 4)})
    b.add("MatMul", "x,w", {"w": b.f(3, 4)}, shape=_SQUARE)
    b.add("MatMul", "w,x", {"w": b.f(4, 2)}, shape=_SQUARE)
    b.add("MatMul", "x,w", {"w": b.f(3)}, shape=_SQUARE)
    b.add("Conv", "x,k,c", {"k": b.f(3, 2, 3, 3), "c": b.f(3)}, shape=_IMAGE)
    b.add(
        "Conv",
        "x,k",
        {"k": b.f(4, 1, 3, 2)},
        shape=_IMAGE,
        pads=[1, 0, 2, 1],
        strides=[2, 1],
        dilations=[1, 2],
        group=2,
    )
    b.add("Conv", "x,k", {"k": b.f(1, 2, 2, 3)}, shape=_IMAGE, auto_pad="SAME_UPPER", strides=[2, 2])
    b.add("Conv", "x,k", {"k": b.f(3, 2, 3)}, shape=(1, 2, 9), pads=[2, 0], strides=[2])
    bn = {"s": b.f(2), "c": b.f(2), "m": b.f(2), "v": np.abs(b.f(2)) + np.float32(0.1)}
    b.add("BatchNormalization", "x,s,c,m,v", bn, shape=_IMAGE)
    b.add("BatchNormalization", "x,s,c,m,v", bn, shape=(1, 2), epsilon=0.1, opset=15)


def _windows(b: _Book) -> None:
    for op in ("MaxPool", "AveragePool"):
        b.add(op, shape=_IMAGE, kernel_shape=[2, 3])
        b.add(op, shape=_IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
        b.add(op, shape=_IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, opset=19)
        b.add(op, shape=(1, 2, 9), kernel_shape=[3])
    b.add("MaxPool", shape=_IMAGE, kernel_shape=[2, 2], dilations=[2, 3])
    b.add("AveragePool", shape=_IMAGE, kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1)
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        b.add(op, shape=_IMAGE)


def _shapes(b: _Book) -> None:
    i = np.array
    b.add("Flatten", shape=_IMAGE)
    b.add("Flatten", shape=_SQUARE, axis=-1)
    b.add("Reshape", "x,s", {"s": i([0, -1])}, shape=_IMAGE)
    b.add("Reshape", "x,s", {"s": i([-1, 3, 2, 10])}, shape=_IMAGE)
    b.add("Transpose", shape=_SQUARE, perm=[0, 2, 1])
    b.add("Transpose", shape=_SQUARE)
    b.add("Squeeze", "x,a", {"a": i([1])}, shape=(1, 1, 3))
    b.add("Unsqueeze", "x,a", {"a": i([1, -1])})
    b.add("Expand", "x,s", {"s": i([2, 1, 3])}, shape=(2, 1))
    b.add("Tile", "x,r", {"r": i([1, 2, 3])}, shape=_SQUARE)
    b.add("Slice", "x,s,e,a,t", {"s": i([-1, 0]), "e": i([-9, 2]), "a": i([2, 1]), "t": i([-2, 1])}, shape=_SQUARE)
    b.add("Slice", "x,s,e", {"s": i([0, 1]), "e": i([1, 2])}, shape=_SQUARE)
    b.add("Gather", "x,i", {"i": i([2, 0, -1])}, shape=_SQUARE, axis=2)
    b.add("Gather", "x,i", {"i": i(1)}, shape=_SQUARE, axis=1)
    join = (("Concat", "q,p", "y", {"axis": 1}),)
    b.add("Split", "x,s", {"s": i([1, 2])}, outputs="p,q", then=join, axis=1)
    b.add("Concat", "x,c,x", {"c": b.f(1, 2)}, axis=1)
    b.add("Concat", "x,x", shape=_SQUARE, axis=-2)
    b.add("Pad", "x,p,v", {"p": i([0, 1, 2, 0, 0, 1]), "v": np.float32(1.5)}, shape=_SQUARE)
    b.add("Pad", "x,p", {"p": i([0, 1, 2, 0, 0, 1])}, shape=_SQUARE, mode="reflect")
    b.add("Shape", "x", outputs="s", then=(("Reshape", "x,s", "y", {}),), shape=_SQUARE)
    vector = ("Reshape", "n,one", "s", dict[str, Any]())
    b.add("Size", "x", {"one": i([1])}, outputs="n", then=(vector, ("Reshape", "x,s", "y", {})), shape=_SQUARE)
    b.add("Constant", "", outputs="c", then=(("Add", "x,c", "y", {}),), value_floats=[1.0, -2.0, 0.5])


def _reductions(b: _Book) -> None:
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
        b.add(op, "x,a", {"a": np.array([1])}, shape=_SQUARE, opset=18, keepdims=0)
        b.add(op, "x,a", {"a": np.array([-1, 1])}, shape=_SQUARE, opset=18)
        b.add(op, "x", opset=18, noop_with_empty_axes=1)
        b.add(op, "x", shape=(1, 4), opset=18)
