"""What is written is run by onnxruntime and read again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.ir.linear import Convolution, Dense, Selection
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Round, Step, relu
from nnembed.testing import reference_networks
from nnembed.testing.formulations import jump_distance
from nnembed.testing.networks import JUMPS, KINDS, chain
from nnembed.writers.graph import to_onnx

ort = pytest.importorskip("onnxruntime")


def replay(path, x):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]


@pytest.mark.parametrize("name", sorted(reference_networks()))
def test_reference_networks_come_back(name, tmp_path):
    network = reference_networks()[name]
    difference = nn.save(network, tmp_path / "net.onnx")
    assert difference < 1e-4
    again = nn.load(tmp_path / "net.onnx")
    assert [s.shape for s in again.inputs] == [s.shape for s in network.inputs]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.booleans())
def test_onnxruntime_agrees(tmp_path_factory, seed, kind, skip):
    rng = np.random.default_rng(seed)
    network = chain([(6, kind), (5, kind), (2, "none")], 4, rng, skip=skip)
    path = tmp_path_factory.mktemp("w") / "net.onnx"
    nn.save(network, path)
    x = rng.normal(size=(9, 4))
    assert replay(path, x) == pytest.approx(network(x.astype(np.float32)), abs=2e-5, rel=2e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["float32", "float64"]))
def test_onnxruntime_takes_steps_as_we_do(seed, dtype):
    """Integer weights and inputs: no rounding decides, and many pre-activations are exactly zero."""
    rng = np.random.default_rng(seed)
    sizes = {"x": 4, "g": 6, "s": 6, "h": 5, "t": 5}
    tensors = {k: TensorSpec(k, (n,), dtype) for k, n in sizes.items()}

    def affine(source, target):
        weight = rng.integers(-2, 3, (sizes[target], sizes[source])).astype(float)
        return Affine(target, (source,), target, (Dense(weight),), rng.integers(-2, 3, sizes[target]).astype(float))

    def step(source, target):
        low, high = rng.integers(-2, 3, (2, sizes[target])).astype(float)
        return Step(target + "_", (source,), target, low, high)

    nodes = (affine("x", "g"), step("g", "s"), affine("s", "h"), step("h", "t"))
    network = Network((tensors["x"],), (tensors["t"],), nodes, tensors)
    x = rng.integers(-2, 3, (50, 4)).astype(float)
    session = ort.InferenceSession(to_onnx(network).SerializeToString(), providers=["CPUExecutionProvider"])
    assert (network.forward({"x": x})["g"] == 0).any()
    assert np.array_equal(session.run(None, {"x": x.astype(dtype)})[0], network(x))


@pytest.mark.parametrize("kind", JUMPS)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_jumps_come_back(tmp_path_factory, kind, seed):
    """Random networks, far from jumps: the file, run by onnxruntime and read again, is the network."""
    rng = np.random.default_rng(seed)
    network = chain([(6, kind), (6, kind), (2, "none")], 4, rng, skip=True)
    path = tmp_path_factory.mktemp("w") / "net.onnx"
    nn.save(network, path)
    again = nn.load(path)
    # Limits that differ from neuron to neuron are written as a maximum and a minimum, which are read as ReLUs.
    assert [n.kind for n in again.activations if n.kind != "Relu"] == [n.kind for n in network.activations]
    x = rng.normal(size=(200, 4)).astype(np.float32)
    state = network.forward({"x": x.astype(float)})
    near = [jump_distance(node, state).reshape(200, -1).min(axis=1, initial=1.0) for node in network.activations]
    clear = np.min(near, axis=0) > 1e-4
    assert clear.sum() > 100
    assert replay(path, x)[clear] == pytest.approx(network(x)[clear], abs=1e-4)
    assert again(x)[clear] == pytest.approx(network(x)[clear], abs=1e-4)


def test_a_rounding_keeps_its_limits(tmp_path):
    x, y = TensorSpec("x", (2,)), TensorSpec("y", (2,))
    for low, high in ((0.0, 15.0), (-np.inf, 3.0), (-np.inf, np.inf), (2.0, 2.0)):
        sides = np.full(2, 0.25), np.full(2, 0.5), np.full(2, low), np.full(2, high)
        network = Network((x,), (y,), (Round("r", ("x",), "y", *sides),), {"x": x, "y": y})
        assert nn.save(network, tmp_path / "r.onnx") == 0.0
        points = np.random.default_rng(0).integers(-40, 41, (300, 2)) / 8  # every other one a jump
        again = nn.load(tmp_path / "r.onnx")
        assert np.array_equal(again(points), network(points))
        assert np.array_equal(replay(tmp_path / "r.onnx", points), network(points))
        (node,) = [n for n in again.activations if isinstance(n, Round)]
        if np.isfinite(low):
            assert len(again.activations) == 1 and (node.low[0], node.high[0]) == (low, high)
    mixed = np.ones(2), np.ones(2), np.array([0.0, -np.inf]), np.full(2, np.inf)
    network = Network((x,), (y,), (Round("r", ("x",), "y", *mixed),), {"x": x, "y": y})
    with pytest.raises(nn.InputError, match="'r': some roundings have limits"):
        nn.save(network, tmp_path / "m.onnx")


def test_convolutions_stay_convolutions(tmp_path):
    import onnx

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 2, 3, 3))
    convolution = Convolution(kernel, (6, 5), (2, 1), (1, 1), ((1, 0), (1, 1)), 1)
    n = convolution.shape[0]
    dropped = Selection(np.array([3, -1, 0]), n)
    tensors = {k: TensorSpec(k, s) for k, s in {"x": (2, 6, 5), "g": (n,), "h": (n,), "y": (3,)}.items()}
    nodes = (
        Affine("conv", ("x",), "g", (convolution,), rng.normal(size=n)),
        relu("relu", "g", "h", n),
        Affine("pick", ("h",), "y", (dropped,), np.zeros(3)),
    )
    network = Network((tensors["x"],), (tensors["y"],), nodes, tensors)
    nn.save(network, tmp_path / "c.onnx")
    assert "Conv" in {node.op_type for node in onnx.load(tmp_path / "c.onnx").graph.node}
    x = rng.normal(size=(4, 2, 6, 5))
    assert replay(tmp_path / "c.onnx", x) == pytest.approx(network(x.astype(np.float32)), abs=1e-5)


def test_nothing_is_written_where_it_cannot_be(tmp_path):
    with pytest.raises(nn.InputError, match="cannot write"):
        nn.save(next(iter(reference_networks().values())), tmp_path / "no" / "net.onnx")
    with pytest.raises(nn.InputError, match=r"needs a network"):
        nn.save("net.onnx", tmp_path / "x.onnx")
