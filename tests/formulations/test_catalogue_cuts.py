"""Cuts in a solve: rounds before the search, cuts during it, limits, several networks, attached ones."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.embedding import embeddings_of
from nnembed.engine.cuts import cuts_of, strengthened
from nnembed.engine.solve import Run
from nnembed.features import Capability
from nnembed.formulations.hull import Hull
from nnembed.formulations.ideal import Ideal
from nnembed.hooks.manager import registry
from nnembed.options import Budget, Options
from nnembed.testing import chain, enumerate_optimum


def small(seed=0, width=5):
    return chain([(width, "relu"), (width, "relu"), (1, "none")], 3, np.random.default_rng(seed))


BOX = (-np.ones(3), np.ones(3))


def problem_of(part, seed=0):
    model = nn.ArrayModel(*BOX, maximize=True)
    nn.embed(model, small(seed), np.arange(3), formulation=part, bounds="interval", attach=False)
    model.cost = np.concatenate([np.zeros(3), np.ones(1)])
    return Run(model, Options())._problem()[0]


class Cold(Highs):
    """HiGHS without hot starts of LPs."""

    name = "cold"
    capabilities = Highs.capabilities & ~Capability.HOT_LP


class Asking(Highs):
    """HiGHS that says it takes cuts, and remembers what it was offered."""

    name = "asking"
    capabilities = Highs.capabilities | Capability.CUTS

    def __init__(self):
        self.offered = []

    def load(self, problem, options):
        session = super().load(problem, options)
        session.separate = self.offered.append
        return session


def never():
    return False


@pytest.mark.parametrize("part", [Ideal(8), Hull(8)])
def test_rounds_tighten_the_relaxation_and_cold_ones_do_the_same(part):
    problem, clock = problem_of(part), Budget().start()
    hot = strengthened(problem, Highs(), Options(), clock, never)
    cold = strengthened(problem, Cold(), Options(), clock, never)
    assert hot.n_rows > problem.n_rows
    assert hot.row_groups[-1] == ("cuts", problem.n_rows, hot.n_rows)
    assert hot.placements is problem.placements
    values = []
    for p in (problem, hot, cold):
        with Highs().load(replace(p, integer=np.zeros(p.n_columns, dtype=bool)), Options()) as session:
            values.append(session.solve(lambda event: None, never).objective)
    assert values[1] < values[0] - 1e-3
    assert values[2] == pytest.approx(values[1], abs=1e-4)


def test_nothing_happens_without_separators_rounds_or_time():
    clock = Budget().start()
    for part in ("two_row", Ideal(0)):
        problem = problem_of(part)
        assert strengthened(problem, Highs(), Options(), clock, never) is problem
    problem = problem_of(Ideal(3))
    assert strengthened(problem, Highs(), Options(time_limit=0.0), Budget(0.0).start(), never) is problem
    assert strengthened(problem, Highs(), Options(), clock, lambda: True) is problem
    assert strengthened(problem, Asking(), Options(), clock, never) is problem


def test_a_solver_that_asks_is_given_the_separators_once():
    asking = Asking()
    result = nn.maximize(small(0, 3), BOX, formulation="ideal", backend=asking, gap=0.0)
    assert len(asking.offered) == 1
    cuts = asking.offered[0]
    rows, lower, upper = cuts(np.zeros(cuts.width))
    assert rows.shape == (len(upper), cuts.width) and len(lower) == len(upper)
    assert result.objective == pytest.approx(enumerate_optimum(small(0, 3), *BOX, np.ones(1)), abs=1e-6)


def test_a_problem_without_integers_has_rounds_even_where_the_solver_takes_cuts():
    asking = Asking()
    result = nn.maximize(small(), BOX, formulation="hull", backend=asking, bounds="interval")
    assert not asking.offered
    assert result.bound < nn.maximize(small(), BOX, formulation="triangle", bounds="interval").bound - 1e-3


def test_time_limit_of_zero_returns_at_once():
    assert nn.maximize(small(), BOX, formulation=Ideal(5), time_limit=0, heuristics="none").status == "time_limit"


@pytest.mark.parametrize("attach", [True, False])
def test_two_networks_and_a_shared_input(attach):
    values = []
    for part in ("two_row", Ideal(5)):
        model = nn.ArrayModel(*BOX, maximize=True)
        nn.embed(model, small(1), np.array([0, 1, 1]), formulation=part, attach=attach, name="first", bounds="interval")
        nn.embed(
            model, small(2), np.array([2, 0, 1]), formulation=part, attach=attach, name="second", bounds="interval"
        )
        cost = np.zeros(model.n_columns)
        for labels, weight in zip(_labels(model), (1.0, -0.5), strict=True):
            cost[labels] = weight
        model.cost = cost
        result = nn.solve(model, gap=0.0)
        assert result.certificate.ok
        values.append(result.objective)
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def _labels(model):
    return [e.attached.output_labels for e in embeddings_of(model).values()]


@pytest.mark.parametrize("name", ["gurobi", "scip"])
@pytest.mark.parametrize("part", ["ideal", "onehot", "hull"])
def test_other_solvers_agree(name, part):
    backend = registry().parts("backend").get(name)
    if backend is None or not backend.available():
        pytest.skip(f"{name} is not there")
    want = nn.maximize(small(3), BOX, formulation=part, gap=0.0, bounds="interval")
    found = nn.maximize(small(3), BOX, formulation=part, gap=0.0, bounds="interval", backend=name)
    if part != "hull":
        assert found.objective == pytest.approx(want.objective, abs=1e-5)
    assert found.bound == pytest.approx(want.bound, abs=1e-3)


def test_cuts_of_a_problem_travel():
    cuts = cuts_of(problem_of("ideal"))
    again = pickle.loads(pickle.dumps(cuts))
    x = np.full(cuts.width, 0.4)
    assert (abs(cuts(x)[0] - again(x)[0])).nnz == 0
