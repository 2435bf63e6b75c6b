"""The conformance kit of nnembed on this backend."""

from __future__ import annotations

from nnembed.testing import parametrize_with_checks

from nnembed_gurobi import Gurobi


@parametrize_with_checks([Gurobi()])
def test_conformance(subject, check):
    check(subject)
