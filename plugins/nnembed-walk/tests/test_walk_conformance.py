"""The conformance kit of nnembed on every walk."""

from __future__ import annotations

from nnembed.options import Budget
from nnembed.testing import Config, parametrize_with_checks

from nnembed_walk import RelaxWalk, SampleMip, heuristics

ABLATIONS = [RelaxWalk(flips=True), RelaxWalk(starts="uniform"), RelaxWalk(starts="dynamic"), SampleMip(gamma=0.9)]
CONFIG = Config(budget=Budget(seconds=0.6))


@parametrize_with_checks([*heuristics(), *ABLATIONS], config=CONFIG)
def test_conformance(subject, check):
    check(subject)
