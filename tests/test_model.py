"""nnembed.Model and the hosts behind `embed` and `solve`, against forward passes."""

import linopy
import numpy as np
import pandas as pd
import pytest

import nnembed as nn
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Relu

STORES = pd.Index(["Rome", "Oslo", "Bonn"], name="store")
PRODUCTS = pd.Index(["A", "B"], name="product")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:(?i)removing:UserWarning")


@pytest.fixture(autouse=True, params=["legacy", "v1"])
def semantics(request):
    before = linopy.options["semantics"]
    linopy.options["semantics"] = request.param
    yield request.param
    linopy.options["semantics"] = before


def network(seed, n=2, hidden=6, m=2, name="demand"):
    rng = np.random.default_rng(seed)
    sizes = [("x", n), ("g", hidden), ("z", hidden), ("y", m)]
    specs = {key: TensorSpec(key, (size,)) for key, size in sizes}
    first = Affine("fc1", ("x",), "g", (Dense(rng.normal(size=(hidden, n))),), rng.normal(size=hidden))
    relu = Relu("relu1", ("g",), "z", np.zeros(hidden), np.ones(hidden))
    last = Affine("fc2", ("z",), "y", (Dense(rng.normal(size=(m, hidden))),), rng.normal(size=m))
    return Network((specs["x"],), (specs["y"],), (first, relu, last), specs, name=name)


def rules(model, x, units):
    model.add_constraints(units.sum("store") <= 1.5, name="stock")
    model.add_objective(units.sum() - 0.5 * x.sum(), sense="max")


def shop(kind):
    m = kind()
    return m, m.add_variables(-1, 1, coords=[STORES, PRODUCTS], name="price")


@pytest.mark.parametrize("attach", [True, False])
def test_plain_linopy_attached_and_overlay_agree_with_the_network(attach):
    net = network(2)
    m, price = shop(linopy.Model)
    emb = nn.embed(m, net, price, name="demand", attach=attach)
    rules(m, price, emb.outputs)
    result = nn.solve(m, backend="highs", gap=0.0, progress=False)
    assert result.status == "optimal"
    assert result.certificate.ok
    assert np.allclose(net(price.solution.values), emb.outputs.solution.values, atol=1e-5)
    assert result.values["demand"].dims == ("store", "output")
    assert m.objective.value == pytest.approx(result.objective, rel=1e-6)
    assert emb.residual() < 1e-5
    if attach:
        m.solve("highs", output_flag=False, mip_rel_gap=0.0)
        assert m.objective.value == pytest.approx(result.objective, abs=1e-5)
    else:
        assert m.solve("highs", output_flag=False)[1] == "infeasible"
    emb.remove()
    assert list(m.variables) == ["price"]


def test_model_of_the_readme():
    net = network(2)
    m, price = shop(nn.Model)
    units = m.embed(net, price, name="demand")
    assert isinstance(units, linopy.Variable)
    assert units.dims == ("store", "output")
    assert list(m.embeddings) == ["demand"]
    rules(m, price, units)
    result = m.solve(backend="highs", gap=0.0, progress=False)
    assert result.status == "optimal"
    assert result.certificate.ok
    values = result.values
    assert np.allclose(net(values["price"].values), values["demand"].values, atol=1e-5)
    assert float(values["demand"].sum("store").max()) <= 1.5 + 1e-6
    assert m.status == "ok"
    assert np.allclose(m.solution["demand"], values["demand"])


def test_no_other_way_solves_the_model_without_its_network(tmp_path):
    import highspy

    m, price = shop(nn.Model)
    units = m.embed(network(1), price, name="demand")
    rules(m, price, units)
    assert linopy.Model.solve(m, "highs", output_flag=False)[1] == "infeasible"
    direct = m.to_highspy()
    direct.setOptionValue("output_flag", False)
    direct.run()
    assert direct.getModelStatus() == highspy.HighsModelStatus.kInfeasible
    m.to_file(tmp_path / "m.lp", explicit_coordinate_names=True)
    assert "use_nnembed_solve" in (tmp_path / "m.lp").read_text()
    with pytest.raises(nn.InputError, match="embed it again"):
        nn.solve(m.copy(), progress=False)
    m.embeddings["demand"].remove()
    assert list(m.embeddings) == []
    assert list(m.constraints) == []
    assert linopy.Model.solve(m, "highs", output_flag=False)[1] == "optimal"


def test_inputs_of_every_kind_in_one_call():
    net = network(3, n=5)
    m, price = shop(nn.Model)
    level = m.add_variables(0, 3, integer=True, coords=[STORES], name="level")
    season = pd.Series([0.1, 0.2, 0.3], index=STORES)
    units = m.embed(net, [price, level, 2 * level - price.sum("product"), season], name="demand")
    m.add_objective(units.sum(), sense="min")
    result = m.solve(gap=0.0, progress=False)
    p, k = result.values["price"].values, result.values["level"].values
    x = np.column_stack([p, k, 2 * k - p.sum(axis=1), season])
    assert np.allclose(net(x), result.values["demand"].values, atol=1e-5)


def test_two_networks_in_a_chain():
    first, second = network(1), network(2)
    m, price = shop(nn.Model)
    middle = m.embed(first, price, name="first")
    last = m.embed(second, middle, name="second")
    rules(m, price, last)
    result = m.solve(gap=0.0, progress=False)
    assert result.certificate.ok
    expected = second(first(result.values["price"].values))
    assert np.allclose(expected, result.values["second"].values, atol=1e-4)


def test_changed_bounds_are_seen():
    net = network(1)
    m, price = shop(nn.Model)
    units = m.embed(net, price, name="demand")
    m.add_objective(units.sum(), sense="max")
    small = m.solve(gap=0.0, progress=False)
    price.update(lower=-3, upper=3)
    large = m.solve(gap=0.0, progress=False)
    assert large.objective >= small.objective - 1e-9
    assert large.certificate.ok
    assert np.abs(large.values["price"]).max() > 1


def test_an_open_input_is_named():
    m = nn.Model()
    x = m.add_variables(lower=0, coords=[PRODUCTS], name="price")
    with pytest.raises(nn.BoxError, match=r"price\[product=A\]"):
        m.embed(network(1), x)
    assert list(m.variables) == ["price"]


def test_array_model_end_to_end():
    net = network(1)
    model = nn.ArrayModel(-np.ones(6), 1.0, maximize=True)
    x = np.arange(6).reshape(3, 2)
    emb = nn.embed(model, net, x, name="demand", attach=False)
    model.cost[model.positions(emb.outputs.ravel())] = 1.0
    result = nn.solve(model, gap=0.0, progress=False)
    assert result.certificate.ok
    assert np.allclose(net(model.values[x]), model.values[emb.outputs], atol=1e-5)
    other = nn.ArrayModel(-np.ones(6), 1.0, maximize=True)
    attached = nn.embed(other, net, x, name="demand")
    other.cost[other.positions(attached.outputs.ravel())] = 1.0
    assert nn.solve(other, gap=0.0, progress=False).objective == pytest.approx(result.objective, abs=1e-5)
