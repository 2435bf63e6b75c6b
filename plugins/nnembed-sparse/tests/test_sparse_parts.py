"""The steps the pruners are made of, against the plainest way to compute the same."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from nnembed.errors import UnsupportedFeature
from nnembed.ir.linear import Convolution, Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, relu
from nnembed.options import Budget
from nnembed.testing.networks import chain

from nnembed_sparse.calibration import SURE, calibrate, cool
from nnembed_sparse.layerwise import moments, refit, traces
from nnembed_sparse.layout import layout_of, patches, unfolded
from nnembed_sparse.loss import softmax
from nnembed_sparse.newton import Steps, resolve
from nnembed_sparse.regions import allocate, log_regions, term_rank
from nnembed_sparse.surgeon import Search, bucketed, improve, magnitude_mask, update
from nnembed_sparse.sweep import swept_rows


def convolutional(groups=2, seed=3):
    """A strided, dilated, padded, grouped convolution, ReLU, a dense layer with a second input from the picture."""
    rng = np.random.default_rng(seed)
    conv = Convolution(rng.normal(size=(4, 2 // groups, 2, 3)), (6, 7), (2, 1), (1, 2), ((1, 0), (0, 1)), groups)
    n = conv.shape[0]
    tensors = {name: TensorSpec(name, (k,)) for name, k in (("x", 84), ("a", n), ("b", n), ("y", 3))}
    nodes = (
        Affine("conv", ("x",), "a", (conv,), rng.normal(size=n)),
        relu("relu", "a", "b", n),
        Affine("dense", ("b", "x"), "y", (Dense(rng.normal(size=(3, n))), Dense(rng.normal(size=(3, 84)))), np.ones(3)),
    )
    return Network((tensors["x"],), (tensors["y"],), nodes, tensors, name="cnn")


def networks():
    yield convolutional(1)
    yield convolutional(2)
    yield chain(
        [(6, "relu"), (5, "leaky"), (4, "clip"), (6, "max"), (3, "none")], 4, np.random.default_rng(0), skip=True
    )


def calibrated(network, *, labels=None, loss="auto", count=40, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, network.input_size))
    rng = np.random.default_rng(1)
    return calibrate(network, None, x, labels=labels, loss=loss, temperature=1.5, count=0, rng=rng)


@pytest.mark.parametrize("network", list(networks()), ids=lambda n: n.name)
@pytest.mark.parametrize("loss", ["labels", "softmax", "squared"])
@pytest.mark.parametrize("centred", [True, False])
def test_gradient_is_the_difference_quotient(network, loss, centred):
    labels = np.arange(40) % 3 if loss == "labels" else None
    calibration = calibrated(network, labels=labels, loss=loss)
    state = network.forward(calibration.inputs)
    layout = layout_of(network, state if centred else None)
    assert layout.rebuilt(layout.start).digest == network.digest
    rng = np.random.default_rng(2)
    vector = layout.start * (rng.random(layout.size) < 0.7) + 0.1 * rng.normal(size=layout.size)
    value, slope = calibration.slope(layout, vector)
    assert value == pytest.approx(calibration.value(layout.rebuilt(vector)))
    for _ in range(5):
        step = rng.normal(size=layout.size) * 1e-6
        ahead, behind = (calibration.value(layout.rebuilt(vector + s * step)) for s in (1, -1))
        assert ahead - behind == pytest.approx(2 * slope @ step, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("network", list(networks()), ids=lambda n: n.name)
def test_factor_is_one_matrix_seen_from_all_sides(network):
    calibration = calibrated(network, loss="softmax")
    layout = layout_of(network, network.forward(calibration.inputs))
    factor = calibration.curvature(layout, layout.start, np.random.default_rng(0))
    matrix = factor.columns(np.arange(layout.size)).T
    rng = np.random.default_rng(3)
    v, u = rng.normal(size=layout.size), rng.normal(size=(factor.rows // factor.samples, factor.samples))
    assert np.allclose(factor.dot(v).ravel(), matrix @ v)
    assert np.allclose(factor.pull(u), u.ravel() @ matrix)
    assert np.allclose(factor.squares(), (matrix**2).sum(axis=0) / factor.samples)
    keep = rng.random(layout.size) < 0.5
    assert np.allclose(factor.gram(keep), matrix[:, keep] @ matrix[:, keep].T)


def test_curvature_is_the_second_derivative_where_the_network_is_linear():
    network = chain([(3, "none")], 4, np.random.default_rng(5))
    calibration = calibrated(network, loss="softmax")
    layout = layout_of(network, network.forward(calibration.inputs))
    matrix = calibration.curvature(layout, layout.start, np.random.default_rng(0)).columns(np.arange(layout.size))
    bend = matrix @ matrix.T / len(calibration)
    step = np.random.default_rng(1).normal(size=layout.size)
    values = [calibration.value(layout.rebuilt(layout.start + s * 1e-3 * step)) for s in (1, 0, -1)]
    assert (values[0] - 2 * values[1] + values[2]) / 1e-6 == pytest.approx(step @ bend @ step, rel=1e-4)


def test_temperature_is_chosen_for_networks_that_are_sure():
    y = np.random.default_rng(0).normal(size=(200, 5))
    assert cool(0.1 * y) == 1.0
    assert cool(100 * y) == pytest.approx(10 * cool(10 * y), rel=0.15)
    assert softmax(100 * y / cool(100 * y)).max(axis=1).mean() == pytest.approx(SURE, abs=0.01)
    assert cool(np.ones((3, 1))) == 1.0  # a single output is sure at any temperature


def test_patches_are_what_the_kernel_weighs():
    for groups in (1, 2):
        operator = convolutional(groups).nodes[0].operators[0]
        x = np.random.default_rng(0).normal(size=(5, operator.shape[1]))
        kernel = operator.kernel.reshape(groups, 4 // groups, -1)
        ours = np.einsum("gkpd,god->kgop", patches(operator, x), kernel).reshape(5, -1)
        assert np.allclose(ours, operator.apply(x))


def test_unfolding_finds_the_normalisation_of_the_inputs():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 9))
    tensors = {"x": TensorSpec("x", (9,)), "y": TensorSpec("y", (5,))}
    node = Affine("a", ("x",), "y", (Dense(w / 0.3),), -(w / 0.3) @ np.full(9, 0.13))
    network = Network((tensors["x"],), (tensors["y"],), (node,), tensors)
    layout = layout_of(network, network.forward({"x": rng.random((4, 9))}))
    assert unfolded(layout).centres[0] == pytest.approx(0.13)
    assert unfolded(layout_of(network)).centres[0] == pytest.approx(0.0)


def test_traces_are_those_of_the_plain_elimination():
    rng = np.random.default_rng(0)
    d = 75  # beyond two rewrites of the inverses
    x = rng.normal(size=(200, d)) @ rng.normal(size=(d, d))
    h, w = moments(x, 0.01), rng.normal(size=(3, d))
    order, cost = traces(w, np.linalg.inv(h))
    for row in range(len(w)):
        inverse, now, alive = np.linalg.inv(h), w[row].copy(), np.ones(d, bool)
        for t in range(d):
            p = int(np.where(alive, now**2 / np.where(alive, np.diagonal(inverse), 1), np.inf).argmin())
            assert order[row, t] == p
            assert cost[row, t] == pytest.approx(now[p] ** 2 / inverse[p, p] / 2, rel=1e-5)
            now -= now[p] / inverse[p, p] * inverse[:, p]
            inverse -= np.outer(inverse[:, p], inverse[p]) / inverse[p, p]
            alive[p], now[p] = False, 0.0


@pytest.mark.parametrize("free", [True, False])
def test_refit_is_least_squares_on_the_first_layer_and_gets_closer_on_all(free):
    network = chain([(30, "relu"), (20, "relu"), (10, "relu"), (2, "none")], 8, np.random.default_rng(0))
    calibration = calibrated(network, count=3000)
    state = network.forward(calibration.inputs)
    layout = layout_of(network, state if free else None)
    keep = np.random.default_rng(1).random(layout.count) < 0.5
    whole = np.concatenate([keep, np.ones(layout.size - layout.count, bool)])
    fitted = refit(layout, calibration, keep, 1e-9)
    assert not fitted[: layout.count][~keep].any()
    found = layout.rebuilt(fitted).forward(calibration.inputs)
    masked = layout.rebuilt(layout.start * whole).forward(calibration.inputs)
    for name in ("pre_0", "pre_1", "pre_2", "pre_3"):
        assert ((found[name] - state[name]) ** 2).mean() < ((masked[name] - state[name]) ** 2).mean()
    x = calibration.inputs["x"]
    for i, chosen in enumerate(keep[:240].reshape(30, 8)):
        design = np.column_stack([x[:, chosen], np.ones(len(x))]) if free else x[:, chosen]
        aim = state["pre_0"][:, i] - (0.0 if free else network.nodes[0].bias[i])
        best = design @ np.linalg.lstsq(design, aim, rcond=None)[0]
        ours = found["pre_0"][:, i] - (0.0 if free else network.nodes[0].bias[i])
        assert np.allclose(ours, best, atol=1e-4)


@pytest.mark.parametrize("kept", [3, 150, 300])
def test_sweep_keeps_what_it_is_told_and_beats_plain_zeros(kept):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 300)) @ rng.normal(size=(300, 300)) * 0.1
    w = rng.normal(size=(2, 300))
    out = swept_rows(w, moments(x, 0.01), kept, np.ones(2))
    assert np.count_nonzero(out) == kept
    masked = np.where(out != 0, w, 0.0)
    assert ((x @ (out - w).T) ** 2).sum() < ((x @ (masked - w).T) ** 2).sum()


@pytest.mark.parametrize("rows", [10, 200])
def test_update_solves_the_quadratic_program(rows):
    network = chain([(5, "relu"), (3, "none")], 4, np.random.default_rng(2))
    calibration = calibrated(network, loss="softmax", count=rows)
    layout = layout_of(network, network.forward(calibration.inputs))
    factor = calibration.fisher(layout, layout.start, np.random.default_rng(0))
    keep = np.ones(layout.size, bool)
    keep[: layout.count] = np.random.default_rng(4).random(layout.count) < 0.5
    (found,) = update(factor, layout.start, keep, [1e-3])
    g = factor.columns(np.arange(layout.size)).T
    h = g.T @ g / rows + 1e-3 * np.eye(layout.size)
    inverse = np.linalg.inv(h)
    gone = np.flatnonzero(~keep)
    multipliers = np.linalg.solve(inverse[np.ix_(gone, gone)], layout.start[gone])
    expected = layout.start - inverse[:, gone] @ multipliers
    assert np.allclose(found, expected, atol=1e-7)
    assert not found[gone].any()


def test_swaps_lower_the_quadratic_model_and_keep_the_count():
    network = chain([(12, "relu"), (8, "relu"), (3, "none")], 6, np.random.default_rng(7))
    calibration = calibrated(network, loss="softmax", count=100)
    layout = layout_of(network, network.forward(calibration.inputs))
    factor = calibration.fisher(layout, layout.start, np.random.default_rng(0))
    g = factor.columns(np.arange(layout.count)).T * layout.start[: layout.count]

    def quadratic(keep):
        return float(((g[:, ~keep].sum(axis=1)) ** 2).sum() / len(calibration))

    start = magnitude_mask(np.abs(layout.start[: layout.count]), 50)
    end = improve(layout, factor, start, quadratic, Search(), Budget().start())
    assert end.sum() == 50
    assert quadratic(end) < quadratic(start)


def test_buckets_keep_exactly_what_they_are_told():
    rng = np.random.default_rng(0)
    for n, kept, buckets in product((17, 100), (0, 3, 17), (1, 4, 7)):
        keep = bucketed(rng.random(n), kept, buckets, rng)
        assert keep.sum() == kept


def test_resolve_is_never_worse_and_moves_only_what_stays():
    network = chain([(12, "relu"), (3, "none")], 6, np.random.default_rng(7))
    calibration = calibrated(network, loss="squared", count=200)
    layout = layout_of(network, network.forward(calibration.inputs))
    keep = np.ones(layout.size, bool)
    keep[: layout.count] = np.random.default_rng(0).random(layout.count) < 0.5
    start = layout.start * keep
    rng = np.random.default_rng(1)
    found = resolve(layout, calibration, start, keep, Steps(), rng, Budget().start())
    assert calibration.value(layout.rebuilt(found)) < 0.7 * calibration.value(layout.rebuilt(start))
    assert not found[~keep].any()


def test_term_rank_is_the_rank_of_a_random_matrix():
    rng = np.random.default_rng(0)
    for density, _ in product((0.02, 0.1, 0.3), range(20)):
        mask = rng.random((rng.integers(1, 25), rng.integers(1, 25))) < density
        assert term_rank(mask) == np.linalg.matrix_rank(mask * rng.normal(size=mask.shape))


def test_bound_on_regions_is_the_recursion():
    def exact(widths, ranks, d):
        if not widths:
            return 1
        n, k = widths[0], ranks[0]
        return sum(comb(n, j) * exact(widths[1:], ranks[1:], min(n - j, d, k)) for j in range(min(k, d) + 1))

    rng = np.random.default_rng(0)
    for _ in range(30):
        inputs, *widths = rng.integers(1, 8, size=4).tolist()
        sizes = [inputs, *widths]
        ranks = [int(rng.integers(0, min(a, b) + 1)) for a, b in zip(sizes, widths, strict=False)]
        assert log_regions(widths, ranks, inputs) == pytest.approx(
            np.log(exact(widths, ranks, inputs)), rel=1e-9, abs=1e-12
        )


def test_densities_are_no_worse_than_uniform_and_other_networks_are_refused():
    network = chain([(20, "relu"), (20, "relu"), (4, "none")], 30, np.random.default_rng(0))
    layout = layout_of(network)
    keep, bound = allocate(layout, 60)
    assert keep.sum() == 60
    ranks = []
    for part in layout.weights:
        mask = magnitude_mask(np.abs(layout.start[part.span]), 60 * part.size // layout.count)
        ranks.append(term_rank(mask.reshape(part.rows, part.columns)))
    assert bound >= log_regions([p.rows for p in layout.weights], ranks, 30)
    for other in networks():
        with pytest.raises(UnsupportedFeature, match="regions"):
            allocate(layout_of(other), 20)
