"""Networks in nonlinear Pyomo models: complementarity and sets in full space, expressions in reduced space."""

import itertools

import numpy as np
import pytest

import nnembed as nn
from nnembed.errors import InputError, UnknownName, UnsupportedFeature, WrongModel
from nnembed.testing import chain, enumerate_optimum, random_network

pyo = pytest.importorskip("pyomo.environ")
nlp = pytest.importorskip("nnembed.hosts.pyomo_nlp")
KINDS = [("relu", "relu"), ("clip",), ("max", "relu"), ("steep",)]


@pytest.fixture
def scip():
    module = pytest.importorskip("pyomo.contrib.solver.solvers.scip.scip_direct")
    solver = module.ScipDirect()
    if not solver.available():
        pytest.skip("SCIP is not installed")
    solver.config.time_limit = 60
    return solver


def plain():
    m = pyo.ConcreteModel()
    m.x = pyo.Var([0, 1], bounds=(-1, 1))
    return m


def best_of(net):
    return enumerate_optimum(net, -np.ones(2), np.ones(2), np.ones(1))


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("formulation", ["complementarity", "sos1"])
def test_full_space(scip, kinds, formulation):
    net = random_network(4, inputs=2, width=3, kinds=kinds)
    m = plain()
    emb = nn.embed(m, net, m.x, name="d", formulation=formulation)
    m.goal = pyo.Objective(expr=emb.outputs[0], sense=pyo.maximize)
    scip.solve(m)
    assert pyo.value(m.goal) == pytest.approx(best_of(net), abs=1e-5)
    assert emb.residual() < 1e-5
    ours = nn.solve(m, gap=0.0)  # the same pairs and sets, lowered for the solver
    assert ours.objective == pytest.approx(best_of(net), abs=1e-6)
    assert ours.certificate.ok


@pytest.mark.parametrize("kinds", KINDS)
def test_reduced_space(scip, kinds):
    net = random_network(4, inputs=2, width=3, kinds=kinds)
    m = plain()
    emb = nlp.embed_expressions(m, net, m.x, name="d", absolute="unary")
    m.goal = pyo.Objective(expr=emb.outputs[0], sense=pyo.maximize)
    assert sum(1 for _ in m.component_data_objects(pyo.Var)) == 2
    scip.solve(m)
    assert pyo.value(m.goal) == pytest.approx(best_of(net), abs=1e-5)
    assert emb.residual() < 1e-9


@pytest.mark.parametrize("way", ["two_row", "complementarity", "reduced"])
def test_a_nonlinear_model(scip, way):
    net = random_network(4, inputs=2, width=3)
    m = plain()
    m.ring = pyo.Constraint(expr=m.x[0] ** 2 + m.x[1] ** 2 <= 0.5)
    if way == "reduced":
        y = nlp.embed_expressions(m, net, m.x, name="d", absolute="unary").outputs[0]
    else:
        y = nn.embed(m, net, m.x, name="d", formulation=way).outputs[0]
    m.goal = pyo.Objective(expr=pyo.exp(y) * m.x[0] + y, sense=pyo.maximize)
    with pytest.raises(UnsupportedFeature, match=r"'ring' is quadratic.*nonlinear solver"):
        nn.solve(m)
    scip.solve(m)
    side = np.linspace(-0.75, 0.75, 301)
    grid = np.array([p for p in itertools.product(side, side) if p[0] ** 2 + p[1] ** 2 <= 0.5])
    out = net(grid)[:, 0]
    best = (np.exp(out) * grid[:, 0] + out).max()
    assert best - 1e-6 <= pyo.value(m.goal) <= best + 0.01


@pytest.mark.parametrize("way", ["complementarity", "reduced"])
def test_with_ipopt(way):
    solver = pyo.SolverFactory("ipopt")
    if not solver.available(exception_flag=False):
        pytest.skip("Ipopt is not installed")
    net = random_network(4, inputs=2, width=3)
    m = plain()
    if way == "reduced":
        y = nlp.embed_expressions(m, net, m.x, name="d").outputs[0]
    else:
        y = nn.embed(m, net, m.x, name="d", formulation=way).outputs[0]
    m.goal = pyo.Objective(expr=y, sense=pyo.maximize)
    solver.solve(m)
    point = np.array([m.x[0].value, m.x[1].value])
    assert net(point)[0] == pytest.approx(pyo.value(y), abs=1e-5)
    assert pyo.value(y) <= best_of(net) + 1e-5


@pytest.mark.parametrize("kinds", [*KINDS, ("abs", "leaky")])
@pytest.mark.parametrize("absolute", ["abs", "unary"])
def test_expressions_have_the_networks_value(kinds, absolute):
    net = chain([(5, k) for k in kinds] + [(2, "none")], 2, np.random.default_rng(0), skip=True)
    m = pyo.ConcreteModel()
    m.x = pyo.Var(["a", "b", "c"], [0, 1], bounds=(-1, 1))
    emb = nlp.embed_expressions(m, net, m.x, name="d", absolute=absolute)
    with pytest.raises(InputError, match="no value"):
        emb.residual()
    points = np.random.default_rng(1).normal(size=(3, 2))
    for s, i in m.x:
        m.x[s, i].set_value(points["abc".index(s), i], skip_validation=True)
    assert np.allclose(net(points), [[pyo.value(emb.outputs[s, k]) for k in (0, 1)] for s in "abc"])
    assert emb.residual() < 1e-12
    emb.remove()
    emb.remove()
    assert m.component("d") is None


def test_nonlinear_and_unbounded_inputs_are_welcome():
    net = random_network(4, inputs=2, width=3)
    m = pyo.ConcreteModel()
    m.u = pyo.Var(initialize=0.3)
    emb = nlp.embed_expressions(m, net, [pyo.sin(m.u), 2], name="d")
    assert pyo.value(emb.outputs[0]) == pytest.approx(net([np.sin(0.3), 2])[0])
    assert emb.residual() < 1e-12


def test_bad_input_is_named():
    net = random_network(4, inputs=2, width=3)
    m, other = plain(), plain()
    for x, error, words in (
        ([m.x[0], other.x[0]], WrongModel, "another model"),
        ([m.x[0], "a"], InputError, "holds a str"),
        ([m.x[0]], InputError, "expects shape"),
    ):
        with pytest.raises(error, match=words):
            nlp.embed_expressions(m, net, x, name="d")
    with pytest.raises(UnknownName, match="unary"):
        nlp.embed_expressions(m, net, m.x, name="d", absolute="sqrt")
    with pytest.raises(InputError, match="already"):
        nlp.embed_expressions(m, net, m.x, name="x")
    assert m.component("d") is None


def test_transformation():
    pytest.importorskip("nnembed.hosts.pyomo_transformation")
    net = random_network(4, inputs=2, width=3)
    m = plain()
    embed = pyo.TransformationFactory("nnembed.embed")
    embed.apply_to(m, network=net, inputs=m.x, name="d")
    m.goal = pyo.Objective(expr=m.d.outputs[0], sense=pyo.maximize)
    assert nn.solve(m, gap=0.0).objective == pytest.approx(best_of(net), abs=1e-6)
    with pytest.raises(InputError, match="network= and inputs="):
        embed.apply_to(m, network=net)
    with pytest.raises(InputError, match="apply_to"):
        embed.create_using(m, network=net, inputs=m.x)
    with pytest.raises(ValueError, match="formulations"):
        embed.apply_to(m, network=net, inputs=m.x, formulations="bigm")
