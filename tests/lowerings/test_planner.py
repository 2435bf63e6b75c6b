"""The cheapest chain of lowerings, and what is said when there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import nnembed as nn
from nnembed.features import Availability, Capability, Feature
from nnembed.formulations.sos1 import Sets
from nnembed.hooks.manager import registry
from nnembed.lowerings.planner import Chain, cheapest, describe, hopeless, reachable
from nnembed.lowerings.rewrite import unchanged
from nnembed.testing import chain

MIP = Feature.LINEAR | Feature.INTEGER
PAIRS = Feature.LINEAR | Feature.COMPLEMENTARITY


@dataclass(frozen=True)
class Edge:
    name: str
    removes: Feature
    emits: Feature
    cost: float
    summary: str = "for tests"

    def apply(self, block):
        return unchanged(block)


def names(steps):
    return None if steps is None else [s.name for s in steps]


def builtin():
    return registry().parts("lowering").values()


@pytest.mark.parametrize(
    ("needs", "accepts", "want"),
    [
        (MIP, MIP, []),
        (Feature.LINEAR | Feature.SOS1, MIP, ["sos1_to_binary"]),
        (Feature.LINEAR | Feature.SOS1, MIP | Feature.SOS1, []),
        (MIP | Feature.INDICATOR, MIP, ["indicator_to_bigm"]),
        (PAIRS, MIP, ["complementarity_to_sos1", "sos1_to_binary"]),
        (PAIRS, MIP | Feature.SOS1, ["complementarity_to_sos1"]),
        (PAIRS, MIP | Feature.INDICATOR, ["complementarity_to_indicator"]),
        (PAIRS, MIP | Feature.COMPLEMENTARITY, []),
        (PAIRS | MIP | Feature.INDICATOR, MIP | Feature.SOS1, ["complementarity_to_sos1", "indicator_to_bigm"]),
        (Feature.LINEAR | Feature.SOS1, Feature.LINEAR, None),
        (Feature.LINEAR | Feature.RELU, MIP, ["relu_to_bigm"]),
        (Feature.LINEAR | Feature.RELU, Feature.LINEAR, None),
        (Feature.LINEAR | Feature.RELU, PAIRS, ["relu_to_complementarity"]),
    ],
)
def test_built_in_chains(needs, accepts, want):
    assert names(cheapest(needs, accepts, builtin())) == want
    assert reachable(needs, accepts, builtin()) == (want is not None)
    assert bool(hopeless(needs, accepts, builtin())) == (want is None)


def test_the_cheaper_detour_beats_the_dear_shortcut():
    dear = Edge("sos1_to_magic", Feature.SOS1, MIP, 10.0)
    first = Edge("sos1_to_indicator", Feature.SOS1, MIP | Feature.INDICATOR, 1.0)
    second = Edge("indicator_to_rows", Feature.INDICATOR, MIP, 2.0)
    needs = Feature.LINEAR | Feature.SOS1
    assert names(cheapest(needs, MIP, [dear, first, second])) == ["sos1_to_indicator", "indicator_to_rows"]
    assert names(cheapest(needs, MIP, [Edge("sos1_to_magic", Feature.SOS1, MIP, 2.5), first, second])) == [
        "sos1_to_magic"
    ]


def test_ties_do_not_depend_on_the_order_of_registration():
    a, b = Edge("a", Feature.SOS1, MIP, 1.0), Edge("b", Feature.SOS1, MIP, 1.0)
    needs = Feature.LINEAR | Feature.SOS1
    assert names(cheapest(needs, MIP, [a, b])) == names(cheapest(needs, MIP, [b, a])) == ["a"]


def test_circles_end():
    there = Edge("sos1_to_indicator", Feature.SOS1, Feature.INDICATOR, 1.0)
    back = Edge("indicator_to_sos1", Feature.INDICATOR, Feature.SOS1, 1.0)
    assert cheapest(Feature.SOS1, MIP, [there, back]) is None


def test_chains_in_words():
    assert describe(["complementarity_to_sos1", "sos1_to_binary"]) == "complementarity -> sos1 -> binary"
    assert describe(["sos1_to_binary", "indicator_to_bigm"]) == "sos1 -> binary; indicator -> bigm"
    assert describe(["shrink", "sos1_to_binary"]) == "shrink; sos1 -> binary"
    assert str(Chain(())) == ""


@dataclass(frozen=True)
class Curved:
    """A formulation no built-in solver takes."""

    name: str = "curved"
    summary: str = "for tests"
    emits: Feature = Feature.LINEAR | Feature.QUADRATIC_ROWS
    handles: frozenset = Sets.handles
    exact: bool = True
    needs_finite_bounds: bool = False

    def emit(self, node, bounds, block):
        Sets().emit(node, bounds, block)


@dataclass(frozen=True)
class OnlyLinear:
    """A solver that takes no integers, so sets cannot be lowered for it."""

    name: str = "lponly"
    summary: str = "for tests"
    accepts: Feature = Feature.LINEAR
    capabilities: Capability = Capability.NONE

    def available(self):
        return Availability.FULL

    def load(self, problem, options):
        raise AssertionError("must not be reached")


def small():
    return chain([(3, "relu"), (1, "none")], 2, np.random.default_rng(0))


def test_no_way_at_embedding_names_formulation_feature_and_what_would_work():
    model = nn.ArrayModel(-np.ones(2), np.ones(2))
    with pytest.raises(nn.UnsupportedFeature) as caught:
        nn.embed(model, small(), np.arange(2), formulation=Curved())
    text = str(caught.value)
    for word in ("'curved'", "'relu_0'", "QUADRATIC_ROWS", "host 'arrays'", "two_row", "sos1"):
        assert word in text
    assert model.n_columns == 2


def test_no_way_at_solving_names_solver_and_what_would_work():
    with pytest.raises(nn.UnsupportedFeature) as caught:
        nn.maximize(small(), (-np.ones(2), np.ones(2)), formulation="sos1", backend=OnlyLinear())
    text = str(caught.value)
    for word in ("'sos1'", "'relu_0'", "SOS1", "solver 'lponly'", "highs"):
        assert word in text
