"""Networks through Gurobi, end to end: the optimum is the one found by enumerating all activation patterns."""

from __future__ import annotations

import nnembed as nn
import numpy as np
import pytest
from nnembed.hooks import manager
from nnembed.testing import chain, enumerate_optimum

LOW, HIGH = np.array([-1.0, -0.5]), np.array([1.0, 1.5])


def network(seed, kinds=("relu", "relu")):
    return chain([(3, kind) for kind in kinds] + [(1, "none")], 2, np.random.default_rng(seed))


@pytest.mark.parametrize("formulation", ["two_row", "slack", "sos1", "indicator"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sense", ["max", "min"])
def test_optimum_is_that_of_enumeration(backend, formulation, seed, sense):
    net = network(seed)
    call = nn.maximize if sense == "max" else nn.minimize
    result = call(net, (LOW, HIGH), backend=backend, formulation=formulation, gap=1e-6)
    want = enumerate_optimum(net, LOW, HIGH, np.ones(1), maximize=sense == "max")
    assert result.status == "optimal"
    assert result.objective == pytest.approx(want, abs=1e-5)
    assert result.certificate.ok
    assert net(result.x)[0] == pytest.approx(result.objective, abs=1e-9)


@pytest.mark.parametrize("kinds", [("leaky", "relu"), ("clip",), ("max", "abs"), ("steep", "clip")])
def test_every_activation(backend, kinds):
    net = network(5, kinds)
    result = nn.maximize(net, (LOW, HIGH), backend=backend, gap=1e-6)
    assert result.objective == pytest.approx(enumerate_optimum(net, LOW, HIGH, np.ones(1)), abs=1e-5)
    assert result.certificate.ok


def test_user_rows_and_no_answer(backend):
    net = network(1)
    row = np.array([[1.0, 1.0]])
    result = nn.maximize(net, (LOW, HIGH), constraints=(row, -np.inf, 0.0), backend=backend)
    assert result.x.sum() <= 1e-6 and result.certificate.ok
    assert nn.maximize(net, (LOW, HIGH), constraints=(row, 9.0, np.inf), backend=backend).status == "infeasible"
    assert nn.maximize(net, (LOW, HIGH), backend=backend, time_limit=0.0).status in ("time_limit", "feasible")


def test_history_tells_who_found_what(backend):
    result = nn.maximize(network(2, ("relu",) * 3), (LOW, HIGH), backend=backend)
    assert {h.source for h in result.history} >= {"forward", backend.name}


def test_the_triangle_relaxation_bounds(backend):
    net = network(3)
    result = nn.maximize(net, (LOW, HIGH), backend=backend, formulation="triangle")
    assert result.bound >= enumerate_optimum(net, LOW, HIGH, np.ones(1)) - 1e-6


def test_the_package_registers_itself():
    from nnembed_gurobi import plugin

    registry = manager.build(extra=[("nnembed-gurobi", plugin)])
    assert not registry.problems
    entry = next(e for e in registry.entries() if e.name == "gurobi")
    assert entry.distribution == "nnembed-gurobi" and "Gurobi" in entry.summary


def test_nothing_heavy_is_imported_to_be_listed():
    import subprocess
    import sys
    from pathlib import Path

    folder = str(Path(__file__).parents[1])
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); from nnembed_gurobi import plugin; "
        "[b.available() for b in plugin.nnembed_backends()]; sys.exit('gurobipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
