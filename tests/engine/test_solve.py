"""Solving: statuses, limits, interrupts, starts, certificates, on raw arrays."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

import nnembed as nn
from nnembed.engine.recover import closed
from nnembed.testing import chain, enumerate_optimum, random_network

BOX = (-np.ones(2), np.ones(2))


@pytest.fixture
def net():
    return random_network(4, inputs=2, width=4)


def test_maximize_and_minimize_agree_with_enumeration(net):
    for solve, up in ((nn.maximize, True), (nn.minimize, False)):
        result = solve(net, BOX, gap=0.0)
        assert result.status == "optimal"
        assert result.objective == pytest.approx(enumerate_optimum(net, *BOX, np.ones(1), maximize=up), abs=1e-7)
        assert result.y == pytest.approx(net(result.x))
        assert result.certificate.ok and result.certificate.residual <= 1e-9
        assert result.gap == pytest.approx(0.0, abs=1e-6)
        assert result.seconds > 0 and set(result.phases) >= {"compile", "start", "hand-over", "solve", "certify"}


def test_constraints_on_inputs_and_outputs(net):
    rows = (np.array([[1.0, 1.0]]), -np.inf, 0.5)
    free = nn.maximize(net, BOX).objective
    result = nn.maximize(net, BOX, constraints=rows)
    assert result.x.sum() <= 0.5 + 1e-6
    assert result.objective <= free + 1e-9
    limited = nn.maximize(net, BOX, constraints=[rows, (np.array([[0.0, 0, 1]]), -np.inf, free - 0.3)])
    assert limited.objective == pytest.approx(min(free - 0.3, result.objective), abs=1e-6)


def test_scipy_constraints_are_understood(net):
    from scipy.optimize import LinearConstraint

    result = nn.maximize(net, BOX, constraints=LinearConstraint([[1, 0]], -np.inf, -0.5))
    assert result.x[0] <= -0.5 + 1e-6


def test_infeasible_names_the_network_or_the_rows(net):
    impossible = nn.maximize(net, BOX, constraints=(np.array([[0.0, 0, 1]]), 1e6, np.inf))
    assert impossible.status == "infeasible"
    assert impossible.x is None and impossible.certificate is None
    assert "'chain'" in impossible.message
    beyond = nn.maximize(net, BOX).objective + 1e-3
    refused = nn.maximize(net, BOX, constraints=(np.array([[0.0, 0, 1]]), beyond, np.inf))
    assert refused.status == "infeasible"
    assert "together with the network(s) 'chain'" in refused.message
    own = nn.maximize(net, BOX, constraints=(np.array([[1.0, 1.0]]), 5.0, np.inf))
    assert "own rows have no solution" in own.message


def test_infeasible_names_the_rows_that_stand_in_the_way(net):
    import pandas as pd

    best = nn.maximize(net, BOX, gap=1e-7).objective
    m = nn.Model()
    x = m.add_variables(-1, 1, coords=[pd.RangeIndex(2, name="f")], name="price")
    y = m.embed(net, x, name="demand")
    m.add_constraints(x.sum("f") <= 5, name="harmless")
    m.add_constraints(y.sum() >= best + 2, name="target")
    m.add_objective(x.sum(), sense="min")
    result = m.solve()
    assert result.status == "infeasible"
    assert "relax target by 2" in result.message and "harmless" not in result.message
    m.remove_constraints("target")
    y.lower.values[:] = best + 1
    limited = m.solve()
    assert limited.status == "infeasible"
    assert "relax the bound on demand by 1" in limited.message


def test_unbounded_host(net):
    model = nn.ArrayModel([-1, -1, 0], [1, 1, np.inf], cost=[0, 0, 1.0], maximize=True)
    nn.embed(model, net, np.arange(2))
    result = nn.solve(model)
    assert result.status == "unbounded"
    assert "needs a bound" in result.message and "'chain'" in result.message


def test_zero_time_limit_returns_what_is_known(net):
    result = nn.maximize(net, BOX, time_limit=0)
    assert result.status in ("time_limit", "feasible")
    assert result.bound >= nn.maximize(net, BOX).objective - 1e-9
    if result.x is not None:
        assert result.certificate.ok


def test_time_limit_keeps_the_start():
    net = chain([(40, "relu"), (40, "relu"), (1, "none")], 8, np.random.default_rng(0))
    result = nn.maximize(net, (-np.ones(8), np.ones(8)), time_limit=1.0)
    assert result.status == "feasible"
    assert result.seconds < 5
    assert result.certificate.ok
    assert result.bound >= result.objective
    assert result.history and result.history[0].source == "forward"


def test_ctrl_c_returns_the_best_known_answer():
    net = chain([(60, "relu"), (60, "relu"), (1, "none")], 10, np.random.default_rng(0))
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.perf_counter()
    result = nn.maximize(net, (-np.ones(10), np.ones(10)), time_limit=60)
    assert time.perf_counter() - started < 20
    assert result.status == "interrupted"
    assert result.objective is not None and result.certificate.ok
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it(net):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        assert nn.maximize(net, BOX).status == "optimal"
        timer.join()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_solving_in_a_thread_works(net):
    results = []
    worker = threading.Thread(target=lambda: results.append(nn.maximize(net, BOX)))
    worker.start()
    worker.join()
    assert results[0].status == "optimal"


def test_thread_counts_may_change_within_a_process(net):
    values = [nn.maximize(net, BOX, threads=t).objective for t in (1, 2, 1)]
    assert values == pytest.approx([values[0]] * 3, abs=1e-4)


def test_start_from_a_point_and_from_a_result(net):
    best = nn.maximize(net, BOX)
    again = nn.maximize(net, BOX, start=best.x, time_limit=30)
    assert again.objective == pytest.approx(best.objective, abs=1e-6)
    third = nn.maximize(net, BOX, start=best)
    assert third.objective == pytest.approx(best.objective, abs=1e-6)
    with pytest.raises(nn.InputError, match="start"):
        nn.maximize(net, BOX, start=np.zeros((3, 2)))


def test_same_seed_same_answer(net):
    one, two = (nn.maximize(net, BOX, seed=3) for _ in range(2))
    assert np.array_equal(one.x, two.x) and one.objective == two.objective and one.nodes == two.nodes


def test_heuristics_off_and_by_name(net):
    values = {h: nn.maximize(net, BOX, heuristics=h).objective for h in ("none", "auto", "forward")}
    assert max(values.values()) - min(values.values()) < 1e-4
    with pytest.raises(nn.UnknownName, match="heuristic"):
        nn.maximize(net, BOX, heuristics="frwd")


def test_solver_options_are_passed_and_checked(net):
    assert nn.maximize(net, BOX, solver_options={"presolve": "off"}).status == "optimal"
    with pytest.raises(nn.UnknownName, match="did you mean 'presolve'"):
        nn.maximize(net, BOX, solver_options={"presolv": "off"})


def test_bad_arguments_say_cause_and_cure(net):
    wide = chain([(3, "relu"), (2, "none")], 2, np.random.default_rng(0))
    cases = [
        (lambda: nn.maximize(wide, BOX), "objective=weights"),
        (lambda: nn.maximize(wide, BOX, objective=[1.0]), "do not fit"),
        (lambda: nn.maximize(wide, BOX, objective={"z": [1.0]}), "unknown output 'z'"),
        (lambda: nn.maximize(wide, BOX, objective=[np.nan, 1]), "not finite"),
        (lambda: nn.maximize(net, BOX, time_limit=-1), "time_limit"),
        (lambda: nn.maximize(net, BOX, gap=-1), "gap"),
        (lambda: nn.maximize(net, BOX, threads=0), "threads"),
        (lambda: nn.maximize(net, BOX, constraints=(np.ones((1, 5)), 0, 1)), "5 columns"),
        (lambda: nn.maximize(net, BOX, formulation="two_rows"), "did you mean 'two_row'"),
        (lambda: nn.maximize(net, BOX, formulation={"relu_9": "slack"}), "unknown layer 'relu_9'"),
        (lambda: nn.maximize(net, (-np.inf, 1.0)), "infinite"),
        (lambda: nn.solve(object()), "no host for a model of type builtins.object"),
        (lambda: nn.embed(nn.ArrayModel([0.0], [1.0]), "net.onnx", [0]), "nnembed.load"),
    ]
    for call, words in cases:
        with pytest.raises(nn.NnembedError, match=words.replace("[", r"\[").replace("(", r"\(")):
            call()


def test_relaxation_gives_a_bound_and_says_so(net):
    result = nn.maximize(net, BOX, formulation="triangle")
    assert result.bound >= nn.maximize(net, BOX).objective - 1e-9
    assert "relaxation" in result.message


def test_bounds_may_be_passed_and_are_checked(net):
    bounds = nn.tighten(net, BOX)
    assert nn.maximize(net, BOX, bounds=bounds).status == "optimal"
    with pytest.raises(nn.BoxError, match="may leave their box"):
        nn.maximize(net, (-2 * np.ones(2), np.ones(2)), bounds=bounds)
    with pytest.raises(nn.InputError, match="another network"):
        nn.maximize(random_network(5), BOX, bounds=bounds)


def test_a_widened_box_is_noticed(net):
    model = nn.ArrayModel(*BOX, maximize=True)
    embedding = nn.embed(model, net, np.arange(2), attach=False)
    model.cost[embedding.outputs] = 1.0
    small = nn.solve(model)
    model.lower[:2], model.upper[:2] = -3.0, 3.0
    assert embedding.is_stale()
    wide = nn.solve(model)
    assert wide.objective == pytest.approx(nn.maximize(net, (-3.0, 3.0)).objective, rel=1e-3)
    assert wide.objective >= small.objective
    attached_model = nn.ArrayModel(*BOX, maximize=True)
    nn.embed(attached_model, net, np.arange(2), attach=True)
    attached_model.upper[:2] = 3.0
    with pytest.raises(nn.InputError, match="widened after it was attached"):
        nn.solve(attached_model)


def test_several_inputs_and_outputs_by_name():
    from nnembed.ir.linear import Dense
    from nnembed.ir.network import Network, TensorSpec
    from nnembed.ir.nodes import Affine, relu

    rng = np.random.default_rng(0)
    t = {n: TensorSpec(n, (k,)) for n, k in {"a": 2, "b": 3, "p": 4, "r": 4, "u": 1, "v": 2}.items()}
    nodes = (
        Affine("in", ("a", "b"), "p", (Dense(rng.normal(size=(4, 2))), Dense(rng.normal(size=(4, 3)))), np.zeros(4)),
        relu("relu", "p", "r", 4),
        Affine("u", ("r",), "u", (Dense(rng.normal(size=(1, 4))),), np.zeros(1)),
        Affine("v", ("r", "b"), "v", (Dense(rng.normal(size=(2, 4))), Dense(rng.normal(size=(2, 3)))), np.ones(2)),
    )
    net = Network((t["a"], t["b"]), (t["u"], t["v"]), nodes, t, name="two")
    box = ({"a": -1.0 * np.ones(2), "b": np.zeros(3)}, {"a": 1.0, "b": np.ones(3)})
    result = nn.maximize(net, box, objective={"u": [1.0], "v": [0.0, -2.0]})
    assert set(result.x) == {"a", "b"} and set(result.y) == {"u", "v"}
    assert result.objective == pytest.approx(result.y["u"][0] - 2 * result.y["v"][1], abs=1e-6)
    points = {k: np.random.default_rng(1).uniform(box[0][k], box[1][k], (3000, t[k].size)) for k in ("a", "b")}
    values = net(points)
    assert result.bound >= (values["u"][:, 0] - 2 * values["v"][:, 1]).max()


def test_bounds_are_part_of_the_time_limit(net):
    from nnembed.bounds import Crown

    class Noting(Crown):
        name = "noting"

        def tighten(self, network, bounds, budget):
            given.append(budget.seconds)
            time.sleep(0.05)
            return super().tighten(network, bounds, budget)

    given = []
    result = nn.maximize(net, BOX, bounds=Noting(), time_limit=8)
    assert given[0] <= 4
    assert result.phases["embed"] >= 0.05 and result.seconds >= result.phases["embed"]
    nn.maximize(net, BOX, bounds=Noting())
    assert given[1] is None


def test_next_to_an_optimum_of_zero_a_relative_gap_means_nothing():
    assert closed(1.03e-9, 0.0, 1e-6) and closed(0.0, -1e-9, 1e-6) and closed(1.0, None, 0.0)
    assert not closed(1e-3, 0.0, 1e-6) and not closed(1e-7, 0.0, 1e-2) and closed(1.005, 1.0, 1e-2)
