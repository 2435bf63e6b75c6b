"""The graphs on which other packages fail: every piecewise-linear one is read right."""

import numpy as np
import pytest
from onnx import numpy_helper

from nnembed.readers import load

R = np.random.default_rng(0)


def f(*shape):
    return R.normal(size=shape).astype(np.float32)


def node(op, inputs="x", outputs="y", **attributes):
    return (op, inputs.split(",") if inputs else [], outputs.split(","), attributes)


BASE = {"w1": f(3, 4), "b1": f(4), "w2": f(4, 2), "b2": f(2)}
HEAD, TAIL = [node("Gemm", "x,w1,b1", "h")], [node("Relu", "h", "r"), node("Gemm", "r,w2,b2", "y")]
CONV = {"k": f(2, 1, 3, 3), "cb": f(2), "fw": f(8, 2)}
END = [node("Flatten", "r", "q"), node("Gemm", "q,fw", "y")]
SHAPE = numpy_helper.from_array(np.array([-1, 8]))


def activation(op, inputs="h", **attributes):
    return [*HEAD, node(op, inputs, "r", **attributes), TAIL[1]]


def conv(inputs="x,k,cb", **attributes):
    return [node("Conv", inputs, "h", **attributes), node("Relu", "h", "r")]


ROWS = {
    "all attributes": [node("Gemm", "x,w1t,b1", "h", alpha=1.0, beta=1.0, transA=0, transB=1), *TAIL],
    "default attributes": [*HEAD, *TAIL],
    "alpha and beta": [node("Gemm", "x,w1,b1", "h", alpha=2.0, beta=0.5), *TAIL],
    "gemm without bias": [node("Gemm", "x,w1", "h"), *TAIL],
    "matmul without add": [node("MatMul", "x,w1", "h"), *TAIL],
    "matmul and add (n,)": [node("MatMul", "x,w1", "a"), node("Add", "a,b1", "h"), *TAIL],
    "matmul and add (1,n)": [node("MatMul", "x,w1", "a"), node("Add", "row,a", "h"), *TAIL],
    "weights in constant nodes": [
        node("Constant", "", "w", value=numpy_helper.from_array(BASE["w1"])),
        node("Constant", "", "b", value=numpy_helper.from_array(BASE["b1"])),
        node("Gemm", "x,w,b", "h"),
        *TAIL,
    ],
    "bias through an identity": [node("Identity", "b1", "b"), node("Gemm", "x,w1,b", "h"), *TAIL],
    "relu first": [node("Relu", "x", "a"), node("Gemm", "a,w1,b1", "h"), *TAIL],
    "two relus": [*HEAD, node("Relu", "h", "a"), node("Relu", "a", "r"), TAIL[1]],
    "relu last": [*HEAD, TAIL[0], node("Gemm", "r,w2,b2", "o"), node("Relu", "o", "y")],
    "flatten": [node("Flatten", "x", "a"), node("Gemm", "a,w1,b1", "h"), *TAIL],
    "identity": [node("Identity", "x", "a"), node("Gemm", "a,w1,b1", "h"), *TAIL],
    "dropout": [*HEAD, TAIL[0], node("Dropout", "r", "d"), node("Gemm", "d,w2,b2", "y")],
    "leaky": activation("LeakyRelu", alpha=0.1),
    "prelu": activation("PRelu", "h,slope"),
    "clip": activation("Clip", "h,low,high"),
    "abs": activation("Abs"),
    "hard sigmoid": activation("HardSigmoid"),
    "normalisation in front": [node("Sub", "x,m", "a"), node("Div", "a,s", "c"), node("Gemm", "c,w1,b1", "h"), *TAIL],
    "scaling behind": [*HEAD, TAIL[0], node("Gemm", "r,w2", "o"), node("Mul", "o,b2", "p"), node("Add", "p,b2", "y")],
    "batch norm": [*HEAD, node("BatchNormalization", "h,b1,b1,b1,v", "n"), node("Relu", "n", "r"), TAIL[1]],
    "residual add": [
        *HEAD,
        TAIL[0],
        node("Gemm", "r,w3,b1", "e"),
        node("Add", "e,r", "g"),
        node("Gemm", "g,w2,b2", "y"),
    ],
    "concat": [*HEAD, TAIL[0], node("Concat", "r,x", "c", axis=1), node("Gemm", "c,w4", "y")],
}
IMAGES = {
    "conv": [*conv("x,k"), *END],
    "conv with bias": [*conv(), *END],
    "conv pads": [*conv(pads=[1] * 4, strides=[2, 2]), *END],
    "conv dilations": [*conv(pads=[2] * 4, dilations=[2, 2], strides=[2, 2]), *END],
    "conv reshape": [*conv(), node("Constant", "", "sh", value=SHAPE), node("Reshape", "r,sh", "q"), END[1]],
    "max pool": [*conv(pads=[1] * 4)[:1], node("MaxPool", "h", "r", kernel_shape=[2, 2], strides=[2, 2]), *END],
    "average pool": [*conv(pads=[1] * 4)[:1], node("AveragePool", "h", "r", kernel_shape=[2, 2], strides=[2, 2]), *END],
}
EXTRA = {
    **BASE,
    "w1t": np.ascontiguousarray(BASE["w1"].T),
    "row": BASE["b1"][None],
    "slope": f(4),
    "low": np.float32(0),
    "high": np.float32(6),
    "m": f(3),
    "s": np.abs(f(3)) + 1,
    "v": np.abs(f(4)),
    "w3": f(4, 4),
    "w4": f(7, 2),
}


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("row", [*ROWS, *IMAGES])
def test_row(zoo, row, batch):
    nodes = ROWS.get(row) or IMAGES[row]
    constants = EXTRA if row in ROWS else CONV
    used = {name for _, ins, _, _ in nodes for name in ins}
    inputs = {"x": [batch, 3] if row in ROWS else [batch, 1, 4, 4]}
    zoo.agrees(zoo.model(nodes, {k: v for k, v in constants.items() if k in used}, inputs, opset=13))


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Softplus", "Elu", "HardSwish", "Gelu"])
def test_smooth_ones_are_refused_by_name(zoo, op):
    with pytest.raises(ValueError, match=op):
        load(zoo.model([*HEAD, node(op, "h", "y")], {"w1": BASE["w1"], "b1": BASE["b1"]}, opset=20))
