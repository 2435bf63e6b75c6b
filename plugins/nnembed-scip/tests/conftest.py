"""The package is taken from its folder, so that the tests run without installing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture
def backend():
    from nnembed_scip import Scip

    state = Scip().available()
    if not state:
        pytest.skip(f"SCIP: {state.reason}")
    return Scip()
