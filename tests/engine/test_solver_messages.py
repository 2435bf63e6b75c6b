"""Bad input that concerns the solver: every message says the cause, and what to change."""

import os
import subprocess
import sys

import numpy as np
import pytest

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.features import Availability
from nnembed.hooks.manager import registry
from nnembed.testing import chain, random_network

BOX = (-np.ones(2), np.ones(2))
SOLVERS = sorted(registry().parts("backend"))
HOMES = {"highs": "nnembed", "scip": "nnembed-scip", "gurobi": "nnembed-gurobi"}


@pytest.fixture
def net():
    return random_network(4, inputs=2, width=4)


@pytest.mark.parametrize("state", [Availability.NOT_FOUND, Availability.BAD_VERSION, Availability.NO_LICENSE])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_that_is_not_there(net, name, state, monkeypatch):
    monkeypatch.setattr(type(registry().parts("backend")[name]), "available", lambda self: state)
    for isolated in (False, True):
        with pytest.raises(nn.Unavailable, match=rf"solver '{name}' cannot be used: {state.reason}") as error:
            nn.maximize(net, BOX, backend=name, isolated=isolated)
        wanted = "licence" if state is Availability.NO_LICENSE else f"pip install --upgrade {HOMES.get(name, '')}"
        assert wanted in str(error.value) and "backend=" in str(error.value)


def test_a_solver_of_the_users_own_that_is_not_there(net):
    class Mine(Highs):
        name = "mine"

        def available(self):
            return Availability.NOT_FOUND

    with pytest.raises(nn.Unavailable, match="'mine' cannot be used: package not installed; install it"):
        nn.maximize(net, BOX, backend=Mine())


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("name", [s for s in SOLVERS if s in HOMES])
def test_an_unknown_option_is_named_with_the_nearest_ones(net, name, isolated):
    with pytest.raises(nn.UnknownName, match=r"'thread'; did you mean") as error:
        nn.maximize(net, BOX, backend=name, solver_options={"thread": 1}, isolated=isolated)
    assert len(str(error.value)) < 400


WRONG = {"highs": ("threads", "two"), "scip": ("limits/nodes", "many"), "gurobi": ("Threads", "two")}


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("name", [s for s in SOLVERS if s in HOMES])
def test_a_wrong_value_of_an_option_is_named(net, name, isolated):
    option, value = WRONG[name]
    with pytest.raises(nn.InputError, match=f"refuses {option}={value!r}"):
        nn.maximize(net, BOX, backend=name, solver_options={option: value}, isolated=isolated)


SCRIPT = """
import numpy as np, nnembed as nn
from nnembed.testing import random_network
box = -np.ones(2), np.ones(2)
try:
    nn.maximize(random_network(4), box, backend="gurobi", formulation="slack", isolated={isolated})
except nn.Unavailable as error:
    print(error)
"""


@pytest.mark.skipif("gurobi" not in SOLVERS, reason="nnembed-gurobi is not installed")
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("kind", ["missing", "expired"])
def test_a_licence_that_does_not_hold(kind, isolated, tmp_path):
    path = tmp_path / "gurobi.lic"
    if kind == "expired":
        path.write_text("TYPE=NODE\nVERSION=11\nHOSTID=abc\nEXPIRATION=2020-01-01\nKEY=ABCDEF\nCKEY=ABCDEF\n")
    places = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": places, "GRB_LICENSE_FILE": str(path)}
    command = [sys.executable, "-c", SCRIPT.format(isolated=isolated)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "Gurobi does not start" in done.stdout and "backend='highs'" in done.stdout
    assert ("License expired" if kind == "expired" else str(path)) in done.stdout


@pytest.mark.skipif("gurobi" not in SOLVERS, reason="nnembed-gurobi is not installed")
@pytest.mark.skipif(
    "gurobi" in SOLVERS and registry().parts("backend")["gurobi"].available() is Availability.FULL,
    reason="a full licence takes every model",
)
@pytest.mark.parametrize("isolated", [False, True])
def test_a_model_too_large_for_the_licence_says_what_would_fit(isolated):
    net = chain([(1100, "relu"), (1, "none")], 8, np.random.default_rng(0))
    with pytest.raises(nn.Unavailable, match=r"takes 2000 variables.*this model has"):
        nn.maximize(net, (-np.ones(8), np.ones(8)), backend="gurobi", formulation="slack", isolated=isolated)


def test_sos2_names_the_rewrite_that_linopy_has(net):
    linopy = pytest.importorskip("linopy")
    model = linopy.Model()
    w = model.add_variables(0, 1, coords=[range(3)], name="w")
    model.add_sos_constraints(w, 2, w.dims[0])
    model.add_objective(w.sum(), sense="max")
    with pytest.raises(nn.UnsupportedFeature, match=r"model\.apply_sos_reformulation\(\)"):
        nn.solve(model)
    model.apply_sos_reformulation()
    assert nn.solve(model).objective == pytest.approx(2.0)
