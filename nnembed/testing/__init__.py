"""The conformance kit: checks for every extension point, small networks, and optima found without a MILP.

A plugin's whole test file::

    from nnembed.testing import parametrize_with_checks
    from my_plugin import MyFormulation

    @parametrize_with_checks([MyFormulation()], upto="0.1")
    def test_conformance(subject, check):
        check(subject)

Checks are plain functions ``check_*(subject)`` in the modules `formulations`, `tighteners`, `readers`, `backends`,
`hosts`, `heuristics`, `lowerings` and `surrogates` of this package; `run_checks` runs them without pytest.
"""

from __future__ import annotations

from nnembed.testing.adapters import HostAdapter, adapter_for
from nnembed.testing.blocks import assert_block_equal, block_optimum
from nnembed.testing.enumerate import enumerate_optimum
from nnembed.testing.kit import Config, Outcome, Unmet, checks_for, parametrize_with_checks, run_checks, since
from nnembed.testing.networks import chain, random_network, reference_networks
from nnembed.testing.readers import ReaderSubject

__all__ = [
    "Config",
    "HostAdapter",
    "Outcome",
    "ReaderSubject",
    "Unmet",
    "adapter_for",
    "assert_block_equal",
    "block_optimum",
    "chain",
    "checks_for",
    "enumerate_optimum",
    "parametrize_with_checks",
    "random_network",
    "reference_networks",
    "run_checks",
    "since",
]
