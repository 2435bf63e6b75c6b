"""Walks on models with more in them than a box and a network."""

from __future__ import annotations

import nnembed as nn
import numpy as np
import pytest
from nnembed.embedding import embeddings_of
from nnembed.engine import embed
from nnembed.errors import BoxError, UnsupportedFeature
from nnembed.heuristics.scene import Scene
from nnembed.hosts.arrays import ArrayHost, ArrayModel
from nnembed.options import Budget
from nnembed.problem import Overlay, overlay
from nnembed.testing import chain

from nnembed_walk import GradientWalk, PerturbedWalk, RelaxWalk, SampleLp, SampleMip, Walk

LIMITS = [1.0, 1.5, 0.8]
ALL = [Walk(), GradientWalk(), PerturbedWalk("ppga-lr", valve=True), RelaxWalk(), SampleLp(), SampleMip()]


def scene_of(model):
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in embeddings_of(model).values()]
    return Scene(overlay(ArrayHost().compile(model), layers))


def best(heuristic, model, seconds=1.0, seed=0):
    found = list(heuristic.run(scene_of(model), None, Budget(seconds), np.random.default_rng(seed)))
    return found[-1] if found else None


def two_networks(integer=False):
    """Two networks read overlapping inputs; a row ties an output of one to an input, another limits both outputs."""
    rng = np.random.default_rng(5)
    first, second = (chain([(6, "relu"), (5, "relu"), (1, "none")], 3, rng) for _ in range(2))
    model = ArrayModel(
        -np.full(4, 2.0), np.full(4, 2.0), integer=np.array([integer, False, integer, False]), maximize=True
    )
    embed(model, first, np.arange(3), name="a", attach=False)
    embed(model, second, np.arange(1, 4), name="b", attach=False)
    model.cost = np.array([0.1, 0, 0, -0.1, 1.0, 0.7])
    model.add_rows(np.array([[1.0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, -1], [0, 1, 0, 0, 0.5, 0]]), -np.inf, LIMITS)
    return model


@pytest.mark.parametrize("heuristic", ALL, ids=lambda h: h.name)
@pytest.mark.parametrize("integer", [False, True])
def test_rows_integers_and_two_networks(heuristic, integer):
    model = two_networks(integer)
    exact = nn.solve(model, backend="highs", heuristics="none", gap=1e-6)
    found = best(heuristic, model)
    assert found is not None, "no candidate"
    assert found.score <= exact.objective + 1e-5
    point = scene_of(model).point(found.inputs["drivers"]["x"])
    assert point.violation <= 1e-7
    if heuristic.name == "walk":
        assert found.score == pytest.approx(exact.objective, rel=1e-3)


def with_stock(limit=np.inf):
    """A column of the user's own that no network determines: what is sold is at most the output, and costs."""
    network = chain([(6, "relu"), (6, "relu"), (1, "none")], 3, np.random.default_rng(3))
    model = ArrayModel(np.r_[-np.ones(3), 0.0], np.r_[np.ones(3), limit], maximize=True)
    embed(model, network, np.arange(3), name="net", attach=False)
    model.cost = np.array([0.0, 0, 0, 1.0, -0.25])
    return model


@pytest.mark.parametrize("heuristic", [Walk(), RelaxWalk(), SampleLp()], ids=lambda h: h.name)
def test_columns_of_the_users_own_come_from_the_region_program(heuristic):
    model = with_stock()
    model.add_rows(np.array([[0, 0, 0, 1.0, -1.0]]), -np.inf, 0.0)
    exact = nn.solve(model, backend="highs", heuristics="none", gap=1e-6)
    found = best(heuristic, model)
    assert found is not None and found.score <= exact.objective + 1e-6
    full = found.inputs["columns"]["x"]
    assert full[3] <= full[4] + 1e-7
    if heuristic.name == "walk":
        assert found.score == pytest.approx(exact.objective, abs=1e-5)


@pytest.mark.parametrize("heuristic", [Walk(), RelaxWalk(), SampleLp(), SampleMip()], ids=lambda h: h.name)
def test_an_unbounded_column_is_named(heuristic):
    model = with_stock()
    with pytest.raises(BoxError, match=r"variable x\[3\] may grow for ever"):
        best(heuristic, model)


def test_of_several_columns_without_bound_the_one_that_grows_is_named():
    network = chain([(5, "relu"), (1, "none")], 2, np.random.default_rng(3))
    model = ArrayModel(np.r_[-np.ones(2), 0, 0], np.r_[np.ones(2), np.inf, np.inf], maximize=True)
    embed(model, network, np.arange(2), name="net", attach=False)
    model.cost = np.array([0.0, 0, 5.0, 1.0, -0.25])
    model.add_rows(np.array([[1.0, 0, 1.0, 0, 0]]), -np.inf, 3.0)
    with pytest.raises(BoxError, match=r"variable x\[3\] may grow for ever"):
        best(SampleLp(), model)


def test_an_endless_objective_is_an_error_without_solver_and_an_answer_with_one():
    with pytest.raises(BoxError, match="may grow for ever"):
        nn.solve(with_stock(), backend="none", heuristics=(Walk(),), time_limit=5)
    assert nn.solve(with_stock(), backend="highs", time_limit=5).status == "unbounded"


def test_an_empty_polytope_gives_no_candidate():
    model = two_networks()
    model.add_rows(np.array([[1.0, 1, 1, 1, 0, 0]]), 9.0, np.inf)
    for heuristic in ALL:
        assert best(heuristic, model, seconds=0.3) is None


def test_a_quadratic_objective_is_climbed_and_refused_by_region_programs():
    model = two_networks()
    this = scene_of(model)
    from dataclasses import replace

    import scipy.sparse as sp

    n = this.problem.n_columns
    square = sp.csr_array((np.full(4, -1.0), (np.arange(4), np.arange(4))), shape=(n, n))
    this = Scene(replace(this.problem, quadratic=square))
    found = list(GradientWalk().run(this, None, Budget(0.5), np.random.default_rng(0)))
    assert all(np.diff([c.score for c in found]) > 0)
    with pytest.raises(UnsupportedFeature, match="gradient-walk"):
        list(SampleLp().run(this, None, Budget(0.5), np.random.default_rng(0)))


def test_runs_can_be_repeated():
    network = chain([(20, "relu"), (20, "relu"), (1, "none")], 8, np.random.default_rng(1))
    model = ArrayModel(np.zeros(8), np.ones(8), maximize=True)
    embed(model, network, np.arange(8), name="net", attach=False)
    model.cost = np.r_[np.zeros(8), 1.0]
    first, second = (
        [c.score for c in Walk(steps=40).run(scene_of(model), None, Budget(), np.random.default_rng(4))]
        for _ in range(2)
    )
    assert first == second


def test_the_package_registers_itself():
    from nnembed.hooks import manager

    from nnembed_walk import plugin

    registry = manager.build(extra=[("nnembed-walk", plugin)])
    names = {e.name for e in registry.entries() if e.extension_point == "heuristic"}
    assert {"walk", "relax-walk", "gradient-walk", "ppga", "ppga-lr", "sample-lp", "sample-mip"} <= names
