"""The conformance kit, and a network solved with the backend."""

from __future__ import annotations

import pytest
from nnembed_scipy import Scipy

import nnembed as nn
from nnembed.testing import enumerate_optimum, parametrize_with_checks, random_network


@parametrize_with_checks([Scipy()], upto="0.1")
def test_conformance(subject, check):
    """Run one check of the kit."""
    check(subject)


def test_optimum():
    """Solve a small network and compare with enumeration."""
    net = random_network(3)
    result = nn.maximize(net, ([-1.0, -1.0], [1.0, 1.0]), backend=Scipy(), gap=0.0)
    assert result.certificate.ok
    assert result.objective == pytest.approx(enumerate_optimum(net, [-1.0, -1.0], [1.0, 1.0], [1.0]), abs=1e-6)
