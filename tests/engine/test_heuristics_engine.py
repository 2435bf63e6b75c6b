"""Heuristics inside a solve: which run, how long, beside the solver, without one, and from a user's start."""

from __future__ import annotations

import time

import numpy as np
import pytest

import nnembed as nn
from nnembed.embedding import embeddings_of
from nnembed.engine.effort import Leash, effort, hopelessness
from nnembed.engine.embed import embed
from nnembed.engine.start import chosen_heuristics
from nnembed.errors import InputError, UnknownName, UnsupportedFeature
from nnembed.features import Capability
from nnembed.hooks.manager import registry
from nnembed.hosts.arrays import ArrayHost, ArrayModel
from nnembed.options import Budget, Options
from nnembed.problem import Overlay, overlay
from nnembed.protocols import Candidate
from nnembed.testing.networks import chain, random_network


def net(seed=0, inputs=12, width=12, depth=2):
    return chain([*[(width, "relu")] * depth, (1, "none")], inputs, np.random.default_rng(seed))


class Sleeper:
    """Yields the middle of the box, then waits for its clock; counts its calls."""

    name = "sleeper"
    summary = "waits"
    requires = Capability.MIP_START

    def __init__(self, automatic=True):
        self.automatic, self.calls, self.known = automatic, 0, None

    def run(self, embedded, session, budget, rng):
        self.calls, self.known = self.calls + 1, embedded.known
        clock = budget.start()
        middle = embedded.clip(0.5 * (embedded.lower + embedded.upper)[None])
        yield Candidate({"drivers": {"x": middle[0]}}, float(embedded.evaluate(middle)[0][0]))
        while not clock.expired:
            time.sleep(0.01)


class Oracle(Sleeper):
    """Knows a point."""

    name = "oracle"

    def __init__(self, x, wait=0.0):
        super().__init__()
        self.x, self.wait = np.asarray(x), wait

    def run(self, embedded, session, budget, rng):
        self.calls += 1
        time.sleep(self.wait)
        yield Candidate({"drivers": {"x": self.x}}, float(embedded.evaluate(self.x[None])[0][0]))


def problem_of(network, low, high):
    model = ArrayModel(low, high, maximize=True)
    embed(model, network, np.arange(len(low)), attach=False)
    model.cost = np.r_[np.zeros(len(low)), np.ones(model.n_columns - len(low))]
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in embeddings_of(model).values()]
    return overlay(ArrayHost().compile(model), layers)


# ---- which, and how long ---------------------------------------------------------------------------


def test_auto_is_what_calls_itself_automatic(monkeypatch):
    reg, parts = registry(), registry().parts("heuristic")
    sleeper, silent = Sleeper(), Sleeper(automatic=False)
    silent.name = "silent"
    monkeypatch.setattr(type(reg), "parts", lambda self, point: {"sleeper": sleeper, "silent": silent, **parts})
    names = [h.name for h in chosen_heuristics("auto", reg)]
    assert names[0] == "forward" and "sleeper" in names and "silent" not in names
    assert chosen_heuristics("none", reg) == []
    assert chosen_heuristics((silent, "forward"), reg)[0] is silent


def test_an_unknown_heuristic_is_an_error():
    with pytest.raises(UnknownName, match="forward"):
        nn.maximize(net(), (-1, 1), heuristics="forwards")


def test_easy_problems_get_no_long_heuristics_and_hopeless_ones_nearly_all_time():
    easy = hopelessness(problem_of(net(), -np.ones(12), np.ones(12)))
    hard = hopelessness(problem_of(net(0, 200, 300, 3), -np.ones(200), np.ones(200)))
    assert easy == 0.0 and hard == 1.0
    options = Options(time_limit=10.0)
    clock = options.budget.start()
    assert effort(easy, options, clock, named=False, alone=False) is None
    assert effort(hard, options, clock, named=False, alone=False).seconds >= 8.5
    assert 0.9 <= effort(easy, options, clock, named=True, alone=False).seconds <= 1.0
    assert effort(easy, Options(), clock, named=False, alone=True).seconds is None


def test_what_stagnates_is_stopped():
    sleeper = Sleeper()
    began = time.perf_counter()
    result = nn.maximize(net(), (-1, 1), heuristics=("forward", sleeper), time_limit=60)
    assert result.status == "optimal" and sleeper.calls == 1
    assert time.perf_counter() - began < 15
    assert len(sleeper.known) == 1  # what the forward start has found


def test_a_leash_ends_a_clock():
    ended = False
    clock = Leash(10.0, ended=lambda: ended).start()
    assert not clock.expired and clock.remaining > 9
    ended = True
    assert clock.expired and clock.remaining == 0
    assert isinstance(Leash(1.0), Budget)


def test_a_heuristic_that_needs_what_the_solver_lacks():
    needy = Sleeper()
    needy.requires = Capability.RAY
    with pytest.raises(UnsupportedFeature, match=r"sleeper.*RAY"):
        nn.maximize(net(), (-1, 1), heuristics=(needy,))


# ---- without a solver ------------------------------------------------------------------------------


def test_no_solver_gives_a_point_and_a_bound():
    result = nn.maximize(net(), (-1, 1), backend="none", time_limit=5)
    exact = nn.maximize(net(), (-1, 1))
    assert result.status == "feasible" and result.certificate.ok
    assert result.objective <= exact.objective + 1e-6 and result.bound >= exact.objective - 1e-9
    assert result.gap is not None and "backend='none'" in result.message


def test_no_solver_and_no_time():
    result = nn.maximize(net(), (-1, 1), backend="none", time_limit=0)
    assert result.bound is not None


def test_auto_never_means_no_solver():
    assert "none" not in registry().parts("backend")


# ---- beside the solver -----------------------------------------------------------------------------


def solvers():
    known = registry().parts("backend")
    return [n for n in ("highs", "scip", "gurobi") if n in known and known[n].available()]


def big():
    return net(3, 12, 40, 2)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", solvers())
def test_points_found_beside_the_solver_reach_it(backend, threads):
    network = big()
    best = nn.maximize(network, (-1, 1), heuristics=("forward",), backend="none", time_limit=5)
    oracle = Oracle(best.x)
    start = np.zeros(12)
    result = nn.maximize(
        network, (-1, 1), heuristics=(oracle,), start=start, threads=threads, time_limit=8, backend=backend, gap=0.0,
    )  # fmt: skip
    assert oracle.calls >= 1
    assert result.objective >= best.objective - 1e-7 and result.certificate.ok
    assert result.bound >= result.objective - 1e-6


@pytest.mark.parametrize("threads", [1, 2])
def test_a_heuristic_that_fails_beside_the_solver_is_heard(threads):
    class Broken(Sleeper):
        def run(self, embedded, session, budget, rng):
            self.calls += 1
            if self.calls > 1:
                raise ZeroDivisionError("broken")
            yield from ()

    with pytest.raises(ZeroDivisionError):
        nn.maximize(big(), (-1, 1), heuristics=(Broken(),), threads=threads, time_limit=6, gap=0.0)


# ---- starts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", solvers())
def test_the_solver_starts_from_the_point_it_is_given(backend):
    network = random_network(4, inputs=9, width=6)
    x = np.random.default_rng(0).uniform(-1, 1, 9)
    result = nn.maximize(network, (-1, 1), start=x, backend=backend, heuristics="none")
    found = [h.objective for h in result.history if h.objective is not None]
    assert found[0] == pytest.approx(float(network(x)[0]), abs=1e-9)  # ours
    assert found[1] == pytest.approx(found[0], abs=1e-6)  # what the solver heard of first
    assert result.status == "optimal" and result.objective >= found[0] - 1e-9


def with_row(limit=1.0):
    model = ArrayModel(-np.ones(3), np.ones(3), integer=np.array([False, False, True]), maximize=True)
    embed(model, random_network(1, inputs=3), np.arange(3), name="net", attach=False)
    model.cost = np.r_[np.zeros(3), 1.0]
    model.add_rows(np.array([[1.0, 1.0, 1.0, 0.0]]), -np.inf, limit)
    return model


def test_a_start_that_breaks_a_row_is_moved():
    result = nn.solve(with_row(), start=np.array([1.0, 1.0, 1.0, 0.0]))
    assert result.history[0].source == "start" and result.history[0].objective is not None
    assert result.status == "optimal" and result.certificate.ok


def test_a_start_outside_its_bounds_or_not_whole_is_moved():
    result = nn.solve(with_row(), start=np.array([-3.0, 0.2, 0.4, 99.0]), time_limit=30)
    assert result.history[0].source == "start" and result.status == "optimal"


def test_a_start_that_cannot_be_moved_is_refused_with_its_row():
    network = random_network(1, inputs=2)
    best = nn.maximize(network, (-1, 1))
    model = ArrayModel(-np.ones(2), np.ones(2), maximize=True)
    embed(model, network, np.arange(2), name="net", attach=False)
    model.cost = np.r_[np.zeros(2), 1.0]
    # Only the very top of the network is allowed: no projection finds it from a far linear region.
    model.add_rows(np.array([[0.0, 0.0, 1.0]]), best.objective - 1e-4, np.inf)
    far = -best.x
    try:
        result = nn.solve(model, start=np.r_[far, 0.0])
    except InputError as error:
        assert "start=" in str(error) and "row" in str(error)
    else:  # the projection was lucky
        assert result.status == "optimal"


def test_a_start_of_an_infeasible_model_is_the_solvers_matter():
    assert nn.solve(with_row(-9.0), start=np.zeros(4)).status == "infeasible"


@pytest.mark.parametrize("start", ["best", np.zeros(7), object(), np.array([0.0, np.nan, 0.0, 0.0])])
def test_what_is_no_start_is_refused(start):
    with pytest.raises(InputError, match="start"):
        nn.solve(with_row(), start=start)


def test_starts_of_every_kind_lead_to_the_same_answer():
    first = nn.solve(with_row())
    for start in (None, "auto", first, first.point, first.point[:4]):
        again = nn.solve(with_row(), start=start)
        assert again.objective == pytest.approx(first.objective, abs=1e-6)


def test_a_start_makes_the_users_other_columns_count():
    model = ArrayModel(np.array([-1.0, -1.0, 0.0]), np.array([1.0, 1.0, 5.0]), maximize=True)
    embed(model, random_network(2), np.arange(2), name="net", attach=False)
    model.cost = np.array([0.0, 0.0, -1.0, 1.0])
    model.add_rows(np.array([[1.0, 1.0, 1.0, 0.0]]), 2.0, np.inf)  # the third column makes up for the inputs
    good = nn.solve(model, start=np.array([0.0, 0.0, 2.0, 0.0]))
    assert good.history[0].source == "start" and good.status == "optimal"
    moved = nn.solve(model, start=np.array([0.0, 0.0, 0.0, 0.0]))
    assert moved.history[0].source == "start" and moved.objective == pytest.approx(good.objective, abs=1e-6)


def test_without_rows_of_the_users_own_no_plan_is_computed(monkeypatch):
    import nnembed.engine.start as start

    class Nothing(Sleeper):
        name = "nothing"

        def run(self, embedded, session, budget, rng):
            return iter(())

    def fail(*_):
        raise AssertionError("a linear program of the whole model")

    monkeypatch.setattr(start, "first_plan", fail)
    box = (np.zeros(12), np.ones(12))
    result = nn.maximize(net(), box, heuristics=Nothing(), backend="none", time_limit=1, bounds="interval")
    assert result.x is not None and result.bound >= result.objective
