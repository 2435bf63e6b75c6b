"""Comparisons, rounding, quantisation and winners are what onnxruntime says they are, where they jump, too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.errors import UnsupportedOperators
from nnembed.ir.nodes import Round, Step, Winner

ort = pytest.importorskip("onnxruntime")
f = np.float32
FLOAT, INT8, BOOL, INT64 = 1, 3, 9, 7


def model(nodes, constants, shape=(4,), out=FLOAT, opset=17):
    from onnx import TensorProto, helper, numpy_helper

    made = [helper.make_node(op, i.split(","), o.split(","), **attributes) for op, i, o, attributes in nodes]
    ends = [
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", out, None)],
    ]
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(made, "jumps", *ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def to_float(name="b", out="y"):
    return ("Cast", name, out, {"to": FLOAT})


POINTS = f([0, 0.5, 1, -1])
PAIR = [("QuantizeLinear", "x,s,z", "q", {}), ("DequantizeLinear", "q,s,z", "y", {})]
AXIS = [("QuantizeLinear", "x,s,z", "q", {"axis": 1}), ("DequantizeLinear", "q,s,z", "y", {"axis": 1})]
CASES = {
    "round": model([("Round", "x", "y", {})], {}),
    "floor": model([("Floor", "x", "y", {})], {}),
    "ceil": model([("Ceil", "x", "y", {})], {}),
    "sign": model([("Sign", "x", "y", {})], {}),
    "greater or equal": model([("GreaterOrEqual", "x,c", "b", {}), to_float()], {"c": POINTS}),
    "greater": model([("Greater", "x,c", "b", {}), to_float()], {"c": POINTS}),
    "greater, swapped": model([("Greater", "c,x", "b", {}), to_float()], {"c": POINTS}, opset=9),
    "less": model([("Less", "x,c", "b", {}), to_float()], {"c": f(0.5)}),
    "less or equal": model([("LessOrEqual", "x,c", "b", {}), to_float()], {"c": POINTS}, opset=13),
    "not": model([("Less", "c,x", "d", {}), ("Not", "d", "b", {}), to_float()], {"c": POINTS}),
    "choice": model(
        [("LessOrEqual", "c,x", "b", {}), ("Where", "b,p,q", "y", {})],
        {"c": f(0.5), "p": f([1, 2, 3, 4]), "q": f(-0.25)},
    ),
    "truth": model([("Greater", "x,c", "y", {})], {"c": f(0.5)}, out=BOOL),
    "argmax": model([("ArgMax", "x", "y", {"axis": 1})], {}, out=INT64),
    "argmax, last": model(
        [("ArgMax", "x", "y", {"axis": -1, "keepdims": 0, "select_last_index": 1})], {}, (2, 4), out=INT64
    ),
    "argmin": model([("ArgMin", "x", "b", {"axis": 2, "keepdims": 0}), to_float()], {}, (2, 4)),
    "argmin, last": model([("ArgMin", "x", "b", {"axis": 1, "select_last_index": 1}), to_float()], {}, (3, 2)),
    "hardmax": model([("Hardmax", "x", "y", {"axis": 1})], {}, (3, 4)),
    "hardmax, opset 11": model([("Hardmax", "x", "y", {"axis": 2})], {}, (2, 3), opset=11),
    "quantised": model(PAIR, {"s": f(0.25), "z": np.uint8(3)}),
    "quantised, no zero point": model([(op, i[:3], o, a) for op, i, o, a in PAIR], {"s": f(0.25)}),
    "quantised by axis": model(AXIS, {"s": f([0.25, 0.5, 1, 2]), "z": np.int8([0, 1, -100, 5])}),
    "quantised, 16 bits": model(PAIR, {"s": f(2.0**-10), "z": np.int16(-5)}, opset=21),
    "levels": model([("QuantizeLinear", "x,s,z", "y", {})], {"s": f(0.5), "z": np.int8(-7)}, out=INT8),
    "quantised weights": model(
        [("DequantizeLinear", "w,s,z", "v", {}), ("MatMul", "x,v", "h", {}), ("Round", "h", "y", {})],
        {"w": np.int8([[1, 2], [-3, 4], [5, -128], [0, 127]]), "s": f(0.5), "z": np.int8(1)},
    ),
    "quantised weights by axis": model(
        [("DequantizeLinear", "w,s,z", "v", {"axis": 0}), ("MatMul", "x,v", "h", {}), ("Round", "h", "y", {})],
        {"w": np.uint8([[1, 2], [3, 4], [5, 128], [0, 255]]), "s": f([0.5, 1, 2, 0.25]), "z": np.uint8([1, 0, 9, 128])},
        opset=13,
    ),
    "rounded and clipped": model([("Round", "x", "r", {}), ("Clip", "r,l,u", "y", {})], {"l": f(-1), "u": f(2)}),
}


def points(rng, shape):
    """Return multiples of a quarter, whole numbers (ties!), anything, and large numbers."""
    quarters, whole = rng.integers(-12, 13, (200, *shape)) / 4, rng.integers(-3, 4, (200, *shape))
    rest = rng.normal(size=(200, *shape)), 1e3 * rng.normal(size=(50, *shape)), np.zeros((1, *shape))
    return np.concatenate([quarters, whole, *rest]).astype(np.float32)


def runtime(proto, x):
    """Return what the graph says; by default quantised operators are fused into others, which round elsewhere."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_says_the_same_everywhere(name):
    net = nn.load(CASES[name])
    x = points(np.random.default_rng(0), net.inputs[0].shape)
    x = x[:400] if "weights" in name else x  # sums of others round in float32
    want = runtime(CASES[name], x)
    assert np.array_equal(net(x.astype(float)), want.astype(float))
    assert net.self_check() == 0.0 or "weights" in name
    assert any(isinstance(n, Round | Step | Winner) for n in net.activations)


def test_a_pair_is_one_layer():
    net = nn.load(CASES["quantised"])
    assert [n.kind for n in net.nodes] == ["Round", "Affine"]
    node, scale = net.nodes
    assert (node.step[0], node.low[0], node.high[0]) == (0.25, -3, 252)
    assert not scale.bias.any()
    assert [n.kind for n in nn.load(CASES["rounded and clipped"]).nodes] == ["Round"]


@given(st.integers(0, 10**6), st.floats(1e-3, 10.0))
@settings(max_examples=30, deadline=None)
def test_scales_of_any_size_agree_away_from_jumps(seed, size):
    """The file divides in float32: where that rounds onto a jump the level may differ, and the check knows it."""
    rng = np.random.default_rng(seed)
    scale = f(size)
    proto = model(PAIR, {"s": scale, "z": np.int8(rng.integers(-9, 9))})
    net = nn.load(proto)
    x = (rng.normal(size=(300, 4)) * 40 * size).astype(np.float32)
    part = (x.astype(float) / float(scale) - 0.5) % 1.0
    clear = np.minimum(part, 1 - part) > 1e-4
    ours, theirs = net(x.astype(float)), runtime(proto, x)
    assert np.abs(ours - theirs)[clear].max(initial=0.0) <= 1e-4 * size


def test_a_quantised_classifier_is_embedded():
    """Dense, fake quantisation, dense, ArgMax: the largest class number over a box, against sampling."""
    rng = np.random.default_rng(1)
    weights = {"w": f(rng.normal(size=(3, 6))), "v": f(rng.normal(size=(6, 4))), "s": f(0.25), "z": np.uint8(0)}
    nodes = [("MatMul", "x,w", "h", {}), ("QuantizeLinear", "h,s,z", "q", {}), ("DequantizeLinear", "q,s,z", "d", {})]
    nodes += [("MatMul", "d,v", "o", {}), ("ArgMax", "o", "y", {"axis": 1, "keepdims": 0})]
    net = nn.load(model(nodes, weights, (3,), INT64))
    assert net.outputs[0].shape == () and net.outputs[0].dtype == "int64"
    assert net(np.zeros(3)).shape == () and net(np.zeros((2, 3))).shape == (2,)
    assert nn.tighten(net, (-1.0, 1.0)).upper[net.outputs[0].name].shape == ()
    for call, best in ((nn.maximize, np.max), (nn.minimize, np.min)):
        result = call(net, (-1.0, 1.0), gap=0.0)
        seen = best(net(rng.uniform(-1, 1, (20000, 3))))
        assert result.status == "optimal" and result.certificate.ok
        assert result.objective >= seen if call is nn.maximize else result.objective <= seen


# ---- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        (
            [("Less", "x,c", "b", {}), ("Where", "b,x,c", "y", {})],
            {"c": f(0.5)},
            "both its condition and what it chooses",
        ),
        ([("Cast", "x", "y", {"to": BOOL})], {}, "casting the network's data to bool"),
        (
            [("QuantizeLinear", "x,s,z", "q", {}), ("Cast", "q", "y", {"to": INT64})],
            {"s": f(1), "z": np.uint8(0)},
            "int64",
        ),
        ([("QuantizeLinear", "x,s", "q", {}), ("DequantizeLinear", "q,s", "y", {})], {"s": f(-1)}, "not above zero"),
        ([("QuantizeLinear", "x,s", "q", {}), ("DequantizeLinear", "q,s", "y", {})], {"s": f([1, 2])}, r"shape \(2,\)"),
        ([("Round", "x", "r", {}), ("Equal", "r,c", "b", {}), to_float()], {"c": f(1)}, "not continuous"),
        (
            [("ArgMax", "x", "i", {"axis": 1}), ("Less", "i,c", "b", {}), to_float()],
            {"c": np.int64(2)},
            "int64 numbers",
        ),
    ],
)
def test_what_is_not_exact_is_refused_by_name(nodes, constants, words):
    with pytest.raises(UnsupportedOperators, match=words):
        nn.load(model(nodes, constants))
