"""A declared network follows the model's box: nothing of the bounds it was declared with may cut off answers."""

import numpy as np
import pytest

import nnembed as nn
from nnembed.testing import enumerate_optimum, random_network

NARROW, WIDE = np.array([[0.25, -1.0], [0.25, 1.0]]), np.array([[-1.0, -1.0], [1.0, 1.0]])


def arrays(net, second):
    m = nn.ArrayModel(*NARROW)
    y = nn.embed(m, net, np.arange(2), name="a", attach=False).outputs
    if second is not None:
        y = nn.embed(m, second, y, name="b", attach=False).outputs

    def widen():
        m.lower[:2], m.upper[:2] = WIDE
        m.cost[y] = 1.0

    return m, widen


def linopy(net, second):
    linopy = pytest.importorskip("linopy")
    m = linopy.Model()
    x = m.add_variables(*NARROW, name="x")
    y = nn.embed(m, net, x, name="a", attach=False).outputs
    if second is not None:
        y = nn.embed(m, second, y, name="b", attach=False).outputs
    m.add_objective(y.sum())

    def widen():
        x.lower, x.upper = WIDE

    return m, widen


def pyomo(net, second):
    pyo = pytest.importorskip("pyomo.environ")
    m = pyo.ConcreteModel()
    m.x = pyo.Var([0, 1])
    m.part = pyo.Block()
    # the first network is in a block that comes after the model itself
    for i in (0, 1):
        m.x[i].bounds = NARROW[0, i], NARROW[1, i]
    y = nn.embed(m.part, net, m.x, name="a", attach=False).outputs
    if second is not None:
        y = nn.embed(m, second, y, name="b", attach=False).outputs
    m.goal = pyo.Objective(expr=sum(y[...]))

    def widen():
        for i in (0, 1):
            m.x[i].bounds = WIDE[0, i], WIDE[1, i]

    return m, widen


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("build", [arrays, linopy, pyomo])
@pytest.mark.parametrize("chained", [False, True])
def test_a_declared_network_follows_a_wider_box(build, chained):
    net = random_network(4, inputs=2, width=4)
    second = random_network(9, inputs=1, width=3) if chained else None
    model, widen = build(net, second)
    nn.solve(model)
    widen()
    result = nn.solve(model, gap=0.0)
    assert result.certificate.ok
    if chained:
        fresh, again = build(net, second)
        again()
        best = nn.solve(fresh, gap=0.0).objective
        side = np.linspace(-1, 1, 201)
        grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        assert result.objective <= second(net(grid)).min() + 1e-6
        assert result.objective == pytest.approx(best, abs=1e-6)
    else:
        best = enumerate_optimum(net, *WIDE, np.ones(1), maximize=False)
        assert result.objective == pytest.approx(best, abs=1e-6)
