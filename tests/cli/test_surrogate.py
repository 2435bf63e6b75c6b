"""The command line's twins."""

import json

import numpy as np
import pytest

import nnembed as nn
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
