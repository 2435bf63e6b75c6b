"""The studies run on tiny networks, agree with themselves, and their tables and pictures say what the records say."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def studies(monkeypatch, tmp_path):
    """Make the scripts importable, with a cache of their own."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("NNEMBED_STUDY_CACHE", str(tmp_path / "nets"))
    return FOLDER


def test_training_is_deterministic_and_l1_makes_zeros(studies, monkeypatch, tmp_path):
    import study_nets

    recipe = study_nets.Recipe("digits", 64, 8, 1, l1=1e-3)
    first = study_nets.trained(recipe)
    monkeypatch.setenv("NNEMBED_STUDY_CACHE", str(tmp_path / "again"))
    second = study_nets.trained(recipe)
    for (w, b), (v, c) in zip(first, second, strict=True):
        np.testing.assert_array_equal(w, v)
        np.testing.assert_array_equal(b, c)
    assert (first[0][0] == 0).mean() > 0.2
    net = study_nets.network(recipe)
    assert study_nets.accuracy(net, recipe) > 0.8
    rounded = study_nets.network(recipe, 2)
    x = study_nets.samples("digits", 64)[0][3]
    hidden = np.maximum(np.round(first[0][0], 2) @ x + np.round(first[0][1], 2), 0)
    np.testing.assert_allclose(rounded(x), np.round(first[1][0], 2) @ hidden + np.round(first[1][1], 2), atol=1e-4)


def test_gradients_are_those_of_the_loss(studies):
    import study_nets

    rng = np.random.default_rng(0)
    weights, biases = [rng.normal(size=(5, 3)), rng.normal(size=(2, 5))], [rng.normal(size=5), rng.normal(size=2)]
    x = rng.normal(size=(7, 3))

    def loss(y):
        out = np.maximum(x @ weights[0].T + biases[0], 0) @ weights[1].T + biases[1]
        if y.ndim == 2:
            return ((out - y) ** 2).sum() / len(x)
        return (np.log(np.exp(out).sum(axis=1)) - out[np.arange(len(x)), y]).mean()

    for y in (rng.integers(2, size=7), rng.normal(size=(7, 2))):
        found = study_nets._gradients(weights, biases, x, y)
        for array, gradient in zip([*weights, *biases], found, strict=True):
            array.flat[0] += 1e-6
            up = loss(y)
            array.flat[0] -= 2e-6
            slope = (up - loss(y)) / 2e-6
            array.flat[0] += 1e-6
            assert gradient.flat[0] == pytest.approx(slope, abs=1e-5)


def run(script, *arguments):
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True).stdout


@pytest.mark.slow
def test_small_tradeoff(studies, tmp_path):
    out, picture = tmp_path / "t.csv", tmp_path / "img" / "t.png"
    text = run("tradeoff.py", "--small", "--out", out, "--picture", picture)
    import tradeoff

    records = list(csv.DictReader(out.open()))
    assert len(records) == 2 * len(tradeoff.METHODS) and {r["status"] for r in records} == {"optimal"}
    assert all(f"`{method}`" in text for method in tradeoff.METHODS)
    unstable = {(r["net"], r["method"]): int(r["unstable"]) for r in records}
    assert all(count <= unstable[net, "interval"] for (net, _), count in unstable.items())
    assert picture.stat().st_size > 10_000
    assert run("tradeoff.py", "--report", "--out", out) == text


@pytest.mark.slow
def test_small_forms(studies, tmp_path):
    out = tmp_path / "f.csv"
    text = run("study_forms.py", "--small", "--solvers", "highs", "--out", out)
    records = list(csv.DictReader(out.open()))
    assert len(records) == 4 and {r["form"] for r in records} == {"two_row", "slack"}
    again = run("study_forms.py", "--small", "--solvers", "highs", "--out", out)
    assert again == text and len(list(csv.DictReader(out.open()))) == 4
