"""Every failure is one line on standard error and the right exit code."""

import json
import typing
import warnings
from types import SimpleNamespace

import pytest
import typer

from nnembed import errors
from nnembed.cli import app, common
from nnembed.hooks import manager
from nnembed.protocols import Command

KEYS = {"status", "objective", "bound", "gap", "certificate", "seconds"}


def fail_with(monkeypatch, error):
    def raise_it():
        raise error

    monkeypatch.setattr(manager, "registry", raise_it)


@pytest.fixture
def fresh_commands():
    app._plugin_commands.cache_clear()
    yield
    app._plugin_commands.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimise"], "unknown command 'optimise'; did you mean 'optimize'?"),
        (["optimize", "n.onnx", "--box", "0,1", "--bakcend", "highs"], "did you mean '--backend'?"),
        (["optimize", "n.onnx", "--box", "0,1", "--outptu", "1"], "did you mean '--output'?"),
        (["optimize", "n.onnx"], "--box"),
        (["optimize"], "NET"),
        (["check", "n.onnx", "--threads", "0"], "--threads"),
        (["check", "n.onnx", "--seed", "-1"], "--seed"),
        (["check", "n.onnx", "--time-limit", "-1"], "--time-limit"),
        (["check", "n.onnx", "--time-limit", "soon"], "--time-limit"),
        (["check", "n.onnx", "--samples", "0"], "--samples"),
        (["check", "a.onnx", "b.onnx"], "b.onnx"),
        (["--jsno"], "--jsno"),
        (["optimize", "n.onnx", "--box"], "--box"),
    ],
)
def test_wrong_use(cli, arguments, said):
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith("nnembed: ")
    assert said in done.err


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["-h"], ["optimize", "--help"], ["plugins", "-h"], ["--version"]]
)
def test_help_and_version(cli, arguments):
    done = cli(*arguments)
    assert done.code == 0
    assert "nnembed" in done.out
    assert done.err == ""


@pytest.mark.parametrize("name", app.BUILT_IN)
def test_every_command_takes_the_common_options(name):
    options = {o for p in app.build().commands[name].params for o in p.opts}
    assert {"--json", "--quiet", "--seed", "--threads", "--time-limit"} <= options


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.ModelFileError("n.onnx is truncated"), 2, "n.onnx is truncated"),
        (errors.BoxError("line one\nline two"), 2, "line one; line two"),
        (
            errors.UnsupportedOperators(["node a: Sin", "node b: Cos"], "n"),
            2,
            "node a: Sin (and 1 more, see `nnembed check`)",
        ),
        (errors.Unavailable("no gurobi"), 2, "no gurobi"),
        (errors.PluginError("name twice"), 2, "plugin is at fault"),
        (errors.CertificateFailed("residual 1"), 4, "residual 1"),
        (errors.SelfCheckFailed("read wrongly"), 4, "read wrongly"),
        (errors.SolverError("status 7"), 4, "status 7"),
        (FileNotFoundError(2, "No such file or directory", "gone"), 2, "gone: No such file"),
        (MemoryError(), 4, "memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors(cli, monkeypatch, error, code, said):
    fail_with(monkeypatch, error)
    done = cli("plugins")
    assert done.code == code
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert said in done.err
    done = cli("plugins", "--json")
    assert done.code == code
    answer = json.loads(done.out)
    assert answer.keys() >= KEYS
    assert answer["exit_code"] == code
    assert answer["error"]["kind"] == type(error).__name__
    assert said in answer["error"]["message"]


def test_an_interrupt_while_a_compiled_module_loads(cli, monkeypatch):
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    fail_with(monkeypatch, error)
    done = cli("plugins")
    assert (done.code, done.err) == (130, "nnembed: interrupted\n")


def test_a_fault_of_ours_is_one_line(cli, monkeypatch):
    fail_with(monkeypatch, ImportError("a real one"))
    done = cli("plugins")
    assert done.code == 4
    assert done.err.count("\n") == 1 and "internal error, ImportError: a real one" in done.err
    monkeypatch.setenv("NNEMBED_TRACEBACK", "1")
    with pytest.raises(ImportError, match="a real one"):
        cli("plugins")


def test_wrong_use_with_json_is_one_object_too(cli):
    done = cli("check", "--json", "--nosuch")
    assert json.loads(done.out)["status"] == "error"
    assert done.code == 2


def test_warnings_are_one_line(cli, monkeypatch):
    def registry():
        warnings.warn("plugin of acme is left out", UserWarning, stacklevel=1)
        raise errors.InputError("x")

    monkeypatch.setattr(manager, "registry", registry)
    done = cli("plugins")
    assert done.err.splitlines() == ["nnembed: warning: plugin of acme is left out", "nnembed: x"]


# ---- commands of plugins ------------------------------------------------------------------------


def with_commands(monkeypatch, *commands):
    monkeypatch.setattr(manager, "registry", lambda: SimpleNamespace(commands=lambda: list(commands)))


def test_a_plugin_adds_a_function(cli, monkeypatch, fresh_commands):
    def regions(count: int = 3) -> None:
        """Count regions."""
        typer.echo(f"{count} regions")

    with_commands(monkeypatch, Command("regions", regions))
    assert cli("regions", "--count", "5").out == "5 regions\n"
    assert "Count regions" in cli("--help").out
    assert cli("region").err.startswith("nnembed: unknown command 'region'; did you mean 'regions'?")


def test_a_plugin_adds_an_app_with_commands_of_its_own(cli, monkeypatch, fresh_commands):
    tool = typer.Typer()

    @tool.command()
    def one() -> None:
        typer.echo("one")

    @tool.command()
    def two() -> None:
        raise typer.Exit(7)

    with_commands(monkeypatch, Command("tool", tool))
    assert cli("tool", "one").out == "one\n"
    assert cli("tool", "two").code == 7
    assert "did you mean" in cli("tool", "one", "--halp").err


def test_a_plugin_cannot_take_the_name_of_a_command(cli, monkeypatch, fresh_commands):
    with_commands(monkeypatch, Command("check", lambda: None))
    done = cli("nosuch")
    assert "warning: a plugin's command 'check' is ignored" in done.err


# ---- streams ------------------------------------------------------------------------------------


def test_what_libraries_print_does_not_reach_standard_output(capfd):
    import ctypes
    import os

    def work():
        print("from python")
        os.write(1, b"from a descriptor\n")
        ctypes.CDLL(None).puts(b"from c")
        return common.Report({"status": "ok"}, "", lambda console: None)

    assert common.execute(common.Shared(json=True), work) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["status"] == "ok"
    assert {"from python", "from a descriptor", "from c"} <= set(err.splitlines())


def test_json_knows_every_value():
    import numpy as np

    facts = {
        "inf": float("inf"), "nan": np.float64("nan"), "i": np.int64(3), "b": np.bool_(True), "t": (1, 2.5), 4: None,
        "a": np.array([[1.0, np.inf]]), "p": typing.Any, "f": np.float32(0.5),
    }  # fmt: skip
    plain = json.loads(json.dumps(common.plain(facts), allow_nan=False))
    assert plain["inf"] is None
    assert plain["nan"] is None
    assert plain["i"] == 3
    assert plain["b"] is True
    assert plain["t"] == [1, 2.5]
    assert plain["a"] == [[1.0, None]]
    assert plain["4"] is None
    assert plain["f"] == 0.5


def test_long_vectors_are_shortened():
    import numpy as np

    assert common.shorten([1.0, 2.0]) == "[1, 2]"
    text = common.shorten(np.arange(1000.0))
    assert text.startswith("[0, 1, 2, 3, 4, 5, 6, 7, 8, ..., 998, 999]")
    assert "1,000 values" in text
