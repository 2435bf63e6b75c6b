"""Boxes and weights from text and files; every bad one names file, place and cure."""

import json

import numpy as np
import pytest

from nnembed.cli.values import read_box, read_weights
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
