"""The size-limited licence of the wheel: known before importing Gurobi, refused before building."""

from __future__ import annotations

from types import SimpleNamespace

import nnembed as nn
import numpy as np
import pytest
import scipy.sparse as sp
from nnembed.errors import Unavailable
from nnembed.features import Availability
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.testing import chain


def problem(columns, rows, quadratic=False, sides=1):
    matrix = sp.csr_array((rows, columns))
    low = np.zeros(rows) if sides == 2 else np.full(rows, -np.inf)
    box = np.zeros(columns), np.ones(columns)
    q = sp.eye_array(columns, format="csr") if quadratic else None
    return Problem(matrix, low, np.ones(rows), *box, np.zeros(columns, bool), np.ones(columns), quadratic=q)


@pytest.fixture
def limited(backend):
    if backend.available() is not Availability.LIMITED_LICENSE:
        pytest.skip("there is a full licence here")
    return backend


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((2000, 2000), True),
        ((2001, 1), False),
        ((1, 2001), False),
        ((1, 1000, False, 2), True),
        ((1, 1001, False, 2), False),
        ((200, 1, True), True),
        ((201, 1, True), False),
    ],
)
def test_the_limits_are_gurobis_own(limited, size, fits):
    p = problem(*size)
    if not fits:
        with pytest.raises(Unavailable, match="size-limited licence takes"):
            limited.load(p, Options())
        return
    with limited.load(p, Options()) as session:
        assert session.solve(lambda event: None, lambda: False).status == "optimal"


def test_rows_added_later_count(limited):
    with limited.load(problem(2, 1999), Options()) as session:
        session.add_rows(sp.csr_array(np.ones((1, 2))), np.zeros(1), np.zeros(1))
        with pytest.raises(Unavailable, match="2001"):
            session.add_rows(sp.csr_array(np.ones((1, 2))), np.zeros(1), np.zeros(1))


def test_a_large_network_is_refused_with_a_way_out(limited):
    net = chain([(900, "relu"), (900, "relu"), (1, "none")], 3, np.random.default_rng(0))
    with pytest.raises(Unavailable, match=r"the network.s. .* need .* smaller network .* backend='highs'"):
        nn.maximize(net, (-1, 1), backend=limited, heuristics="none")


def test_a_licence_of_ones_own_is_seen(monkeypatch, tmp_path, backend):
    from nnembed_gurobi import licence

    for name in licence._POINTERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(licence, "_usual_places", lambda: [tmp_path / "gurobi.lic"])
    assert backend.available() in (Availability.LIMITED_LICENSE, Availability.NO_LICENSE)
    (tmp_path / "gurobi.lic").touch()
    assert backend.available() is Availability.FULL
    (tmp_path / "gurobi.lic").unlink()
    monkeypatch.setenv("GRB_LICENSE_FILE", "anything")
    assert backend.available() is Availability.FULL


def test_states_of_an_installation(monkeypatch, tmp_path):
    from nnembed_gurobi import Gurobi, licence

    monkeypatch.setattr(licence, "_usual_places", list)
    for name in licence._POINTERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(licence.importlib.util, "find_spec", lambda name: None)
    assert Gurobi().available() is Availability.NOT_FOUND
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(licence.importlib.util, "find_spec", lambda name: found)
    assert Gurobi().available() is Availability.NO_LICENSE


def test_an_invalid_licence_is_reported(backend, monkeypatch):
    import gurobipy

    monkeypatch.setenv("GRB_LICENSE_FILE", "/nonexistent/gurobi.lic")
    try:
        gurobipy.Env().dispose()
    except gurobipy.GurobiError:
        with pytest.raises(Unavailable, match="Gurobi does not start"):
            backend.load(problem(1, 1), Options())
    else:
        pytest.skip("Gurobi found another licence")
