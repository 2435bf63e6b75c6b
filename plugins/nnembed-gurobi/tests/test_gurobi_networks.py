"""Networks through Gurobi, end to end, as far as the conformance kit does not try it."""

from __future__ import annotations

import nnembed as nn
import numpy as np
from nnembed.hooks import manager
from nnembed.testing import chain

LOW, HIGH = np.array([-1.0, -0.5]), np.array([1.0, 1.5])


def network(seed, kinds=("relu", "relu")):
    return chain([(3, kind) for kind in kinds] + [(1, "none")], 2, np.random.default_rng(seed))


def test_history_tells_who_found_what(backend):
    result = nn.maximize(network(2, ("relu",) * 3), (LOW, HIGH), backend=backend)
    assert {h.source for h in result.history} >= {"forward", backend.name}


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
