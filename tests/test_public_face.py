"""What is public, and what importing it costs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import nnembed as nn


def test_all_names_are_there_and_documented():
    assert sorted(nn.__all__) == sorted(["__version__", *nn._WHERE])
    for name in nn.__all__:
        thing = getattr(nn, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_type_checkers_see_the_same_names():
    import ast
    from pathlib import Path

    tree = ast.parse(Path(nn.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(nn._WHERE)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="embbed"):
        nn.embbed  # noqa: B018


def test_import_is_cheap():
    code = (
        "import time; t = time.process_time(); import nnembed; t = time.process_time() - t\n"
        "import sys, json; print(json.dumps([t, sorted(sys.modules)]))"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    seconds, modules = min(runs)
    heavy = ("onnx", "onnxruntime", "linopy", "highspy", "xarray", "scipy.optimize", "matplotlib", "pyomo", "rich")
    assert not [m for m in modules if m in heavy]
    assert seconds < 0.3


def test_submodules_import_without_heavy_packages():
    """The engine and all built-in parts can be loaded and listed without importing a solver or a modelling layer."""
    code = (
        "import nnembed, sys; nnembed.tighten; from nnembed.hooks.manager import registry; registry().entries()\n"
        "bad = {'onnx', 'linopy', 'highspy', 'xarray', 'pyomo', 'matplotlib'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.check_call([sys.executable, "-c", code])


def test_no_function_tunnels_keywords():
    for name in ("load", "embed", "solve", "maximize", "minimize", "tighten"):
        kinds = {p.kind for p in inspect.signature(getattr(nn, name)).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, name


def test_unknown_keyword_names_the_closest():
    calls = [
        (lambda: nn.maximize(None, None, time_limt=3), "keyword of maximize.. 'time_limt'; did you mean 'time_limit'"),
        (lambda: nn.embed(None, None, None, formulaton="slack"), "did you mean 'formulation'"),
        (lambda: nn.solve(None, backnd="highs"), "did you mean 'backend'"),
        (lambda: nn.Model().solve(threds=2), "did you mean 'threads'"),
        (lambda: nn.load("x.onnx", chek=False), "did you mean 'check'"),
    ]
    for call, words in calls:
        with pytest.raises(TypeError, match=words):
            call()
        with pytest.raises(nn.UnknownName):
            call()
