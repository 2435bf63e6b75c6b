"""What ``optimize`` searches with, on a real network."""

import json

import numpy as np
import pytest

import nnembed as nn
from nnembed.testing.networks import chain


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.onnx"
    nn.save(chain([(8, "relu"), (6, "relu"), (1, "none")], 3, np.random.default_rng(0)), path)
    return path


def answer(cli, file, *arguments):
    done = cli("optimize", file, "--box", "-1,1", "--json", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_all_ways_lead_to_the_same_value(cli, file, tmp_path):
    best = answer(cli, file)
    assert best["status"] == "optimal"
    np.savez(tmp_path / "start.npz", best["x"])
    for arguments in (
        ("--heuristics", "none"),
        ("--heuristics", "forward"),
        ("--start", "0.5,-0.5,0"),
        ("--start", tmp_path / "start.npz", "--heuristics", "none"),
    ):
        assert answer(cli, file, *arguments)["objective"] == pytest.approx(best["objective"], abs=1e-6)
    twin = answer(cli, file, "--surrogate", "magnitude:0.3")
    assert twin["objective"] <= best["objective"] + 1e-6 <= twin["bound"] + 2e-6
    alone = answer(cli, file, "--backend", "none", "--heuristics", "forward", "--start", tmp_path / "start.npz")
    assert alone["objective"] == pytest.approx(best["objective"], abs=1e-5)


def test_a_target_ends_the_search(cli, file):
    middle = float(nn.load(file)(np.zeros(3))[0])
    found = answer(cli, file, "--target", f"{middle - 1e-6}", "--start", "0,0,0", "--heuristics", "none")
    assert found["status"] in ("feasible", "optimal") and found["objective"] >= middle - 1e-6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backend", "noen"), ("did you mean 'none'", "highs")),
        (("--heuristics", "forwards"), ("unknown heuristic 'forwards'; did you mean 'forward'",)),
        (("--surrogate", "magnitud"), ("did you mean 'magnitude'",)),
        (("--target", "nan"), ("target",)),
    ],
)
def test_wrong_names_are_one_line(cli, file, arguments, said):
    done = cli("optimize", file, "--box", "-1,1", *arguments)
    assert done.code == 2 and done.err.count("\n") == 1
    for words in said:
        assert words in done.err
