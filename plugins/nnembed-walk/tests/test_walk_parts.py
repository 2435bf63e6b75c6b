"""Region programs, neighbourhoods, projections and fields against enumeration, the networks and definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnembed.embedding import embeddings_of
from nnembed.engine import embed
from nnembed.errors import InputError, UnsupportedFeature
from nnembed.heuristics.scene import Scene
from nnembed.hosts.arrays import ArrayHost, ArrayModel
from nnembed.ir.nodes import Clip, Kink, Max
from nnembed.options import Budget
from nnembed.problem import Overlay, overlay
from nnembed.testing import chain, enumerate_optimum, reference_networks
from nnembed.testing.heuristics import scene

import nnembed_walk.regions as regions
from nnembed_walk import GradientWalk, PerturbedWalk, RelaxWalk, Walk
from nnembed_walk.ascent import boundary
from nnembed_walk.field import FastField, SceneField, chain_of
from nnembed_walk.program import lifted
from nnembed_walk.record import Record
from nnembed_walk.regions import DenseRegions, LiftedRegions, composed, neighbourhood
from nnembed_walk.relax import Relaxation
from nnembed_walk.terrain import Terrain

ALL = reference_networks()
NETWORKS = {k: n for k, n in ALL.items() if all(isinstance(a, Kink | Clip | Max) for a in n.activations)}
OTHERS = {k: n for k, n in ALL.items() if k not in NETWORKS}  # with jumps
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


@settings(max_examples=60, deadline=None, derandomize=True)  # one draw of some thousand needs more steps than there are
@given(st.integers(0, 2**31))
def test_projections_onto_several_rows_are_the_nearest_points(seed):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(3, 12)), int(rng.integers(2, 15))
    rows, centre = rng.normal(size=(m, n)) * (rng.random((m, n)) < rng.uniform(0.1, 1.0)), rng.uniform(-0.5, 0.5, n)
    rows[np.arange(m), rng.integers(n, size=m)] = 1.0  # none is empty
    room = np.where(rng.random(m) < 0.2, 0.0, rng.uniform(0.05, 0.5, m))  # some are equations
    low = np.where((rng.random(m) < 0.5) & (room > 0), -np.inf, rows @ centre - room)
    terrain = polytope(rows, low, rows @ centre + room, rng, width=4)
    far = rng.normal(size=(6, n)) * 2
    near = far.copy()
    terrain.project(near)
    assert np.abs(terrain.project.excess(near)).max() <= 1e-7 and (np.abs(near) <= 1).all()
    for ray in rng.normal(size=(20, n)):  # the angle to every allowed point is obtuse: try the farthest ones
        inside = linprog(-ray, rows, rows @ centre + room, low)
        assert ((inside - near) * (far - near)).sum(axis=1).max() <= 1e-5
    follow, x = terrain.project.following(), near.astype(np.float32)
    for _ in range(10):
        x += rng.normal(size=x.shape).astype(np.float32) * np.float32(0.01)
        follow(x)
    assert np.abs(terrain.project.excess(x.astype(float))).max() <= 1e-2


def linprog(cost, rows, high, low):
    from scipy.optimize import LinearConstraint, milp

    return milp(cost, constraints=LinearConstraint(rows, low, high), bounds=(-1, 1)).x


def polytope(rows, low, high, rng, width):
    """Return the terrain of a random network over ``-1 <= x <= 1, low <= rows @ x <= high``."""
    return Terrain(polytope_scene(rows, low, high, rng, width), Budget(), rng)


def polytope_scene(rows, low, high, rng, width):
    n = rows.shape[1]
    network = chain([(width, "relu"), (width, "relu"), (1, "none")], n, rng)
    model = ArrayModel(-np.ones(n), np.ones(n), maximize=True)
    embed(model, network, np.arange(n), name="net", attach=False)
    model.cost = np.r_[np.zeros(n), 1.0]
    model.add_rows(np.hstack([rows, np.zeros((len(rows), 1))]), low, high)
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in embeddings_of(model).values()]
    return Scene(overlay(ArrayHost().compile(model), layers))


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "width", "room"), [((25, 50), 60, 0.03), ((80, 80), 30, 0.02)])
def test_the_portfolio_is_no_worse_than_relax_walk_on_polytopes_and_keeps_to_its_time(shape, width, room):
    from time import process_time

    from nnembed.engine.effort import Leash

    rng = np.random.default_rng(shape[0])
    rows = rng.normal(size=shape)
    this = polytope_scene(rows, np.full(len(rows), -np.inf), room * np.abs(rows).sum(axis=1), rng, width)
    found = []
    for heuristic in (Walk(), RelaxWalk()):
        began = process_time()
        clock = Leash(60.0, ended=lambda began=began: process_time() - began > 2.0)
        *_, last = heuristic.run(this, None, clock, np.random.default_rng(0))
        assert process_time() - began < 2.5
        assert this.point(last.inputs["drivers"]["x"]).violation <= 1e-7
        found.append(last.score)
    assert found[0] >= found[1] - 1e-6 * abs(found[1])


def test_projections_end_with_the_clock_and_give_a_point_all_the_same():
    from time import process_time

    rng = np.random.default_rng(4)
    rows = rng.normal(size=(600, 300))
    this = polytope_scene(rows, np.full(600, -np.inf), 0.01 * np.abs(rows).sum(axis=1), rng, 10)
    began = process_time()
    found = list(Walk().run(this, None, Budget(0.1), rng))
    assert process_time() - began < 1.0
    assert all(this.point(c.inputs["drivers"]["x"]).violation <= 1e-7 for c in found)


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


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_networks_with_jumps_are_climbed_only(name):
    network = OTHERS[name]
    this = scene(network, *box(network))
    last = list(Walk(batch=8, steps=60).run(this, None, Budget(1.0), np.random.default_rng(0)))[-1]
    assert last.score == pytest.approx(float(np.ravel(network(last.inputs["drivers"]["x"]))[0]), abs=1e-9)
    with pytest.raises(UnsupportedFeature, match="use 'gradient-walk'"):
        list(RelaxWalk().run(this, None, Budget(1.0), np.random.default_rng(0)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_walks_through_dense_regions_leave_no_row_out(seed):
    """Rows that are far away are left out at first: with many of them on every step, values must stay the programs'."""
    rng = np.random.default_rng(seed)
    network = chain([(40, "relu"), (40, "leaky"), (40, "relu"), (1, "none")], 4, rng)
    this = scene(network, *box(network))
    program, plain, record = lifted(this), chain_of(this), Record(this)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_FEW_ENTRIES", 0)
        kept = DenseRegions(program, plain)
        x = rng.uniform(-1, 1, 4)
        for _ in range(6):
            pattern = record.look(x[None]).kinks[0] > 0
            one, two = kept.solve(pattern, CLOCK), LiftedRegions(program).solve(pattern, CLOCK)
            assert one.value == pytest.approx(two.value, abs=1e-6)
            best = one.kept[program.drivers]
            x = np.clip(best + 0.01 * (best - x), -1, 1)


def test_the_portfolio_goes_on_from_known_points():
    network = chain([(60, "relu"), (60, "relu"), (1, "none")], 20, np.random.default_rng(2))
    this = scene(network, *box(network))
    good = list(Walk().run(this, None, Budget(1.0), np.random.default_rng(0)))[-1]
    again = scene(network, *box(network))
    again.know(good.inputs["drivers"]["x"])
    first = next(iter(Walk(programs=False).run(again, None, Budget(), np.random.default_rng(5))))
    assert first.score >= good.score - 1e-9


def test_relax_walk_has_points_before_its_relaxation():
    network = chain([(60, "relu"), (60, "relu"), (1, "none")], 20, np.random.default_rng(2))
    found = list(RelaxWalk().run(scene(network, *box(network)), None, Budget(0.05), np.random.default_rng(0)))
    assert found and all(np.diff([c.score for c in found]) > 0)


def test_files_of_the_random_nets_are_the_random_nets(tmp_path):
    import nnembed as nn
    from walk_nets import random_net, write

    onnxruntime = pytest.importorskip("onnxruntime")
    path = write(tmp_path, "10-20x2", 53)
    network, x = random_net("10-20x2", 53), np.random.default_rng(0).random((5, 10)).astype(np.float32)
    run = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
    for point, value in zip(x, run, strict=True):
        assert network(point.astype(float)) == pytest.approx(value, abs=1e-6)
        assert nn.load(path)(point.astype(float)) == pytest.approx(network(point.astype(float)), abs=1e-9)


def test_small_mixed_integer_programs_keep_to_their_time():
    from time import process_time

    from walk_nets import random_net
    from walk_scene import scene_of

    terrain = Terrain(scene_of(random_net("100-300x2", 50)), Budget(), np.random.default_rng(0))
    kinks = terrain.look(terrain.uniform(1)[0]).kinks[0]
    free, began = np.argsort(np.abs(kinks))[:90], process_time()
    neighbourhood(terrain.program, kinks > 0, np.sort(free), Budget(0.5).start(), 10_000)
    assert process_time() - began < 3.0  # presolve alone took ten times as long


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "most"), [("100-200x3", 0.2), ("10-100x2", 0.2), ("100-100x2", 0.6)])
def test_a_step_costs_much_less_than_writing_its_program_anew(shape, most):
    from walk_steps import measure

    ms = measure(shape, 57)
    assert ms["step"] <= most * ms["lifted"], ms
    assert ms["step"] <= 1.3 * ms["dense"], ms


def test_wrong_options_are_refused_with_their_names():
    for make, word in (
        (lambda: RelaxWalk(starts="corner"), "starts='corner'"),
        (lambda: RelaxWalk(eps=0), "eps=0"),
        (lambda: RelaxWalk(first=(1, -1)), "first="),
        (lambda: GradientWalk(batch=0), "batch=0"),
        (lambda: PerturbedWalk(radius=-1), "radius=-1"),
        (lambda: Walk(batch=1), "batch=1"),
    ):
        with pytest.raises(InputError, match=word):
            make()


@pytest.mark.parametrize(("shape", "most"), [("500-500x3", 1.5), ("1000-400x2", 0.7)])  # they take 3 and 1
def test_large_linear_programs_end_with_a_clock_that_ends_early(shape, most):
    from time import process_time

    from nnembed.engine.effort import Leash
    from walk_nets import random_net
    from walk_scene import scene_of

    terrain = Terrain(scene_of(random_net(shape, 50)), Budget(), np.random.default_rng(0))
    relaxation, began = Relaxation(terrain.program, 0), process_time()
    terrain.clock = Leash(60.0, ended=lambda: process_time() - began > 0.2).start()
    assert relaxation.solve(np.full(len(terrain.program.low), -1, dtype=np.int8), terrain) is None
    assert process_time() - began < most
