"""Boxes and weights from text and files; every bad one names file, place and cure."""

import json

import numpy as np
import pytest

from nnembed.cli.values import read_box, read_samples, read_start, read_weights
from nnembed.errors import BoxError, InputError
from nnembed.ir.network import Network, TensorSpec


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(("text", "box"), [("0,1", (0, 1)), ("-1.5,2e3", (-1.5, 2000)), (" 0 , 1 ", (0, 1))])
def test_two_numbers(text, box):
    assert read_box(text) == box


def test_json(tmp_path):
    path = write(tmp_path / "b.json", {"lower": [0, 1], "upper": [2, 3.5]})
    lower, upper = read_box(path)
    np.testing.assert_array_equal(lower, [0, 1])
    np.testing.assert_array_equal(upper, [2, 3.5])


def test_json_by_input(tmp_path):
    path = write(tmp_path / "b.json", {"a": {"lower": 0, "upper": 1}, "b": {"lower": [[0, 1]], "upper": [[1, 2]]}})
    lower, upper = read_box(path)
    assert lower.keys() == upper.keys() == {"a", "b"}
    np.testing.assert_array_equal(upper["b"], [[1, 2]])


def test_npz(tmp_path):
    np.savez(tmp_path / "b.npz", lower=np.zeros(3, np.float32), upper=np.arange(3))
    lower, upper = read_box(str(tmp_path / "b.npz"))
    assert lower.dtype == upper.dtype == float
    np.testing.assert_array_equal(upper, [0, 1, 2])


@pytest.mark.parametrize(
    "text", ["0,1\n-2,3\n", "lower,upper\n0,1\n\n-2,3", "upper,lower\n1,0\n3,-2\n", "\ufeffLower, Upper\n0, 1\n-2, 3\n"]
)
def test_csv(tmp_path, text):
    lower, upper = read_box(write(tmp_path / "b.csv", text))
    np.testing.assert_array_equal(lower, [0, -2])
    np.testing.assert_array_equal(upper, [1, 3])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.json", "{", r"b\.json, line 1, column 2"),
        ("b.json", [1, 2], "not an object"),
        ("b.json", {}, "not an object"),
        ("b.json", {"lower": [0]}, '"upper" is missing'),
        ("b.json", {"lower": [0], "upper": [1], "x": 1}, "unknown key 'x'"),
        ("b.json", {"lower": [0], "uper": [1]}, "unknown key 'uper'; did you mean 'upper'"),
        ("b.json", {"x": {"lower": [0]}}, '"x.upper" is missing'),
        ("b.json", {"x": [0, 1]}, "key 'x' is not an object"),
        ("b.json", {"lower": [[0], [1, 2]], "upper": 1}, '"lower" is a ragged list'),
        ("b.json", {"lower": "0", "upper": 1}, '"lower" holds something that is not a number'),
        ("b.json", {"lower": [None], "upper": [1]}, '"lower" holds something that is not a number'),
        ("b.json", {"lower": [True], "upper": [1]}, '"lower" holds something that is not a number'),
        ("b.json", {"lower": [], "upper": []}, '"lower" holds something that is not a number'),
        ("b.json", '{"a":' * 100_000, "nested too deeply"),
        ("b.csv", "", "no rows"),
        ("b.csv", "lower,upper\n", "no rows"),
        ("b.csv", "0,1\n0,1,2\n", r"b\.csv, line 2: 3 columns"),
        ("b.csv", "low,high\n0,1\n", r"b\.csv, line 1: 'low' is not a number"),
        ("b.csv", "0,1\n0,one\n", r"b\.csv, line 2: 'one' is not a number"),
        ("b.npz", "text", r"b\.npz.*save"),
        ("b.npz", "", r"b\.npz: not an \.npz archive"),
        ("b.txt", "0,1", r"unknown kind of file '\.txt'.*\.json"),
    ],
)
def test_bad_files(tmp_path, name, content, said):
    with pytest.raises(BoxError, match=said):
        read_box(write(tmp_path / name, content))


@pytest.mark.parametrize("text", ["", "1", "0,1,2", "a,b", "0;1", "no/such/file", "x" * 5000, "nul\0,1"])
def test_bad_text(text):
    with pytest.raises(BoxError, match="two numbers"):
        read_box(text)


@pytest.mark.parametrize("ending", ["json", "csv", "npz"])
def test_missing_files(ending, tmp_path):
    with pytest.raises(BoxError, match="no such file"):
        read_box(str(tmp_path / f"gone.{ending}"))


def test_pickles_are_never_opened(tmp_path):
    np.savez(tmp_path / "b.npz", lower=np.array([{}], dtype=object), upper=np.zeros(1))
    with pytest.raises(BoxError, match="Python objects"):
        read_box(str(tmp_path / "b.npz"))


def test_npz_without_the_arrays_or_with_text(tmp_path):
    np.savez(tmp_path / "a.npz", low=np.zeros(1))
    with pytest.raises(BoxError, match=r"'lower' is missing \(it holds 'low'\)"):
        read_box(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", lower=np.array(["0"]), upper=np.zeros(1))
    with pytest.raises(BoxError, match="array 'lower' holds <U1"):
        read_box(str(tmp_path / "b.npz"))


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_binary_and_folders_are_told(tmp_path, ending):
    (tmp_path / f"b.{ending}").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BoxError, match="not a text file"):
        read_box(str(tmp_path / f"b.{ending}"))
    (tmp_path / f"d.{ending}").mkdir()
    with pytest.raises(BoxError, match="cannot read"):
        read_box(str(tmp_path / f"d.{ending}"))


# ---- weights ------------------------------------------------------------------------------------


def test_weights(small, tmp_path):
    np.testing.assert_array_equal(read_weights(small, "1,-2", None), [1, -2])
    np.testing.assert_array_equal(read_weights(small, None, 1), [0, 1])
    for name, text in (("w.json", "[1, -2]"), ("w.csv", "1\n-2\n"), ("w.txt", "1, -2"), ("w", "1;-2")):
        np.testing.assert_array_equal(read_weights(small, write(tmp_path / name, text), None), [1, -2])


def test_one_output_needs_no_choice():
    x = TensorSpec("x", (1,))
    network = Network((x,), (x,), (), {"x": x})
    np.testing.assert_array_equal(read_weights(network, None, None), [1])


def test_several_outputs_are_weighted_by_name():
    x, z = TensorSpec("x", (2,)), TensorSpec("z", (1, 1))
    network = Network((x, z), (x, z), (), {"x": x, "z": z})
    weights = read_weights(network, "1,2,3", None)
    np.testing.assert_array_equal(weights["x"], [1, 2])
    np.testing.assert_array_equal(weights["z"], [[3]])


@pytest.mark.parametrize(
    ("text", "output", "said"),
    [
        (None, None, r"2 outputs; choose one with --output K \(0 to 1\)"),
        ("1,2", 0, "exclude each other"),
        ("1,2,3", None, "--weights has 3 numbers, small has 2 outputs"),
        ("1,two", None, "'two' is not a number"),
        ("1,nan", None, "not finite"),
        ("", None, "has 0 numbers"),
        ("gone.json", None, "no such file"),
        (None, 2, "a number from 0 to 1"),
        (None, -1, "a number from 0 to 1"),
    ],
)
def test_bad_weights(small, text, output, said):
    with pytest.raises(InputError, match=said):
        read_weights(small, text, output)


def test_bad_weight_files(small, tmp_path):
    with pytest.raises(InputError, match=r"w\.csv, line 2: 'x' is not a number"):
        read_weights(small, write(tmp_path / "w.csv", "1\nx\n"), None)
    with pytest.raises(InputError, match="not a list of numbers"):
        read_weights(small, write(tmp_path / "w.json", {"a": 1}), None)


# ---- points -------------------------------------------------------------------------------------


def image():
    """Two inputs, of which one has two axes."""
    x, z = TensorSpec("x", (2, 3)), TensorSpec("z", (1,))
    return Network((x, z), (x, z), (), {"x": x, "z": z}, name="image")


@pytest.mark.parametrize("array", [np.array([1, -2]), np.array([[1.0, -2.0]]), np.array([[1], [-2]], np.float16)])
def test_starts_of_one_input(small, tmp_path, array):
    np.save(tmp_path / "p.npy", array)
    np.savez(tmp_path / "p.npz", array)
    np.savez(tmp_path / "named.npz", x=array)
    np.savetxt(tmp_path / "p.csv", array, delimiter=",")
    write(tmp_path / "p.json", array.tolist())
    write(tmp_path / "named.json", {"x": array.tolist()})
    for name in ("p.npy", "p.npz", "named.npz", "p.csv", "p.json", "named.json"):
        np.testing.assert_array_equal(read_start(small, str(tmp_path / name))["x"], [1, -2])
    np.testing.assert_array_equal(read_start(small, " 1,-2")["x"], [1, -2])


def test_samples_of_one_input(small, tmp_path):
    points = np.arange(6).reshape(3, 2)
    np.save(tmp_path / "p.npy", points)
    np.savez(tmp_path / "p.npz", points)
    np.savetxt(tmp_path / "p.csv", points, delimiter=",")
    write(tmp_path / "p.json", points.tolist())
    for name in ("p.npy", "p.npz", "p.csv", "p.json"):
        found = read_samples(small, str(tmp_path / name))["x"]
        assert found.dtype == float
        np.testing.assert_array_equal(found, points)


def test_points_of_several_inputs(tmp_path):
    x, z = np.arange(12.0).reshape(2, 2, 3), np.array([[3.0], [4.0]])
    np.savez(tmp_path / "many.npz", x=x.reshape(2, 6), z=z)
    found = read_samples(image(), str(tmp_path / "many.npz"))
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_array_equal(found["z"], z)
    start = read_start(image(), write(tmp_path / "one.json", {"x": x[0].tolist(), "z": [3]}))
    np.testing.assert_array_equal(start["x"], x[0])
    np.testing.assert_array_equal(start["z"], [3])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "a,b\n1,2\n", r"p\.csv, line 1: 'a' is not a number; .*without a heading"),
        ("p.csv", "1,2\n\n1,2,3\n", r"p\.csv, line 3: 3 numbers, 2 before"),
        ("p.csv", "\n", "no rows"),
        ("p.csv", "1,2,3\n", r"shape \(1, 3\); input 'x' takes"),
        ("p.csv", "1,nan\n", "input 'x' is not finite"),
        ("p.json", "[[1,2],[3]]", "the list is ragged"),
        ("p.json", '{"x": [[1,2],[3]]}', "key 'x' is ragged"),
        ("p.json", '{"y": [[1,2]]}', "unknown input 'y'"),
        ("p.json", "{}", r"no value for input\(s\) x"),
        ("p.json", "null", "input 'x' holds object"),
        ("p.json", '[["1","2"]]', "input 'x' holds <U1"),
        ("p.json", "[[true,false]]", "input 'x' holds bool"),
        ("p.json", "5", r"shape \(\); input 'x' takes"),
        ("p.json", "[1", r"p\.json, line 1"),
        ("p.npy", "text", r"p\.npy: refused|p\.npy: not an"),
        ("p.npy", "", r"p\.npy: not an \.npy file"),
        ("p.npz", "PK", r"p\.npz.*(save|refused)"),
        ("p.txt", "1,2", r"unknown kind of file '\.txt'; give a \.npy, \.npz, \.csv or \.json file"),
    ],
)
def test_bad_point_files(small, tmp_path, name, content, said):
    path = write(tmp_path / name, content)
    for read in (read_start, read_samples):
        with pytest.raises(InputError, match=said):
            read(small, path)


def test_points_that_do_not_fit(small, tmp_path):
    np.save(tmp_path / "none.npy", np.zeros((0, 2)))
    with pytest.raises(InputError, match=r"shape \(0, 2\); input 'x' takes \(points, 2\)"):
        read_samples(small, str(tmp_path / "none.npy"))
    np.save(tmp_path / "two.npy", np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"--start .*shape \(2, 2\)"):
        read_start(small, str(tmp_path / "two.npy"))
    with pytest.raises(InputError, match=r"image has 2 inputs; give a \.json or \.npz file .*'x' \(2, 3\), 'z' \(1,\)"):
        read_samples(image(), str(tmp_path / "two.npy"))
    np.savez(tmp_path / "odd.npz", x=np.zeros((2, 2, 3)), z=np.zeros((3, 1)))
    with pytest.raises(InputError, match="2 of 'x', 3 of 'z'"):
        read_samples(image(), str(tmp_path / "odd.npz"))
    np.savez(tmp_path / "turned.npz", x=np.zeros((3, 2)), z=np.zeros(1))
    with pytest.raises(InputError, match=r"shape \(3, 2\); input 'x' takes \(2, 3\)"):
        read_start(image(), str(tmp_path / "turned.npz"))
    with pytest.raises(InputError, match="no such file"):
        read_samples(small, str(tmp_path / "gone.npy"))


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pickled_points_are_never_opened(small, tmp_path, ending):
    path = tmp_path / f"p.{ending}"
    (np.save if ending == "npy" else np.savez)(path, np.array([{}, 1], dtype=object), allow_pickle=True)
    for read in (read_start, read_samples):
        with pytest.raises(InputError, match="Python objects"):
            read(small, str(path))
