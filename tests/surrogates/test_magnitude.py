"""Magnitude pruning: what becomes zero, what stays, what is reported, and that files of twins run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.ir.linear import Convolution, Dense, Sparse, diagonal
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, relu
from nnembed.surrogates.magnitude import Magnitude
from nnembed.surrogates.twin import agreement
from nnembed.testing.networks import chain

BOX = (-1.0, 1.0)


def net(seed=0, widths=(12, 9), inputs=5):
    return chain([(w, "relu") for w in widths] + [(3, "none")], inputs, np.random.default_rng(seed))


def convolutional():
    rng = np.random.default_rng(7)
    conv = Convolution(rng.normal(size=(4, 2, 3, 3)), (5, 5), (1, 1), (1, 1), ((1, 1), (1, 1)))
    tensors = {n: TensorSpec(n, s) for n, s in (("x", (2, 5, 5)), ("g", (4, 5, 5)), ("h", (4, 5, 5)), ("y", (3,)))}
    nodes = (
        Affine("conv", ("x",), "g", (conv,), rng.normal(size=100)),
        relu("act", "g", "h", 100),
        Affine("out", ("h",), "y", (Dense(rng.normal(size=(3, 100))),), np.zeros(3)),
    )
    return Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="convolutional")


def weights(network):
    return [n.operators[0].weight for n in network.nodes if isinstance(n, Affine)]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.95])
def test_smallest_weights_of_each_layer_become_zero(sparsity):
    network = net()
    twin = nn.surrogate(network, "magnitude", sparsity=sparsity, options={"scope": "layer"})
    for old, new in zip(weights(network), weights(twin.network), strict=True):
        gone = (new == 0) & (old != 0)
        assert gone.sum() == round(sparsity * old.size)
        assert (new[~gone] == old[~gone]).all()
        if gone.any():
            assert np.abs(old[gone]).max() <= np.abs(old[~gone]).min()
    for old, new in zip(network.nodes, twin.network.nodes, strict=True):
        if isinstance(old, Affine):
            assert (old.bias == new.bias).all()
    assert twin.error_bound is None
    assert twin.network.reference is None


def test_global_scope_compares_layers():
    network = net()
    twin = nn.surrogate(network, "magnitude:0.5,scope=global")
    old, new = (np.concatenate([w.ravel() for w in weights(n)]) for n in (network, twin.network))
    assert (new == 0).sum() == round(0.5 * old.size)
    assert np.abs(old[new == 0]).max() <= np.abs(old[new != 0]).min()
    assert len({layer.sparsity for layer in twin.report.layers}) > 1


def test_automatic_scope_is_global_for_several_outputs_as_long_as_every_layer_keeps_weights():
    def shares(network, sparsity):
        return {round(layer.sparsity, 2) for layer in nn.surrogate(network, sparsity=sparsity).report.layers}

    assert len(shares(net(), 0.5)) > 1
    single = chain([(12, "relu"), (10, "relu"), (1, "none")], 5, np.random.default_rng(0))
    assert shares(single, 0.5) == {0.5}
    small = Network(
        net().inputs, net().outputs, tuple(_scaled(n, 1e-6 if i == 0 else 1.0) for i, n in enumerate(net().nodes)),
        net().tensors,
    )  # fmt: skip
    assert shares(small, 0.5) <= {0.5, 0.52}  # all of the first layer would be gone
    assert nn.surrogate(small, "magnitude:0.5,scope=global").report.layers[0].nonzeros == 0


def _scaled(node, factor):
    if not isinstance(node, Affine):
        return node
    return Affine(node.name, node.inputs, node.output, (Dense(factor * node.operators[0].weight),), node.bias)


def test_whole_neurons():
    network = net()
    twin = nn.surrogate(network, sparsity=0.5, options={"structure": "neurons"}, box=BOX)
    for k, (old, new) in enumerate(zip(weights(network), weights(twin.network), strict=True)):
        dead = (new == 0).all(axis=1)
        if k == 2:
            assert (old == new).all()  # outputs stay
            continue
        assert dead.sum() == round(0.5 * len(old))
        assert (old[~dead] == new[~dead]).all()
        assert np.abs(old[dead]).sum(axis=1).max() <= np.abs(old[~dead]).sum(axis=1).min()


def test_kernels_are_pruned_entry_by_entry_or_by_channel():
    network = convolutional()
    twin = nn.surrogate(network, "magnitude:0.5,scope=layer", box=(0.0, 1.0))
    kernel = twin.network.nodes[0].operators[0].kernel
    assert (kernel == 0).sum() == kernel.size // 2
    channels = nn.surrogate(network, sparsity=0.5, options={"structure": "neurons"}, box=(0.0, 1.0))
    kernel = channels.network.nodes[0].operators[0].kernel
    assert (kernel == 0).all(axis=(1, 2, 3)).sum() == 2
    points = np.random.default_rng(1).uniform(0, 1, (500, 2, 5, 5))
    for found in (twin, channels):
        assert (np.abs(network(points) - found.network(points)).max(axis=0) <= found.error_bound + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0, 0.99),
    st.sampled_from(["layer", "global"]),
    st.sampled_from(["weights", "neurons"]),
)
def test_the_error_bound_holds(seed, sparsity, scope, structure):
    network = net(seed)
    twin = nn.surrogate(network, sparsity=sparsity, options={"scope": scope, "structure": structure}, box=BOX)
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-1, 1, (1000, 5)), rng.choice([-1.0, 1.0], (1000, 5))])
    assert (np.abs(network(points) - twin.network(points)).max(axis=0) <= twin.error_bound + 1e-12).all()


@pytest.mark.parametrize("make", [net, convolutional])
@pytest.mark.parametrize("options", [{}, {"structure": "neurons"}, {"scope": "global"}])
def test_files_of_twins_run_in_onnxruntime(tmp_path, make, options):
    runtime = pytest.importorskip("onnxruntime")
    network = make()
    twin = nn.surrogate(network, sparsity=0.6, options=options).network
    path = tmp_path / "twin.onnx"
    assert nn.save(twin, path) < 1e-3
    x = np.random.default_rng(0).normal(size=(8, *network.inputs[0].shape)).astype(np.float32)
    theirs = runtime.InferenceSession(str(path)).run(None, {network.inputs[0].name: x})[0]
    np.testing.assert_allclose(theirs, twin(x), rtol=1e-4, atol=1e-4)
    again = nn.load(path)
    zeros = sum(layer.weights - layer.nonzeros for layer in nn.surrogate(again, sparsity=0.0).report.layers)
    assert zeros >= sum(layer.weights - layer.nonzeros for layer in nn.surrogate(twin, sparsity=0.0).report.layers)


def test_report_of_a_classifier():
    network, rng = net(), np.random.default_rng(0)
    samples = rng.normal(size=(400, 5))
    labels = np.where(rng.random(400) < 0.8, network(samples).argmax(axis=1), rng.integers(0, 3, 400))
    twin = nn.surrogate(network, sparsity=0.5, samples=samples, labels=labels)
    found = twin.report.agreement
    right = network(samples).argmax(axis=1) == labels
    ours = twin.network(samples).argmax(axis=1) == labels
    assert found.accuracy == right.mean()
    assert found.twin_accuracy == ours.mean()
    before = np.array([right[labels == c].mean() / right.mean() - 1 for c in range(3)])
    after = np.array([ours[labels == c].mean() / ours.mean() - 1 for c in range(3)])
    assert found.balance == pytest.approx(before @ after / (before @ before))
    assert agreement(network, network, samples, labels).balance == pytest.approx(1.0)
    for words in ("accuracy", "recall balance", "affine_0", "sparsity"):
        assert words in str(twin.report)
    assert "weights" in repr(twin)


def test_misspelt_and_wrong_options():
    network = net()
    for call, words in (
        (lambda: nn.surrogate(network, "magnitud"), "did you mean 'magnitude'"),
        (lambda: nn.surrogate(network, "magnitude:0.5,scop=global"), "did you mean 'scope'"),
        (lambda: nn.surrogate(network, "magnitude:0.5,scope=everywhere"), "unknown scope 'everywhere'"),
        (lambda: nn.surrogate(network, "magnitude:half"), "write it like sparsity=0.5"),
        (lambda: nn.surrogate(network, sparsity=1.0), "0 <= sparsity < 1"),
        (lambda: nn.surrogate(network, sparsity="a"), "sparsity='a'; give a share of the weights"),
        (lambda: nn.surrogate(network, sparsity=True), "sparsity=True"),
        (lambda: nn.surrogate(network, sparsity=0.5, labels=[1]), "needs samples"),
        (lambda: nn.surrogate(network, samples=np.zeros((3, 5)), labels=[0, 1]), "pass 3 whole numbers from 0 to 2"),
        (lambda: nn.surrogate(network, samples=np.zeros((2, 5)), labels=[0, 3]), "labels do not fit"),
        (lambda: nn.surrogate("net.onnx"), "needs a network"),
        (lambda: nn.surrogate(network, box=(0.0, np.inf)), "infinite"),
        (lambda: nn.surrogate(network, sparsty=0.5), "did you mean 'sparsity'"),
    ):
        with pytest.raises(nn.InputError, match=words):
            call()


def test_nothing_to_prune():
    tensors = {n: TensorSpec(n, (2,)) for n in "xy"}
    scaled = Affine("scale", ("x",), "y", (diagonal(np.ones(2) * 2),), np.zeros(2))
    assert isinstance(scaled.operators[0], Sparse)
    network = Network((tensors["x"],), (tensors["y"],), (scaled,), tensors)
    with pytest.raises(nn.InputError, match="no dense layer or convolution"):
        nn.surrogate(network)
    single = chain([(2, "none")], 2, np.random.default_rng(0))
    with pytest.raises(nn.InputError, match="no hidden layer"):
        nn.surrogate(single, Magnitude(structure="neurons"))


def test_a_twin_that_does_not_fit_is_refused():
    class Wrong(Magnitude):
        name = "wrong"

        def build(self, network, bounds, samples, budget):
            other = chain([(4, "relu"), (3, "none")], 6, np.random.default_rng(0))
            return nn.Twin(other)

    with pytest.raises(nn.UnsupportedFeature, match=r"'wrong'.*does not fit.*inputs"):
        nn.surrogate(net(), Wrong())


def test_claims_of_unsound_surrogates_are_not_believed():
    class Boaster(Magnitude):
        name = "boaster"
        sound = False

        def build(self, network, bounds, samples, budget):
            made = super().build(network, bounds, samples, budget)
            return nn.Twin(made.network, np.zeros(3))

    twin = nn.surrogate(net(), Boaster(sparsity=0.5), box=BOX)
    assert (twin.error_bound > 0).all()
    assert twin.report.sparsity == pytest.approx(0.5, abs=0.05)
