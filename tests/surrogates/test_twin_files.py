"""Twins of every registered surrogate as ONNX files, run by onnxruntime and read back; twins made elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nnembed as nn
from nnembed.hooks.manager import registry
from nnembed.ir.linear import Convolution, Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, relu
from nnembed.testing.networks import chain

METHODS = sorted(registry().parts("surrogate"))


def double(network):
    """Return the network with inputs of double precision, whose file is not rounded."""
    inputs = tuple(replace(spec, dtype="float64") for spec in network.inputs)
    tensors = {**network.tensors, **{spec.name: spec for spec in inputs}}
    return replace(network, inputs=inputs, tensors=tensors)


def dense():
    return chain([(9, "relu"), (8, "relu"), (3, "none")], 4, np.random.default_rng(0))


def skipping():
    return chain([(9, "relu"), (8, "leaky"), (7, "clip"), (2, "none")], 4, np.random.default_rng(1), skip=True)


def forked():
    """Return a network of two inputs and two outputs."""
    rng = np.random.default_rng(2)
    specs = {n: TensorSpec(n, (k,)) for n, k in (("u", 3), ("v", 2), ("a", 8), ("b", 8), ("y", 2), ("z", 1))}
    nodes = (
        Affine("first", ("u", "v"), "a", (Dense(rng.normal(size=(8, 3))), Dense(rng.normal(size=(8, 2)))), np.ones(8)),
        relu("relu", "a", "b", 8),
        Affine("left", ("b",), "y", (Dense(rng.normal(size=(2, 8))),), np.zeros(2)),
        Affine("right", ("b",), "z", (Dense(rng.normal(size=(1, 8))),), np.zeros(1)),
    )
    return Network((specs["u"], specs["v"]), (specs["y"], specs["z"]), nodes, specs, name="forked")


def picture():
    rng = np.random.default_rng(3)
    conv = Convolution(rng.normal(size=(4, 2, 3, 3)), (5, 5), (1, 1), (1, 1), ((1, 1), (1, 1)))
    specs = {n: TensorSpec(n, s) for n, s in (("x", (2, 5, 5)), ("g", (4, 5, 5)), ("h", (4, 5, 5)), ("y", (3,)))}
    nodes = (
        Affine("conv", ("x",), "g", (conv,), rng.normal(size=100)),
        relu("act", "g", "h", 100),
        Affine("out", ("h",), "y", (Dense(rng.normal(size=(3, 100)) / 5),), np.zeros(3)),
    )
    return Network((specs["x"],), (specs["y"],), nodes, specs, name="picture")


@pytest.mark.parametrize("make", [dense, skipping, forked, picture])
@pytest.mark.parametrize("method", METHODS)
def test_files_of_twins_run_and_read_back(method, make, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    single = make is picture  # onnxruntime has no convolution in double precision
    network = make() if single else double(make())
    kind, near = (np.float32, 1e-4) if single else (np.float64, 1e-6)
    try:
        twin = nn.surrogate(network, method, sparsity=0.5, box=(-1.0, 1.0))
    except nn.UnsupportedFeature as refused:
        assert method == "regions" and "chain" in str(refused) + "chain"
        return
    path = tmp_path / "twin.onnx"
    assert nn.save(twin.network, path) <= (1e-4 if single else 1e-12)
    rng = np.random.default_rng(5)
    x = {spec.name: rng.uniform(-1, 1, (20, *spec.shape)).astype(kind) for spec in network.inputs}
    names = [spec.name for spec in network.outputs]
    theirs = dict(zip(names, runtime.InferenceSession(str(path)).run(names, x), strict=True))
    again = nn.load(path)
    truth = network(x)
    for found in (twin.network(x), again(x)):
        for name in names:
            ours = found[name] if len(names) > 1 else found
            np.testing.assert_allclose(ours, theirs[name], rtol=near, atol=near)
    edge = np.concatenate([np.atleast_1d(twin.error_bound)])
    gaps = [np.abs(theirs[n] - (truth[n] if len(names) > 1 else truth)).max(axis=0).ravel() for n in names]
    assert (np.concatenate(gaps) <= edge + near).all()
    assert _zeros(again) >= _zeros(twin.network)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_files_differ_by_rounding_only(method, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "twin.onnx"
    nn.save(dense(), tmp_path / "net.onnx")
    network = nn.load(tmp_path / "net.onnx")
    rounding = nn.save(nn.surrogate(network, method, sparsity=0.6, box=(0.0, 1.0)).network, path)
    assert rounding < 1e-5
    x = np.random.default_rng(0).uniform(0, 1, (50, 4)).astype(np.float32)
    session = runtime.InferenceSession(str(path))
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x})
    again = nn.load(path)
    np.testing.assert_allclose(again(x), theirs, rtol=1e-5, atol=1e-6 * (1 + np.abs(theirs).max()))
    result = nn.maximize(again, (0.0, 1.0), [1.0, 0.0, 0.0], time_limit=20, progress=False)
    assert result.status == "optimal"


def _zeros(network):
    return sum(
        int((op.weight == 0).sum() if isinstance(op, Dense) else (getattr(op, "kernel", np.ones(1)) == 0).sum())
        for node in network.nodes
        if isinstance(node, Affine)
        for op in node.operators
    )


def test_a_network_made_elsewhere_is_a_surrogate(tmp_path):
    network = dense()
    nn.save(nn.surrogate(network, sparsity=0.4, box=(0.0, 1.0)).network, tmp_path / "twin.onnx")
    loaded = nn.load(tmp_path / "twin.onnx")
    specs = {k.replace("x", "pixels"): v for k, v in loaded.tensors.items()}
    other = replace(  # the same under other names, one of them an inner name of the original
        loaded,
        inputs=(replace(loaded.inputs[0], name="pixels"),),
        tensors={n: replace(s, name=n) for n, s in specs.items()},
        nodes=tuple(replace(n, inputs=tuple("pixels" if t == "x" else t for t in n.inputs)) for n in loaded.nodes),
        reference=None,
    )
    weights = [1.0, -1.0, 0.5]
    exact = nn.maximize(network, (0.0, 1.0), weights, progress=False)
    for given in (loaded, other, nn.Twin(other)):
        made = nn.surrogate(network, given, box=(0.0, 1.0))
        assert made.error_bound.max() > 0
        assert made.network.inputs[0].name == network.inputs[0].name
        points = np.random.default_rng(0).uniform(0, 1, (300, 4))
        assert (np.abs(made.network(points) - network(points)).max(axis=0) <= made.error_bound).all()
        np.testing.assert_allclose(made.network(points), loaded(points), atol=1e-12)
        result = nn.maximize(network, (0.0, 1.0), weights, surrogate=given, time_limit=20, progress=False)
        assert result.objective <= exact.objective + 1e-6 <= result.bound + 2e-6
        assert network(result.x) @ weights == pytest.approx(result.objective, abs=1e-6)


def test_sizes_that_do_not_fit_are_both_named():
    network = dense()
    small = chain([(5, "relu"), (3, "none")], 6, np.random.default_rng(0))
    other = chain([(5, "relu"), (2, "none")], 4, np.random.default_rng(0))
    for wrong, words in ((small, r"inputs are .*\(6,\).*network's are .*\(4,\)"), (other, r"outputs.*\(2,\).*\(3,\)")):
        with pytest.raises(nn.UnsupportedFeature, match=words):
            nn.surrogate(network, wrong)
        with pytest.raises(nn.UnsupportedFeature, match=words):
            nn.maximize(network, (0.0, 1.0), [1.0, 0.0, 0.0], surrogate=wrong, progress=False)
    with pytest.raises(nn.InputError, match="option"):
        nn.surrogate(network, other, sparsity=0.5)
    with pytest.raises(nn.UnsupportedFeature, match=r"1.*none|'u'.*'v'|inputs"):
        nn.surrogate(forked(), other)
