import linopy
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from nnembed.errors import InputError, UnknownName, WrongModel
from nnembed.hosts.linopy import LinopyHost

STORES = pd.Index(["Rome", "Oslo", "Bonn"], name="store")
PRODUCTS = pd.Index(["A", "B"], name="product")
TIMES = pd.RangeIndex(4, name="time")
HOST = LinopyHost()
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Duplicate dimension:UserWarning")


@pytest.fixture(autouse=True, params=["legacy", "v1"])
def semantics(request):
    before = linopy.options["semantics"]
    linopy.options["semantics"] = request.param
    yield request.param
    linopy.options["semantics"] = before


@pytest.fixture
def m():
    model = linopy.Model()
    model.add_variables(1, 5, coords=[STORES, PRODUCTS], name="price")
    model.add_variables(-2, 2, coords=[STORES], name="weather")
    model.add_variables(binary=True, name="open", coords=[STORES])
    return model


def value(inputs, model, point):
    """Value of every entry when variable `label` is ``point[label]``."""
    return (inputs.matrix @ point[inputs.labels] + inputs.constant).reshape(*inputs.lead, -1)


@pytest.fixture
def point(m):
    return np.random.default_rng(0).normal(size=m.shape[1])


def at(variable, point):
    return point[variable.labels.values]


def test_variable_keeps_batch_names_and_coordinates(m, spec, point):
    price = m.variables["price"]
    inputs = HOST.parse(m, [spec("x", (2,))], price)
    assert inputs.lead == (3,)
    assert inputs.axes[0].name == "store"
    assert list(inputs.axes[0].index) == list(STORES)
    assert (inputs.direct == price.labels.values.ravel()).all()
    assert np.allclose(value(inputs, m, point), at(price, point))


def test_mixed_pieces_broadcast_over_batch(m, spec, point):
    price, weather = m.variables["price"], m.variables["weather"]
    trend = xr.DataArray([1.0, 2.0, 3.0], dims="store", coords={"store": ["Oslo", "Bonn", "Rome"]})
    inputs = HOST.parse(m, [spec("x", (6,))], [price, 2 * weather + 1, 7.5, trend, np.array([4.0])])
    assert inputs.lead == (3,)
    found = value(inputs, m, point)
    expected = np.column_stack(
        [at(price, point), 2 * at(weather, point) + 1, np.full(3, 7.5), [3.0, 1.0, 2.0], np.full(3, 4.0)]
    )
    assert np.allclose(found, expected)
    assert inputs.is_constant.reshape(3, 6)[0].tolist() == [False, False, False, True, True, True]


def test_only_batch_pieces(m, spec, point):
    weather, opened = m.variables["weather"], m.variables["open"]
    inputs = HOST.parse(m, [spec("x", (2,))], [weather, opened])
    assert inputs.lead == (3,)
    assert np.allclose(value(inputs, m, point), np.column_stack([at(weather, point), at(opened, point)]))
    joined = HOST.parse(m, [spec("x", (6,))], [weather, opened])
    assert joined.lead == ()
    single = HOST.parse(m, [spec("x", (1,))], weather)
    assert single.lead == (3,)


def test_two_batch_dimensions_and_transposed_pieces(spec):
    m = linopy.Model()
    a = m.add_variables(0, 1, coords=[STORES, pd.RangeIndex(4, name="time"), PRODUCTS], name="a")
    b = m.add_variables(0, 1, coords=[pd.RangeIndex(4, name="time"), STORES], name="b")
    inputs = HOST.parse(m, [spec("x", (3,))], [a, b])
    assert inputs.lead == (3, 4)
    point = np.arange(m.shape[1], dtype=float)
    found = value(inputs, m, point)
    assert np.allclose(found[..., :2], a.labels.values)
    assert np.allclose(found[..., 2], b.labels.values.T)


def test_own_shape_goes_before_flat(spec):
    m = linopy.Model()
    x = m.add_variables(0, 1, coords=[range(5), range(3), range(2)], dims=["n", "h", "w"], name="x")
    inputs = HOST.parse(m, [spec("image", (3, 2))], x)
    assert inputs.lead == (5,)
    assert (inputs.direct == x.labels.values.ravel()).all()
    flat = HOST.parse(m, [spec("image", (3, 2))], [x.isel(n=0, h=0), [0.0, 1.0], x.isel(n=0, h=1)])
    assert flat.lead == ()


def test_scalars_lists_and_object_arrays(spec):
    m = linopy.Model()
    x = m.add_variables(0, 1, coords=[range(3)], name="x")
    y = m.add_variables(2, 3, name="y")
    inputs = HOST.parse(m, [spec("x", (4,))], [x.at[0], 2 * x.at[1] + 3 * x.at[2], y, 1.5])
    assert inputs.lead == ()
    assert np.allclose(value(inputs, m, np.array([1.0, 10.0, 100.0, 1000.0])), [1, 320, 1000, 1.5])
    batch = HOST.parse(m, [spec("x", (2,))], [[x.at[0], 1.0], [y, x.at[1]], [2.0, 3.0]])
    assert batch.lead == (3,)
    assert batch.axes[0].name == "batch"
    array = np.array([x.at[0], 1.0, y, x.at[1]], dtype=object).reshape(2, 2)
    assert HOST.parse(m, [spec("x", (2,))], array).lead == (2,)


def test_numbers_only_and_pandas(m, spec):
    inputs = HOST.parse(m, [spec("x", (2,))], [[1.0, 2.0], [3.0, 4.0]])
    assert inputs.lead == (2,)
    assert inputs.constant.tolist() == [1, 2, 3, 4]
    assert len(inputs.labels) == 0
    frame = pd.DataFrame([[1.0, 2.0]] * 3, index=STORES)
    mixed = HOST.parse(m, [spec("x", (4,))], [m.variables["price"], frame])
    assert mixed.lead == (3,)
    series = pd.Series([3.0, 1.0, 2.0], index=pd.Index(["Bonn", "Rome", "Oslo"], name="store"))
    inputs = HOST.parse(m, [spec("x", (3,))], [m.variables["price"], series])
    assert inputs.constant.reshape(3, 3)[:, 2].tolist() == [1, 2, 3]


def test_several_inputs_by_name(m, spec, point):
    specs = [spec("a", (2,)), spec("b", (1,))]
    price, weather = m.variables["price"], m.variables["weather"]
    inputs = HOST.parse(m, specs, {"b": weather, "a": price})
    assert inputs.lead == (3,)
    expected = np.concatenate([price.labels.values.ravel(), weather.labels.values])
    assert (inputs.direct == expected).all()
    alone = HOST.parse(m, specs, {"a": price, "b": 1.0})
    assert alone.constant[6:].tolist() == [1.0] * 3
    with pytest.raises(UnknownName, match="input 'c'"):
        HOST.parse(m, specs, {"a": price, "c": weather})
    with pytest.raises(InputError, match="no value for network input"):
        HOST.parse(m, specs, {"a": price})
    with pytest.raises(InputError, match="2 inputs"):
        HOST.parse(m, specs, price)


def test_boxes_follow_the_model(m, spec):
    price = m.variables["price"]
    k = m.add_variables(0.5, 3.7, integer=True, name="k")
    s = m.add_variables(2.0, 3.0, semi_continuous=True, name="s")
    free = m.add_variables(name="free")
    opened = m.variables["open"].sel(store="Rome")
    pieces = [price.sel(store="Rome"), k, s, free, -2 * opened + k, 1.0]
    inputs = HOST.parse(m, [spec("x", (7,))], pieces)
    low, high = HOST.input_box(m, inputs)
    assert np.allclose(low, [1, 1, 1, 0, -np.inf, -1, 1])
    assert np.allclose(high, [5, 5, 3, 3, np.inf, 3, 1])
    price.update(upper=4)
    assert HOST.input_box(m, inputs)[1][:2].tolist() == [4, 4]
    mixed = HOST.parse(m, [spec("x", (1,))], free - 2 * k)
    assert not np.isnan(HOST.input_box(m, mixed)).any()


def test_entries_are_named_in_the_users_words(m, spec):
    price, weather = m.variables["price"], m.variables["weather"]
    inputs = HOST.parse(m, [spec("x", (4,))], [price, 2 * weather + 1, 3.0])
    names = [HOST.describe_entry(m, inputs, i) for i in range(4)]
    assert names[0] == "price[store=Rome, product=A]"
    assert names[2] == "the expression +2 weather[store=Rome]"
    assert names[3] == "the number 3"


def test_labels_with_gaps(m, spec):
    m.remove_variables("weather")
    late = m.add_variables(0, 7, coords=[STORES], name="late")
    inputs = HOST.parse(m, [spec("x", (3,))], [m.variables["price"], late])
    _low, high = HOST.input_box(m, inputs)
    assert high.reshape(3, 3)[:, 2].tolist() == [7] * 3
    m.remove_variables("late")
    with pytest.raises(WrongModel, match="no longer"):
        HOST.input_box(m, inputs)


def test_sparse_expressions(semantics, spec):
    if semantics == "legacy":
        pytest.skip("sparse models need v1")
    m = linopy.Model(sparse=True)
    x = m.add_variables(0, 1, coords=[pd.RangeIndex(4, name="i")], name="x")
    expression = x.groupby(pd.Series([0, 0, 1, 1], index=pd.RangeIndex(4, name="i"), name="g")).sum() + 1
    assert expression.is_sparse
    inputs = HOST.parse(m, [spec("x", (2,))], expression)
    assert expression.is_sparse
    assert np.allclose(value(inputs, m, np.array([1.0, 10.0, 100.0, 1000.0])), [12, 1101])


def test_wrong_sizes_and_dimensions(m, spec):
    price = m.variables["price"]
    with pytest.raises(InputError, match=r"variable 'price' over \(store, product\)"):
        HOST.parse(m, [spec("x", (5,))], price)
    with pytest.raises(InputError, match=r"transpose\(..., 'store'\)"):
        HOST.parse(m, [spec("x", (3,))], price)
    with pytest.raises(InputError, match="do not add up"):
        HOST.parse(m, [spec("x", (4,))], [price, 1.0])
    with pytest.raises(InputError, match="different coordinates along 'store'"):
        HOST.parse(m, [spec("x", (3,))], [price, xr.DataArray([1.0, 2, 3], [("store", ["Rome", "Oslo", "Paris"])])])
    with pytest.raises(InputError, match="without names"):
        HOST.parse(m, [spec("x", (4,))], [m.add_variables(0, 1, coords=[STORES, TIMES, PRODUCTS]), np.ones((3, 2))])
    with pytest.raises(InputError, match="same dimension twice"):
        HOST.parse(m, [spec("x", (2,))], xr.DataArray(np.ones((2, 2)), dims=["a", "a"]))
    with pytest.raises(InputError, match="more than one way"):
        a, b = (m.add_variables(0, 1, coords=[pd.RangeIndex(3, name=n)], name=n) for n in "ab")
        HOST.parse(m, [spec("x", (4,))], [a, b])
    with pytest.raises(InputError, match="length 0"):
        HOST.parse(m, [spec("x", (2,))], np.ones((0, 2)))
    with pytest.raises(InputError, match="rows of different lengths"):
        HOST.parse(m, [spec("x", (2,))], [[1.0, 2.0], [3.0]])


def test_bad_contents(m, spec):
    price = m.variables["price"]
    one = [spec("x", (2,))]
    with pytest.raises(InputError, match="quadratic"):
        HOST.parse(m, one, price * price)
    with pytest.raises(InputError, match="NaN or infinite"):
        HOST.parse(m, one, [1.0, np.nan])
    with pytest.raises(InputError, match="cannot read str"):
        HOST.parse(m, one, "price")
    with pytest.raises(InputError, match="does not hold numbers"):
        HOST.parse(m, one, np.array(["a", "b"]))
    other = linopy.Model().add_variables(0, 1, coords=[PRODUCTS], name="foreign")
    for x in (other, 2 * other, [other.at["A"], 1.0]):
        with pytest.raises(WrongModel, match="another model"):
            HOST.parse(m, one, x)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_masked_inputs(spec):
    m = linopy.Model()
    mask = xr.DataArray([True, False], [("product", ["A", "B"])])
    x = m.add_variables(0, 1, coords=[PRODUCTS], mask=mask, name="x")
    with pytest.raises(InputError, match=r"variable 'x'.*masked at \[product=B\]"):
        HOST.parse(m, [spec("x", (2,))], x)
    with pytest.raises(InputError, match=r"absent.*product=B"):
        HOST.parse(m, [spec("x", (2,))], 2 * x)
    with pytest.raises(InputError, match="masked"):
        HOST.parse(m, [spec("x", (2,))], [x.at["A"], x.at["B"]])
    assert HOST.parse(m, [spec("x", (1,))], x.sel(product="A")).lead == ()


def test_repeated_terms_are_joined(m, spec):
    weather = m.variables["weather"].sel(store="Rome")
    inputs = HOST.parse(m, [spec("x", (2,))], [weather + weather, weather - weather + 3])
    assert inputs.matrix.nnz == 1
    assert inputs.matrix.data.tolist() == [2.0]
    assert inputs.is_constant.tolist() == [False, True]
