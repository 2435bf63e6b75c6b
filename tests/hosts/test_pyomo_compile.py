"""Pyomo models as arrays, and solutions back into them."""

import numpy as np
import pytest

import nnembed as nn
from nnembed.errors import InputError, UnsupportedFeature
from nnembed.hosts.pyomo import PyomoHost
from nnembed.testing import random_network

pyo = pytest.importorskip("pyomo.environ")
contrib = pytest.importorskip("pyomo.contrib.solver.solvers.highs")
HOST = PyomoHost()


def lp(sense):
    m = pyo.ConcreteModel()
    m.i = pyo.RangeSet(0, 3)
    m.x = pyo.Var(m.i, bounds=(0, 10))
    m.y = pyo.Var(bounds=(None, 4))
    m.unused = pyo.Var(initialize=7.0)
    m.f = pyo.Var(initialize=2.0)
    m.f.fix()
    m.p = pyo.Param(initialize=3.0, mutable=True)
    m.cap = pyo.Constraint([0, 2, 3], rule=lambda m, i: m.x[i] + m.y <= 6)
    m.total = pyo.Constraint(expr=(1, sum(m.x[...]) + m.f, 14))
    m.ladder = pyo.Constraint(expr=m.x[1] >= m.x[0] - 1 + 2 * m.f)
    m.same = pyo.Constraint(expr=2 * m.x[2] + m.p * m.x[3] == 6)
    m.off = pyo.Constraint(expr=m.x[0] <= -1)
    m.off.deactivate()
    m.goal = pyo.Objective(expr=3 * m.x[0] + m.p * m.x[1] + m.x[2] - m.y + 5 + m.f, sense=sense)
    m.low = pyo.Constraint(expr=m.y >= -8)
    m.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    return m


@pytest.mark.parametrize("sense", [pyo.minimize, pyo.maximize])
def test_values_objective_and_duals_are_as_pyomos_own(sense):
    own, ours = lp(sense), lp(sense)
    found = contrib.Highs().solve(own)
    for con, dual in found.solution_loader.get_duals().items():
        own.dual[con] = dual
    result = nn.solve(ours)
    assert result.status == "optimal" and result.certificate.ok
    assert result.objective == pytest.approx(pyo.value(own.goal))
    assert pyo.value(ours.goal) == pytest.approx(pyo.value(own.goal))
    for mine, other in zip(
        ours.component_data_objects(pyo.Constraint, active=True),
        own.component_data_objects(pyo.Constraint, active=True),
        strict=True,
    ):
        assert ours.dual[mine] == pytest.approx(own.dual[other]), mine.name
    assert (ours.unused.value, ours.unused.stale) == (7.0, True)
    assert ours.f.value == 2.0
    assert not ours.x[0].stale


def test_arrays_name_their_rows_and_columns():
    m = lp(pyo.minimize)
    p = HOST.compile(m)
    assert p.n_rows == 7
    assert [p.row_name(i) for i in (0, 1, 3)] == ["cap[0]", "cap[2]", "total"]
    assert [g[0] for g in p.row_groups] == ["cap", "total", "ladder", "same", "low"]
    assert (p.row_lower[3], p.row_upper[3]) == (-1, 12)
    names = [v.name for v in p.variables]
    assert "unused" not in names and "f" not in names
    assert p.column_name(names.index("x[3]")) == "x[3]"
    assert p.offset == 7


def test_integers_and_domains():
    m = pyo.ConcreteModel()
    m.a = pyo.Var(domain=pyo.Binary)
    m.b = pyo.Var(domain=pyo.NonNegativeIntegers, bounds=(None, 3.7))
    m.c = pyo.Var(domain=pyo.NonNegativeReals)
    m.d = pyo.Var(domain=pyo.Set(initialize=[1, 2, 3]))
    m.e = pyo.Var(domain=pyo.Binary, initialize=0.5)
    m.r = pyo.Constraint(expr=m.a + m.b + m.c + m.d + m.e <= 9)
    m.goal = pyo.Objective(expr=m.a, sense=pyo.maximize)
    p = HOST.compile(m)
    assert p.integer.tolist() == [True, True, False, True, True]
    assert p.lower.tolist() == [0, 0, 0, 1, 0]
    assert p.upper.tolist() == [1, 3, np.inf, 3, 1]
    m.e.fix()
    assert HOST.compile(m).row_upper.tolist() == [8.5]
    m.g = pyo.Var(domain=pyo.Set(initialize=[1, 3, 4]))
    m.r2 = pyo.Constraint(expr=m.g <= 3)
    with pytest.raises(UnsupportedFeature, match="'g' has the domain"):
        HOST.compile(m)


def test_rows_without_variables_make_the_model_infeasible_not_an_error():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(0, 1))
    m.f = pyo.Var(initialize=2.0)
    m.f.fix()
    m.ok = pyo.Constraint(expr=m.f <= 2)
    m.goal = pyo.Objective(expr=m.x)
    assert nn.solve(m).status == "optimal"
    m.bad = pyo.Constraint(expr=m.f <= 1)
    m.x.value = 0.5
    assert nn.solve(m).status == "infeasible"
    assert (m.x.value, m.x.stale) == (0.5, True)


def broken(change):
    m = pyo.ConcreteModel()
    m.x = pyo.Var([0, 1], bounds=(0, 1))
    m.goal = pyo.Objective(expr=m.x[0])
    m.row = pyo.Constraint(expr=m.x[0] + m.x[1] <= 1)
    change(m)
    return m


def two_goals(m):
    m.more = pyo.Objective(expr=m.x[1])


def no_goal(m):
    m.goal.deactivate()


def quadratic_row(m):
    m.bowl = pyo.Constraint(expr=m.x[0] ** 2 <= 1)


def nonlinear_row(m):
    m.wave = pyo.Constraint(expr=pyo.sin(m.x[0]) <= 1)


def nonlinear_goal(m):
    m.goal.set_value(pyo.exp(m.x[0]))


def sos2(m):
    m.sets = pyo.SOSConstraint(var=m.x, sos=2)


def disjunction(m):
    from pyomo.gdp import Disjunct, Disjunction

    m.d = Disjunct([0, 1])
    m.d[0].c = pyo.Constraint(expr=m.x[0] <= 0.5)
    m.either = Disjunction(expr=[m.d[0], m.d[1]])


def no_number(m):
    m.p = pyo.Param(mutable=True)
    m.hole = pyo.Constraint(expr=m.p * m.x[0] <= 1)


def no_value(m):
    m.f = pyo.Var()
    m.f.fixed = True
    m.hole = pyo.Constraint(expr=m.f + m.x[0] <= 1)


def nan(m):
    m.hole = pyo.Constraint(expr=float("nan") * m.x[0] + m.x[1] <= 1)


def variable_bound(m):
    m.hole = pyo.Constraint(expr=(m.x[0], m.x[1], 1 + m.x[0]))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (two_goals, InputError, "2 active objectives.*'goal', 'more'"),
        (no_goal, InputError, "0 active objectives"),
        (quadratic_row, UnsupportedFeature, "'bowl' is quadratic.*attach=True"),
        (nonlinear_row, UnsupportedFeature, "'wave' is nonlinear.*nonlinear solver"),
        (nonlinear_goal, UnsupportedFeature, "'goal' is nonlinear"),
        (sos2, UnsupportedFeature, "'sets' is an SOS2"),
        (disjunction, UnsupportedFeature, "Disjunct"),
        (no_number, InputError, "'hole'"),
        (no_value, InputError, "'hole'"),
        (nan, InputError, "'hole'"),
        (variable_bound, InputError, "'hole'"),
    ],
)
def test_what_cannot_be_compiled_is_named(change, error, words):
    with pytest.raises(error, match=words):
        nn.solve(broken(change))


def test_sets_are_carried():
    m = broken(lambda m: None)
    m.sets = pyo.SOSConstraint(var=m.x, sos=1)
    (sets,) = HOST.compile(m).sos1
    assert sets.tolist() == [[0, 1]]


def test_quadratic_objectives_are_carried():
    m = pyo.ConcreteModel()
    m.x = pyo.Var([0, 1], bounds=(-5, 5))
    m.goal = pyo.Objective(expr=(m.x[0] - 1) ** 2 + 2 * (m.x[1] + 2) ** 2 + m.x[0] * m.x[1] + 3)
    p = HOST.compile(m)
    at = np.array([0.3, -1.7])
    m.x[0].value, m.x[1].value = at
    assert p.objective(at) == pytest.approx(pyo.value(m.goal))
    result = nn.solve(m)
    assert result.objective == pytest.approx(pyo.value(m.goal))
    assert result.values[m.x[0]] == pytest.approx(16 / 7, abs=1e-4)


def test_infeasible_names_the_network():
    m = pyo.ConcreteModel()
    m.x = pyo.Var([0, 1], bounds=(-1, 1))
    emb = nn.embed(m, random_network(4), m.x, name="demand", attach=False)
    emb.outputs[0].setlb(None)
    emb.outputs[0].setub(None)
    m.goal = pyo.Objective(expr=emb.outputs[0])
    m.much = pyo.Constraint(expr=emb.outputs[0] >= 10)
    result = nn.solve(m)
    assert result.status == "infeasible" and "'demand'" in result.message


def test_fixed_outputs_are_kept():
    net = random_network(4)
    m = pyo.ConcreteModel()
    m.x = pyo.Var([0, 1], bounds=(-1, 1))
    for attach in (True, False):
        emb = nn.embed(m, net, m.x, name=f"n{attach:d}", attach=attach)
        emb.outputs[0].fix(-0.3)
        m.goal = pyo.Objective(expr=m.x[0] + emb.outputs[0])
        result = nn.solve(m)
        assert result.status == "optimal" and result.certificate.ok
        assert net(np.array([m.x[0].value, m.x[1].value]))[0] == pytest.approx(-0.3, abs=1e-5)
        m.del_component("goal")
        emb.remove()
