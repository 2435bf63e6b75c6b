"""Plugins: one door for everybody, broken ones reported by name, clashes refused."""

from __future__ import annotations

import types

import pytest

import nnembed as nn
from nnembed.features import Availability, Feature
from nnembed.hooks import hookimpl, specs
from nnembed.hooks.manager import POINTS, PluginWarning, build, registry


def plugin(**hooks):
    module = types.ModuleType("plugin")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


class FakeEntry:
    def __init__(self, name, load, distribution):
        self.name, self.load, self.value = name, load, name
        self.dist = types.SimpleNamespace(name=distribution)


class Nothing:
    name, summary = "nothing", "writes nothing"
    emits, handles, exact, needs_finite_bounds = Feature.LINEAR, frozenset(), True, False

    def emit(self, node, bounds, block): ...


def test_built_ins_are_registered():
    reg = build()
    assert {"two_row", "slack", "triangle"} <= set(reg.parts("formulation"))
    assert {"interval", "crown"} <= set(reg.parts("bound tightener"))
    assert {"linopy", "arrays"} <= set(reg.parts("host"))
    assert "highs" in reg.parts("backend")
    assert "forward" in reg.parts("heuristic")
    assert len(reg.readers()) > 40
    assert reg.problems == []


def test_every_entry_has_words():
    for entry in build().entries():
        assert entry.name and entry.summary and entry.distribution == "nnembed" and entry.available


def test_a_plugin_adds_a_formulation():
    reg = build(extra=[("mine", plugin(nnembed_formulations=lambda: [Nothing()]))])
    assert reg.get("formulation", "nothing").summary == "writes nothing"
    assert next(e for e in reg.entries() if e.name == "nothing").distribution == "mine"


def test_two_plugins_with_one_name_are_refused():
    extra = [(n, plugin(nnembed_formulations=lambda: [Nothing()])) for n in ("first", "second")]
    with pytest.raises(nn.PluginError, match="first and by second"):
        build(extra=extra).parts("formulation")


def test_a_part_that_lacks_attributes_is_refused():
    reg = build(extra=[("mine", plugin(nnembed_backends=lambda: [Nothing()]))])
    with pytest.raises(nn.PluginError, match="lacks accepts, capabilities, available, load"):
        reg.parts("backend")


def test_broken_import_is_a_warning_that_names_the_distribution():
    def fail():
        raise ImportError("no module named gurobipy")

    with pytest.warns(PluginWarning, match="nnembed-broken"):
        reg = build([FakeEntry("broken", fail, "nnembed-broken")])
    assert reg.problems == ["nnembed-broken: ImportError: no module named gurobipy"]
    assert "two_row" in reg.parts("formulation")


def test_misspelt_hook_is_reported():
    with pytest.warns(PluginWarning, match="nnembed-typo"):
        reg = build([FakeEntry("typo", lambda: plugin(nnembed_formulatons=list), "nnembed-typo")])
    assert reg.parts("formulation")


def test_disabled_plugins_stay_out():
    entry = FakeEntry("mine", lambda: plugin(nnembed_formulations=lambda: [Nothing()]), "nnembed-mine")
    assert "nothing" in build([entry]).parts("formulation")
    assert "nothing" not in build([entry], disable="nnembed-mine").parts("formulation")
    assert "nothing" not in build([entry], disable=" mine ,x").parts("formulation")


def test_plugins_decide_before_built_ins():
    def choose(layer, bounds):
        return "slack", "because I say so"

    reg = build(extra=[("mine", plugin(nnembed_choose_formulation=choose))])
    from nnembed.embedding import make_plan
    from nnembed.options import Options
    from nnembed.testing import random_network

    net = random_network(0)
    bounds = nn.tighten(net, (-1.0, 1.0))
    plan, _ = make_plan(net, bounds, "auto", Feature.LINEAR | Feature.INTEGER, reg, Options(), "n")
    assert {line.reason for line in plan.lines} == {"because I say so"}


def test_observers_hear_events():
    heard = []
    reg = build(extra=[("mine", plugin(nnembed_event=lambda event: heard.append(event) or None))])
    from nnembed.events import Solved

    reg.notify(Solved(1.0, "optimal", 2.0, 2.0))
    assert heard[0].status == "optimal"


def test_every_hook_is_documented_and_has_a_point():
    names = {n for n in vars(specs) if n.startswith("nnembed_")}
    decisions = {"nnembed_choose_formulation", "nnembed_choose_backend", "nnembed_event", "nnembed_commands"}
    assert names == set(POINTS) | decisions
    for name in names:
        assert getattr(specs, name).__doc__


def test_unavailable_solver_says_what_to_install(monkeypatch):
    import sys

    from nnembed.testing import random_network

    net, bare = nn.maximize, build()
    for name in ("solve", "embed"):
        monkeypatch.setattr(sys.modules[f"nnembed.engine.{name}"], "registry", lambda: bare)
    with pytest.raises(nn.Unavailable, match="nnembed-gurobi"):
        net(random_network(0), (-1.0, 1.0), backend="gurobi")
    with pytest.raises(nn.UnknownName, match="did you mean 'highs'"):
        net(random_network(0), (-1.0, 1.0), backend="higs")


def test_registry_of_the_process_is_one():
    assert registry() is registry()
    assert Availability.FULL and not Availability.NO_LICENSE
