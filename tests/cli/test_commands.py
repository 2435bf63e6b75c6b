"""The commands, with stand-ins for the engine."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import nnembed
from nnembed.certificate import Certificate, Check
from nnembed.errors import SelfCheckFailed, UnknownName, UnsupportedOperators
from nnembed.hooks import manager

KEYS = {"status", "objective", "bound", "gap", "certificate", "seconds"}

FAILING = Certificate((Check("network", 0.5, 1e-5, False),), 0.5)


def changed(result, **changes):
    return SimpleNamespace(**(vars(result) | changes))


# ---- optimize -----------------------------------------------------------------------------------


def test_optimize_hands_its_options_over(cli, engine):
    done = cli(
        "optimize", "n.onnx", "--box", "-1,2", "--min", "--weights", "-1,2", "--backend", "highs",
        "--formulation", "bigm", "--gap", "0.1", "--seed", "3", "--threads", "2", "--time-limit", "7", "--json",
        "--isolated", "--heuristics", "forward, walk", "--surrogate", "magnitude:0.5", "--target", "-2",
        "--start", "-0.5,1",
    )  # fmt: skip
    assert done.code == 0
    ((sense, box, options),) = engine.calls
    assert (sense, box) == ("min", (-1.0, 2.0))
    np.testing.assert_array_equal(options.pop("objective"), [-1, 2])
    np.testing.assert_array_equal(options.pop("start")["x"], [-0.5, 1])
    assert options == {
        "backend": "highs", "formulation": "bigm", "time_limit": 7.0, "gap": 0.1, "threads": 2, "seed": 3,
        "progress": False, "isolated": True, "heuristics": ("forward", "walk"), "surrogate": "magnitude:0.5",
        "target": -2.0,
    }  # fmt: skip


@pytest.mark.parametrize(("text", "means"), [("none", "none"), ("walk,", "walk"), ("a,b,a", ("a", "b"))])
def test_optimize_names_heuristics(cli, engine, text, means):
    assert cli("optimize", "n.onnx", "--box", "0,1", "--output", "0", "--heuristics", text).code == 0
    assert engine.calls[0][2]["heuristics"] == means


def test_optimize_leaves_the_search_alone_by_default(cli, engine):
    assert cli("optimize", "n.onnx", "--box", "0,1", "--output", "0").code == 0
    options = engine.calls[0][2]
    assert [options[k] for k in ("heuristics", "surrogate", "target", "start")] == ["auto", None, None, None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--heuristics", ","), "--heuristics names nothing"),
        (("--target", "much"), "--target"),
        (("--start", "0,1,2"), "shape (1, 3); input 'x' takes (2,), 2 number(s)"),
        (("--start", "0,one"), "--start: 'one' is not a number"),
        (("--start", "gone.npy"), "--start gone.npy: no such file"),
    ],
)
def test_optimize_refuses_what_it_cannot_search_with(cli, engine, arguments, said):
    done = cli("optimize", "n.onnx", "--box", "0,1", "--output", "0", *arguments)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1 and not engine.calls


def test_optimize_json(cli, engine):
    done = cli("optimize", "n.onnx", "--box", "0,1", "--output", "0", "--json")
    answer = json.loads(done.out)
    assert done.err == ""
    assert answer.keys() >= KEYS
    assert answer["certificate"] == {"ok": True, "residual": 1e-9}
    assert answer["x"] == [0.5, 1.0]
    assert answer["y"] == [2.5, -1.0]
    assert answer["sense"] == "max"


def test_optimize_for_people(cli, engine):
    done = cli("optimize", "n.onnx", "--box", "0,1", "--output", "0")
    assert "objective 2.5" in done.out
    assert "input x = [0.5, 1]" in done.out
    assert "output y = [2.5, -1]" in done.out
    assert "certificate: holds" in done.out


def test_optimize_quietly(cli, engine):
    done = cli("optimize", "n.onnx", "--box", "0,1", "--output", "0", "-q")
    assert done.out.count("\n") == 1
    assert done.out.startswith("optimal, objective 2.5")


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({}, 0, ""),
        ({"status": "feasible", "gap": 0.5}, 0, ""),
        ({"status": "time_limit"}, 0, ""),
        ({"status": "interrupted"}, 0, ""),
        (
            {"status": "time_limit", "objective": None, "x": None, "y": None, "certificate": None, "gap": None},
            3,
            "--time-limit",
        ),
        ({"status": "interrupted", "objective": None, "x": None, "y": None, "certificate": None}, 130, "interrupted"),
        ({"status": "infeasible", "objective": None, "x": None, "y": None, "certificate": None}, 0, ""),
        ({"status": "unbounded", "objective": None, "x": None, "y": None, "certificate": None}, 0, ""),
        ({"status": "error", "objective": None, "x": None, "y": None, "certificate": None}, 4, "solver failed"),
        ({"certificate": FAILING}, 4, "certificate does not hold (residual 0.5)"),
        ({"certificate": FAILING, "objective": None, "message": "a relaxation"}, 4, "a relaxation"),
    ],
)
def test_exit_codes_of_results(cli, engine, changes, code, said):
    engine.result = changed(engine.result, **changes)
    for form in ([], ["--json"], ["--quiet"]):
        done = cli("optimize", "n.onnx", "--box", "0,1", "--output", "0", *form)
        assert done.code == code
        assert said in done.err
        assert done.err.count("\n") == (1 if said else 0)
        if form == ["--json"]:
            assert json.loads(done.out)["status"] == engine.result.status


def test_optimize_tells_a_wrong_backend(cli, engine):
    engine.error = UnknownName("backend", "hihgs", ["highs", "gurobi"])
    done = cli("optimize", "n.onnx", "--box", "0,1", "--output", "0", "--backend", "hihgs")
    assert done.code == 2
    assert "unknown backend 'hihgs'; did you mean 'highs'?" in done.err


def test_optimize_passes_an_interrupt_on(cli, engine):
    engine.error = KeyboardInterrupt()
    done = cli("optimize", "n.onnx", "--box", "0,1", "--output", "0")
    assert done.code == 130
    assert done.err == "nnembed: interrupted\n"


# ---- bounds -------------------------------------------------------------------------------------


def test_bounds_json(cli, engine):
    done = cli("bounds", "n.onnx", "--box", "0,1", "--json")
    answer = json.loads(done.out)
    assert done.code == 0
    assert answer.keys() >= KEYS
    assert [m["method"] for m in answer["methods"]][:2] == ["interval", "crown"]
    exact = nnembed.tighten(engine.network, (0.0, 1.0))
    (layer,) = answer["methods"][1]["layers"]
    assert (layer["layer"], layer["neurons"], layer["unstable"]) == ("act", 3, exact.unstable)
    assert layer["stable"] == 3 - exact.unstable
    assert layer["mean_width"] == pytest.approx(float((exact.high["g"] - exact.low["g"]).mean()))
    assert np.all(np.array(answer["outputs"]["y"]["lower"]) >= exact.lower["y"] - 1e-12)
    assert answer["sound"] is True


def test_bounds_for_people_and_quietly(cli, engine):
    done = cli("bounds", "n.onnx", "--box", "0,1")
    assert done.code == 0
    for word in ("interval", "crown", "act", "y[0]", "every bound is a proof"):
        assert word in done.out
    assert cli("bounds", "n.onnx", "--box", "0,1", "-q").out.count("\n") == 1


def test_bounds_without_time_are_those_of_the_first_method(cli, engine):
    done = cli("bounds", "n.onnx", "--box", "0,1", "--time-limit", "0", "--json")
    answer = json.loads(done.out)
    assert done.code == 0
    assert answer["status"] == "time_limit"
    assert [m["method"] for m in answer["methods"]] == ["interval"]


def test_bounds_beside_the_file(cli, engine, tmp_path):
    net = tmp_path / "n.onnx"
    arguments = ("bounds", net, "--box", "-1,1", "--methods", "crown,lp", "--json")
    first = json.loads(cli(*arguments, "--cache", "--lps", "1").out)["methods"][1]
    assert (first["programs"], first["finished"], first["cached"]) == (1, False, False)
    assert len(list((tmp_path / "n.onnx.nnembed-bounds").iterdir())) == 1
    second = json.loads(cli(*arguments, "--cache").out)["methods"][1]
    assert (second["finished"], second["cached"]) == (True, True)
    third = json.loads(cli(*arguments, "--cache").out)["methods"][1]
    assert (third["programs"], third["cached"]) == (0, True)
    assert json.loads(cli(*arguments, "--seconds", "60").out)["methods"][1]["unstable"] == third["unstable"]
    assert "from the cache" in cli(*arguments[:-1], "--cache").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--box", "1,0"], "empty"), (["--box", "0,inf"], "infinite"), (["--box", "0,1", "--methods", ","], "--methods")],
)
def test_bounds_with_a_bad_box(cli, engine, arguments, said):
    done = cli("bounds", "n.onnx", *arguments)
    assert done.code == 2
    assert said in done.err


# ---- check --------------------------------------------------------------------------------------


def with_check(monkeypatch, outcome):
    import nnembed

    def self_check(samples, seed):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    network = SimpleNamespace(
        reference=SimpleNamespace(name="onnxruntime"), self_check=self_check, summary=lambda: "table"
    )
    monkeypatch.setattr(nnembed, "load", lambda path: network, raising=False)


def test_check_tells_the_difference(cli, monkeypatch):
    with_check(monkeypatch, 1.5e-6)
    assert "difference to onnxruntime on 64 points 1.5e-06" in cli("check", "n.onnx").out
    answer = json.loads(cli("check", "n.onnx", "--json", "--samples", "8").out)
    assert (answer["status"], answer["max_difference"], answer["samples"]) == ("ok", 1.5e-6, 8)


def test_check_that_fails_is_an_internal_error(cli, monkeypatch):
    with_check(monkeypatch, SelfCheckFailed("output 0 is read wrongly"))
    done = cli("check", "n.onnx", "--json")
    assert done.code == 4
    assert json.loads(done.out)["status"] == "self_check_failed"
    assert "read wrongly" in done.err


def test_check_lists_every_refused_operator_at_once(cli, monkeypatch):
    with_check(monkeypatch, UnsupportedOperators(["node 'a': Sin", "node 'b': Cos [x]"], "n"))
    done = cli("check", "n.onnx")
    assert done.code == 2
    assert "node 'a': Sin" in done.out
    assert "node 'b': Cos [x]" in done.out
    assert done.err.count("\n") == 1
    answer = json.loads(cli("check", "n.onnx", "--json").out)
    assert answer["problems"] == ["node 'a': Sin", "node 'b': Cos [x]"]


# ---- plugins ------------------------------------------------------------------------------------


def test_plugins(cli, monkeypatch):
    def entry(point, name, available=True, reason="ready", distribution="nnembed"):
        return manager.Entry(point, name, f"about {name}", distribution, available, reason)

    entries = [
        entry("backend", "highs"),
        entry("backend", "gurobi", False, "no licence found", "nnembed-gurobi"),
        *(entry("op reader", f"ai.onnx.Op{k}@1") for k in range(40)),
    ]
    book = SimpleNamespace(entries=lambda: entries, problems=["acme-plugin: ImportError: no module [x]"])
    monkeypatch.setattr(manager, "registry", lambda: book)
    done = cli("plugins")
    assert done.code == 0
    for word in (
        "highs",
        "no: no licence found",
        "nnembed-gurobi",
        "40 of them",
        "Op39@1",
        "acme-plugin: ImportError: no module [x]",
    ):
        assert word in done.out
    answer = json.loads(cli("plugins", "--json").out)
    assert len(answer["extension_points"]["op reader"]) == 40
    assert answer["extension_points"]["backend"][1]["available"] is False
    assert answer["problems"]


# ---- demo ---------------------------------------------------------------------------------------


def test_demo(cli, monkeypatch, engine, tmp_path):
    import nnembed.demo
    from nnembed.tables import Table

    given = {}

    def run_demo(**options):
        given.update(options)
        options["console"].print("the story")
        table = Table("prices", ("store", "best price"), [("A", 1.5)])
        return SimpleNamespace(result=engine.result, table=table, picture=options["picture"], seconds=1.0)

    monkeypatch.setattr(nnembed.demo, "run_demo", run_demo, raising=False)
    done = cli("demo", "--picture", tmp_path / "p.png", "--seed", "5")
    assert (done.code, done.out) == (0, "the story\n")
    assert given["seed"] == 5
    assert given["time_limit"] == 60
    answer = json.loads(cli("demo", "--json").out)
    assert answer.keys() >= KEYS
    assert answer["table"] == [{"store": "A", "best_price": 1.5}]
    assert answer["picture"] == "nnembed_demo.png"
    assert cli("demo", "-q").out.startswith("optimal")
