"""A command line that is called in this process, and stand-ins for what it calls."""

from types import SimpleNamespace

import numpy as np
import pytest

import nnembed
from nnembed.certificate import Certificate, Check
from nnembed.cli import app
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, relu


@pytest.fixture
def cli(capfd):
    """Run a command line; return exit code, standard output and standard error, which never hold a traceback."""

    def call(*arguments):
        code = app.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return SimpleNamespace(code=code, out=out, err=err)

    return call


@pytest.fixture
def small():
    """A network x (2) -> relu (3) -> y (2)."""
    rng = np.random.default_rng(0)
    x, g, h, y = (TensorSpec(n, (k,)) for n, k in (("x", 2), ("g", 3), ("h", 3), ("y", 2)))
    nodes = (
        Affine("fc", ("x",), "g", (Dense(rng.normal(size=(3, 2))),), np.zeros(3)),
        relu("act", "g", "h", 3),
        Affine("out", ("h",), "y", (Dense(rng.normal(size=(2, 3))),), np.zeros(2)),
    )
    tensors = {s.name: s for s in (x, g, h, y)}
    return Network((x,), (y,), nodes, tensors, name="small")


def make_result(**changes):
    """A result as `maximize` returns it."""
    certificate = Certificate((Check("rows", 0.0, 1e-5, True),), 1e-9)
    facts = {
        "status": "optimal",
        "objective": 2.5,
        "bound": 2.5,
        "gap": 0.0,
        "seconds": 0.25,
        "certificate": certificate,
    }
    facts |= {"x": np.array([0.5, 1.0]), "y": np.array([2.5, -1.0]), "history": (), "plan": None, "message": ""}
    return SimpleNamespace(**(facts | changes))


@pytest.fixture
def engine(monkeypatch, small):
    """Replace load, maximize and minimize; `engine.calls` keeps what they were given."""
    fake = SimpleNamespace(calls=[], result=make_result(), error=None, network=small)

    def search(sense):
        def call(network, box, **options):
            if fake.error is not None:
                raise fake.error
            fake.calls.append((sense, box, options))
            return fake.result

        return call

    monkeypatch.setattr(nnembed, "load", lambda path: fake.network, raising=False)
    monkeypatch.setattr(nnembed, "maximize", search("max"), raising=False)
    monkeypatch.setattr(nnembed, "minimize", search("min"), raising=False)
    return fake
