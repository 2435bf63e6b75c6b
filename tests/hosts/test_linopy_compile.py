import linopy
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from nnembed.errors import InputError, UnsupportedFeature
from nnembed.features import Feature
from nnembed.hosts.linopy import LinopyHost
from nnembed.protocols import Solution

HOST = LinopyHost()
I4 = pd.RangeIndex(4, name="i")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::linopy.LinopySemanticsWarning")


@pytest.fixture(autouse=True, params=["legacy", "v1"])
def semantics(request):
    before = linopy.options["semantics"]
    linopy.options["semantics"] = request.param
    yield request.param
    linopy.options["semantics"] = before


def lp(sense="max", **scaling):
    m = linopy.Model()
    m.add_variables(0, 1, coords=[I4], name="gone")
    x = m.add_variables(0, 10, coords=[I4], name="x", scaling=scaling.get("column", 1))
    mask = xr.DataArray([True, False, True, True], [("i", I4)])
    y = m.add_variables(-5, 5, coords=[I4], mask=mask, name="y")
    m.remove_variables("gone")
    cost = xr.DataArray([3.0, 1.0, 2.0, 5.0], [("i", I4)])
    m.add_constraints(x <= 6, name="cap", mask=mask)
    m.add_constraints(x.sum() + y.sum() <= 12, name="total", scaling=scaling.get("row", 1))
    m.add_constraints(x.isel(i=0, drop=True) - x.isel(i=1, drop=True) >= -1, name="ladder")
    m.add_constraints(2 * x.isel(i=[2, 3]) + x.isel(i=[2, 3]) == 6, name="fixed")
    m.add_objective((cost * x).sum() + y.sum(), sense=sense, scaling=scaling.get("objective", 1))
    return m


@pytest.mark.parametrize("sense", ["min", "max"])
@pytest.mark.parametrize("scaling", [{}, {"column": 8.0, "row": 0.5, "objective": 4.0}])
def test_solution_status_and_duals_are_as_linopys_own(sense, scaling, highs):
    own, ours = lp(sense, **scaling), lp(sense, **scaling)
    own.solve("highs", output_flag=False)
    problem = HOST.compile(ours)
    solution = highs(problem)
    values = HOST.load(ours, problem, solution)
    assert ours.objective.value == pytest.approx(own.objective.value)
    assert (ours.status, ours.termination_condition) == (own.status, own.termination_condition)
    xr.testing.assert_allclose(ours.solution, own.solution)
    xr.testing.assert_allclose(values, own.solution)
    for name in own.constraints:
        xr.testing.assert_allclose(ours.constraints[name].dual, own.constraints[name].dual)
    assert solution.objective == pytest.approx(own.objective.value)


def test_arrays_agree_with_linopys_matrices():
    m = lp()
    problem, matrices = HOST.compile(m), m.matrices
    assert np.array_equal(problem.labels, matrices.vlabels)
    assert np.array_equal(problem.lower, matrices.lb)
    assert np.array_equal(problem.cost, matrices.c)
    assert (problem.matrix != matrices.A).nnz == 0
    assert np.array_equal(problem.row_upper[matrices.sense != ">"], matrices.b[matrices.sense != ">"])
    assert problem.row_groups == (("cap", 0, 3), ("total", 3, 4), ("ladder", 4, 5), ("fixed", 5, 7))
    assert problem.row_name(1) == "cap[1]"
    assert problem.column_groups == (("x", 0, 4), ("y", 4, 7))


def test_scaled_models_compile_in_the_users_units():
    plain, scaled = HOST.compile(lp()), HOST.compile(lp(column=8.0, row=0.5, objective=4.0))
    for name in ("lower", "upper", "cost", "row_lower", "row_upper"):
        assert np.array_equal(getattr(plain, name), getattr(scaled, name))
    assert (plain.matrix != scaled.matrix).nnz == 0


def test_integers_and_quadratic_objective(highs):
    m = linopy.Model()
    k = m.add_variables(-3.5, 3.5, integer=True, coords=[I4], name="k")
    b = m.add_variables(binary=True, name="b")
    m.add_constraints(k.sum() + b >= 1, name="some")
    z = m.add_variables(-5, 5, coords=[I4], name="z")
    m.add_constraints(z.sum() == 2, name="zsum")
    m.add_objective(
        (z * z).sum()
        + 3 * z.isel(i=0, drop=True) * z.isel(i=1, drop=True)
        + 2 * z.isel(i=0, drop=True) * z.isel(i=0, drop=True)
        - z.sum()
        + k.sum()
    )
    problem = HOST.compile(m)
    assert Feature.QUADRATIC_OBJECTIVE in problem.needs
    assert problem.lower[:4].tolist() == [-3] * 4
    assert problem.integer.tolist() == [True] * 5 + [False] * 4
    point = np.random.default_rng(0).normal(size=9)
    z_, k_ = point[5:], point[:4]
    expected = (z_**2).sum() + 3 * z_[0] * z_[1] + 2 * z_[0] ** 2 - z_.sum() + k_.sum()
    assert problem.objective(point) == pytest.approx(expected)


def test_quadratic_solution_is_linopys(highs):
    m = linopy.Model()
    z = m.add_variables(-5, 5, coords=[I4], name="z")
    m.add_constraints(z.sum() == 2, name="zsum")
    m.add_objective((z * z).sum() + z.isel(i=0, drop=True) * z.isel(i=1, drop=True) - z.isel(i=3, drop=True))
    m.solve("highs", output_flag=False)
    best, dual = m.objective.value, float(m.constraints["zsum"].dual)
    problem = HOST.compile(m)
    HOST.load(m, problem, highs(problem))
    assert m.objective.value == pytest.approx(best)
    assert float(m.constraints["zsum"].dual) == pytest.approx(dual, abs=1e-5)


def test_empty_models_and_objectives():
    m = linopy.Model()
    problem = HOST.compile(m)
    assert (problem.n_rows, problem.n_columns) == (0, 0)
    m.add_variables(0, 1, name="x")
    problem = HOST.compile(m)
    assert problem.cost.tolist() == [0.0]
    HOST.load(m, problem, Solution("optimal", np.array([0.5])))
    assert float(m.variables["x"].solution) == 0.5


def test_sos1_is_carried_and_sos2_refused():
    m = linopy.Model()
    x = m.add_variables(0, 1, coords=[pd.RangeIndex(2, name="g"), I4], name="x")
    m.add_sos_constraints(x, 1, "i")
    problem = HOST.compile(m)
    assert problem.sos1[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    mask = xr.DataArray([[True] * 4, [True, False, True, False]], coords=x.labels.coords)
    y = m.add_variables(0, 1, coords=x.labels.coords, mask=mask, name="y")
    m.add_sos_constraints(y, 1, "i")
    assert [s.tolist() for s in HOST.compile(m).sos1[1:]] == [[[8, 9, 10, 11]], [[12, 13]]]
    w = m.add_variables(0, 1, coords=[I4], name="w")
    m.add_sos_constraints(w, 2, "i")
    with pytest.raises(UnsupportedFeature, match=r"'w'.*SOS2"):
        HOST.compile(m)


def test_refusals_name_the_component():
    m = linopy.Model()
    m.add_variables(1.0, 2.0, semi_continuous=True, name="s")
    with pytest.raises(UnsupportedFeature, match="'s' is semi-continuous"):
        HOST.compile(m)
    m = linopy.Model()
    m.add_variables(np.nan, 1, name="n")
    with pytest.raises(InputError, match="bound of variable 'n' is NaN"):
        HOST.compile(m)


def test_failed_solves_clear_old_values():
    m = lp()
    m.solve("highs", output_flag=False)
    problem = HOST.compile(m)
    assert HOST.load(m, problem, Solution("infeasible")) is None
    assert (m.status, m.termination_condition) == ("warning", "infeasible")
    assert np.isnan(m.objective.value)
    with pytest.raises(AttributeError):
        _ = m.variables["x"].solution
    point = np.zeros(problem.n_columns)
    HOST.load(m, problem, Solution("interrupted", point))
    assert (m.status, m.termination_condition) == ("ok", "user_interrupt")
    assert np.isnan(m.variables["y"].solution.values[1])


def test_frozen_and_sparse_models(semantics):
    plain = HOST.compile(lp())
    m = lp()
    for name in list(m.constraints):
        m.constraints.add(m.constraints[name].freeze())
    frozen = HOST.compile(m)
    assert (plain.matrix != frozen.matrix).nnz == 0
    assert np.array_equal(plain.row_lower, frozen.row_lower)
    HOST.load(m, frozen, Solution("optimal", np.zeros(7), duals=np.arange(7.0)))
    assert m.constraints["cap"].dual.values[[0, 2, 3]].tolist() == [0, 1, 2]
