"""One small model per operator and attribute, against onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnembed.errors import ModelFileError, UnsupportedOperators
from nnembed.readers import load

R = np.random.default_rng(3)


def f(*shape):
    return R.normal(size=shape).astype(np.float32)


def i(*values):
    return np.array(values, dtype=np.int64)


def node(op, inputs="x", outputs="y", **attributes):
    return (op, inputs.split(",") if inputs else [], outputs.split(","), attributes)


IMAGE = {"x": ["N", 2, 5, 6]}
SQUARE = {"x": [1, 2, 3]}
BN = {"s": f(2), "b": f(2), "m": f(2), "v": np.abs(f(2))}

# name: (nodes, constants, inputs, opset)
GRID = {
    "gemm": ([node("Gemm", "x,w,b")], {"w": f(3, 4), "b": f(4)}, None, 17),
    "gemm no bias": ([node("Gemm", "x,w")], {"w": f(3, 4)}, None, 13),
    "gemm attributes": ([node("Gemm", "x,w,b", alpha=2.0, beta=0.5, transB=1)], {"w": f(4, 3), "b": f(1, 4)}, None, 17),
    "gemm scalar bias": ([node("Gemm", "x,w,b")], {"w": f(3, 4), "b": f()}, None, 17),
    "gemm rows": ([node("Gemm", "x,w,b")], {"w": f(3, 4), "b": f(5, 1)}, {"x": [5, 3]}, 17),
    "gemm trans a": ([node("Gemm", "x,w,b", transA=1)], {"w": f(5, 4), "b": f(4)}, {"x": [5, 3]}, 17),
    "gemm constant a": ([node("Gemm", "w,x,b", alpha=-1.0)], {"w": f(4, 5), "b": f(4, 3)}, {"x": [5, 3]}, 17),
    "gemm constant a trans": ([node("Gemm", "w,x", transA=1, transB=1)], {"w": f(5, 4)}, {"x": [3, 5]}, 17),
    "gemm symbolic c": ([node("Gemm", "x,w,x", beta=3.0)], {"w": f(3, 3)}, None, 17),
    "gemm opset 6": ([node("Gemm", "x,w,b", broadcast=1)], {"w": f(3, 4), "b": f(4)}, None, 6),
    "matmul": ([node("MatMul", "x,w")], {"w": f(3, 4)}, None, 17),
    "matmul left": ([node("MatMul", "w,x")], {"w": f(4, 2)}, SQUARE, 17),
    "matmul rows": ([node("MatMul", "x,w")], {"w": f(3, 4)}, SQUARE, 17),
    "matmul batched": ([node("MatMul", "x,w")], {"w": f(2, 3, 4)}, {"x": [2, 5, 3]}, 17),
    "matmul batched left": ([node("MatMul", "w,x")], {"w": f(3, 1, 4, 5)}, {"x": [2, 5, 3]}, 17),
    "matmul vector": ([node("MatMul", "x,w")], {"w": f(3)}, SQUARE, 17),
    "matmul by vector": ([node("MatMul", "w,x")], {"w": f(2)}, SQUARE, 17),
    "matmul of vector": ([node("MatMul", "x,w")], {"w": f(3, 4)}, {"x": [3]}, 17),
    "add": ([node("Add", "x,b")], {"b": f(3)}, None, 17),
    "add wider constant": ([node("Add", "b,x")], {"b": f(4, 1, 3)}, {"x": [1, 3]}, 17),
    "add itself": ([node("Add", "x,x")], {}, None, 17),
    "sub": ([node("Sub", "x,b")], {"b": f(1, 3)}, None, 17),
    "sub from": ([node("Sub", "b,x")], {"b": f(3)}, None, 17),
    "mul": ([node("Mul", "b,x")], {"b": f(2, 1)}, SQUARE, 17),
    "mul wider": ([node("Mul", "x,b")], {"b": f(4, 1, 3)}, {"x": [1, 3]}, 17),
    "mul zero": ([node("Mul", "x,b")], {"b": np.float32(0.0)}, None, 17),
    "div": ([node("Div", "x,b")], {"b": np.abs(f(3)) + 1}, None, 17),
    "sum": ([node("Sum", "x,b,x")], {"b": f(3)}, None, 17),
    "mean": ([node("Mean", "x,b,x")], {"b": f(2, 3)}, SQUARE, 17),
    "neg": ([node("Neg")], {}, None, 17),
    "where": ([node("Where", "c,x,b")], {"c": np.array([True, False, True]), "b": f(2, 3)}, SQUARE, 17),
    "relu": ([node("Relu")], {}, None, 17),
    "leaky default": ([node("LeakyRelu")], {}, None, 17),
    "leaky": ([node("LeakyRelu", alpha=0.3)], {}, None, 17),
    "leaky negative": ([node("LeakyRelu", alpha=-0.5)], {}, None, 17),
    "leaky steep": ([node("LeakyRelu", alpha=1.5)], {}, None, 17),
    "prelu": ([node("PRelu", "x,a")], {"a": f(2, 1)}, SQUARE, 17),
    "prelu scalar": ([node("PRelu", "x,a")], {"a": f(1)}, SQUARE, 9),
    "prelu entries": ([node("PRelu", "x,a")], {"a": f(1, 2, 3)}, SQUARE, 17),
    "abs": ([node("Abs")], {}, None, 17),
    "hard sigmoid": ([node("HardSigmoid")], {}, None, 17),
    "hard sigmoid attributes": ([node("HardSigmoid", alpha=0.4, beta=0.3)], {}, None, 17),
    "clip": ([node("Clip", "x,l,u")], {"l": np.float32(-0.5), "u": np.float32(1.0)}, None, 17),
    "clip lower": ([node("Clip", "x,l")], {"l": np.float32(-0.5)}, None, 17),
    "clip lower zero": ([node("Clip", "x,l,")], {"l": np.float32(0)}, None, 17),
    "clip upper": ([node("Clip", "x,,u")], {"u": np.float32(0.7)}, None, 17),
    "clip nothing": ([node("Clip", "x")], {}, None, 17),
    "clip crossed": ([node("Clip", "x,l,u")], {"l": np.float32(1.0), "u": np.float32(-1.0)}, None, 17),
    "clip infinite": ([node("Clip", "x,l,u")], {"l": np.float32(-np.inf), "u": np.float32(1)}, None, 13),
    "clip opset 6": ([node("Clip", min=-0.5, max=0.5)], {}, None, 7),
    "clip opset 6 default": ([node("Clip", min=0.0)], {}, None, 10),
    "conv": ([node("Conv", "x,k,b")], {"k": f(3, 2, 3, 3), "b": f(3)}, IMAGE, 17),
    "conv 1x1": ([node("Conv", "x,k")], {"k": f(3, 2, 1, 1)}, IMAGE, 17),
    "conv all": (
        [node("Conv", "x,k,b", pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2], group=2, kernel_shape=[3, 2])],
        {"k": f(4, 1, 3, 2), "b": f(4)},
        IMAGE,
        17,
    ),
    "conv whole image": ([node("Conv", "x,k")], {"k": f(3, 2, 5, 6)}, IMAGE, 17),
    "conv same upper": ([node("Conv", "x,k", auto_pad="SAME_UPPER", strides=[2, 2])], {"k": f(1, 2, 2, 3)}, IMAGE, 17),
    "conv same lower": ([node("Conv", "x,k", auto_pad="SAME_LOWER", strides=[2, 2])], {"k": f(1, 2, 2, 3)}, IMAGE, 17),
    "conv valid": ([node("Conv", "x,k", auto_pad="VALID")], {"k": f(1, 2, 2, 3)}, IMAGE, 17),
    "conv 1d": (
        [node("Conv", "x,k,b", pads=[2, 0], strides=[2])],
        {"k": f(3, 2, 3), "b": f(3)},
        {"x": ["N", 2, 9]},
        11,
    ),
    "conv 3d": ([node("Conv", "x,k", pads=[1] * 6)], {"k": f(2, 1, 2, 2, 3)}, {"x": [1, 1, 3, 4, 4]}, 11),
    "conv several images": ([node("Conv", "x,k,b")], {"k": f(3, 2, 3, 3), "b": f(3)}, {"x": [4, 2, 5, 6]}, 17),
    "max pool": ([node("MaxPool", kernel_shape=[2, 3])], {}, IMAGE, 17),
    "max pool pads": ([node("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])], {}, IMAGE, 17),
    "max pool ceil": ([node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, IMAGE, 17),
    "max pool ceil pads": (
        [node("MaxPool", kernel_shape=[2, 2], strides=[3, 3], pads=[1] * 4, ceil_mode=1)],
        {},
        IMAGE,
        17,
    ),
    "max pool dilations": ([node("MaxPool", kernel_shape=[2, 2], dilations=[2, 3])], {}, IMAGE, 17),
    "max pool same": ([node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER")], {}, IMAGE, 17),
    "max pool 1d": ([node("MaxPool", kernel_shape=[3])], {}, {"x": ["N", 2, 9]}, 17),
    "max pool 3d": ([node("MaxPool", kernel_shape=[2, 2, 2])], {}, {"x": [1, 1, 3, 4, 4]}, 17),
    "max pool 1x1": ([node("MaxPool", kernel_shape=[1, 1], strides=[2, 2])], {}, IMAGE, 17),
    "avg pool": ([node("AveragePool", kernel_shape=[2, 3])], {}, IMAGE, 17),
    "avg pool pads": ([node("AveragePool", kernel_shape=[3, 3], pads=[1, 0, 1, 2])], {}, IMAGE, 17),
    "avg pool count": (
        [node("AveragePool", kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1)],
        {},
        IMAGE,
        17,
    ),
    "avg pool ceil": ([node("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, IMAGE, 19),
    "avg pool ceil count": (
        [node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1, count_include_pad=1)],
        {},
        {"x": ["N", 2, 6, 8]},
        19,
    ),
    "avg pool dilations": ([node("AveragePool", kernel_shape=[2, 2], dilations=[2, 2])], {}, IMAGE, 19),
    "avg pool same": ([node("AveragePool", kernel_shape=[2, 2], auto_pad="SAME_UPPER")], {}, IMAGE, 17),
    "global average": ([node("GlobalAveragePool")], {}, IMAGE, 17),
    "global max": ([node("GlobalMaxPool")], {}, IMAGE, 17),
    "batch norm": ([node("BatchNormalization", "x,s,b,m,v")], BN, IMAGE, 17),
    "batch norm epsilon": ([node("BatchNormalization", "x,s,b,m,v", epsilon=0.1)], BN, IMAGE, 13),
    "batch norm opset 7": ([node("BatchNormalization", "x,s,b,m,v")], BN, IMAGE, 7),
    "batch norm flat": ([node("BatchNormalization", "x,s,b,m,v")], BN, {"x": ["N", 2]}, 15),
    "flatten": ([node("Flatten")], {}, IMAGE, 17),
    "flatten axis": ([node("Flatten", axis=2)], {}, {"x": [1, 2, 5, 6]}, 17),
    "flatten negative": ([node("Flatten", axis=-1)], {}, SQUARE, 17),
    "flatten zero": ([node("Flatten", axis=0)], {}, {"x": [1, 2, 3]}, 17),
    "reshape": ([node("Reshape", "x,s")], {"s": i(0, -1)}, IMAGE, 17),
    "reshape more": ([node("Reshape", "x,s")], {"s": i(-1, 3, 2, 10)}, IMAGE, 17),
    "transpose": ([node("Transpose", perm=[0, 2, 1])], {}, SQUARE, 17),
    "transpose default": ([node("Transpose")], {}, SQUARE, 17),
    "squeeze": ([node("Squeeze", "x,a")], {"a": i(1)}, {"x": ["N", 1, 3]}, 17),
    "squeeze attribute": ([node("Squeeze", axes=[1])], {}, {"x": ["N", 1, 3]}, 11),
    "unsqueeze": ([node("Unsqueeze", "x,a")], {"a": i(1, -1)}, None, 17),
    "unsqueeze attribute": ([node("Unsqueeze", axes=[0, 2])], {}, {"x": [1, 3]}, 11),
    "concat": ([node("Concat", "x,b,x", axis=1)], {"b": f(1, 2)}, {"x": [1, 3]}, 17),
    "concat negative": ([node("Concat", "x,x", axis=-2)], {}, SQUARE, 17),
    "slice": ([node("Slice", "x,s,e,a,t")], {"s": i(-1, 0), "e": i(-9, 2), "a": i(2, 1), "t": i(-2, 1)}, SQUARE, 17),
    "slice attributes": ([node("Slice", starts=[0, 1], ends=[2, 99], axes=[1, 2])], {}, SQUARE, 9),
    "slice default": ([node("Slice", "x,s,e")], {"s": i(0, 1), "e": i(1, 2)}, {"x": [1, 2, 3]}, 17),
    "gather": ([node("Gather", "x,i", axis=2)], {"i": i(2, 0, -1)}, SQUARE, 17),
    "gather scalar": ([node("Gather", "x,i", axis=1)], {"i": np.int64(1)}, SQUARE, 17),
    "gather matrix": ([node("Gather", "x,i", axis=2)], {"i": np.array([[0, 1], [2, 2]])}, SQUARE, 17),
    "pad": ([node("Pad", "x,p,v")], {"p": i(0, 1, 2, 0, 0, 1), "v": np.float32(1.5)}, SQUARE, 17),
    "pad negative": ([node("Pad", "x,p")], {"p": i(0, -1, 2, 0, 0, -1)}, SQUARE, 17),
    "pad attribute": ([node("Pad", pads=[0, 1, 0, 0, 0, 1], value=2.0)], {}, SQUARE, 10),
    "pad axes": ([node("Pad", "x,p,,a")], {"p": i(1, 2), "a": i(-1)}, SQUARE, 18),
    "pad reflect": ([node("Pad", "x,p", mode="reflect")], {"p": i(0, 1, 2, 0, 0, 1)}, SQUARE, 17),
    "pad edge": ([node("Pad", "x,p", mode="edge")], {"p": i(0, 3, 2, 0, 0, 1)}, SQUARE, 17),
    "pad wrap": ([node("Pad", "x,p", mode="wrap")], {"p": i(0, 1, 2, 0, 0, 1)}, SQUARE, 19),
    "expand": ([node("Expand", "x,s")], {"s": i(2, 1, 3)}, {"x": [2, 1]}, 17),
    "tile": ([node("Tile", "x,r")], {"r": i(1, 2, 3)}, SQUARE, 17),
    "reduce sum": ([node("ReduceSum", "x,a", keepdims=0)], {"a": i(1)}, SQUARE, 17),
    "reduce sum attribute": ([node("ReduceSum", axes=[-1])], {}, SQUARE, 11),
    "reduce sum all": ([node("ReduceSum", "x")], {}, {"x": [1, 4]}, 17),
    "reduce sum noop": ([node("ReduceSum", "x", noop_with_empty_axes=1)], {}, SQUARE, 17),
    "reduce mean": ([node("ReduceMean", axes=[1, 2])], {}, SQUARE, 17),
    "reduce mean input": ([node("ReduceMean", "x,a", keepdims=0)], {"a": i(-1)}, SQUARE, 18),
    "reduce max": ([node("ReduceMax", axes=[2])], {}, SQUARE, 17),
    "reduce min": ([node("ReduceMin", axes=[1], keepdims=0)], {}, SQUARE, 17),
    "max constants": ([node("Max", "x,b")], {"b": f(2, 3)}, SQUARE, 17),
    "max zero": ([node("Max", "z,x")], {"z": np.float32(0)}, SQUARE, 17),
    "min constants": ([node("Min", "x,b,c")], {"b": f(3), "c": f(2, 1)}, SQUARE, 17),
    "max wider": ([node("Max", "x,b")], {"b": f(4, 1, 3)}, {"x": [1, 3]}, 17),
    "identity": ([node("Identity")], {}, None, 17),
    "dropout": ([node("Dropout")], {}, None, 17),
    "dropout ratio": ([node("Dropout", "x,r,t")], {"r": np.float32(0.5), "t": np.array(False)}, None, 17),
    "dropout opset 7": ([node("Dropout", ratio=0.4)], {}, None, 7),
}


@pytest.mark.parametrize("case", GRID)
def test_grid(zoo, case):
    nodes, constants, inputs, opset = GRID[case]
    if opset < 7:
        net = load(zoo.model(nodes, constants, inputs, opset=opset))
        assert net.reference.name.startswith("onnx")
        return
    zoo.agrees(zoo.model(nodes, constants, inputs, opset=opset))


@pytest.mark.parametrize("case", [c for c in GRID if GRID[c][2] is None or "x" in (GRID[c][2] or {})][::2])
def test_between_layers(zoo, case):
    """The same operators after a ReLU and before another affine map, so that merging is put to the test."""
    nodes, constants, inputs, opset = GRID[case]
    if opset < 7:
        pytest.skip("onnxruntime starts at opset 7")
    inputs = inputs or {"x": ["N", 3]}
    inner = [(op, ["h_in" if n == "x" else n for n in ins], ["h_out"], attributes) for op, ins, _, attributes in nodes]
    before = [node("Mul", "x,two", "h_0"), node("Relu", "h_0", "h_1"), node("Sub", "h_1,two", "h_in")]
    after = [node("Add", "h_out,two", "h_2"), node("Relu", "h_2", "h_3"), node("Neg", "h_3", "y")]
    zoo.agrees(zoo.model([*before, *inner, *after], {**constants, "two": np.float32(2.0)}, inputs, opset=opset))


def test_broadcasting_before_opset_7(zoo):
    shift = f(2)
    model = zoo.model([node("Add", "x,b", broadcast=1, axis=1)], {"b": shift}, SQUARE, opset=6)
    net = load(model, check=False)
    x = f(2, 3)
    np.testing.assert_allclose(net(x), x + shift[:, None])
    with pytest.raises(ModelFileError, match="check=False"):  # no runtime here does this old form
        load(model)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("sizes", [None, (2, 4), (1, 5)])
def test_split(zoo, opset, sizes):
    attributes, constants, inputs = {"axis": 1}, {}, "x"
    if sizes and opset < 13:
        attributes["split"] = list(sizes)
    elif sizes:
        constants, inputs = {"s": i(*sizes)}, "x,s"
    elif opset >= 18:
        attributes["num_outputs"] = 2
    zoo.agrees(
        zoo.model([node("Split", inputs, "y,z", **attributes)], constants, {"x": ["N", 6]}, ("y", "z"), opset=opset)
    )


def test_uneven_split(zoo):
    zoo.agrees(
        zoo.model([node("Split", "x", "y,z,w", axis=1, num_outputs=3)], {}, {"x": ["N", 7]}, ("y", "z", "w"), opset=18)
    )


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_several_tensors(zoo, op):
    shapes = {"x": [2, 3], "z": [3], "w": [2, 1]}
    zoo.agrees(zoo.model([node(op, "x,z,b,w")], {"b": f(2, 3)}, shapes))
    zoo.agrees(zoo.model([node(op, "x,x,z")], {}, {"x": [2, 3], "z": [3]}))


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_two_tensors(zoo, op):
    zoo.agrees(zoo.model([node(op, "x,z")], {}, {"x": [2, 1, 3], "z": [4, 1]}))


def test_concat_of_inputs_and_constants(zoo):
    zoo.agrees(zoo.model([node("Concat", "x,b,z", axis=0)], {"b": f(2, 3)}, {"x": [2, 3], "z": [4, 3]}))


def test_shape_arithmetic_folds(zoo):
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s,zero", "n"),
        node("Unsqueeze", "n,first", "u"),
        node("Concat", "u,minus", "t", axis=0),
        node("Reshape", "x,t", "r"),
        node("Shape", "x", "tail", start=1, end=-1),
        node("ConstantOfShape", "tail", "ones", value=numpy_helper.from_array(np.array([2.5], np.float32))),
        node("Unsqueeze", "ones,first", "wide"),
        node("Mul", "x,wide", "m"),
        node("Reshape", "m,t", "q"),
        node("Add", "r,q", "y"),
    ]
    constants = {"zero": np.int64(0), "first": i(0), "minus": i(-1)}
    net = zoo.agrees(zoo.model(nodes, constants, {"x": ["N", 4, 4]}, opset=15))
    assert len(net.nodes) == 1


def test_any_standard_operator_folds(zoo):
    nodes = [
        node("Range", "a,b,c", "r"),
        node("Cast", "r", "g", to=TensorProto.FLOAT),
        node("Exp", "g", "e"),
        node("Equal", "r,two", "q"),
        node("Where", "q,e,g", "w"),
        node("Floor", "w", "v"),
        node("Mul", "x,v", "y"),
    ]
    constants = {"a": np.int64(1), "b": np.int64(4), "c": np.int64(1), "two": np.int64(2)}
    zoo.agrees(zoo.model(nodes, constants))


def test_integer_division_truncates(zoo):
    nodes = [
        node("Shape", "x", "s"),
        node("Div", "s,d", "q"),
        node("Slice", "q,from,to", "c"),
        node("Concat", "c,minus", "t", axis=0),
        node("Reshape", "x,t", "y"),
    ]
    constants = {"d": i(1, 4, 4), "from": i(1), "to": i(2), "minus": i(-1)}
    zoo.agrees(zoo.model(nodes, constants, {"x": [1, 7, 6]}, opset=13))


def test_constant_forms(zoo):
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1.5], np.float32), "v"), numpy_helper.from_array(i(2), "v_i"), [3]
    )
    nodes = [
        node("Constant", "", "a", value_float=1.5),
        node("Constant", "", "b", value_floats=[1.0, 2.0, 3.0]),
        node("Constant", "", "c", value=numpy_helper.from_array(f(3))),
        node("Constant", "", "d", value_ints=[0, 3]),
        node("Constant", "", "e", value_int=1),
        node("Constant", "", "s", sparse_value=sparse),
        node("Unsqueeze", "e,e1", "e2"),
        node("Sum", "x,a,b,c,s", "t"),
        node("Reshape", "t,d", "u"),
        node("Gather", "u,e", "y", axis=1),
    ]
    zoo.agrees(zoo.model(nodes[:6] + nodes[7:]))


@pytest.mark.parametrize("to", [TensorProto.DOUBLE, TensorProto.FLOAT])
def test_cast(zoo, to):
    zoo.agrees(zoo.model([node("Cast", "x", "y", to=to)]))


def test_integer_input(zoo):
    nodes = [node("Reshape", "x,s", "r"), node("Cast", "r", "h", to=TensorProto.FLOAT), node("Relu", "h", "y")]
    net = zoo.agrees(zoo.model(nodes, {"s": i(0, 1, -1)}, {"x": (["N", 3], TensorProto.INT64)}))
    assert net.inputs[0].dtype == "int64"


@pytest.mark.parametrize("width", [np.float16, np.float64])
def test_other_widths(zoo, width):
    kind = {np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}[width]
    model = zoo.model(
        [node("Gemm", "x,w,b", "h"), node("Relu", "h", "y")],
        {"w": f(3, 4).astype(width), "b": f(4).astype(width)},
        {"x": (["N", 3], kind)},
    )
    zoo.agrees(model, tolerance=2e-2 if width is np.float16 else 1e-9)


def test_bfloat16():
    import ml_dtypes

    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["N", 2])],
        [numpy_helper.from_array(rng.normal(size=(3, 2)).astype(ml_dtypes.bfloat16), "w")],
    )
    net = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert net.inputs[0].dtype == "bfloat16"


def test_scaler_of_another_domain_is_refused(zoo):
    model = zoo.model([helper.make_node("Mystery", ["x"], ["y"], domain="com.example")], domains=(("com.example", 1),))
    with pytest.raises(UnsupportedOperators, match=r"com\.example"):
        load(model)
