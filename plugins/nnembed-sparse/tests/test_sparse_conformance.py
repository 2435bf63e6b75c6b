"""The conformance kit of nnembed on these surrogates."""

from __future__ import annotations

from nnembed.testing import parametrize_with_checks

from nnembed_sparse import Multi, Obc, Regions, SparseGpt, Surgeon, Undecayed


@parametrize_with_checks([Surgeon(), Obc(), SparseGpt(), Regions(), Undecayed(), Multi()])
def test_conformance(subject, check):
    check(subject)
