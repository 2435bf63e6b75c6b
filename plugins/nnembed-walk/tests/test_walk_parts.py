"""Region programs, neighbourhoods, projections and fields against enumeration, the networks and definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnembed.errors import InputError
from nnembed.ir.nodes import Step
from nnembed.options import Budget
from nnembed.testing import chain, enumerate_optimum, reference_networks
from nnembed.testing.heuristics import scene

from nnembed_walk import GradientWalk, PerturbedWalk, RelaxWalk, Walk
from nnembed_walk.ascent import boundary
from nnembed_walk.field import FastField, SceneField, chain_of
from nnembed_walk.program import lifted
from nnembed_walk.record import Record
from nnembed_walk.regions import DenseRegions, LiftedRegions, composed, neighbourhood
from nnembed_walk.terrain import Terrain

NETWORKS = {k: n for k, n in reference_networks().items() if not any(isinstance(a, Step) for a in n.activations)}
CLOCK = Budget().start()


def box(network):
    return -np.ones(network.input_size), np.ones(network.input_size)


def optimum(network, low, high):
    return enumerate_optimum(network, low, high, np.eye(network.output_size)[0])


def test_the_random_nets_are_the_published_ones():
    from walk_nets import random_net

    x = [0, 0.458207076805536, 1, 0, 0, 0.5024191931872548, 0.004384783045342429, 0.4308420049084333, 1]
    value = float(random_net("10-100-1", 50)(np.array([*x, 0.21783871251342293]))[0])
    assert value == pytest.approx(-0.0154860596, abs=1e-7)
    assert random_net("10-100x1", 50).digest == random_net("10-100-1", 50).digest


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 2**31))
def test_the_best_point_of_a_region_is_the_networks_own_and_no_worse_than_where_it_was_read(name, seed):
    network = NETWORKS[name]
    this = scene(network, *box(network))
    program, record = lifted(this), Record(this)
    regions = LiftedRegions(program)
    point = np.random.default_rng(seed).uniform(-1, 1, network.input_size)
    look = record.look(point[None])
    found = regions.solve(look.kinks[0] > 0, CLOCK)
    assert found is not None and found.value >= look.score[0] - 1e-7
    there = record.look(found.kept[program.drivers][None])
    assert there.score[0] == pytest.approx(found.value, abs=1e-6)
    assert found.value <= optimum(network, *box(network)) + 1e-6
    side = np.where(look.kinks[0] > 0, 1, -1) * there.kinks[0]
    assert (side >= -1e-6).all()  # the solution does not leave the region
    regions.close()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_neighbourhood_of_all_neurons_is_the_whole_problem(name):
    network = NETWORKS[name]
    this = scene(network, *box(network))
    program = lifted(this)
    pattern = Record(this).look(np.zeros((1, network.input_size))).kinks[0] > 0
    found = neighbourhood(program, pattern, np.flatnonzero(program.open), CLOCK, 10_000)
    assert found.value == pytest.approx(optimum(network, *box(network)), abs=1e-5)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_portfolio_finds_the_optimum_of_small_networks(name):
    network = NETWORKS[name]
    this = scene(network, *box(network))
    last = list(Walk(batch=8, steps=60).run(this, None, Budget(), np.random.default_rng(0)))[-1]
    assert last.score == pytest.approx(optimum(network, *box(network)), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_dense_and_lifted_regions_agree(seed):
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["relu", "leaky", "steep", "abs"], 3)
    network = chain([(6, kind) for kind in kinds] + [(1, "none")], 3, rng)
    this = scene(network, *box(network))
    program, record, plain = lifted(this), Record(this), chain_of(this)
    point = rng.uniform(-1, 1, 3)
    look = record.look(point[None])
    pattern = look.kinks[0] > 0
    rows, sides, out, constant = composed(plain, pattern)
    assert rows @ point + sides == pytest.approx(look.kinks[0], abs=1e-9)
    assert float(plain.output @ (out @ point + constant)) == pytest.approx(look.score[0], abs=1e-9)
    one, two = (r.solve(pattern, CLOCK) for r in (DenseRegions(program, plain), LiftedRegions(program)))
    assert one.value == pytest.approx(two.value, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_fields_agree_and_slopes_are_right(seed):
    rng = np.random.default_rng(seed)
    network = chain([(7, "relu"), (5, "steep"), (2, "none")], 4, rng)
    this = scene(network, *box(network))
    points, slopes = rng.uniform(-1, 1, (6, 4)), np.empty((2, 6, 4))
    fast = FastField(chain_of(this), 6, np.float64)(points, slopes[0]).copy()
    slow = SceneField(this)(points, slopes[1])
    assert fast == pytest.approx(slow, abs=1e-9) and slopes[0] == pytest.approx(slopes[1], abs=1e-9)
    ray = rng.normal(size=(6, 4)) * 1e-7
    kinks = Record(this).look(points).kinks, Record(this).look(points + ray).kinks
    same = ((kinks[0] > 0) == (kinks[1] > 0)).all(axis=1)
    moved = this.evaluate(points + ray)[0] - this.evaluate(points)[0]
    assert (np.abs(moved - (slopes[0] * ray).sum(axis=1))[same] <= 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_projections_are_the_nearest_points(seed):
    rng = np.random.default_rng(seed)
    network = chain([(4, "relu"), (1, "none")], 5, rng)
    limit = rng.uniform(-4.0, 4.0)
    terrain = Terrain(scene(network, *box(network), limit=limit), Budget(), rng)
    far = rng.normal(size=(8, 5)) * 3
    near = far.copy()
    terrain.project(near)
    assert (near.sum(axis=1) <= limit + 1e-9).all() and (np.abs(near) <= 1).all()
    inside = rng.uniform(-1, 1, (200, 5))
    inside = inside[inside.sum(axis=1) <= limit]
    for target, found in zip(far, near, strict=True):  # the angle to every allowed point is obtuse
        assert ((inside - found) @ (target - found) <= 1e-7).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_an_exact_step_ends_where_the_first_neuron_turns(seed):
    rng = np.random.default_rng(seed)
    network = chain([(8, "relu"), (8, "relu"), (1, "none")], 4, rng)
    terrain = Terrain(scene(network, *box(network)), Budget(), rng)
    x, ray = terrain.uniform(4), rng.normal(size=(4, 4)) * 0.5
    step = boundary(terrain, x, ray)

    def pattern(t):
        return terrain.record.look(x + t[:, None] * ray).kinks > 0

    start, crossed = pattern(0 * step), step < 1
    assert (pattern(step * (1 - 1e-6)) == start).all()
    assert (pattern(step * (1 + 1e-6)) != start).any(axis=1)[crossed].all()


def test_wrong_options_are_refused_with_their_names():
    for make, word in (
        (lambda: RelaxWalk(starts="corner"), "starts='corner'"),
        (lambda: RelaxWalk(eps=0), "eps=0"),
        (lambda: GradientWalk(batch=0), "batch=0"),
        (lambda: PerturbedWalk(radius=-1), "radius=-1"),
        (lambda: Walk(batch=1), "batch=1"),
    ):
        with pytest.raises(InputError, match=word):
            make()
