"""Every example runs as the documentation shows it, and says what is true."""

import errno
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from rich.console import Console

import nnembed as nn
from nnembed.demo import NETWORK, load_market, run_demo
from nnembed.demo.decision import Decision
from nnembed.demo.picture import draw
from nnembed.errors import InputError, Unavailable

EXAMPLES = Path(__file__).parents[1] / "examples"
PNG = b"\x89PNG"
ALLOWED = 1e-5


def play(monkeypatch, name, *arguments):
    """Run an example as a script and return its global names."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def assert_rules(market, price):
    """Check prices against the rules of the example, without the model."""
    today, stock = market.today.values, market.stock.values
    house, classic, reserve = price.T
    bags = nn.load(NETWORK)(np.hstack([price, market.traits.values]))
    assert (np.abs(price - today) <= 0.08 * today + 1e-6).all()
    assert (np.abs(price - today) > 1e-6).sum() <= 12
    assert (bags.sum(axis=0) <= stock * (1 + ALLOWED)).all()
    assert (price.sum(axis=0) >= today.sum(axis=0) - 1e-5).all()
    assert (classic - house >= 0.80 - 1e-6).all()
    assert (reserve - classic >= 1.50 - 1e-6).all()
    return float((bags * market.margin.values).sum())


def margin_today(market):
    bags = nn.load(NETWORK)(np.hstack([market.today.values, market.traits.values]))
    return float((bags * market.margin.values).sum())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One full run of the demo, with what it printed."""
    pytest.importorskip("matplotlib")
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    report = run_demo(tmp_path_factory.mktemp("demo") / "demo.png", console=console)
    return SimpleNamespace(report=report, text=console.export_text())


# ---- the demo --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_decides_proves_and_draws(demo):
    market, result = load_market(), demo.report.result
    assert result.status == "optimal"
    assert result.gap <= 1e-3
    assert result.certificate.ok
    value = assert_rules(market, result.values["price"].values)
    assert value == pytest.approx(result.objective, rel=ALLOWED)
    assert margin_today(market) < value <= result.bound * (1 + ALLOWED)
    assert demo.report.picture.read_bytes().startswith(PNG)
    assert len(demo.report.table.rows) == market.today.size
    for words in ("prices change", "margin a week", "certificate: holds", "picture:"):
        assert words in demo.text


@pytest.mark.slow
def test_demo_solves_the_model_of_the_example(demo, monkeypatch):
    example = play(monkeypatch, "pricing.py")
    result = example["result"]
    assert result.certificate.ok
    assert assert_rules(load_market(), result.values["price"].values) == pytest.approx(result.objective, rel=ALLOWED)
    assert result.objective == pytest.approx(demo.report.result.objective, rel=1e-3)
    assert result.objective <= demo.report.result.bound * (1 + ALLOWED)


def test_demo_within_a_second_is_feasible_and_draws_nothing_when_not_asked():
    report = run_demo(None, time_limit=1.0, console=Console(quiet=True))
    assert report.picture is None
    assert report.result.certificate.ok
    assert assert_rules(load_market(), report.result.values["price"].values) <= report.result.bound * (1 + ALLOWED)


def test_demo_without_time_says_so(tmp_path):
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    report = run_demo(tmp_path / "demo.png", time_limit=0.0, console=console)
    assert report.result.status == "time_limit"
    assert report.picture is None
    assert all(row[2] == row[3] for row in report.table.rows)
    assert "No plan was found" in console.export_text()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["missing/demo.png", "demo.txt", "."])
def test_demo_refuses_a_bad_place_for_the_picture_before_it_works(tmp_path, name):
    with pytest.raises(InputError, match="cannot write"):
        run_demo(tmp_path / name, console=Console(quiet=True))
    assert not list(tmp_path.iterdir())


def picture_of_today(path):
    market = load_market()
    history = [SimpleNamespace(seconds=1.0, objective=1.0, bound=2.0, source="test")]
    return draw(path, Decision(nn.load(NETWORK), market, market.today.values), SimpleNamespace(history=history))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_picture_in_every_format_even_when_nothing_changes(tmp_path, ending):
    pytest.importorskip("matplotlib")
    assert picture_of_today(tmp_path / f"demo.{ending}").stat().st_size > 5000


def test_full_disk_leaves_no_half_written_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        picture_of_today(tmp_path / "demo.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_demo_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(Unavailable):
        picture_of_today(tmp_path / "demo.png")
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    report = run_demo(tmp_path / "demo.png", time_limit=60.0, console=console)
    assert report.picture is None
    assert "nnembed[plot]" in console.export_text()


# ---- the examples ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_pricing_on_a_plain_linopy_model(monkeypatch):
    example = play(monkeypatch, "pricing_linopy.py")
    result = example["result"]
    assert result.certificate.ok
    assert example["emb"].residual() <= ALLOWED
    assert example["by_linopy"] == pytest.approx(result.objective, rel=2e-3)
    assert example["by_linopy"] <= result.bound * (1 + ALLOWED)
    assert_rules(load_market(), example["price"].solution.values)


@pytest.mark.slow
def test_adversary(monkeypatch, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    example = play(monkeypatch, "adversary.py", tmp_path / "adversary.png")
    worst, label, net = example["worst"], example["label"], example["net"]
    low, high = example["ball"]
    assert worst.certificate.ok
    assert (worst.x >= low - 1e-9).all()
    assert (worst.x <= high + 1e-9).all()
    assert net(worst.x).argmax() == example["rival"] != label
    assert all(answer.status == "optimal" for answer in example["answers"].values())
    assert f"taken for {example['rival']}" in capsys.readouterr().out
    assert (tmp_path / "adversary.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("script", "short", "shipped"),
    [
        ("train_demand.py", ["--samples", "2000", "--epochs", "3"], NETWORK),
        ("train_digits.py", ["--epochs", "3"], EXAMPLES / "digits.onnx"),
    ],
)
def test_training_writes_a_network_like_the_shipped_one(monkeypatch, tmp_path, script, short, shipped):
    pytest.importorskip("sklearn")
    pytest.importorskip("onnxruntime")
    files = [tmp_path / f"{k}.onnx" for k in range(2)]
    for file in files:
        play(monkeypatch, script, "--out", file, *short)
    assert files[0].read_bytes() == files[1].read_bytes()
    new, old = onnx.load(files[0]).graph, onnx.load(shipped).graph
    assert list(new.input) == list(old.input)
    assert list(new.output) == list(old.output)
    assert [node.op_type for node in new.node] == [node.op_type for node in old.node]
    assert nn.load(files[0]).self_check() < 1e-3


def test_shipped_files_are_small_and_fit_together():
    market, net = load_market(), nn.load(NETWORK)
    assert NETWORK.stat().st_size < 50_000
    assert (EXAMPLES / "digits.onnx").stat().st_size < 50_000
    assert dict(market.sizes) == {"store": 20, "coffee": 3, "trait": 3}
    bags = net(np.hstack([market.today.values, market.traits.values]))
    assert bags.shape == market.today.shape
    assert (bags > 0).all()
    assert (bags.sum(axis=0) < market.stock.values).all()
