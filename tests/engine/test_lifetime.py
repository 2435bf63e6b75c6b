"""Several networks in one model, over its whole life."""

from __future__ import annotations

import gc
import pickle
import time

import numpy as np
import pandas as pd
import pytest

import nnembed as nn
from nnembed.testing import chain, enumerate_optimum, random_network


def model(n=2, low=-1.0, high=1.0):
    m = nn.Model()
    return m, m.add_variables(low, high, coords=[pd.RangeIndex(n, name="f")], name="x")


def test_one_network_reads_another():
    first = chain([(4, "relu"), (2, "none")], 2, np.random.default_rng(0))
    second = chain([(3, "relu"), (1, "none")], 2, np.random.default_rng(1))
    m, x = model()
    middle = m.embed(first, x, name="first")
    last = m.embed(second, middle.rename(output="middle"), name="second")
    m.add_objective(last.sum(), sense="max")
    result = m.solve(gap=1e-6)
    axis = np.linspace(-1, 1, 301)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    best = second(first(points)).max()
    assert result.status == "optimal" and result.certificate.ok
    assert result.objective >= best - 1e-6
    assert result.objective == pytest.approx(best, abs=2e-2)
    assert second(first(x.solution.values)) == pytest.approx(last.solution.values, abs=1e-6)
    assert result.history[0].source == "forward" and result.history[0].objective is not None


def test_two_networks_share_variables_and_one_leaves():
    one, two = random_network(1), random_network(2)
    m, x = model()
    a, b = m.embed(one, x, name="one"), m.embed(two, x, name="two")
    m.add_objective(a.sum() - b.sum(), sense="max")
    both = m.solve(gap=1e-6)
    axis = np.linspace(-1, 1, 401)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert both.objective >= (one(points) - two(points)).max() - 1e-6
    assert set(m.embeddings) == {"one", "two"}
    m.add_objective(a.sum(), sense="max", overwrite=True)
    m.embeddings["two"].remove()
    alone = m.solve(gap=1e-6)
    assert alone.objective == pytest.approx(enumerate_optimum(one, -np.ones(2), np.ones(2), np.ones(1)), abs=1e-5)
    assert set(m.embeddings) == {"one"}
    with pytest.raises(nn.InputError, match="already contains a network named 'one'"):
        m.embed(two, x, name="one")


def test_weights_are_replaced_by_embedding_again():
    m, x = model()
    values = []
    for seed in (1, 2):
        y = m.embed(random_network(seed), x, name="demand")
        m.add_objective(y.sum(), sense="max", overwrite=True)
        values.append(m.solve(gap=1e-6).objective)
        m.objective = m.objective.__class__(0 * x.sum(), m)
        m.embeddings["demand"].remove()
    want = [enumerate_optimum(random_network(s), -np.ones(2), np.ones(2), np.ones(1)) for s in (1, 2)]
    assert values == pytest.approx(want, abs=1e-5)


def test_a_changed_box_is_solved_with_new_bounds():
    net = random_network(3)
    m, x = model()
    y = m.embed(net, x, name="demand")
    m.add_objective(y.sum(), sense="max")
    for size in (1.0, 3.0, 0.5):
        x.lower.values[:], x.upper.values[:] = -size, size
        want = enumerate_optimum(net, -size * np.ones(2), size * np.ones(2), np.ones(1))
        assert m.solve(gap=1e-6).objective == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 100])
def test_batches_are_their_points(count):
    net = chain([(4, "relu"), (4, "relu"), (1, "none")], 2, np.random.default_rng(0))
    centre = np.random.default_rng(1).uniform(-1, 1, (count, 2))
    m = nn.Model()
    points = pd.RangeIndex(count, name="point")
    x = m.add_variables(
        pd.DataFrame(centre - 0.2, index=points, columns=pd.RangeIndex(2, name="f")),
        pd.DataFrame(centre + 0.2, index=points, columns=pd.RangeIndex(2, name="f")),
        name="x",
    )
    y = m.embed(net, x, name="demand")
    assert dict(y.sizes) == {"point": count, "output": 1}
    m.add_objective(y.sum(), sense="max")
    result = m.solve(gap=1e-6, time_limit=60)
    alone = [nn.maximize(net, (c - 0.2, c + 0.2), gap=1e-6).objective for c in centre[:10]]
    assert result.certificate.ok
    assert m.solution["demand"].values[:10, 0] == pytest.approx(alone, abs=1e-4)


def test_the_cost_of_a_batch_is_linear():
    net = chain([(32, "relu"), (32, "relu"), (1, "none")], 10, np.random.default_rng(0))
    nn.embed(nn.ArrayModel(-np.ones(10), np.ones(10)), net, np.arange(10), attach=False)
    seconds = {100: np.inf, 1000: np.inf}
    for count in (100, 1000) * 3:  # the best of three: other processes share the caches
        low = np.random.default_rng(1).uniform(-1, 0, (count, 10))
        m = nn.ArrayModel(low.ravel(), low.ravel() + 1)
        gc.collect()
        gc.disable()  # else the heap of all the tests before is walked in between
        started = time.process_time()
        embedding = nn.embed(m, net, np.arange(10 * count).reshape(count, 10), attach=False)
        gc.enable()
        seconds[count] = min(seconds[count], time.process_time() - started)
        assert embedding.block.batch == count
    assert seconds[100] <= 0.2
    assert seconds[1000] <= 20 * max(seconds[100], 0.01)  # caches are left behind at a thousand


def test_equal_boxes_are_bounded_once():
    net = random_network(0)
    m = nn.ArrayModel(np.tile([-1.0, -1.0], 50), np.tile([1.0, 1.0], 50))
    calls = []

    class Counting:
        name, summary, sound, cost = "counting", "counts boxes", True, 0

        def tighten(self, network, bounds, budget):
            from nnembed.bounds.interval import Interval

            calls.append(bounds.batch)
            return Interval().tighten(network, bounds, budget)

    nn.embed(m, net, np.arange(100).reshape(50, 2), bounds=Counting(), attach=False)
    assert calls == [1]


def test_solving_changes_nothing_in_the_block():
    """scipy may sort a matrix in place; a block must not share memory with a problem that is."""
    net = chain([(6, "relu"), (5, "abs"), (2, "none")], 3, np.random.default_rng(0))
    m, x = model(3)
    y = m.embed(net, x, name="demand")
    m.add_objective(y.sum(), sense="max")
    block = m.embeddings["demand"].block
    before = [a.copy() for a in (block.matrix.data, block.matrix.indices, block.matrix.indptr, block.lower)]
    objectives = [m.solve(gap=1e-6).objective for _ in range(3)]
    after = (block.matrix.data, block.matrix.indices, block.matrix.indptr, block.lower)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert objectives == pytest.approx([objectives[0]] * 3, abs=1e-9)


def test_networks_travel_to_other_processes():
    net = random_network(0)
    copy = pickle.loads(pickle.dumps(net))
    x = np.random.default_rng(0).normal(size=(5, 2))
    assert np.array_equal(net(x), copy(x)) and net.digest == copy.digest


def test_names_are_the_same_every_time(tmp_path):
    import linopy

    texts = []
    for run in range(2):
        m = linopy.Model()
        x = m.add_variables(-1, 1, coords=[pd.RangeIndex(2, name="f")], name="x")
        emb = nn.embed(m, random_network(0), x, name="demand")
        m.add_objective(emb.outputs.sum(), sense="max")
        m.to_file(tmp_path / f"{run}.lp", explicit_coordinate_names=True, progress=False)
        texts.append((tmp_path / f"{run}.lp").read_text())
    assert texts[0] == texts[1]
    assert emb.block.names("demand") == sorted(set(emb.block.names("demand")), key=emb.block.names("demand").index)
