import time
import tracemalloc

import linopy
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from nnembed.block import Block, ColumnGroup, Indicators, Role, Sos1
from nnembed.errors import InputError, Unavailable, UnsupportedFeature
from nnembed.fills import Above, Value
from nnembed.hosts.linopy import LinopyHost
from nnembed.hosts.linopy_attach import GUARD
from nnembed.problem import Overlay, overlay

STORES = pd.Index(["Rome", "Oslo", "Bonn"], name="store")
PRODUCTS = pd.Index(["A", "B"], name="product")
HOST = LinopyHost()
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:(?i)removing:UserWarning")


@pytest.fixture(autouse=True, params=["legacy", "v1"])
def semantics(request):
    before = linopy.options["semantics"]
    linopy.options["semantics"] = request.param
    yield request.param
    linopy.options["semantics"] = before


@pytest.fixture(params=["frozen", "public"])
def host(request):
    return LinopyHost(request.param)


def shop(**options):
    m = linopy.Model(**options)
    return m, m.add_variables(-1, 1, coords=[STORES, PRODUCTS], name="x")


def block_of(net, model, inputs):
    low, high = HOST.input_box(model, inputs)
    return net.block(low.reshape(inputs.batch, -1), high.reshape(inputs.batch, -1))


def put(host, model, net, x, name="demand"):
    inputs = host.parse(model, net.inputs, x)
    return inputs, host.attach(model, block_of(net, model, inputs), inputs, net.outputs, name)


def declared(model, net, x, name="demand"):
    inputs = HOST.parse(model, net.inputs, x)
    block = block_of(net, model, inputs)
    box = block.lower[block.outputs], block.upper[block.outputs]
    made = HOST.declare(model, box, inputs, net.outputs, name)
    return made, Overlay(None, name, block, inputs, made.output_labels)


def rules(model, x, y):
    model.add_constraints(y.sum("store") <= 1.5, name="stock")
    model.add_objective(y.sum() - 0.5 * x.sum(), sense="max")


def quiet(model, **options):
    return model.solve("highs", output_flag=False, mip_rel_gap=0.0, threads=1, **options)


def test_attached_equals_overlay_and_the_forward_pass(host, net, highs):
    m, x = shop()
    _, made = put(host, m, net, x)
    y = made.outputs
    assert y.dims == ("store", "output")
    assert list(y.indexes["store"]) == list(STORES)
    rules(m, x, y)
    for options in ({"io_api": "direct"}, {"io_api": "lp", "explicit_coordinate_names": True}, {"io_api": "mps"}):
        assert quiet(m, **options) == ("ok", "optimal")
        assert np.allclose(net(x.solution.values), y.solution.values, atol=1e-6)
    best = m.objective.value

    m2, x2 = shop()
    made2, layer = declared(m2, net, x2)
    rules(m2, x2, made2.outputs)
    problem = overlay(HOST.compile(m2), [layer])
    solution = highs(problem)
    assert solution.objective == pytest.approx(best, abs=1e-6)
    values = HOST.load(m2, problem, solution)
    assert np.allclose(net(values["x"].values), values["demand"].values, atol=1e-6)
    assert m2.objective.value == pytest.approx(best, abs=1e-6)
    assert np.allclose(made2.outputs.solution.values, values["demand"].values)

    assert highs(HOST.compile(m)).objective == pytest.approx(best, abs=1e-6)


def test_labels_of_attached_columns_are_the_block_columns(host, net, highs):
    m, x = shop()
    inputs, made = put(host, m, net, 2 * x - 1)
    block = block_of(net, m, inputs)
    problem = host.compile(m)
    where = problem.position(made.labels)
    assert np.array_equal(problem.lower[where], block.lower)
    assert np.array_equal(problem.integer[where], block.integer)
    assert np.array_equal(made.labels[block.outputs], made.output_labels)
    assert np.array_equal(made.outputs.labels.values.ravel(), made.output_labels)


def test_both_routes_write_the_same_rows(nets, highs):
    net = nets(3, n=3, hidden=7)
    problems = []
    for route in ("frozen", "public"):
        m = linopy.Model()
        x = m.add_variables(-1, 1, coords=[STORES], name="x")
        _, made = put(LinopyHost(route), m, net, [x, 2 * x + 1, 0.5])
        m.add_objective(made.outputs.sum())
        p = HOST.compile(m)
        table = np.column_stack([p.matrix.toarray(), p.row_lower, p.row_upper])
        problems.append(table[np.lexsort(np.nan_to_num(table, posinf=1e9, neginf=-1e9).T)])
    assert np.array_equal(problems[0], problems[1])


def test_expressions_numbers_and_variables_mixed(host, nets):
    net = nets(5, n=4)
    m, x = shop()
    level = m.add_variables(0, 2, integer=True, name="level")
    _, made = put(host, m, net, [x, 0.5 * level - 0.25, 0.75])
    m.add_objective(made.outputs.sum() + level, sense="min")
    assert quiet(m) == ("ok", "optimal")
    v = np.column_stack([x.solution, np.full(3, 0.5 * float(level.solution) - 0.25), np.full(3, 0.75)])
    assert np.allclose(net(v), made.outputs.solution, atol=1e-6)


def test_fixed_inputs_give_the_forward_pass(host, net):
    m = linopy.Model()
    points = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    _, made = put(host, m, net, points)
    assert made.outputs.dims == ("batch", "output")
    m.add_objective(made.outputs.sum())
    assert quiet(m) == ("ok", "optimal")
    assert np.allclose(net(points), made.outputs.solution, atol=1e-7)


def test_remove_restores_the_model(host, net):
    m, x = shop()
    m.add_constraints(x.sum() <= 3, name="mine")
    before = m.nvars, m.ncons, list(m.variables), list(m.constraints)
    _, made = put(host, m, net, 2 * x)
    m.add_objective(made.outputs.sum() + x.sum())
    with pytest.warns(UserWarning, match="objective"):
        made.remove()
    assert (m.nvars, m.ncons, list(m.variables), list(m.constraints)) == before
    assert m.objective.linear_terms()[0].tolist() == x.labels.values.ravel().tolist()
    _, again = put(host, m, net, x)
    made.remove()
    assert again.outputs.name in m.variables
    again.remove()
    assert m.nvars == 6


def test_two_networks_in_a_chain_and_gaps(host, nets, highs):
    first, second = nets(1), nets(2)
    m, x = shop()
    gap = m.add_variables(0, 1, coords=[range(4)], name="gap")
    _, a = put(host, m, first, x, "first")
    m.remove_variables("gap")
    _, b = put(host, m, second, a.outputs, "second")
    assert b.outputs.dims == ("store", "output")
    rules(m, x, b.outputs)
    quiet(m)
    assert np.allclose(second(first(x.solution.values)), b.outputs.solution, atol=1e-5)
    assert highs(HOST.compile(m)).objective == pytest.approx(m.objective.value, abs=1e-6)
    assert gap.name not in m.variables


def test_a_failure_leaves_nothing(host, net, monkeypatch):
    m, x = shop()
    inputs = host.parse(m, net.inputs, x)
    block = block_of(net, m, inputs)

    def fail(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(linopy.Model, "add_constraints", fail)
    with pytest.raises(KeyboardInterrupt):
        host.attach(m, block, inputs, net.outputs, "demand")
    with pytest.raises(KeyboardInterrupt):
        host.declare(m, (block.lower[block.outputs], block.upper[block.outputs]), inputs, net.outputs, "demand")
    assert list(m.variables) == ["x"]
    assert list(m.constraints) == []


def test_names_are_unique_and_stable(host, net, tmp_path):
    texts = []
    for run in range(2):
        m, x = shop()
        _, made = put(host, m, net, x)
        m.add_objective(made.outputs.sum())
        with pytest.raises(InputError, match="already has 'demand'"):
            put(host, m, net, x)
        with pytest.raises(InputError, match="not empty"):
            put(host, m, net, x, "")
        file = tmp_path / f"{run}.lp"
        m.to_file(file, explicit_coordinate_names=True)
        texts.append(file.read_text())
        assert {"demand", "demand.fc1_Relu.post", "demand.fc1_Relu.on"} <= set(m.variables)
    assert texts[0] == texts[1]


def test_output_dimension_does_not_clash(net):
    m = linopy.Model()
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(3, name="output"), PRODUCTS], name="x")
    _, made = put(HOST, m, net, x, "a")
    assert made.outputs.dims == ("output", "output_out")
    _, other = put(HOST, m, net, x.sel(output=0), "output")
    assert other.outputs.dims == ("output_out",)


def test_several_outputs_and_shapes(spec):
    m = linopy.Model()
    x = m.add_variables(-1, 1, coords=[STORES, PRODUCTS], name="x")
    inputs = HOST.parse(m, [spec("x", (2,))], x)
    outputs = [spec("flat", (2,)), spec("image", (2, 2)), spec("scalar", ())]
    k = np.arange(3 * 7)
    made = HOST.declare(m, (k * 1.0, k + 1.0), inputs, outputs, "net")
    assert {n: v.dims for n, v in made.outputs.items()} == {
        "flat": ("store", "flat"),
        "image": ("store", "image_0", "image_1"),
        "scalar": ("store",),
    }
    assert made.outputs["image"].lower.values.ravel().tolist() == list(range(6, 18))
    assert len(made.output_labels) == 21


def test_outputs_that_are_inputs_or_repeated_are_tied(host, spec):
    m, x = shop()
    inputs = host.parse(m, [spec("x", (6,))], [x.sel(store=s) for s in STORES])
    n = 6
    e = np.arange
    block = Block(
        matrix=sp.csr_array((0, n)),
        row_lower=np.zeros(0),
        row_upper=np.zeros(0),
        lower=-np.ones(n),
        upper=np.ones(n),
        integer=np.zeros(n, bool),
        n_inputs=n,
        outputs=np.array([0, 0, 5]),
        groups=(ColumnGroup("input", Role.INPUT, 0, "x", n, e(n), Value("x", e(n))),),
    )
    made = host.attach(m, block, inputs, [spec("y", (3,))], "same")
    m.add_constraints(x.sel(store="Rome", product="A") == 0.25)
    m.add_constraints(x.sel(store="Bonn", product="B") == -0.5)
    m.add_objective(made.outputs.sum())
    quiet(m)
    assert made.outputs.solution.values.tolist() == [0.25, 0.25, -0.5]


def test_ranged_free_and_empty_rows(host, spec):
    m = linopy.Model()
    x = m.add_variables(-9, 9, coords=[range(2)], name="x")
    inputs = host.parse(m, [spec("x", (2,))], x)
    e = np.arange

    def block(low, high):
        rows = np.array([[1.0, 0, -1], [0, 1, 1], [1, 1, 1], [0, 0, 0]])
        groups = (
            ColumnGroup("input", Role.INPUT, 0, "x", 2, e(2), Value("x", e(2))),
            ColumnGroup("y", Role.OUTPUT, 2, "y", 1, e(1), Value("y", e(1))),
        )
        matrix, wide = sp.csr_array(rows), np.full(3, 9.0)
        none = np.zeros(3, bool)
        return Block(matrix, low, high, -wide, wide, none, 2, np.array([2]), groups)

    free = np.inf
    low, high = np.array([0, -1.0, -free, -1]), np.array([0, 2.0, free, 1])
    made = host.attach(m, block(low, high), inputs, [spec("y", (1,))], "n")
    assert m.ncons == 3
    m.add_objective((x.isel(dim_0=1) + made.outputs).sum(), sense="max")
    quiet(m)
    assert m.objective.value == pytest.approx(2)
    with pytest.raises(InputError, match="fits no point"):
        host.attach(m, block(low, np.array([0, 2.0, free, -0.5])), inputs, [spec("y", (1,))], "n2")
    assert "n2" not in m.variables


def test_sets_and_indicators_are_refused_by_name(host, net):
    m, x = shop()
    inputs = host.parse(m, net.inputs, x)
    block = block_of(net, m, inputs)
    from dataclasses import replace

    pairs = Sos1(np.array([[0, 1]]))
    with pytest.raises(UnsupportedFeature, match="SOS1"):
        host.attach(m, replace(block, sos1=(pairs,)), inputs, net.outputs, "demand")
    row = Indicators(np.array([0]), np.ones(1), block.matrix[:1], np.zeros(1), np.zeros(1))
    with pytest.raises(UnsupportedFeature, match="INDICATOR"):
        host.attach(m, replace(block, indicators=(row,)), inputs, net.outputs, "demand")
    assert list(m.variables) == ["x"]


def test_a_declared_model_cannot_be_solved_without_its_network(net):
    m, x = shop()
    before = m.nvars, m.ncons
    made, _ = declared(m, net, x)
    m.add_objective(made.outputs.sum())
    for options in ({"io_api": "direct"}, {"io_api": "lp", "explicit_coordinate_names": True}, {"io_api": "mps"}):
        assert quiet(m, **options)[1] == "infeasible"
    assert "use_nnembed_solve" in next(c for c in m.constraints if c.endswith(GUARD))
    made.remove()
    assert (m.nvars, m.ncons) == before


def test_copies_and_files_keep_the_guard(net, tmp_path):
    pytest.importorskip("netCDF4")
    m, x = shop()
    made, _ = declared(m, net, x)
    m.add_objective(made.outputs.sum())
    m.to_netcdf(tmp_path / "m.nc")
    for other in (m.copy(), linopy.read_netcdf(tmp_path / "m.nc")):
        with pytest.raises(InputError, match="embed it again"):
            HOST.compile(other)
        assert quiet(other)[1] == "infeasible"
    HOST.compile(m)


def test_attached_rows_survive_a_copy_and_a_file(net, tmp_path):
    pytest.importorskip("netCDF4")
    m, x = shop()
    _, made = put(HOST, m, net, x)
    rules(m, x, made.outputs)
    quiet(m)
    m.to_netcdf(tmp_path / "m.nc")
    for other in (m.copy(), linopy.read_netcdf(tmp_path / "m.nc")):
        quiet(other)
        assert other.objective.value == pytest.approx(m.objective.value, abs=1e-6)


def test_chunked_models_use_public_rows(net):
    pytest.importorskip("dask")
    m, x = shop(chunk=2)
    _, made = put(HOST, m, net, x)
    m.add_objective(made.outputs.sum())
    assert quiet(m) == ("ok", "optimal")


def test_public_rows_are_taken_where_linopy_lacks_frozen_ones(net, monkeypatch):
    monkeypatch.delattr("linopy.csr.Grid")
    m, x = shop()
    with pytest.raises(Unavailable, match="public"):
        put(LinopyHost("frozen"), m, net, x)
    put(HOST, m, net, x)
    assert "demand.rows" not in m.constraints
    assert any(name.startswith("demand.rows.") for name in m.constraints)


def big_block(ragged):
    rng = np.random.default_rng(0)
    rows, columns = 3082, 784 + 2 * 4 * 256 + 10
    lengths = np.full(rows, 260)
    if ragged:
        lengths[:] = 40
        lengths[:300] = 2400
    indices = np.concatenate([np.sort(rng.choice(columns, k, replace=False)) for k in lengths]).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    matrix = sp.csr_array((rng.normal(size=len(indices)), indices, indptr), shape=(rows, columns))
    groups, integer, start, e = [], np.zeros(columns, bool), 784, np.arange
    groups.append(ColumnGroup("input", Role.INPUT, 0, "x", 784, e(784), Value("x", e(784))))
    for layer in range(4):
        for role, fill in ((Role.POST, Value), (Role.INDICATOR, Above)):
            groups.append(ColumnGroup(f"relu{layer}", role, start, f"z{layer}", 256, e(256), fill("z", e(256))))
            integer[groups[-1].columns] = role is Role.INDICATOR
            start += 256
    groups.append(ColumnGroup("y", Role.OUTPUT, start, "y", 10, e(10), Value("y", e(10))))
    sides = np.full(rows, -np.inf), np.full(rows, 100.0)
    return Block(matrix, *sides, np.zeros(columns), np.ones(columns), integer, 784, start + e(10), tuple(groups))


@pytest.mark.parametrize("ragged", [False, True])
def test_a_large_block_is_fast_and_small(host, spec, ragged):
    block = big_block(ragged)
    m = linopy.Model()
    x = m.add_variables(0, 1, coords=[range(784)], name="x")
    inputs = host.parse(m, [spec("x", (784,))], x)
    tracemalloc.start()
    host.attach(m, block, inputs, [spec("y", (10,))], "first")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * block.matrix.data.nbytes * 2
    start = time.process_time()
    host.attach(m, block, inputs, [spec("y", (10,))], "second")
    assert time.process_time() - start < 1.0
