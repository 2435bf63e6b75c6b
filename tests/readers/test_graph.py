"""Names, batch axes, inputs and outputs: what is not one operator."""

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnembed.ir.nodes import Affine
from nnembed.readers import load, survey

W = np.arange(12, dtype=np.float32).reshape(3, 4) / 5 - 1


def node(op, inputs="x", outputs="y", **attributes):
    return (op, inputs.split(",") if inputs else [], outputs.split(","), attributes)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["N", 3], (3,)),
        ([None, 3], (3,)),
        ([1, 3], (3,)),
        ([-1, 3], (3,)),
        ([5, 3], (5, 3)),
        ([3], (3,)),
        ([1], (1,)),
        ([], ()),
        ([1, 1, 1, 5], (1, 1, 5)),
        (["N", 1], (1,)),
    ],
)
def test_batch_axis(zoo, shape, expected):
    net = load(zoo.model([node("Relu")], inputs={"x": shape}))
    assert net.inputs[0].shape == expected
    assert net.outputs[0].shape == expected
    assert net(np.ones((7, *expected))).shape == (7, *expected)


def test_output_keeps_its_shape_without_batch_axis(zoo):
    net = load(zoo.model([node("Unsqueeze", "x,a")], {"a": np.array([0])}, {"x": [3]}))
    assert net.outputs[0].shape == (1, 3)


def test_unnamed_and_equally_named_nodes(zoo):
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"], name="same")]
    nodes += [helper.make_node("Relu", ["b"], ["c"], name="same"), helper.make_node("Abs", ["c"], ["y"], name="last")]
    net = load(zoo.model(nodes), check=False)  # onnxruntime wants unique names, the standard does not
    names = [n.name for n in net.nodes]
    assert len(set(names)) == len(names)
    assert "Relu_0" in names
    assert net.resolve("last") == "y"
    assert net.resolve("Relu_0") == "a"


def test_a_node_may_have_the_name_of_its_tensor_or_of_another(zoo):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="a"),
        helper.make_node("Split", ["a"], ["b", "c"], name="parts", axis=1),
        helper.make_node("Neg", ["b"], ["d"], name="c"),
        helper.make_node("Concat", ["d", "c"], ["y"], name="y", axis=1),
    ]
    net = zoo.agrees(zoo.model(nodes, inputs={"x": ["N", 4]}))
    names = [n.name for n in net.nodes]
    assert len(set(names)) == len(names)
    assert net.resolve("a") == "a"
    assert net.aliases.get("c") is None  # the tensor c is gone, and the node c is something else


def test_initializers_repeated_as_inputs(zoo):
    model = zoo.model([node("Gemm", "x,w,b", "h"), node("Relu", "h", "y")], {"w": W, "b": W[0]}, opset=8, ir_version=3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    assert [s.name for s in zoo.agrees(model).inputs] == ["x"]


def test_several_inputs_and_outputs(zoo):
    nodes = [node("Gemm", "x,w", "h"), node("Add", "h,z", "s"), node("Relu", "s", "y"), node("Sub", "s,h", "u")]
    model = zoo.model(nodes, {"w": W}, {"x": ["N", 3], "z": ["N", 4]}, ("y", "u"))
    net = zoo.agrees(model)
    assert [s.name for s in net.inputs] == ["x", "z"]
    assert set(net({"x": np.ones((2, 3)), "z": np.ones((2, 4))})) == {"y", "u"}


def test_input_straight_to_output(zoo):
    model = zoo.model([node("Relu"), node("Identity", "x", "same")], outputs=("y", "same"))
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]))
    net = load(model)
    out = net([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(out["same"], [-1, 0, 2])
    np.testing.assert_array_equal(out["x"], [-1, 0, 2])


def test_two_outputs_of_one_tensor(zoo):
    nodes = [node("Relu", "x", "r"), node("Identity", "r", "y"), node("Flatten", "r", "z"), node("Neg", "r", "u")]
    net = zoo.agrees(zoo.model(nodes, outputs=("y", "z", "u")))
    assert net.resolve("r") == "y"


def test_constant_output(zoo):
    model = zoo.model([node("Relu"), node("Identity", "c", "k")], {"c": W[:1]}, {"x": [1, 3]}, ("y", "k"))
    net = zoo.agrees(model)
    np.testing.assert_allclose(net(np.zeros(3))["k"], W[0])


def test_constant_output_beside_an_open_batch(zoo):
    model = zoo.model([node("Relu"), node("Identity", "c", "k")], {"c": W}, {"x": ["N", 3]}, ("y", "k"))
    assert load(model)(np.zeros((5, 3)))["k"].shape == (5, 3, 4)


def test_only_output_is_constant(zoo):
    net = load(zoo.model([node("Shape", "x", "s"), node("Cast", "s", "y", to=1)], inputs={"x": [2, 3]}))
    np.testing.assert_array_equal(net(np.zeros((2, 3))), [2, 3])


def test_a_domain_that_nobody_uses(zoo):
    zoo.agrees(zoo.model([node("Relu")], domains=(("ai.onnx.ml", 3), ("com.microsoft", 1))))


def test_nodes_out_of_order(zoo):
    model = zoo.model([node("Relu", "x", "a"), node("Neg", "a", "b"), node("Abs", "b", "y")])
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    zoo.agrees(model)


def test_local_functions_are_written_out(zoo):
    body = helper.make_function(
        "local", "Twice", ["a"], ["c"], [helper.make_node("Add", ["a", "a"], ["c"])], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["h"], domain="local"), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    zoo.agrees(helper.make_model(graph, functions=[body], opset_imports=sets, ir_version=8))


def test_sparse_initializer():
    values = numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "w")
    indices = numpy_helper.from_array(np.array([[0, 1], [2, 0]]), "w_i")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [3, 2])],
    )
    net = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    np.testing.assert_array_equal(net([1.0, 5.0, 10.0]), [30, 2])


def test_reshape_that_insists_on_one_point(zoo):
    nodes = [node("Relu", "x", "h"), node("Reshape", "h,s", "y")]
    net = load(zoo.model(nodes, {"s": np.array([1, 3])}))
    assert net.self_check() == 0.0


def test_graph_name_or_file_name(zoo, tmp_path):
    model = zoo.model([node("Relu")])
    assert load(model).name == "g"
    model.graph.name = ""
    (tmp_path / "demand.onnx").write_bytes(model.SerializeToString())
    assert load(tmp_path / "demand.onnx").name == "demand"


def test_survey_of_a_good_model(zoo):
    nodes = [node("Shape", "x", "s"), node("Gemm", "x,w", "h"), node("Relu", "h", "r"), node("Reshape", "r,t", "y")]
    records = survey(zoo.model(nodes, {"w": W, "t": np.array([0, -1])}))
    assert [r.kind for r in records] == ["constant", "affine", "piecewise linear", "affine"]
    assert {r.status for r in records} == {"exact"}


def test_affine_chain_costs_one_node(zoo):
    nodes = [
        node("Sub", "x,m", "a"),
        node("Div", "a,s", "b"),
        node("Reshape", "b,t", "c"),
        node("MatMul", "c,w", "d"),
        node("Add", "d,b1", "e"),
        node("BatchNormalization", "e,g,g,g,v", "f"),
        node("Relu", "f", "y"),
    ]
    four = np.ones(4, np.float32)
    constants = {"m": W[0, :3], "s": W[1, :3] ** 2 + 1, "t": np.array([0, 3]), "w": W, "b1": four, "g": four, "v": four}
    net = zoo.agrees(zoo.model(nodes, constants))
    assert [n.kind for n in net.nodes] == ["Affine", "Relu"]
    assert net.nodes[0].output == "f"
    assert net.resolve("MatMul_3") == net.resolve("Sub_0") == "f"
    assert isinstance(net.nodes[0], Affine)


def test_reference_evaluator_stands_in(zoo, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "nnembed.readers.reference.find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    s = np.ones(3, np.float32)
    nodes = [node("BatchNormalization", "x,s,s,s,s", "h", epsilon=0.5), node("Relu", "h", "y")]
    net = load(zoo.model(nodes, {"s": s}, opset=13))
    assert "reference evaluator" in net.reference.name
    assert net.self_check() < 1e-5


def test_reference_gives_flat_rows(zoo):
    model = zoo.model([node("Relu")], inputs={"x": ["N", 2, 3]})
    points = {"x": np.arange(12, dtype=float).reshape(2, 6) - 6}
    for dims in (["N", 2, 3], [1, 2, 3]):
        model.graph.input[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, dims))
        model.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, dims))
        np.testing.assert_array_equal(load(model).reference.run(points)["y"], np.maximum(points["x"], 0))


def test_importing_the_reader_imports_no_onnx():
    code = "import sys, nnembed.readers; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_attribute_defaults_are_those_of_the_standard():
    defaults = {
        ("Gemm", "alpha"): 1.0,
        ("Gemm", "beta"): 1.0,
        ("LeakyRelu", "alpha"): 0.01,
        ("HardSigmoid", "alpha"): 0.2,
        ("HardSigmoid", "beta"): 0.5,
        ("BatchNormalization", "epsilon"): 1e-5,
        ("Flatten", "axis"): 1,
        ("Gather", "axis"): 0,
        ("Split", "axis"): 0,
        ("ReduceSum", "keepdims"): 1,
        ("Conv", "group"): 1,
    }
    for (op, name), value in defaults.items():
        proto = onnx.defs.get_schema(op, 17).attributes[name].default_value
        assert helper.get_attribute_value(proto) == pytest.approx(value)
