"""The frame of the kit: which checks run, skips, expected failures, and the kit's own solver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnembed.errors import InputError, UnknownName
from nnembed.features import Availability, Feature
from nnembed.formulations.bigm import Slack, TwoRow
from nnembed.testing import (
    Config,
    assert_block_equal,
    block_optimum,
    checks_for,
    parametrize_with_checks,
    reference_networks,
    run_checks,
)
from nnembed.testing.blocks import optimum_point, violation
from nnembed.testing.formulations import cases, emitted, output_cost
from nnembed.testing.kit import SUITES, checks_of
from nnembed.testing.problems import by_feature, edges, hard, hopeless, integral, linear, make


class Absent:
    name, summary, accepts, capabilities = "absent", "a solver that is not here", Feature.LINEAR, None

    def available(self):
        return Availability.NOT_FOUND

    def load(self, problem, options): ...


def marked(mark):
    """What a mark would run: id -> (check, marks)."""
    names, cases = mark.args
    assert names == ("subject", "check")
    return {case.id: (case.values, case.marks) for case in cases}


def test_every_check_says_since_when_and_what():
    for point in SUITES:
        checks = checks_of(point)
        assert checks, point
        for check in checks:
            assert check.since == "0.1"
            assert check.__doc__.startswith("Check: ")


def test_upto_pins_the_suite():
    assert checks_for(TwoRow(), upto="0.0") == []
    assert checks_for(TwoRow(), upto="0.1") == checks_for(TwoRow(), upto="1.0") == checks_for(TwoRow())
    with pytest.raises(InputError, match="upto='soon'"):
        checks_for(TwoRow(), upto="soon")


def test_one_case_per_part_and_check():
    cases = marked(parametrize_with_checks([TwoRow(), Slack()]))
    assert len(cases) == 2 * len(checks_for(TwoRow()))
    assert "slack-check_fixed_inputs" in cases


def test_expected_failures_are_strict_and_known():
    cases = marked(parametrize_with_checks([TwoRow(), Slack()], expected_failures={"slack/check_column_names": "why"}))
    marks = cases["slack-check_column_names"][1]
    assert [(m.name, m.kwargs) for m in marks] == [("xfail", {"reason": "why", "strict": True})]
    assert not cases["two_row-check_column_names"][1]
    with pytest.raises(UnknownName, match="did you mean 'check_column_names'"):
        parametrize_with_checks([TwoRow()], expected_failures={"check_column_name": "typo"})


def test_what_does_not_apply_is_skipped_with_its_reason():
    (subject, check), _ = marked(parametrize_with_checks([Absent()]))["absent-check_linear_problems"]
    with pytest.raises(pytest.skip.Exception, match="package not installed"):
        check(subject)
    outcomes = {o.check: o for o in run_checks(Absent())}
    assert outcomes["check_linear_problems"].status == "skipped"
    assert outcomes["check_backend_declares"].status == "failed"  # None is no Capability


def test_what_is_no_part_is_refused():
    with pytest.raises(InputError, match="no part of any extension point"):
        checks_for(object())


def test_tolerances_grow_with_the_value():
    assert Config(atol=1e-6, rtol=1e-3).close(-10.0) == pytest.approx(0.010001)


# ---- the kit's own solver ---------------------------------------------------------------------------


@pytest.mark.parametrize("known", [*linear(), *edges(), *hopeless(), *integral(), hard(30)], ids=lambda k: k.name)
def test_known_answers(known):
    problem = known.problem
    if problem.n_columns == 0:
        return
    value, x = optimum_point(problem, problem.cost, maximize=problem.maximize)
    if known.status == "infeasible":
        assert value is None
    elif known.status == "unbounded":
        assert value == (np.inf if problem.maximize else -np.inf)
    else:
        assert value + problem.offset == pytest.approx(known.objective, abs=1e-6)
        assert violation(problem, x)[0] <= 1e-6


@pytest.mark.parametrize("feature", ["SOS1", "INDICATOR", "COMPLEMENTARITY", "RELU"])
@pytest.mark.parametrize("bounded", [True, False])
def test_conditions_are_searched_where_bounds_are_missing(feature, bounded):
    for known in by_feature()[feature]:
        problem = known.problem
        if not bounded:  # the same bounds as rows, so that there is no constant to take
            n = problem.n_columns
            free = ~problem.integer
            rows = np.vstack([problem.matrix.toarray(), np.eye(n)])
            low, high = np.r_[problem.row_lower, problem.lower], np.r_[problem.row_upper, problem.upper]
            problem = replace(
                make(rows, low, high, problem.lower, problem.upper, problem.cost),
                integer=problem.integer,
                lower=np.where(free, -np.inf, problem.lower),
                upper=np.where(free, np.inf, problem.upper),
                sos1=problem.sos1,
                indicators=problem.indicators,
                complementarities=problem.complementarities,
                relus=problem.relus,
                maximize=problem.maximize,
            )
        value = block_optimum(problem, problem.cost, maximize=problem.maximize)
        if known.objective is None:
            assert value is None, known.name
        else:
            assert value == pytest.approx(known.objective, abs=1e-6), known.name


def test_equal_blocks_and_different_ones():
    this = cases(TwoRow())[0]
    first, second = emitted(TwoRow(), this), emitted(TwoRow(), this)
    assert_block_equal(first, second)
    with pytest.raises(AssertionError, match="upper at"):
        assert_block_equal(first, replace(second, upper=second.upper + 1e-3))
    assert_block_equal(first, replace(second, upper=second.upper + 1e-3), atol=1e-2)
    with pytest.raises(AssertionError, match="n_columns"):
        assert_block_equal(first, emitted(Slack(), this))


def test_reference_networks_cover_every_kind():
    kinds = {type(node).__name__ for net in reference_networks().values() for node in net.activations}
    assert kinds == {"Relu", "LeakyRelu", "Abs", "Clip", "Step", "Round", "Max", "Winner"}
    block = emitted(TwoRow(), cases(TwoRow())[0])
    assert output_cost(block, np.ones(2)).sum() == 2
