"""Lowering inside models: attached, declared, and the user's own sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import nnembed as nn
from nnembed.features import Availability, Capability, Feature
from nnembed.heuristics.scene import Scene
from nnembed.testing import chain, enumerate_optimum

OWN = {
    "sos1": Feature.SOS1,
    "indicator": Feature.INDICATOR,
    "complementarity": Feature.COMPLEMENTARITY,
    "native": Feature.RELU,
}
FORMS = list(OWN)
SPECIAL = Feature.SOS1 | Feature.INDICATOR | Feature.COMPLEMENTARITY | Feature.RELU


def small(kind="relu", inputs=2):
    return chain([(4, kind), (3, "relu"), (1, "none")], inputs, np.random.default_rng(4))


def able(formulation, kind):
    """The kind itself; ReLU rows cannot say a maximum."""
    return "abs" if (formulation, kind) == ("native", "max") else kind


def best(net, n=2):
    return enumerate_optimum(net, -np.ones(n), np.ones(n), np.ones(1))


class Seen(Exception):
    """Carries the problem a solver was given."""


@dataclass(frozen=True)
class Taker:
    """A solver that takes sets, indicator rows and pairs; it only shows what it got."""

    accepts: Feature
    name: str = "taker"
    summary: str = "for tests"
    capabilities: Capability = Capability.NONE

    def available(self):
        return Availability.FULL

    def load(self, problem, options):
        raise Seen(problem)


@pytest.mark.parametrize("formulation", FORMS)
@pytest.mark.parametrize("kind", ["relu", "clip", "max"])
def test_attached_to_arrays_it_lowers_itself(formulation, kind):
    net = small(able(formulation, kind))
    model = nn.ArrayModel(-np.ones(2), np.ones(2), maximize=True)
    emb = nn.embed(model, net, np.arange(2), formulation=formulation)
    assert not emb.block.needs & SPECIAL
    assert emb.plan.chain.endswith("for arrays")
    assert f"lowered: {emb.plan.chain}" in str(emb.plan)
    model.cost[emb.outputs] = 1.0
    result = nn.solve(model, gap=0.0, backend="highs")
    assert result.objective == pytest.approx(best(net), abs=1e-6)
    assert result.certificate.ok
    emb.remove()
    assert (model.n_columns, model.n_rows) == (2, 0)


@pytest.mark.parametrize("formulation", FORMS)
def test_attached_to_linopy_the_users_own_solve_works(formulation):
    linopy = pytest.importorskip("linopy")
    from nnembed.hosts.linopy import LinopyHost

    if LinopyHost.accepts & SPECIAL:
        pytest.skip("the linopy host takes these features as they are")
    net = small("abs")
    model = linopy.Model()
    x = model.add_variables(-1, 1, coords=[range(2)], name="x")
    emb = nn.embed(model, net, x, formulation=formulation)
    assert emb.plan.chain.endswith("for linopy")
    model.add_objective(1 * emb.outputs.sum(), sense="max")
    model.solve(solver_name="highs", io_api="direct", log_to_console=False)
    assert float(model.objective.value) == pytest.approx(best(net), abs=1e-5)
    assert emb.residual() <= 1e-5


@pytest.mark.parametrize("formulation", FORMS)
@pytest.mark.parametrize("accepts", [*OWN.values(), SPECIAL])
def test_declared_it_is_lowered_for_the_solver_that_solves(formulation, accepts):
    net = small(able(formulation, "max"))
    model = nn.ArrayModel(-np.ones(2), np.ones(2), maximize=True)
    emb = nn.embed(model, net, np.arange(2), formulation=formulation, attach=False)
    own = OWN[formulation]
    assert emb.block.needs & own
    assert own.name in emb.plan.chain
    model.cost[2] = 1.0
    base = Feature.LINEAR | Feature.INTEGER
    with pytest.raises(Seen) as caught:
        nn.solve(model, backend=Taker(base | accepts))
    problem = caught.value.args[0]
    assert not problem.needs & ~(base | accepts)
    assert emb.block.needs & own  # the source stays as it was, for the next solver
    assert bool(problem.needs & own) == bool(accepts & own)
    assert (emb.plan.chain == "") == bool(accepts & own)
    result = nn.solve(model, backend="highs", gap=0.0)
    assert result.objective == pytest.approx(best(net), abs=1e-6)
    assert emb.plan.chain.endswith("for highs") and result.plan[0].chain == emb.plan.chain


def test_native_conditions_sit_on_the_right_columns_of_the_problem():
    """Two networks and rows of the user's own in front: conditions hold at the forward pass of both."""
    for formulation in FORMS:
        nets = small("clip"), small(able(formulation, "max"))
        model = nn.ArrayModel(-np.ones(5), np.ones(5), matrix=np.ones((1, 5)), row_lower=-9, row_upper=9)
        for k, net in enumerate(nets):
            nn.embed(model, net, np.array([k, 3]), formulation=formulation, attach=False, name=f"net{k}")
        with pytest.raises(Seen) as caught:
            nn.solve(model, backend=Taker(Feature.LINEAR | Feature.INTEGER | SPECIAL))
        problem = caught.value.args[0]
        scene, rng = Scene(problem), np.random.default_rng(0)
        for _ in range(20):
            point = scene.point(rng.uniform(-1, 1, len(scene.drivers)))
            x = rng.uniform(-1, 1, problem.n_columns)
            x[point.columns] = point.values
            value = problem.matrix @ x
            assert (value >= problem.row_lower - 1e-9).all() and (value <= problem.row_upper + 1e-9).all()
            assert problem.condition_residual(x) <= 1e-9
            pairs = [*problem.sos1, *problem.complementarities]
            if pairs:
                broken = x.copy()
                broken[pairs[0][0]] = 0.5
                assert problem.condition_residual(broken) >= 0.5 - 1e-12


@pytest.mark.parametrize("formulation", FORMS)
@pytest.mark.parametrize("kind", ["relu", "clip", "max"])
def test_starts_stay_complete(formulation, kind):
    """Binaries of a lowering are filled by the forward pass."""
    with pytest.raises(Seen) as caught:
        nn.maximize(
            small(able(formulation, kind)),
            (-np.ones(2), np.ones(2)),
            formulation=formulation,
            backend=Taker(Feature.LINEAR | Feature.INTEGER),
        )
    problem = caught.value.args[0]
    assert problem.needs == Feature.LINEAR | Feature.INTEGER
    point = Scene(problem).point(np.array([0.3, -0.7]))
    assert point.complete
    value = problem.matrix @ point.values
    assert (value >= problem.row_lower - 1e-9).all() and (value <= problem.row_upper + 1e-9).all()


def test_points_of_another_solver_are_starts():
    net = small("max")
    model = nn.ArrayModel(-np.ones(2), np.ones(2), maximize=True)
    nn.embed(model, net, np.arange(2), attach=False)
    model.cost[2] = 1.0
    first = nn.solve(model, formulation="slack", backend="highs")
    second = nn.solve(model, formulation="sos1", backend="highs", start=first, gap=0.0)
    assert len(first.point) != len(second.point)
    assert second.objective == pytest.approx(best(net), abs=1e-6)


def linopy_with_sets(net, **more):
    """At most one of three investments, whose total is the first input of a network."""
    linopy = pytest.importorskip("linopy")
    model = linopy.Model()
    part = model.add_variables(0, [1.0, 0.6, 0.8], coords=[range(3)], name="part")
    model.add_sos_constraints(part, sos_type=1, sos_dim="dim_0")
    x = model.add_variables(-1, 1, coords=[range(2)], name="x")
    y = nn.embed(model, net, x, attach=False, **more).outputs
    model.add_constraints(x.sel(dim_0=0) - part.sum() == -0.5, name="total")
    model.add_objective((1 * y).sum() + 0.1 * part.sum(), sense="max")
    return model


@pytest.mark.parametrize("formulation", ["two_row", "sos1"])
def test_the_users_own_sets_reach_a_solver_without_them(formulation):
    net = small()
    model = linopy_with_sets(net, formulation=formulation)
    result = nn.solve(model, backend="highs", gap=0.0)
    assert result.status == "optimal" and result.certificate.ok
    values = result.values["part"].values
    assert np.count_nonzero(np.abs(values) > 1e-7) <= 1
    best_by_hand = -np.inf
    for most in (1.0, 0.6, 0.8):
        # x0 = part - 0.5, so one input runs over [-0.5, most - 0.5]; a fine grid is enough to tell the sets apart
        a, b = np.meshgrid(np.linspace(-0.5, most - 0.5, 201), np.linspace(-1, 1, 201))
        value = net(np.stack([a.ravel(), b.ravel()], axis=1))[:, 0] + 0.1 * (a.ravel() + 0.5)
        best_by_hand = max(best_by_hand, float(value.max()))
    assert result.objective >= best_by_hand - 1e-6
    assert result.objective <= best_by_hand + 0.05


def test_open_sets_of_the_user_are_refused_by_name():
    linopy = pytest.importorskip("linopy")
    model = linopy.Model()
    part = model.add_variables(0, np.inf, coords=[range(2)], name="part")
    model.add_sos_constraints(part, sos_type=1, sos_dim="dim_0")
    x = model.add_variables(-1, 1, coords=[range(2)], name="x")
    nn.embed(model, small(), x, attach=False)
    model.add_constraints(part.sum() <= 3, name="most")
    model.add_objective(1 * part.sum(), sense="max")
    with pytest.raises(nn.BoxError, match=r"'part\[0\]' is in \[0, inf\]"):
        nn.solve(model, backend="highs")


def test_infeasible_with_lowered_sets_is_not_blamed_on_the_users_rows():
    net = small()
    model = linopy_with_sets(net)
    model.add_constraints(model.variables["x"].sel(dim_0=1) >= 0.5, name="need")
    y = next(v for name, v in model.variables.items() if name == "chain")
    model.add_constraints(1 * y >= best(net) + 0.01, name="too much")
    result = nn.solve(model, backend="highs")
    assert result.status == "infeasible"
    assert "without them it has" in result.message


def test_sets_and_a_quadratic_objective_together():
    """A convex objective becomes one with integers when sets are lowered, which HiGHS takes as products only."""
    linopy, xr = pytest.importorskip("linopy"), pytest.importorskip("xarray")
    model = linopy.Model()
    part = model.add_variables(0, [1.0, 0.6, 0.8], coords=[range(3)], name="part")
    model.add_sos_constraints(part, sos_type=1, sos_dim="dim_0")
    worth = xr.DataArray([1.0, 1.0, 1.1], dims="dim_0", coords={"dim_0": range(3)})
    model.add_objective((part * part).sum() - (worth * part).sum(), sense="min")
    result = nn.solve(model, backend="highs", time_limit=20)
    assert result.status == "optimal" and result.certificate.ok
    assert result.objective == pytest.approx(-(0.55**2), abs=1e-4)
    assert result.values["part"].values == pytest.approx([0, 0, 0.55], abs=0.02)
