"""The pruners as users call them: counts, proofs, files, refusals, figures."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import nnembed as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnembed.bounds.box import input_bounds
from nnembed.errors import BoxError, InputError, Unavailable, UnknownName, UnsupportedFeature
from nnembed.ir.linear import Convolution, Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, relu
from nnembed.options import Budget
from nnembed.testing.networks import chain

from nnembed_sparse import Multi, Obc, Regions, SparseGpt, Surgeon, Undecayed

METHODS = {type(m).__name__: m for m in (Surgeon(), Obc(), SparseGpt(), Regions(), Undecayed(), Multi())}
DATA = Path(os.environ.get("NNEMBED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def made(network, method, samples=None, box=(-1.0, 1.0), seed=0, **options):
    part = type(method)(**options)
    return part.build(network, input_bounds(network, box, finite=samples is None), samples, Budget(seed=seed))


def picture(rng):
    conv = Convolution(rng.normal(size=(3, 1, 2, 2)), (4, 4), (1, 1), (1, 1), ((0, 0), (0, 0)), 1)
    n = conv.shape[0]
    tensors = {name: TensorSpec(name, shape) for name, shape in (("x", (16,)), ("a", (n,)), ("b", (n,)), ("y", (3,)))}
    nodes = (
        Affine("conv", ("x",), "a", (conv,), rng.normal(size=n)),
        relu("relu", "a", "b", n),
        Affine("dense", ("b",), "y", (Dense(rng.normal(size=(3, n))),), np.ones(3)),
    )
    return Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="picture")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), sparsity=st.sampled_from([0.0, 0.3, 0.8, 0.97]), biases=st.booleans())
def test_count_and_proof_hold(method, seed, sparsity, biases):
    rng = np.random.default_rng(seed)
    widths = rng.integers(2, 9, size=3)
    network = chain([(int(n), "relu") for n in widths] + [(2, "none")], 3, rng)
    twin = made(network, method, sparsity=sparsity, biases=biases, points=60, seed=seed)
    total = sum(layer.weights for layer in twin.report.layers)
    left = sum(np.count_nonzero(n.operators[0].weight) for n in twin.network.nodes if isinstance(n, Affine))
    assert left == twin.report.nonzeros <= total - math.ceil(sparsity * total - 1e-9)
    points = np.concatenate([rng.uniform(-1, 1, (2000, 3)), rng.choice([-1.0, 1.0], (50, 3))])
    assert (np.abs(network(points) - twin.network(points)) <= twin.error_bound + 1e-9).all()
    if not biases:
        for a, b in zip(network.nodes, twin.network.nodes, strict=True):
            assert not isinstance(a, Affine) or (a.bias == b.bias).all()


@pytest.mark.parametrize("method", [m for n, m in METHODS.items() if n != "Regions"], ids=lambda m: m.name)
def test_convolutions_are_pruned(method):
    network = picture(np.random.default_rng(0))
    labels = np.arange(80) % 3
    twin = made(network, method, np.random.default_rng(1).random((80, 16)), box=(0.0, 1.0), sparsity=0.5, labels=labels)
    assert twin.report.sparsity == pytest.approx(0.5, abs=0.01)
    assert set(twin.report.facts) >= {"alpha", "undecayed", "loss", "twin_loss"}
    assert twin.report.agreement is not None
    kernels = [n.operators[0] for n in twin.network.nodes if isinstance(n, Affine)]
    assert isinstance(kernels[0], Convolution)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_pruned_networks_go_back_to_files(method, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    network = chain([(8, "relu"), (6, "relu"), (2, "none")], 4, np.random.default_rng(3))
    twin = made(network, method, sparsity=0.5, points=100).network
    path = tmp_path / "twin.onnx"
    nn.save(twin, path)
    x = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
    session = ort.InferenceSession(str(path))
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.allclose(y, twin(x), atol=1e-4)


@pytest.mark.parametrize("method", ["obc", "multi", "surgeon", "sparsegpt"])
def test_second_order_beats_magnitude(method):
    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        network = chain([(30, "relu"), (20, "relu"), (3, "none")], 10, rng)
        x = rng.uniform(-1, 1, (3000, 10))
        plain = nn.surrogate(network, "magnitude", sparsity=0.6, box=(-1, 1)).network
        ours = made(network, next(m for m in METHODS.values() if m.name == method), sparsity=0.6).network
        errors.append([np.sqrt(((n(x) - network(x)) ** 2).mean()) for n in (ours, plain)])
    ours, plain = np.mean(errors, axis=0)
    assert ours < plain


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(0)
    tensors = {n: TensorSpec(n, (k,)) for n, k in (("u", 3), ("v", 2), ("a", 6), ("b", 6), ("y", 2), ("z", 1))}
    nodes = (
        Affine("first", ("u", "v"), "a", (Dense(rng.normal(size=(6, 3))), Dense(rng.normal(size=(6, 2)))), np.ones(6)),
        relu("relu", "a", "b", 6),
        Affine("left", ("b",), "y", (Dense(rng.normal(size=(2, 6))),), np.zeros(2)),
        Affine("right", ("b",), "z", (Dense(rng.normal(size=(1, 6))),), np.zeros(1)),
    )
    network = Network((tensors["u"], tensors["v"]), (tensors["y"], tensors["z"]), nodes, tensors)
    for method in METHODS.values():
        if method.name != "regions":
            twin = made(
                network,
                method,
                sparsity=0.5,
                box=({"u": -np.ones(3), "v": np.zeros(2)}, {"u": np.ones(3), "v": np.full(2, 2.0)}),
            )
            assert twin.report.nonzeros == 24
            assert twin.error_bound.shape == (3,)


def test_what_does_not_fit_is_refused_by_name():
    network = chain([(5, "relu"), (3, "none")], 4, np.random.default_rng(0))
    x = np.zeros((6, 4))
    for wrong, shown in ((1.5, "1.5"), ("a", "'a'"), (True, "True"), (None, "None"), (float("nan"), "nan")):
        with pytest.raises(InputError, match=f"sparsity={shown}; give a share of the weights"):
            Obc(sparsity=wrong)
    with pytest.raises(UnknownName, match="squared"):
        Obc(loss="square")
    with pytest.raises(InputError, match="temperature"):
        Obc(temperature=-1.0)
    with pytest.raises(BoxError, match="samples="):
        Obc().build(network, input_bounds(network, (-np.inf, np.inf), finite=False), None, Budget())
    with pytest.raises(InputError, match="5 labels for 6 samples"):
        made(network, Obc(), x, labels=np.zeros(5, int))
    with pytest.raises(InputError, match="classes from 0 to 2"):
        made(network, Obc(), x, labels=np.full(6, 3))
    with pytest.raises(InputError, match="needs labels"):
        made(network, Obc(), x, loss="labels")
    with pytest.raises(InputError, match="shape"):
        made(network, Obc(), np.zeros((6, 5)))
    with pytest.raises(InputError, match="not finite"):
        made(network, Obc(), np.full((6, 4), np.nan))
    with pytest.raises(UnsupportedFeature, match="'conv'"):
        made(picture(np.random.default_rng(0)), Regions())
    bare = Network(network.inputs, network.inputs, (), {"x": network.inputs[0]})
    with pytest.raises(InputError, match="no weight to prune"):
        made(bare, Obc())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_nothing_pruned_is_the_network(method):
    network = chain([(8, "relu"), (2, "none")], 4, np.random.default_rng(0))
    assert made(network, method, sparsity=0.0).network.digest == network.digest


def test_finetuning_without_torch_says_what_to_install():
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("torch is installed")
    network = chain([(5, "relu"), (3, "none")], 4, np.random.default_rng(0))
    with pytest.raises(Unavailable, match="torch"):
        made(network, Obc(), finetune=1)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("labelled", [True, False])
def test_finetuning_keeps_the_mask_and_lowers_the_loss(method, labelled):
    pytest.importorskip("torch")
    network = chain([(20, "relu"), (15, "leaky"), (10, "relu"), (3, "none")], 6, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(600, 6))
    labels = np.random.default_rng(2).permutation(3)[network(x).argmax(axis=1)] if labelled else None
    options = {"labels": labels, "sparsity": 0.7}
    before = made(network, method, x, **options)
    after = made(network, method, x, finetune=30, **options)
    moved = 0.0
    for old, new in zip(before.network.nodes, after.network.nodes, strict=True):
        if isinstance(old, Affine):
            first, second = old.operators[0].weight, new.operators[0].weight
            assert ((first != 0) == (second != 0)).all()
            moved += float(np.abs(first - second).sum())
    assert moved > 0
    assert after.report.facts["twin_loss"] < before.report.facts["twin_loss"]
    assert after.report.nonzeros == before.report.nonzeros
    points = np.random.default_rng(3).uniform(-1, 1, (2000, 6))
    assert (np.abs(network(points) - after.network(points)) <= after.error_bound + 1e-9).all()
    again = made(network, method, x, finetune=30, **options)
    assert again.network.digest == after.network.digest


def test_finetuning_never_makes_the_samples_worse():
    pytest.importorskip("torch")
    network = chain([(12, "relu"), (2, "none")], 4, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(200, 4))
    whole = made(network, Obc(), x, sparsity=0.0, finetune=2)
    assert whole.report.facts["twin_loss"] == 0.0
    with pytest.raises(UnsupportedFeature, match="conv"):
        made(picture(np.random.default_rng(0)), Undecayed(), finetune=1)


@pytest.mark.parametrize("method", [m for n, m in METHODS.items() if n != "Regions"], ids=lambda m: m.name)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_skip_connections(method, seed):
    network = chain([(8, "relu"), (7, "relu"), (2, "none")], 4, np.random.default_rng(seed), skip=True)
    twin = made(network, method, sparsity=0.5, points=80)
    points = np.random.default_rng(seed).uniform(-1, 1, (1000, 4))
    assert (np.abs(network(points) - twin.network(points)) <= twin.error_bound + 1e-9).all()
    assert twin.report.sparsity >= 0.5


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_degenerate_networks_are_pruned(method):
    """Dead neurons, zero weights and constant samples divide by nothing."""
    network = chain([(5, "relu"), (4, "relu"), (2, "none")], 3, np.random.default_rng(1))
    first = network.nodes[0]
    dead = Affine(first.name, first.inputs, first.output, (Dense(np.zeros((5, 3))),), np.full(5, -1.0))
    for nodes in ((dead, *network.nodes[1:]), network.nodes):
        net = Network(network.inputs, network.outputs, nodes, network.tensors)
        twin = made(net, method, np.zeros((4, 3)), box=(-1, 1), sparsity=0.9)
        assert np.isfinite(twin.network(np.ones(3))).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "least"),
    [("surgeon", (92.1, 87.9, 54.5)), ("multi", (94.0, 92.0, 60.0))],
)
def test_published_network(method, least):
    if not (DATA / "mlpnet").is_dir():
        pytest.skip("no data")
    from benchmarks.prune import mnist_rows

    for bar, sparsity in zip(least, (0.9, 0.95, 0.98), strict=True):
        rows = list(mnist_rows([method], [sparsity], [11]))
        assert rows[-1][3] - rows[0][3] >= bar - 93.97 - 0.7  # one half of the images: half a point of chance


@pytest.mark.slow
def test_order_of_the_methods_on_a_network_without_mistakes():
    """Its gradients vanish at temperature 1; the surgeon must beat plain magnitudes at high sparsity all the same."""
    datasets, networks = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.neural_network")
    images, labels = datasets.load_digits(return_X_y=True)
    images = images / 16.0
    model = networks.MLPClassifier((50, 50), alpha=1e-4, max_iter=150, random_state=0).fit(images[:1200], labels[:1200])
    tensors, nodes, source = {"x": TensorSpec("x", (64,))}, [], "x"
    for i, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        nodes.append(Affine(f"affine_{i}", (source,), f"pre_{i}", (Dense(weight.T.copy()),), bias.copy()))
        tensors[f"pre_{i}"], source = TensorSpec(f"pre_{i}", (len(bias),)), f"pre_{i}"
        if i < 2:
            nodes.append(relu(f"relu_{i}", source, f"post_{i}", len(bias)))
            tensors[f"post_{i}"], source = TensorSpec(f"post_{i}", (len(bias),)), f"post_{i}"
    network = Network((tensors["x"],), (tensors[source],), tuple(nodes), tensors)
    right = {}
    for method in ("magnitude", "surgeon", "obc", "multi"):
        for sparsity in (0.8, 0.9):
            twin = nn.surrogate(network, method, sparsity=sparsity, samples=images[:1200], labels=labels[:1200])
            right[method, sparsity] = (twin.network(images[1200:]).argmax(axis=1) == labels[1200:]).mean()
    assert right["surgeon", 0.9] > right["magnitude", 0.9]
    for sparsity in (0.8, 0.9):
        assert right["obc", sparsity] > max(right["surgeon", sparsity], right["magnitude", sparsity])
        assert right["multi", sparsity] > 0.85
