"""The conformance kit of nnembed on this backend."""

from __future__ import annotations

from nnembed.testing import parametrize_with_checks

from nnembed_scip import Scip


@parametrize_with_checks([Scip()])
def test_conformance(subject, check):
    check(subject)
