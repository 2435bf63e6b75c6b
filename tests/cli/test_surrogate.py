"""The command line's twins."""

import json

import numpy as np
import pytest

import nnembed as nn
from nnembed.hooks.manager import registry
from nnembed.testing.networks import chain


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.onnx"
    nn.save(chain([(8, "relu"), (6, "relu"), (2, "none")], 3, np.random.default_rng(0)), path)
    return path


def test_writes_a_twin_that_reads_back(cli, file, tmp_path):
    out = tmp_path / "twin.onnx"
    done = cli("surrogate", file, "--method", "magnitude", "--sparsity", "0.5", "--out", out, "--box", "-1,1", "--json")
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["status"] == "ok"
    assert (answer["weights"], answer["nonzeros"]) == (84, 42)
    assert answer["layers"][-1] == {"layer": "all", "weights": 84, "nonzeros": 42, "sparsity": 0.5}
    network, twin = nn.load(file), nn.load(out)
    points = np.random.default_rng(1).uniform(-1, 1, (2000, 3))
    gap = np.abs(network(points) - twin(points)).max(axis=0)
    assert (gap <= np.array(answer["error_bound"]) + answer["rounding"] + 1e-5).all()


def test_for_people_and_in_one_line(cli, file, tmp_path):
    out = tmp_path / "twin.onnx"
    done = cli("surrogate", file, "--out", out)
    assert done.code == 0
    for words in ("sparsity", "nothing proved", "42 of 84 weights"):
        assert words in done.out
    done = cli("surrogate", file, "--out", out, "--method", "magnitude:0.25,scope=global", "--box", "0,1", "-q")
    assert done.out.count("\n") == 1
    assert "63 of 84 weights, off by at most" in done.out


@pytest.mark.parametrize("method", sorted(registry().parts("surrogate")))
def test_every_method_writes_a_file_that_runs(cli, file, tmp_path, method):
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "twin.onnx"
    done = cli("surrogate", file, "--method", method, "--sparsity", "0.7", "--out", out, "--box", "-1,1", "--json")
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["nonzeros"] <= 26
    assert 0 < answer["facts"]["undecayed"] < 1
    x = np.random.default_rng(1).uniform(-1, 1, (500, 3)).astype(np.float32)
    session = runtime.InferenceSession(str(out))
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(nn.load(out)(x), theirs, atol=1e-5)
    assert (np.abs(nn.load(file)(x) - theirs).max(axis=0) <= np.array(answer["error_bound"]) + 1e-5).all()


def test_methods_without_points_say_what_they_need(cli, file, tmp_path):
    if "obc" not in registry().parts("surrogate"):
        pytest.skip("nnembed-sparse is not installed")
    done = cli("surrogate", file, "--method", "obc", "--out", tmp_path / "twin.onnx")
    assert done.code == 2
    assert "--box" in done.err or "box" in done.err


def test_samples_are_what_the_twin_is_measured_on(cli, file, tmp_path):
    points = np.random.default_rng(3).uniform(-1, 1, (50, 3))
    np.save(tmp_path / "points.npy", points)
    out = tmp_path / "twin.onnx"
    done = cli("surrogate", file, "--out", out, "--samples", tmp_path / "points.npy", "--json")
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["samples"] == 50 and answer["error_bound"] is None
    twin = nn.surrogate(nn.load(file), "magnitude", samples=points)
    assert answer["facts"]["undecayed"] == pytest.approx(twin.report.facts["undecayed"])
    np.testing.assert_allclose(nn.load(out)(points), twin.network(points), atol=1e-5)


@pytest.mark.parametrize("content", ["1,2,3\n4,5\n", "1,2\n", "a,b,c\n1,2,3\n"])
def test_bad_samples_leave_no_file(cli, file, tmp_path, content):
    (tmp_path / "points.csv").write_text(content)
    out = tmp_path / "twin.onnx"
    done = cli("surrogate", file, "--out", out, "--samples", tmp_path / "points.csv")
    assert done.code == 2 and "points.csv" in done.err and done.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "magnitud"), "did you mean 'magnitude'"),
        (("--sparsity", "1.5"), "0 <= sparsity < 1"),
        (("--box", "1,0"), "is empty"),
        (("--method", "magnitude:scope=all"), "unknown scope"),
    ],
)
def test_wrong_use_is_one_line(cli, file, tmp_path, arguments, words):
    out = tmp_path / "twin.onnx"
    done = cli("surrogate", file, "--out", out, *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not out.exists()
