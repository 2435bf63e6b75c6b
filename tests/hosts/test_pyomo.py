"""Networks in Pyomo models: attach, overlay, the way back, bad input."""

import gc
import pickle
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import nnembed as nn
from nnembed.errors import BoxError, InputError, UnsupportedFeature, WrongModel
from nnembed.features import Feature
from nnembed.hosts.pyomo import PyomoHost
from nnembed.ir.linear import Dense
from nnembed.ir.nodes import Affine, relu
from nnembed.testing import chain, enumerate_optimum, random_network

pyo = pytest.importorskip("pyomo.environ")
highs_module = pytest.importorskip("pyomo.contrib.solver.solvers.highs")
HOST = PyomoHost()
STORES = ["Rome", "Oslo", "Bonn"]
TOL = 1e-6


def by_pyomo(model, **options):
    solver = highs_module.Highs()
    solver.config.solver_options = {"mip_rel_gap": 0.0, "threads": 1, **options}
    return solver.solve(model)


def plain(n=2, low=-1.0, high=1.0):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(n), bounds=(low, high))
    return m


def shop():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(STORES, ["price", "promo"], bounds=(-1, 1))
    return m


def size(model):
    return [
        sum(1 for _ in model.component_data_objects(kind, descend_into=True))
        for kind in (pyo.Var, pyo.Constraint, pyo.Block)
    ] + [list(model.component_map())]


@pytest.fixture
def net():
    return random_network(4, inputs=2, width=4)


@pytest.fixture
def wide():
    return chain([(4, "relu"), (3, "relu"), (2, "none")], 2, np.random.default_rng(3))


# ---- the same optimum on every way ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds", [("relu", "relu"), ("leaky",), ("abs", "relu"), ("clip",), ("max", "relu"), ("steep",)]
)
@pytest.mark.parametrize("formulation", ["two_row", "slack"])
def test_attach_overlay_and_arrays_equal_enumeration(kinds, formulation):
    net = random_network(7, inputs=2, width=3, kinds=kinds)
    low, high = -np.ones(2), np.ones(2)
    for sense in (pyo.minimize, pyo.maximize):
        best = enumerate_optimum(net, low, high, np.ones(1), maximize=sense == pyo.maximize)
        m = plain()
        emb = nn.embed(m, net, m.x, name="d", formulation=formulation)
        m.goal = pyo.Objective(expr=emb.outputs[0], sense=sense)
        by_pyomo(m)
        assert pyo.value(m.goal) == pytest.approx(best, abs=TOL)
        assert emb.residual() < TOL
        attached = nn.solve(m, gap=0.0)
        assert attached.objective == pytest.approx(best, abs=TOL) and attached.certificate.ok

        m = plain()
        emb = nn.embed(m, net, m.x, name="d", formulation=formulation, attach=False)
        m.goal = pyo.Objective(expr=emb.outputs[0], sense=sense)
        overlaid = nn.solve(m, gap=0.0)
        assert overlaid.objective == pytest.approx(best, abs=TOL) and overlaid.certificate.ok
        assert pyo.value(m.goal) == pytest.approx(best, abs=TOL)
        assert not m.x[0].stale and not emb.outputs[0].stale
        assert overlaid.values[m.x[0]] == m.x[0].value

        array = nn.ArrayModel(np.append(low, -1e3), np.append(high, 1e3), [0, 0, 1.0], maximize=sense == pyo.maximize)
        y = nn.embed(array, net, np.arange(2))
        array.add_rows([[0, 0, 1.0, *np.where(np.arange(3, array.n_columns) == y.outputs[0], -1.0, 0.0)]], 0.0, 0.0)
        assert nn.solve(array, gap=0.0).objective == pytest.approx(best, abs=TOL)


def test_batches_keep_the_users_index(wide):
    results = []
    for attach in (True, False):
        m = shop()
        emb = nn.embed(m, wide, m.x, name="demand", attach=attach)
        y = emb.outputs
        assert list(y.index_set()) == [(s, k) for s in STORES for k in range(2)]
        m.stock = pyo.Constraint(expr=sum(y[s, 0] for s in STORES) <= 3.0)
        m.goal = pyo.Objective(expr=sum(y[:, :]) - 0.5 * sum(m.x[...]), sense=pyo.maximize)
        if attach:
            by_pyomo(m)
        else:
            assert nn.solve(m, gap=0.0).certificate.ok
        x = np.array([[m.x[s, k].value for k in ("price", "promo")] for s in STORES])
        assert np.allclose(wide(x), [[y[s, k].value for k in range(2)] for s in STORES], atol=1e-5)
        assert emb.residual() < 1e-5
        results.append(pyo.value(m.goal))
    assert results[0] == pytest.approx(results[1], abs=1e-5)


def test_two_networks_in_a_chain(net, wide):
    best = []
    for attach in ((True, True), (True, False), (False, False), (False, True)):
        m = plain()
        first = nn.embed(m, wide, m.x, name="first", attach=attach[0])
        second = nn.embed(m, net, first.outputs, name="second", attach=attach[1])
        m.goal = pyo.Objective(expr=second.outputs[0])
        result = nn.solve(m, gap=0.0)
        assert result.certificate.ok
        best.append(result.objective)
        x = np.array([m.x[0].value, m.x[1].value])
        assert net(wide(x))[0] == pytest.approx(second.outputs[0].value, abs=1e-5)
    assert np.ptp(best) < 1e-5


def test_networks_in_blocks(net):
    for attach in (True, False):
        m = plain()
        m.plant = pyo.Block(["a", "b"])
        m.plant["a"].u = pyo.Var(bounds=(-1, 1))
        emb = nn.embed(m.plant["a"], net, [m.plant["a"].u, m.x[0]], name="d", attach=attach)
        m.goal = pyo.Objective(expr=m.plant["a"].d.outputs[0] - m.x[0])
        result = nn.solve(m, gap=0.0)
        assert result.certificate.ok and len(result.plan) == 1
        assert emb.residual() < TOL
        if not attach:
            with pytest.raises(Exception, match=r"optimal|feasible"):
                by_pyomo(m)


def test_a_part_of_the_model_that_lacks_its_network_is_refused(net):
    m = plain()
    m.part = pyo.Block()
    emb = nn.embed(m, net, m.x, name="d", attach=False)
    m.part.goal = pyo.Objective(expr=emb.outputs[0])
    with pytest.raises(InputError, match="'d', whose block is not active in 'part'"):
        nn.solve(m.part)
    assert nn.solve(m).certificate.ok
    m.d.deactivate()
    with pytest.raises(InputError, match="not active"):
        nn.solve(m)


# ---- names, removal, copies -----------------------------------------------------------------------------


def test_names_are_readable_and_the_same_in_every_run(tmp_path, wide):
    texts = []
    for run in range(2):
        m = shop()
        m.level = pyo.Var(bounds=(0, 1))
        emb = nn.embed(m, wide, m.x, name="demand")
        nn.embed(m, wide, [m.level, 2 * m.level - 0.5], name="other")
        m.goal = pyo.Objective(expr=sum(emb.outputs[...]))
        file = tmp_path / f"{run}.lp"
        m.write(str(file), io_options={"symbolic_solver_labels": True})
        texts.append(file.read_text())
    assert texts[0] == texts[1]
    assert m.find_component("demand.relu_0.post[0,2]") is not None
    assert m.find_component("other.relu_0.on[2]").domain is pyo.Binary
    assert m.demand.outputs["Rome", 1].name == "demand.outputs[Rome,1]"
    import highspy

    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    assert h.readModel(str(tmp_path / "0.lp")) == highspy.HighsStatus.kOk
    h.run()
    by_pyomo(m)
    assert h.getInfo().objective_function_value == pytest.approx(pyo.value(m.goal), abs=1e-5)


@pytest.mark.parametrize("attach", [True, False])
def test_remove_restores_the_model(net, attach):
    m = plain()
    m.keep = pyo.Constraint(expr=m.x[0] + m.x[1] <= 1)
    before = size(m)
    emb = nn.embed(m, net, m.x, name="d", attach=attach)
    with pytest.raises(InputError, match="already"):
        nn.embed(m, net, m.x, name="d")
    assert size(m) != before
    emb.remove()
    assert size(m) == before
    with pytest.raises(InputError, match="not in this model"):
        emb.remove()
    again = nn.embed(m, net, m.x, name="d", attach=attach)
    m.goal = pyo.Objective(expr=again.outputs[0])
    assert nn.solve(m).certificate.ok


def test_rows_that_use_a_removed_network_are_not_solved_in_silence(net):
    m = plain()
    emb = nn.embed(m, net, m.x, name="d")
    m.floor = pyo.Constraint(expr=emb.outputs[0] >= -5)
    m.goal = pyo.Objective(expr=m.x[0])
    emb.remove()
    with pytest.raises(WrongModel, match="not, or no longer, part"):
        nn.solve(m)
    with pytest.raises(Exception, match=r"optimal|feasible|bounds"):
        by_pyomo(m)


def test_a_deleted_block_is_noticed(net):
    m = plain()
    emb = nn.embed(m, net, m.x, name="d")
    m.goal = pyo.Objective(expr=m.x[0])
    m.del_component("d")
    gc.collect()
    with pytest.raises(WrongModel, match="embed"):
        nn.solve(m)
    emb.remove()
    assert nn.solve(m).objective == pytest.approx(-1)


def test_a_failure_leaves_nothing(net, monkeypatch):
    m = plain()
    before = size(m)
    monkeypatch.setattr("nnembed.hosts.pyomo_attach.LinearExpression", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        nn.embed(m, net, m.x, name="d")
    assert size(m) == before
    assert gc.isenabled()


def test_copies_and_pickles_solve_or_say_why_not(net):
    for attach in (True, False):
        m = plain()
        emb = nn.embed(m, net, m.x, name="d", attach=attach)
        m.goal = pyo.Objective(expr=emb.outputs[0])
        best = nn.solve(m, gap=0.0).objective
        for copy in (m.clone(), pickle.loads(pickle.dumps(m))):
            if attach:
                by_pyomo(copy)
                assert pyo.value(copy.goal) == pytest.approx(best, abs=TOL)
            else:
                with pytest.raises(InputError, match="did not come along"):
                    nn.solve(copy)
                with pytest.raises(Exception, match=r"optimal|feasible"):
                    by_pyomo(copy)


def test_models_are_not_kept_alive(net):
    m = plain()
    nn.embed(m, net, [m.x[0], 2 * m.x[1]], name="d")
    nn.embed(m, net, m.x, name="e", attach=False)
    reference = weakref.ref(m)
    del m
    gc.collect()
    assert reference() is None


# ---- inputs of every kind ---------------------------------------------------------------------------------


def box(m, net, x):
    inputs = HOST.parse(m, net.inputs, x)
    return inputs, *HOST.input_box(m, inputs)


def test_mixed_entries_are_read():
    net = chain([(3, "relu"), (1, "none")], 6, np.random.default_rng(0))
    m = plain(3, -1, 2)
    m.b = pyo.Var(domain=pyo.Binary)
    m.p = pyo.Param(initialize=0.25, mutable=True)
    m.q = pyo.Param(["u"], initialize=0.5)
    m.e = pyo.Expression(expr=2 * m.x[0] + m.p)
    x = [m.x[0], 1 + 2 * m.x[1] - m.b, m.e, m.p, m.q["u"], 3]
    inputs, low, high = box(m, net, x)
    assert low == pytest.approx([-1, -2, -1.75, 0.25, 0.5, 3])
    assert high == pytest.approx([2, 5, 4.25, 0.25, 0.5, 3])
    assert HOST.describe_entry(m, inputs, 0) == "x[0]"
    assert "expression" in HOST.describe_entry(m, inputs, 1)
    for attach in (True, False):
        emb = nn.embed(m, net, np.array(x, dtype=object), name=f"n{attach:d}", attach=attach)
        m.goal = pyo.Objective(expr=emb.outputs[0] + m.b)
        assert nn.solve(m).certificate.ok
        point = np.array([pyo.value(v) for v in x])
        assert emb.outputs[0].value == pytest.approx(net(point)[0], abs=1e-6)
        m.del_component("goal")
        emb.remove()


def test_indexed_pieces_are_joined_along_the_features():
    net = chain([(2, "relu"), (1, "none")], 3, np.random.default_rng(0))
    m = shop()
    m.level = pyo.Var(STORES, bounds=(0, 5))
    m.u = pyo.Var(bounds=(7, 8))
    emb = nn.embed(m, net, [m.x, m.level], name="a")
    assert list(emb.outputs.index_set()) == [(s, 0) for s in STORES]
    assert HOST.describe_entry(m, emb.inputs, 2) == "level[Rome]"
    emb = nn.embed(m, net, [m.level, m.u, m.level], name="b")
    assert [HOST.describe_entry(m, emb.inputs, i) for i in (3, 4, 5)] == ["level[Oslo]", "u", "level[Oslo]"]
    emb = nn.embed(m, net, [m.x["Rome", :], 0.5], name="c")
    assert list(emb.outputs.index_set()) == [0]
    emb = nn.embed(m, net, [m.x, np.array([1.0, 2.0, 3.0])], name="d")
    assert emb.inputs.constant[[2, 5, 8]].tolist() == [1, 2, 3]
    emb = nn.embed(m, net, m.level, name="e")
    assert list(emb.outputs.index_set()) == [0]
    emb = nn.embed(m, net, [[m.u, 1, m.u], [2, m.u, 0]], name="f")
    assert list(emb.outputs.index_set()) == [(0, 0), (1, 0)]


def test_several_inputs_and_one_number_inputs():
    from nnembed.ir.network import TensorSpec

    m = shop()
    m.t = pyo.Var(bounds=(0, 1))
    specs = (TensorSpec("a", (2,)), TensorSpec("b", (1,)))
    inputs = HOST.parse(m, specs, {"a": m.x, "b": m.t})
    assert inputs.lead == (3,) and len(inputs.constant) == 9 and len(inputs.labels) == 7
    with pytest.raises(InputError, match="no value"):
        HOST.parse(m, specs, {"a": m.x})
    m.z = pyo.Var(["Rome", "Bonn", "Oslo"], bounds=(0, 1))
    m.w = pyo.Var(["Rome", "Bonn"], ["u"], bounds=(0, 1))
    with pytest.raises(InputError, match="different batch indices"):
        HOST.parse(m, specs, {"a": m.x, "b": m.z})
    with pytest.raises(InputError, match="do not fit together"):
        HOST.parse(m, specs, {"a": m.x, "b": m.w})
    assert HOST.parse(m, (specs[1],), m.t).lead == ()


def test_fixed_variables_and_domains_bound_the_inputs(net):
    m = plain()
    m.x[0].fix(0.25)
    m.k = pyo.Var(domain=pyo.Integers, bounds=(-0.5, 2.5))
    _, low, high = box(m, net, [m.x[0], m.k])
    assert (low.tolist(), high.tolist()) == ([0.25, 0.0], [0.25, 2.0])
    emb = nn.embed(m, net, [m.x[0], m.k], name="d", attach=False)
    m.goal = pyo.Objective(expr=emb.outputs[0])
    assert nn.solve(m).certificate.ok
    assert m.x[0].value == 0.25
    m.x[0].unfix()
    result = nn.solve(m, gap=0.0)
    assert result.certificate.ok
    best = min(
        enumerate_optimum(net, np.array([-1.0, k]), np.array([1.0, k]), np.ones(1), maximize=False)
        for k in (0.0, 1.0, 2.0)
    )
    assert result.objective == pytest.approx(best, abs=TOL)


def test_changed_parameters_are_never_overlooked(net):
    m = plain()
    m.p = pyo.Param(initialize=0.5, mutable=True)
    attached = nn.embed(m, net, [m.x[0], m.p], name="a")
    m.goal = pyo.Objective(expr=attached.outputs[0])
    assert nn.solve(m).certificate.ok
    m.p = 0.75
    with pytest.raises(InputError, match="has changed"):
        nn.solve(m)
    with pytest.raises(Exception, match=r"optimal|feasible"):
        by_pyomo(m)
    with pytest.raises(InputError, match="has changed"):
        attached.residual()
    m.p = 0.5
    assert nn.solve(m).certificate.ok


def test_a_wider_box_is_noticed(net):
    m = plain()
    emb = nn.embed(m, net, m.x, name="d")
    m.goal = pyo.Objective(expr=emb.outputs[0])
    m.x[0].setub(2)
    with pytest.raises(InputError, match="widened"):
        nn.solve(m)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda m: [m.x[0]], InputError, "expects shape"),
        (lambda m: [m.x[0], m.x[0] * m.x[1]], InputError, "not linear"),
        (lambda m: [m.x[0], "price"], InputError, "holds a str"),
        (lambda m: [m.x[0], None], InputError, "holds a NoneType"),
        (lambda m: [m.x[0], np.nan], InputError, "NaN"),
        (lambda m: [m.x[0], m.free], BoxError, "free"),
        (lambda m: [m.x[0], plain().x[0]], WrongModel, "another model"),
        (lambda m: [m.x[0], pyo.Var(bounds=(0, 1))], (WrongModel, InputError), "to another model, or to none"),
        (lambda m: [[m.x[0], m.x[1]], [m.x[0]]], InputError, "expects"),
        (lambda m: m.sparse, InputError, "full product"),
        (lambda m: [m.x[0], m.flag], InputError, "associated binary"),
        (lambda m: [m.x[0], m.unset], InputError, "no value"),
        (lambda m: [], InputError, "empty list"),
        (lambda m: np.array(["a", "b"]), InputError, "can hold numbers"),
        (lambda m: {"y": m.x}, InputError, "unknown input"),
    ],
)
def test_bad_inputs_are_named_and_leave_nothing(net, make, error, words):
    m = plain()
    m.free = pyo.Var()
    m.flag = pyo.BooleanVar()
    m.sparse = pyo.Var([(0, 0), (1, 1), (2, 1)], bounds=(0, 1))
    m.unset = pyo.Param(mutable=True)
    before = size(m)
    with pytest.raises(error, match=words):
        nn.embed(m, net, make(m), name="d")
    assert size(m) == before


def test_bad_models_and_names(net):
    m = plain()
    m.b = pyo.Block([1, 2])
    with pytest.raises(InputError, match="indexed block"):
        nn.embed(m.b, net, m.x)
    with pytest.raises(InputError, match="abstract"):
        nn.embed(pyo.AbstractModel(), net, [0, 0])
    for name, words in (("x", "component 'x'"), ("write", "attribute 'write'"), ("a.b", "letters"), ("a b", "letters")):
        with pytest.raises(InputError, match=words):
            nn.embed(m, net, m.x, name=name)
    with pytest.raises(UnsupportedFeature, match="INDICATOR"):
        HOST.attach(m, SimpleNamespace(needs=Feature.LINEAR | Feature.INDICATOR), None, (), "d")


@pytest.mark.parametrize("fixed", [0, 1])
def test_a_number_as_input_that_no_neuron_reads(fixed):
    import pyomo.environ as po

    weight = np.ones((2, 2))
    weight[:, fixed] = 0.0
    t = {n: nn.TensorSpec(n, (k,)) for n, k in {"x": 2, "g": 2, "h": 2}.items()}
    nodes = (Affine("a", ("x",), "g", (Dense(weight),), np.array([-0.5, 0.5])), relu("r", "g", "h", 2))
    net = nn.Network((t["x"],), (t["h"],), nodes, t, name="net")
    model = po.ConcreteModel()
    model.x = po.Var(bounds=(-1, 1))
    emb = nn.embed(model, net, [0.25, model.x] if fixed == 0 else [model.x, 0.25])
    model.goal = po.Objective(expr=sum(emb.outputs.values()), sense=po.maximize)
    result = nn.solve(model, progress=False)
    assert result.status == "optimal"
    assert result.objective == pytest.approx(2.0)
