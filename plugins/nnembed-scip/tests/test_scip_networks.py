"""Networks through SCIP, end to end, as far as the conformance kit does not try it."""

from __future__ import annotations

import nnembed as nn
import numpy as np
import pytest
from nnembed.hooks import manager
from nnembed.testing import chain

LOW, HIGH = np.array([-1.0, -0.5]), np.array([1.0, 1.5])


def network(seed, kinds=("relu", "relu")):
    return chain([(3, kind) for kind in kinds] + [(1, "none")], 2, np.random.default_rng(seed))


def test_history_tells_who_found_what(backend):
    result = nn.maximize(network(2, ("relu",) * 3), (LOW, HIGH), backend=backend)
    assert {h.source for h in result.history} >= {"forward", backend.name}


def test_the_package_registers_itself():
    from nnembed_scip import plugin

    registry = manager.build(extra=[("nnembed-scip", plugin)])
    assert not registry.problems
    entry = next(e for e in registry.entries() if e.name == "scip")
    assert entry.distribution == "nnembed-scip" and "SCIP" in entry.summary


def test_nothing_heavy_is_imported_to_be_listed():
    import subprocess
    import sys
    from pathlib import Path

    folder = str(Path(__file__).parents[1])
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); from nnembed_scip import plugin; "
        "[b.available() for b in plugin.nnembed_backends()]; sys.exit('pyscipopt' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cuts_are_off_for_networks_with_binaries_only(backend):
    from nnembed_scip.parameters import is_network

    seen = []

    class Spy(type(backend)):
        def load(self, problem, options):
            seen.append(is_network(problem))
            return super().load(problem, options)

    net = network(0)
    for formulation in ("two_row", "indicator", "sos1"):
        nn.maximize(net, (LOW, HIGH), backend=Spy(), formulation=formulation)
        assert seen[0] == (formulation != "sos1")
        seen.clear()


def test_cuts_can_be_asked_for(backend):
    from nnembed_scip.session import ScipSession

    parameters = []

    class Spy(type(backend)):
        def load(self, problem, options):
            session = ScipSession(problem, options)
            parameters.append([session._model.getParam(f"separating/maxrounds{end}") for end in ("", "root")])
            return session

    nn.maximize(network(0), (LOW, HIGH), backend=Spy(), formulation="two_row")
    chosen = {"separating/maxroundsroot": 3}
    nn.maximize(network(0), (LOW, HIGH), backend=Spy(), formulation="two_row", solver_options=chosen)
    assert parameters[0] == [0, 0] and parameters[-1] == [0, 3]


@pytest.mark.parametrize("formulation", ["sos1", "indicator"])
@pytest.mark.parametrize("seed", range(4))
def test_infeasible_models_with_conditions_are_explained(backend, formulation, seed):
    """SCIP's search for a conflict fails on sets, and on indicator rows whose binary has lost its bounds."""
    net = network(seed)
    rows = (np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), [0.2, 50.0], [np.inf, np.inf])
    result = nn.maximize(net, (LOW, HIGH), constraints=rows, formulation=formulation, backend=backend, bounds="crown")
    assert result.status == "infeasible" and "no solution" in result.message


def test_more_threads_than_scip_takes(backend):
    assert nn.maximize(network(2), (LOW, HIGH), backend=backend, threads=10**5).status == "optimal"
