"""Sets and indicator rows in linopy models: the network's, where the solver takes them, and the user's own."""

import itertools
from dataclasses import replace

import linopy
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.block import Indicators, Sos1
from nnembed.errors import InputError, UnknownName, UnsupportedFeature
from nnembed.features import Feature
from nnembed.hooks.manager import registry
from nnembed.hosts.linopy import LinopyHost
from nnembed.hosts.shapes import refuse_features
from nnembed.testing import chain, enumerate_optimum, reference_networks

F2 = pd.RangeIndex(2, name="f")
GUROBI = LinopyHost(solver="gurobi")
FORMS = ["sos1", "indicator", "complementarity"]
NETWORKS = {**reference_networks(), "last": chain([(3, "relu"), (2, "relu")], 2, np.random.default_rng(5))}
has_gurobi = pytest.mark.skipif("gurobi" not in linopy.available_solvers, reason="gurobipy is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::linopy.LinopySemanticsWarning", "ignore:(?i)removing:UserWarning"
)


@pytest.fixture(autouse=True, params=["legacy", "v1"])
def semantics(request):
    before = linopy.options["semantics"]
    linopy.options["semantics"] = request.param
    yield request.param
    linopy.options["semantics"] = before


def shop(net, formulation="sos1", backend="gurobi", **options):
    """Return a model with a network attached, and the weights and optimum of its outputs."""
    m = linopy.Model(**options)
    n = net.input_size
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(n, name="f")], name="x")
    emb = nn.embed(m, net, x, name="demand", formulation=formulation, backend=backend)
    weights = np.linspace(1.0, -0.5, net.output_size)
    m.add_objective((emb.outputs * xr.DataArray(weights, dims=emb.outputs.dims)).sum(), sense="max")
    return m, emb, enumerate_optimum(net, -np.ones(n), np.ones(n), weights)


def by_gurobi(m, io="direct"):
    return m.solve("gurobi", io_api=io, progress=False, OutputFlag=0, MIPGap=0)[1]


@has_gurobi
@pytest.mark.parametrize("formulation", ["sos1", "indicator"])
@pytest.mark.parametrize("name", ["relu", "clip", "max", "mixed", "last"])
def test_attached_as_they_are_and_solved_by_gurobi(name, formulation):
    net = NETWORKS[name]
    m, emb, best = shop(net, formulation)
    for io in ("direct", "lp"):
        assert by_gurobi(m, io) == "optimal"
        assert m.objective.value == pytest.approx(best, abs=1e-5)
        assert emb.residual() <= 1e-5
    result = nn.solve(m, backend="highs", gap=0.0)  # lowers them
    assert result.objective == pytest.approx(best, abs=1e-6) and result.certificate.ok
    emb.remove()
    assert (list(m.variables), list(m.constraints)) == (["x"], [])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    kinds=st.lists(st.sampled_from(["relu", "leaky", "abs", "clip", "max"]), min_size=1, max_size=2),
    formulation=st.sampled_from(FORMS),
    solver=st.sampled_from(["gurobi", "xpress", "highs"]),
)
def test_any_network_keeps_its_optimum(seed, kinds, formulation, solver):
    net = chain([*((2, kind) for kind in kinds), (1, "none")], 2, np.random.default_rng(seed))
    m, emb, best = shop(net, formulation, solver)
    assert not emb.block.needs & ~emb.host.accepts
    result = nn.solve(m, backend="highs", gap=0.0)
    assert result.objective == pytest.approx(best, abs=1e-6) and result.certificate.ok


def test_the_plan_says_what_is_passed_on():
    net = NETWORKS["relu"]
    expected = {
        ("sos1", "gurobi"): "nothing, gurobi takes SOS1 from linopy",
        ("indicator", "gurobi"): "nothing, gurobi takes INDICATOR from linopy",
        ("complementarity", "gurobi"): "complementarity -> sos1 for linopy with gurobi",
        ("indicator", "xpress"): "indicator -> bigm for linopy with xpress",
        ("sos1", "highs"): "sos1 -> binary for linopy with highs",
        ("sos1", None): "sos1 -> binary for linopy",
        ("two_row", "gurobi"): "",
    }
    for (formulation, backend), chain_ in expected.items():
        emb = shop(net, formulation, backend)[1]
        assert emb.plan.chain == chain_
        assert not chain_ or f"lowered: {chain_}" in str(emb.plan)


def test_members_that_are_variables_already_are_copied():
    m, emb, _ = shop(NETWORKS["last"])
    assert "demand.sets" not in m.constraints
    before = set(m.variables)
    block, inputs = emb.block, emb.inputs
    crossed = replace(block, sos1=(*block.sos1, Sos1(np.array([[0, 1]])), Sos1(block.sos1[0].columns[:1])))
    GUROBI.attach(m, crossed, inputs, emb.network.outputs, "twice")
    assert "twice.sets" in m.constraints
    copies = [m.variables[n] for n in m.variables if n not in before and "sos1" in n]
    assert sum(v.size for v in copies) == sum(s.columns.size for s in crossed.sos1)
    problem = LinopyHost().compile(m)
    assert sum(len(s) for s in problem.sos1) == sum(len(s.columns) for s in (*block.sos1, *crossed.sos1))


def test_indicator_rows_of_every_shape(highs):
    """Two-sided rows, equations and free ones, rows of several lengths, both values: the same as they were given."""
    m, emb, _ = shop(NETWORKS["relu"], "indicator")
    block = emb.block
    binary = np.flatnonzero(block.integer)[:4]
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((4, block.n_columns)) < 0.4, rng.normal(size=(4, block.n_columns)), 0.0)
    rule = Indicators(
        binary,
        np.array([0.0, 1.0, 1.0, 0.0]),
        type(block.matrix)(dense),
        np.array([-1.0, -np.inf, 0.5, -np.inf]),
        np.array([2.0, 3.0, 0.5, np.inf]),
    )
    emb.remove()
    made = GUROBI.attach(m, replace(block, indicators=(rule,)), emb.inputs, emb.network.outputs, "demand")
    problem = LinopyHost().compile(m)
    place = problem.position(made.labels)
    given, found = [], []
    for i, (low, high) in enumerate(zip(rule.row_lower, rule.row_upper, strict=True)):
        sides = [(low, high)] if low == high else [(low, np.inf), (-np.inf, high)]
        row = np.zeros(problem.n_columns)
        row[place] = dense[i]
        given += [(place[binary[i]], rule.value[i], a, b, *row) for a, b in sides if np.isfinite([a, b]).any()]
    for part in problem.indicators:
        rows = part.matrix.toarray()
        sides = zip(part.binary, part.value, part.row_lower, part.row_upper, strict=True)
        found += [(*s, *row) for s, row in zip(sides, rows, strict=True)]
    assert sorted(found) == sorted(given)


def user_model(net, attach, backend, **options):
    """Return a model with sets, indicator rows and a network, and its optimum by enumeration."""
    m = linopy.Model(**options)
    x = m.add_variables(-1, 1, coords=[F2], name="x")
    on = m.add_variables(coords=[F2], binary=True, name="on")
    w = m.add_variables(0, pd.Series([2.0, 3.0], index=F2), name="w")
    m.add_sos_constraints(w, 1, "f")
    m.add_indicator_constraints(on, 1, 1 * x, "<=", -0.25, name="low")
    m.add_indicator_constraints(on, 0, 1 * x, ">=", 0.25, name="high", scaling=4.0)
    m.add_constraints(on.sum() >= 1, name="one")
    emb = nn.embed(m, net, x, name="demand", formulation="sos1", backend=backend, attach=attach)
    m.add_objective(emb.outputs.sum() + 0.1 * w.sum() - 0.3 * on.sum(), sense="max")
    best = -np.inf
    for z in itertools.product((0, 1), repeat=2):
        if sum(z):
            low, high = np.where(z, -1, 0.25), np.where(z, -0.25, 1)
            best = max(best, enumerate_optimum(net, low, high, np.ones(1)) - 0.3 * sum(z) + 0.3)
    return m, emb, best


@pytest.mark.parametrize(("attach", "backend"), [(True, "gurobi"), (True, None), (False, None)])
@pytest.mark.parametrize("freeze", [True, False])
def test_sets_and_indicators_of_the_users_own(attach, backend, freeze):
    net = chain([(4, "relu"), (1, "none")], 2, np.random.default_rng(3))
    m, emb, best = user_model(net, attach, backend, freeze_constraints=freeze)
    for solver in ("highs", "scip", "gurobi"):
        if solver in registry().parts("backend"):
            result = nn.solve(m, backend=solver, gap=0.0)
            assert result.objective == pytest.approx(best, abs=1e-5) and result.certificate.ok
    x, on = (m.variables[v].solution.values for v in ("x", "on"))
    assert (np.where(on > 0.5, x <= -0.25 + 1e-6, x >= 0.25 - 1e-6)).all()
    if attach and "gurobi" in linopy.available_solvers:
        assert by_gurobi(m) == "optimal"
        assert m.objective.value == pytest.approx(best, abs=1e-5)
    emb.remove()
    assert set(m.constraints) == {"low", "high", "one"} and set(m.variables) == {"x", "on", "w"}
    assert len(LinopyHost().compile(m).indicators) == 2


def test_an_indicator_without_bounds_is_refused_where_it_must_be_lowered():
    m = linopy.Model()
    b = m.add_variables(binary=True, name="b")
    y = m.add_variables(name="y")
    m.add_indicator_constraints(b, 1, 1 * y, ">=", 2.0, name="switch")
    m.add_objective(y - 3 * b)
    with pytest.raises(nn.NnembedError, match=r"y|switch"):
        nn.solve(m, backend="highs")


def test_masked_and_broadcast_indicators():
    m = linopy.Model()
    b = m.add_variables(binary=True, name="b")
    mask = xr.DataArray([True, False, True], coords=[("i", [0, 1, 2])])
    y = m.add_variables(0, 5, coords=[mask.indexes["i"]], mask=mask, name="y")
    m.add_indicator_constraints(b, 1, 1 * y, "<=", 2.0, name="switch")
    (rule,) = LinopyHost().compile(m).indicators
    assert rule.binary.tolist() == [0] * len(rule) and rule.row_upper.tolist() == [2.0] * len(rule)
    m.add_objective(y.sum() + 5 * b, sense="max")
    result = nn.solve(m, backend="highs", gap=0.0)
    assert result.objective == pytest.approx(10.0)


@has_gurobi
@pytest.mark.parametrize("formulation", FORMS)
def test_files_and_copies_keep_them(formulation, tmp_path):
    pytest.importorskip("netCDF4")
    net = NETWORKS["relu"]
    m, _, best = shop(net, formulation)
    m.to_netcdf(tmp_path / "m.nc")
    for other in (m.copy(), linopy.read_netcdf(tmp_path / "m.nc")):
        assert by_gurobi(other) == "optimal"
        assert other.objective.value == pytest.approx(best, abs=1e-5)
        assert nn.solve(other, backend="highs", gap=0.0).objective == pytest.approx(best, abs=1e-6)


def test_another_solver_refuses_instead_of_ignoring_them():
    for formulation in ("sos1", "indicator"):
        m, _, _ = shop(NETWORKS["relu"], formulation)
        with pytest.raises((ValueError, NotImplementedError), match="does not support"):
            m.solve("highs", output_flag=False)


def test_linopys_own_rewrite_of_sets_agrees():
    m, _, best = shop(NETWORKS["relu"], "sos1")
    m.solve("highs", output_flag=False, reformulate_sos="auto", mip_rel_gap=0.0)
    assert m.objective.value == pytest.approx(best, abs=1e-5)


def test_names_that_mean_nothing_are_refused():
    net = NETWORKS["relu"]
    m = linopy.Model()
    x = m.add_variables(-1, 1, coords=[F2], name="x")
    with pytest.raises(UnknownName, match=r"'guroby'; did you mean 'gurobi'"):
        nn.embed(m, net, x, backend="guroby")
    with pytest.raises(InputError, match=r"pass it to nnembed\.solve"):
        nn.embed(m, net, x, backend="gurobi", attach=False)
    with pytest.raises(InputError, match=r"'arrays' are solved by nnembed\.solve"):
        nn.embed(nn.ArrayModel([-1, -1], [1, 1]), net, np.arange(2), backend="gurobi")
    assert list(m.variables) == ["x"]


def test_a_failure_leaves_nothing(monkeypatch):
    net = NETWORKS["relu"]
    m = linopy.Model()
    x = m.add_variables(-1, 1, coords=[F2], name="x")

    def fail(*args):
        raise RuntimeError("no")

    monkeypatch.setattr("nnembed.hosts.linopy_attach.add_indicators", fail)
    for formulation in ("sos1", "indicator"):
        with pytest.raises(RuntimeError):
            nn.embed(m, net, x, formulation=formulation, backend="gurobi")
        assert (list(m.variables), list(m.constraints)) == (["x"], [])


def test_the_refusal_names_formulations_that_exist():
    with pytest.raises(UnsupportedFeature, match="backend=") as error:
        refuse_features(Feature.LINEAR | Feature.SOS1, Feature.LINEAR, "a model")
    assert 'formulation="two_row"' in str(error.value) and "two_row" in registry().parts("formulation")


def test_pyomo_is_asked_by_the_same_keyword():
    pyo = pytest.importorskip("pyomo.environ")
    net = NETWORKS["relu"]
    chains = {
        "highs": "sos1 -> binary for pyomo with highs",
        "scip_direct": "nothing, scip_direct takes SOS1 from pyomo",
    }
    for solver, chain_ in chains.items():
        m = pyo.ConcreteModel()
        m.x = pyo.Var([0, 1], bounds=(-1, 1))
        emb = nn.embed(m, net, m.x, name="demand", formulation="sos1", backend=solver)
        assert emb.plan.chain == chain_
        assert bool(list(m.component_objects(pyo.SOSConstraint, descend_into=True))) == (solver != "highs")
