"""What is Gurobi's own: its options, general constraints and licence; all else is in the conformance kit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from nnembed.errors import InputError, UnknownName
from nnembed.features import Capability, Feature
from nnembed.options import Options
from nnembed.testing.problems import INF, by_feature, endless, hard, make


def run(session):
    return session.solve(lambda event: None, lambda: False)


def solve(backend, problem, **options):
    with backend.load(problem, Options(**options)) as session:
        return run(session)


def test_what_it_takes(backend):
    assert Feature.RELU in backend.accepts and Feature.NONCONVEX in backend.accepts
    assert not backend.accepts & (Feature.QUADRATIC_ROWS | Feature.COMPLEMENTARITY)
    assert Capability.CUTS in backend.capabilities and Capability.CONFLICT in backend.capabilities


def test_an_unknown_option_names_the_closest(backend):
    with pytest.raises(UnknownName, match="did you mean 'MIPGap'"):
        backend.load(hard().problem, Options(solver_options={"MIPGaps": 1}))


@pytest.mark.parametrize("value", [-3.5, "many"])
def test_a_refused_value_names_the_option(backend, value):
    with pytest.raises(InputError, match="Cuts"):
        backend.load(hard().problem, Options(solver_options={"Cuts": value}))


def test_user_options_win(backend):
    found = solve(backend, endless(), gap=0.0, solver_options={"NodeLimit": 1}, time_limit=30)
    assert found.status == "feasible" and found.nodes <= 2


def test_relu_rows_are_general_constraints(backend):
    for known in by_feature()["RELU"]:
        with backend.load(known.problem, Options()) as session:
            assert session._model.NumGenConstrs == 1 and not session._model.NumSOS
            found = run(session)
        assert (found.status, found.objective) == (known.status, pytest.approx(known.objective))
        assert found.duals is None


def test_a_row_of_two_sides_is_one_row_of_a_conflict(backend):
    problem = make([[1, 1], [1, 1]], [1, 5], [2, 6], [-INF] * 2, [INF] * 2, [0, 0])
    with backend.load(problem, Options()) as session:
        assert run(session).status == "infeasible"
        session.add_rows(sp.csr_array(np.eye(2)[:1]), np.array([-INF]), np.array([9.0]))
        assert run(session).status == "infeasible"
        found = session.conflict()
    assert found.rows.tolist() == [0, 1] and not len(found.columns)


def test_cuts_are_asked_for_in_the_tree_now_and_then(backend):
    """At the root at most 20 times, then once in 20 nodes."""
    problem, seen = endless(40, 12), []

    def cuts(x):
        seen.append(len(x))
        return sp.csr_array((0, problem.n_columns)), np.zeros(0), np.zeros(0)

    with backend.load(problem, Options(gap=0.0, time_limit=1.5)) as session:
        session.separate(cuts)
        found = run(session)
    assert set(seen) == {problem.n_columns}
    assert len(seen) <= 20 + max(found.nodes, 0) / 20 + 1
