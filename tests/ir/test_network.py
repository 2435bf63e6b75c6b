"""The network itself: shapes in and out, names, errors, the self-check."""

import numpy as np
import pytest
import scipy.sparse as sp

from nnembed.errors import InputError, SelfCheckFailed, UnknownName
from nnembed.ir.check import representable, sample_points, unit_roundoff
from nnembed.ir.linear import Dense, Sparse
from nnembed.ir.network import Network, TensorSpec, batch_axes
from nnembed.ir.nodes import Affine, Clip, Max, absolute, leaky_relu, relu

W = np.array([[1.0, -1, 0], [2, 0, 1]])


def two_layer(**changes):
    x, h, y = TensorSpec("x", (3,)), TensorSpec("h", (2,)), TensorSpec("y", (1, 2))
    nodes = (Affine("dense", ("x",), "h", (Dense(W),), np.array([0.5, -1])), relu("act", "h", "y", 2))
    return Network((x,), (y,), nodes, {"x": x, "h": h, "y": y}, {"act": "y", "dense": "h"}, **changes)


@pytest.mark.parametrize("lead", [(), (4,), (2, 5), (0,)])
def test_batch_axes_stay(lead):
    x = np.random.default_rng(0).normal(size=(*lead, 3))
    got = two_layer()(x)
    assert got.shape == (*lead, 1, 2)
    np.testing.assert_allclose(got[..., 0, :], np.maximum(x @ W.T + [0.5, -1], 0))


def test_own_shape_or_flat():
    spec = TensorSpec("x", (2, 3))
    assert batch_axes((2, 3), spec) == ()
    assert batch_axes((6,), spec) == ()
    assert batch_axes((7, 2, 3), spec) == (7,)
    assert batch_axes((7, 6), spec) == (7,)
    with pytest.raises(InputError, match="'x' expects"):
        batch_axes((3, 2), spec)
    scalar = TensorSpec("x", ())
    assert batch_axes((), scalar) == ()
    assert batch_axes((4,), scalar) == (4,)


def test_wrong_inputs():
    net = two_layer()
    with pytest.raises(InputError, match="expects shape"):
        net(np.zeros(4))
    with pytest.raises(UnknownName, match="did you mean 'x'"):
        net({"x1": np.zeros(3)})
    with pytest.raises(InputError, match="no value"):
        net({})


def test_several_inputs_broadcast():
    a, b, y = TensorSpec("a", (2,)), TensorSpec("b", (2,)), TensorSpec("y", (2,))
    node = Affine("add", ("a", "b"), "y", (Dense(np.eye(2)), Dense(np.eye(2))), np.zeros(2))
    net = Network((a, b), (y,), (node,), {"a": a, "b": b, "y": y})
    assert net({"a": np.ones((5, 1, 2)), "b": np.ones((4, 2))}).shape == (5, 4, 2)
    with pytest.raises(InputError, match="pass a dict"):
        net(np.ones(2))


def test_names_and_order():
    net = two_layer()
    assert net.resolve("act") == net.resolve("y") == "y"
    with pytest.raises(UnknownName):
        net.resolve("layer")
    with pytest.raises(ValueError, match="no earlier node"):
        Network(net.inputs, net.outputs, net.nodes[::-1], net.tensors)
    with pytest.raises(ValueError, match="written by no node"):
        Network(net.inputs, net.outputs, net.nodes[:1], net.tensors)
    with pytest.raises(TypeError):
        net.tensors["new"] = net.inputs[0]


def test_node_kinds():
    g = np.array([-2.0, -0.5, 0.0, 3.0])
    np.testing.assert_array_equal(relu("n", "g", "y", 4).evaluate(g), [0, 0, 0, 3])
    np.testing.assert_array_equal(leaky_relu("n", "g", "y", np.full(4, 0.5)).evaluate(g), [-1, -0.25, 0, 3])
    np.testing.assert_array_equal(absolute("n", "g", "y", 4).evaluate(g), [2, 0.5, 0, 3])
    np.testing.assert_array_equal(Clip("n", ("g",), "y", -np.ones(4), np.ones(4)).evaluate(g), [-1, -0.5, 0, 1])
    np.testing.assert_array_equal(Max("n", ("g",), "y", np.array([[0, 1], [3, 3]])).evaluate(g), [-0.5, 3])


def test_summary_and_digest():
    net = two_layer()
    text = str(net.summary())
    assert "2 piecewise-linear neurons" in text
    assert "dense" in text
    assert net.digest == two_layer().digest
    sparse = Network(
        net.inputs,
        net.outputs,
        (Affine("dense", ("x",), "h", (Sparse(sp.csr_array(W * 2)),), np.zeros(2)), net.nodes[1]),
        net.tensors,
    )
    assert sparse.digest != net.digest
    assert "Network" in repr(net)


class Replay:
    name = "replay"

    def __init__(self, shift=0.0, factor=1.0):
        self.shift, self.factor = shift, factor

    def run(self, inputs):
        single = np.maximum((inputs["x"] @ W.T + [0.5, -1]).astype(np.float32) * self.factor, 0)
        return {"y": single.astype(float) + self.shift}


def test_self_check():
    assert two_layer(reference=Replay()).self_check() < 1e-5
    for wrong in (Replay(shift=1e-2), Replay(factor=1.001), Replay(shift=np.nan)):
        with pytest.raises(SelfCheckFailed, match="replay"):
            two_layer(reference=wrong).self_check()
    with pytest.raises(SelfCheckFailed, match="no original"):
        two_layer().self_check()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8", "uint8", "int64"])
def test_sample_points_are_representable(dtype):
    values = np.array([0.1, -3.7, 1e6, -1e6, 250.3])
    near = representable(values, dtype)
    if dtype == "bfloat16":
        import ml_dtypes

        kind = ml_dtypes.bfloat16
    else:
        kind = np.dtype(dtype)
    np.testing.assert_array_equal(near.astype(kind).astype(float), near)


def test_unit_roundoff_is_that_of_the_coarsest_tensor():
    net = two_layer()
    assert unit_roundoff(net) == 2.0**-24
    half = Network(net.inputs, net.outputs, net.nodes, {**net.tensors, "h": TensorSpec("h", (2,), "float16")})
    assert unit_roundoff(half) == 2.0**-11
    assert set(sample_points(net, 3, 0)) == {"x"}
