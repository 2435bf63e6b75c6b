"""Points left where a network jumps are moved to the side that the binaries say, by next to nothing."""

from __future__ import annotations

import numpy as np
import pytest

import nnembed as nn
from nnembed.engine import recover
from nnembed.heuristics.scene import Scene
from nnembed.heuristics.thresholds import settled
from nnembed.testing import chain


def left_by_the_solver(monkeypatch, net, cost, least):
    """Return the problem and the solver's point of ``max cost @ x`` where the network must reach `least`."""
    import linopy

    caught = []
    plain = recover.snapped
    monkeypatch.setattr(recover, "snapped", lambda problem, x, *more: caught.append((problem, x)) or plain(problem, x))
    model = linopy.Model()
    x = model.add_variables(lower=-1, upper=1, coords=[range(net.input_size)], name="x")
    emb = nn.embed(model, net, x, formulation="two_row")
    model.add_constraints(emb.outputs.sum() >= least)
    model.add_objective((x * cost).sum(), sense="max")
    nn.solve(model, gap=0.0, heuristics="none")
    return caught[0]


@pytest.mark.parametrize(
    "kinds",
    [("step",), ("relu", "step"), ("step", "step"), ("round",), ("relu", "round"), ("winner",), ("round", "winner")],
)
def test_the_network_follows_the_binaries(monkeypatch, kinds):
    moved = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        net = chain([*((4, kind) for kind in kinds), (1, "none")], 3, rng, skip=True)
        least = float(net(rng.uniform(-1, 1, (500, 3))).max()) - 0.3
        problem, x = left_by_the_solver(monkeypatch, net, rng.normal(size=3), least)
        scene = Scene(problem)
        before = np.clip(x[scene.drivers], scene.lower, scene.upper)
        after = settled(scene, x, before)
        assert np.abs(after - before).max() <= 1e-6
        assert ((after >= scene.lower) & (after <= scene.upper)).all()
        moved += int((after != before).any())
        assert scene.evaluate(after[None])[2][0] == pytest.approx(x[scene.visible], abs=1e-5)
        assert np.array_equal(settled(scene, x, after), after)
    assert moved


def test_without_steps_nothing_moves(monkeypatch):
    rng = np.random.default_rng(0)
    net = chain([(4, "relu"), (1, "none")], 3, rng)
    problem, x = left_by_the_solver(monkeypatch, net, rng.normal(size=3), 0.0)
    scene = Scene(problem)
    assert settled(scene, x, x[scene.drivers]) is not None
    assert np.array_equal(settled(scene, x, x[scene.drivers]), x[scene.drivers])
