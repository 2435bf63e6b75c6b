"""What is SCIP's own: its options, its cuts, its conflicts; all else is in the conformance kit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from nnembed.errors import InputError, UnknownName
from nnembed.features import Capability, Feature
from nnembed.options import Options
from nnembed.testing.problems import INF, endless, hard, integral, make

from nnembed_scip import conflict, cutting, session


def run(session):
    return session.solve(lambda event: None, lambda: False)


def solve(backend, problem, **options):
    with backend.load(problem, Options(**options)) as session:
        return run(session)


def nothing(x):
    return sp.csr_array((0, len(x))), np.zeros(0), np.zeros(0)


def test_what_it_takes(backend):
    assert Feature.SOS1 in backend.accepts and Feature.NONCONVEX in backend.accepts
    assert not backend.accepts & (Feature.RELU | Feature.QUADRATIC_ROWS | Feature.COMPLEMENTARITY)
    assert Capability.CUTS in backend.capabilities and Capability.CONFLICT in backend.capabilities


def test_an_unknown_option_names_the_closest(backend):
    with pytest.raises(UnknownName, match="did you mean 'limits/gap'"):
        backend.load(hard().problem, Options(solver_options={"limit/gap": 1}))


@pytest.mark.parametrize("value", [-3.5, "many"])
def test_a_refused_value_names_the_option(backend, value):
    with pytest.raises(InputError, match="separating/maxrounds"):
        backend.load(hard().problem, Options(solver_options={"separating/maxrounds": value}))


def test_user_options_win(backend):
    found = solve(backend, endless(), gap=0.0, solver_options={"limits/nodes": 1}, time_limit=30)
    assert found.status == "feasible" and found.nodes <= 2


def test_our_cuts_do_not_bring_scips_own_back(backend, monkeypatch):
    """Where cuts are off by default, only the separator of the session works in the rounds it gets."""
    monkeypatch.setattr(session, "is_network", lambda problem: True)
    chosen = {"separating/clique/freq": 3, "separating/maxrounds": 2}
    with backend.load(integral()[3].problem, Options(solver_options=chosen)) as loaded:
        loaded.separate(nothing)
        loaded.separate(nothing)  # again: replaces the function, adds no second separator
        values = loaded._model.getParams()
    assert values["separating/maxroundsroot"] == cutting.ROOT_ROUNDS and values["separating/maxrounds"] == 2
    assert values["separating/clique/freq"] == 3 and values[f"separating/{cutting.NAME}/freq"] == cutting.EVERY
    assert values["separating/gomory/freq"] == values["constraints/knapsack/sepafreq"] == -1


def test_cuts_are_asked_for_at_most_twenty_times_at_the_root(backend):
    calls = []

    def cuts(x):
        calls.append(x)
        return nothing(x)

    options = {"limits/nodes": 1, "separating/maxroundsroot": -1}
    with backend.load(endless(40, 12), Options(gap=0.0, time_limit=5, solver_options=options)) as loaded:
        loaded.separate(cuts)
        run(loaded)
        first = len(calls)
        assert 1 <= first <= cutting.ROOT_ROUNDS
        run(loaded)
    assert len(calls) > first  # a new search begins to count anew


def test_bounds_that_cannot_be_left_out_in_time_count_as_needed(monkeypatch):
    """Without its bounds, 2 x + 2 y == 3 in integers goes on for ever."""
    monkeypatch.setattr(conflict, "_TRIAL", 0.0)
    problem = make([[2, 2]], [3], [3], [0, 0], [5, 5], [1, 1], [1, 1])
    found = conflict.find(problem, lambda: 10.0)
    assert found.rows.tolist() == [0] and set(found.columns.tolist()) <= {0, 1}
    assert conflict.find(problem, lambda: 0.0) is None


def test_rows_without_sides_keep_their_numbers(backend):
    problem = make([[1, 0], [1, 1], [1, 1]], [-INF, 3, -INF], [INF, INF, 2], [0, 0], [9, 9], [1, 1], [1, 1])
    with backend.load(problem, Options()) as loaded:
        assert run(loaded).status == "infeasible"
        assert loaded.conflict().rows.tolist() == [1, 2]
        loaded.add_rows(sp.csr_array(np.eye(2)[:1]), np.array([-INF]), np.array([-1.0]))
        loaded.set_bounds(np.array([1]), np.array([0.0]), np.array([0.0]))
        assert run(loaded).status == "infeasible"
        found = loaded.conflict()
    assert len(found.rows) and set(found.rows.tolist()) <= {1, 2, 3}
