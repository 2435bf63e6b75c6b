"""The command line as a user runs it: real processes, real networks, every bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import nnembed

onnx = pytest.importorskip("onnx")
ROOT = Path(nnembed.__file__).parent.parent
KEYS = {"status", "objective", "bound", "gap", "certificate", "seconds"}


def command(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "nnembed", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def save(path, sizes=(2, 8, 8, 2), seed=0, extra=()):
    """Write a ReLU network with random weights; `extra` operators follow the last layer."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for k, (n, m) in enumerate(pairwise(sizes)):
        weights.append(onnx.numpy_helper.from_array(rng.normal(size=(n, m)).astype(np.float32), f"w{k}"))
        weights.append(onnx.numpy_helper.from_array(rng.normal(size=m).astype(np.float32), f"b{k}"))
        nodes.append(onnx.helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], [f"g{k}"], name=f"fc{k}"))
        last = f"g{k}"
        if k < len(sizes) - 2:
            nodes.append(onnx.helper.make_node("Relu", [last], [f"h{k}"], name=f"relu{k}"))
            last = f"h{k}"
    for k, op in enumerate(extra):
        nodes.append(onnx.helper.make_node(op, [last], [f"e{k}"], name=f"extra{k}"))
        last = f"e{k}"
    shapes = [onnx.helper.make_tensor_value_info(n, 1, ["batch", s]) for n, s in (("x", sizes[0]), (last, sizes[-1]))]
    graph = onnx.helper.make_graph(nodes, "small", shapes[:1], shapes[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], producer_name="tests")
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nets")


@pytest.fixture(scope="module")
def net(folder):
    return save(folder / "small.onnx")


@pytest.fixture(scope="module")
def refused(folder):
    return save(folder / "refused.onnx", extra=("Sin", "Cos"))


def one_line(done, code):
    assert done.code == code, (done.out, done.err)
    assert "Traceback" not in done.out + done.err
    assert done.err.count("\n") == 1
    assert done.err.startswith("nnembed: ")
    return done.err


# ---- what works ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["inspect", "NET"], "ok"),
        (["check", "NET"], "ok"),
        (["bounds", "NET", "--box", "-1,1"], "ok"),
        (["optimize", "NET", "--box", "-1,1", "--output", "1"], "optimal"),
        (["plugins"], "ok"),
    ],
)
def test_json_is_all_there_is_on_standard_output(net, arguments, status):
    done = command(*(net if a == "NET" else a for a in arguments), "--json")
    assert done.code == 0, done.err
    assert done.err == ""
    answer = json.loads(done.out)
    assert answer.keys() >= KEYS
    assert answer["status"] == status


@pytest.mark.parametrize("weights", ["1,0", "-1,2"])
@pytest.mark.parametrize("sense", [[], ["--min"]])
def test_optimize_is_right_and_certified(cli, net, weights, sense):
    done = cli("optimize", net, "--box", "-1,1", "--weights", weights, *sense, "--json", "--gap", "1e-6")
    answer = json.loads(done.out)
    assert answer["status"] == "optimal"
    assert answer["certificate"]["ok"] is True
    network = nnembed.load(net)
    value = np.array([float(w) for w in weights.split(",")])
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 201)] * 2), axis=-1).reshape(-1, 2)
    best = (network(grid) @ value).min() if sense else (network(grid) @ value).max()
    assert answer["objective"] == pytest.approx(float(network(np.array(answer["x"])) @ value), abs=1e-5)
    assert answer["objective"] == pytest.approx(answer["y"] @ value, abs=1e-5)
    assert (answer["objective"] - best) * (-1 if sense else 1) >= -1e-6
    assert abs(answer["objective"] - answer["bound"]) <= 1e-4 * (1 + abs(best))


def test_people_see_tables(cli, net, folder):
    done = cli("inspect", net, "--html", folder / "page.html")
    assert done.code == 0
    assert "Gemm" in done.out
    page = (folder / "page.html").read_text()
    assert "<svg" in page
    assert "http" not in page
    assert "crown" in cli("bounds", net, "--box", "-1,1").out
    assert "certificate" in cli("optimize", net, "--box", "-1,1", "--output", "0").out
    assert "highs" in cli("plugins").out
    assert "difference to" in cli("check", net).out


def test_check_and_inspect_list_all_refused_operators(cli, refused):
    done = cli("check", refused)
    one_line(done, 2)
    assert "Sin" in done.out
    answer = json.loads(cli("inspect", refused, "--json").out)
    assert answer["status"] == "unsupported"
    assert {o["op"]: o["status"] for o in answer["operators"]}["Sin"] == "refused"
    assert "Sin" in one_line(cli("optimize", refused, "--box", "0,1", "--output", "0"), 2)


def test_the_same_seed_gives_the_same_answer(net):
    both = [json.loads(command("optimize", net, "--box", "-1,1", "--output", "0", "--json").out) for _ in range(2)]
    assert both[0]["x"] == both[1]["x"]


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", [["inspect"], ["check"], ["bounds", "--box", "0,1"], ["optimize", "--box", "0,1"]])
def test_files_that_are_no_networks(cli, tool, net, folder):
    name, *options = tool
    (folder / "text.onnx").write_text("not a network\n")
    (folder / "cut.onnx").write_bytes(net.read_bytes()[:200])
    (folder / "empty.onnx").write_bytes(b"")
    for file in ("gone.onnx", "text.onnx", "cut.onnx", "empty.onnx", "."):
        message = one_line(cli(name, folder / file, *options), 2)
        assert str(folder / file) in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--box", "1,0"], "empty"),
        (["--box", "0,inf"], "infinite"),
        (["--box", "0,nan"], "not a number"),
        (["--box", "0"], "two numbers"),
        (["--box", "gone.csv"], "gone.csv: no such file"),
        (["--box", "0,1", "--backend", "hihgs"], "did you mean 'highs'?"),
        (["--box", "0,1", "--formulation", "nosuch"], "unknown formulation 'nosuch'"),
        (["--box", "0,1", "--output", "9"], "a number from 0 to 1"),
        (["--box", "0,1", "--time-limit", "nan"], "time"),
        (["--box", "0,1", "--gap", "-1"], "--gap"),
    ],
)
def test_wrong_options(cli, net, options, said):
    given = options if "--output" in options else [*options, "--output", "0"]
    assert said in one_line(cli("optimize", net, *given), 2)


def test_a_box_file_of_the_wrong_size(cli, net, folder):
    (folder / "three.csv").write_text("0,1\n0,1\n0,1\n")
    message = one_line(cli("bounds", net, "--box", folder / "three.csv"), 2)
    assert "'x'" in message


def test_several_outputs_need_a_choice(cli, net):
    assert "--output K (0 to 1)" in one_line(cli("optimize", net, "--box", "0,1"), 2)


def test_no_time_at_all(net):
    done = command("optimize", net, "--box", "-1,1", "--output", "0", "--time-limit", "0", "--json")
    answer = json.loads(done.out)
    assert done.code == (3 if answer["objective"] is None else 0)
    done = command("bounds", net, "--box", "-1,1", "--time-limit", "0", "--json")
    assert done.code in (0, 3)
    assert json.loads(done.out)["status"] == "time_limit"


def test_a_page_that_cannot_be_written(cli, net, folder):
    message = one_line(cli("inspect", net, "--html", folder / "no" / "page.html"), 2)
    assert "cannot write" in message
    if Path("/dev/full").exists():
        assert "No space left" in one_line(cli("inspect", net, "--html", "/dev/full"), 2)


# ---- streams and signals ------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell")
@pytest.mark.parametrize("form", ["", "--json", "--help"])
def test_a_reader_that_leaves_early(net, form):
    shell = f'"{sys.executable}" -m nnembed bounds "{net}" --box 0,1 {form} | true; echo "${{PIPESTATUS[0]}}"'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.stdout in ("0\n", "1\n" if form == "--help" else "0\n")
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_on_a_full_disk(net):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "nnembed", "plugins"]
        done = subprocess.run(
            line, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=60, check=False
        )
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


def test_characters_the_terminal_does_not_know(folder):
    net = save(folder / "größe.onnx")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "nnembed", "inspect", str(net)]
    done = subprocess.run(line, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_interrupt_gives_the_best_known_answer(folder):
    net = save(folder / "hard.onnx", sizes=(12, 60, 60, 60, 1), seed=1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "nnembed", "optimize", str(net), "--box", "-1,1", "--json"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    time.sleep(8)
    assert process.poll() is None, "the task is too easy for this test"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    answer = json.loads(out)
    assert answer["status"] in ("interrupted", "feasible")
    assert answer["certificate"]["ok"] is True
    assert answer["objective"] <= answer["bound"]
