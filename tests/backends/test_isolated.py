"""A solver in a process of its own: the same answers, and what is known when the process is lost."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nnembed as nn
from nnembed.backends.highs import Highs
from nnembed.backends.isolated import Isolated
from nnembed.errors import InputError, UnknownName
from nnembed.events import Incumbent
from nnembed.options import Options
from nnembed.testing import parametrize_with_checks, random_network
from nnembed.testing.backends import never, run, solved
from nnembed.testing.problems import edges, endless, hopeless, integral, linear

SHARED = Isolated(Highs())  # one process for all checks
KNOWN = integral()[3]
BOX = (-np.ones(2), np.ones(2))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import isolated_fakes

    return isolated_fakes


@pytest.fixture
def net():
    return random_network(4, inputs=2, width=4)


def children():
    """Return the ids of this process's children."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


@parametrize_with_checks([SHARED])
def test_conformance(subject, check):
    check(subject)


@pytest.mark.parametrize("known", [*linear(), *integral(), *edges(), *hopeless()], ids=lambda k: k.name)
def test_the_same_as_without(known):
    ours, plain = (solved(b, known.problem) for b in (SHARED, Highs()))
    assert (ours.status, ours.objective, ours.bound, ours.nodes) == (
        plain.status,
        plain.objective,
        plain.bound,
        plain.nodes,
    )
    for name in ("x", "duals"):
        a, b = getattr(ours, name), getattr(plain, name)
        assert (a is None) == (b is None) and (a is None or np.array_equal(a, b))


def test_events_carry_points():
    heard = []
    found = solved(SHARED, KNOWN.problem, heard)
    points = [e for e in heard if isinstance(e, Incumbent) and e.x is not None]
    assert points
    for event in points:
        assert KNOWN.problem.objective(event.x) == pytest.approx(event.objective)
    assert points[-1].objective == pytest.approx(found.objective)


ENDINGS = [
    ("kill", "signal 9 (SIGKILL), probably out of memory"),
    ("crash", "signal 11 (SIGSEGV)"),
    ("leave", "exit code 3"),
    ("chatter", "exit code 5"),
    ("blunder", "failed with ZeroDivisionError: a slip of the solver"),
    ("give_up", "failed with SolverError: numbers beyond everything"),
]


@pytest.mark.parametrize(("end", "words"), ENDINGS, ids=[e for e, _ in ENDINGS])
def test_a_lost_process_leaves_what_it_told(fakes, end, words):
    heard = []
    with Isolated(fakes.Doomed(end)).load(KNOWN.problem, Options(gap=0.0)) as session:
        found = run(session, heard)
    assert found.status == "error"
    assert words in found.message and "doomed" in found.message and "backend=" in found.message
    assert found.objective == pytest.approx(KNOWN.objective)
    assert KNOWN.problem.objective(found.x) == pytest.approx(KNOWN.objective)
    sign = -1.0 if KNOWN.problem.maximize else 1.0
    assert found.bound == pytest.approx(KNOWN.objective - sign * 0.5)
    assert any(isinstance(e, Incumbent) for e in heard)


def test_an_objective_without_its_point_is_mentioned(fakes):
    found = solved(Isolated(fakes.Doomed("kill", point=False)), KNOWN.problem)
    assert found.x is None and found.objective is None and found.bound is not None
    assert f"a point of objective {KNOWN.objective:.9g}" in found.message


@pytest.mark.parametrize("end", ["kill", "blunder", "leave"])
def test_a_process_lost_while_loading(fakes, end):
    backend = Isolated(fakes.Doomed(end, load=True))
    with backend.load(KNOWN.problem, Options()) as session:
        found = run(session)
        assert found.status == "error" and found.x is None and found.message
        assert run(session).status == "error"
    assert solved(backend, linear()[0].problem).status == "optimal"


def test_a_solver_that_ignores_its_limit_is_killed(fakes):
    began = time.perf_counter()
    with Isolated(fakes.Doomed("sleep"), grace=0.5).load(KNOWN.problem, Options(time_limit=1.0)) as session:
        found = run(session)
    assert time.perf_counter() - began < 4
    assert found.status == "error" and "beyond its time limit" in found.message
    assert found.objective == pytest.approx(KNOWN.objective) and found.bound is not None


def test_a_solver_that_ignores_a_stop_is_killed(fakes):
    with Isolated(fakes.Doomed("sleep"), grace=0.3).load(KNOWN.problem, Options()) as session:
        began = time.perf_counter()
        found = run(session, None, lambda: time.perf_counter() - began > 0.3)
    assert time.perf_counter() - began < 3
    assert found.status == "interrupted" and "asked" in found.message
    assert found.x is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux")
def test_memory_has_a_limit(fakes):
    backend = Isolated(fakes.Doomed("allocate"), memory=3e9)
    with backend.load(KNOWN.problem, Options(gap=0.0)) as session:
        found = run(session)
    assert found.status == "error" and "memory" in found.message
    assert found.objective == pytest.approx(KNOWN.objective)
    assert solved(Isolated(Highs(), memory=3e9), KNOWN.problem).status == "optimal"


def test_a_session_goes_on_with_a_new_process_and_the_changed_problem(fakes):
    backend = Isolated(Highs())
    problem = KNOWN.problem
    with backend.load(problem, Options(gap=0.0)) as session:
        session.set_start(np.arange(2), np.zeros(2))
        upper = np.minimum(problem.upper, problem.lower + 1)
        session.set_bounds(np.arange(problem.n_columns), problem.lower, upper)
        session.set_cost(np.array([0]), np.array([0.25]))
        session.add_rows(problem.matrix[:1], np.full(1, -np.inf), problem.row_upper[:1] - 0.5)
        cost = problem.cost.copy()
        cost[0] = 0.25
        rows = np.vstack([problem.matrix.toarray(), problem.matrix.toarray()[:1]])
        changed = replace(
            problem,
            matrix=type(problem.matrix)(rows),
            row_lower=np.append(problem.row_lower, -np.inf),
            row_upper=np.append(problem.row_upper, problem.row_upper[0] - 0.5),
            upper=upper,
            cost=cost,
        )
        expected = solved(Highs(), changed)
        assert run(session).objective == pytest.approx(expected.objective)
        os.kill(session._process._popen.pid, signal.SIGKILL)  # while it is idle
        time.sleep(0.1)
        session.set_cost(np.array([0]), np.array([0.25]))  # notices, and is no error
        again = run(session)
        assert (again.status, again.objective) == (expected.status, pytest.approx(expected.objective))


def test_an_idle_process_that_died_is_replaced():
    backend = Isolated(Highs())
    assert solved(backend, KNOWN.problem).status == "optimal"
    os.kill(backend._idle[0]._popen.pid, signal.SIGKILL)
    assert solved(backend, KNOWN.problem).status == "optimal"
    assert len(backend._idle) == 1


def test_errors_of_nnembed_come_through(fakes):
    with pytest.raises(InputError, match="prime number"):
        solved(Isolated(fakes.Doomed("refuse")), KNOWN.problem)
    with pytest.raises(UnknownName, match="no_such_option"):
        solved(SHARED, KNOWN.problem, solver_options={"no_such_option": 1})
    assert solved(SHARED, KNOWN.problem).status == "optimal"


def test_what_cannot_travel_is_refused(fakes, monkeypatch):
    with pytest.raises(InputError, match=r"cannot be sent to a process of its own.*isolated=False"):
        solved(Isolated(fakes.Mute()), KNOWN.problem)
    with pytest.raises(InputError, match="cannot be sent"):
        solved(SHARED, KNOWN.problem, solver_options={"threads": lambda: 1})
    backend = Isolated(fakes.Doomed("kill"))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p) != Path(__file__).parent])
    with pytest.raises(InputError, match="module that can be imported"):
        solved(backend, KNOWN.problem)


def test_prints_do_not_get_between_the_messages(fakes, capfd):
    assert solved(Isolated(fakes.Talkative()), KNOWN.problem).status == "optimal"
    out, err = capfd.readouterr()
    assert out == "" and "still here" in err


def test_an_observer_that_raises_ends_the_process():
    backend = Isolated(Highs())

    def on_event(event):
        raise ValueError("observer")

    with backend.load(endless(), Options(time_limit=20.0)) as session:
        with pytest.raises(ValueError, match="observer"):
            session.solve(on_event, never)
        assert session._process is None
    assert solved(backend, KNOWN.problem).status == "optimal"


def test_pickled_it_is_the_same():
    twin = pickle.loads(pickle.dumps(Isolated(Highs(), grace=3.0, memory=4e9)))
    assert (twin.name, twin.grace, twin.memory) == ("highs", 3.0, 4e9)


# ---- nn.solve --------------------------------------------------------------------------------------


def test_solve_in_a_process_of_its_own(net):
    plain, apart = (
        nn.maximize(net, BOX, gap=0.0, isolated=isolated, formulation="two_row") for isolated in (False, True)
    )
    assert apart.status == "optimal" and apart.certificate.ok
    assert apart.objective == plain.objective and apart.bound == plain.bound
    assert np.array_equal(apart.x, plain.x)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are listed on Linux")
def test_no_process_is_left(net):
    before = set(children())
    nn.maximize(net, BOX, isolated=True, formulation="two_row")
    assert set(children()) <= before


@pytest.mark.parametrize("end", ["kill", "crash", "leave", "blunder"])
@pytest.mark.parametrize("heuristics", ["auto", "none"])
def test_solve_survives(fakes, net, end, heuristics):
    best = nn.maximize(net, BOX, gap=0.0).objective
    chosen = {"heuristics": heuristics, "formulation": "two_row"}  # a formulation, so that the solver is needed
    result = nn.maximize(net, BOX, backend=fakes.Doomed(end), isolated=True, **chosen)
    assert result.status == "error"
    assert "the process of solver 'doomed'" in result.message
    assert result.objective == pytest.approx(best) and result.certificate.ok
    assert best - 1e-6 <= result.bound <= best + 0.5 + 1e-6  # what the solver told, or better: nnembed has bounds too
    assert [h for h in result.history if h.bound is not None]
    assert net(result.x) == pytest.approx(result.y)


def test_solve_survives_a_solver_that_always_dies(fakes, net):
    model = nn.Model()
    x = model.add_variables(-1, 1, coords=[range(2)], name="x")
    y = model.embed(net, x, name="demand")
    model.add_constraints(x.sum() <= 0.5)
    model.add_objective(y.sum(), sense="max")
    for load in (False, True):
        solver = fakes.Doomed("kill", load=load, always=True)
        result = model.solve(backend=solver, isolated=True, formulation="slack")
        assert result.status == "error" and "signal 9" in result.message
        assert result.bound is not None
        assert result.certificate is None or result.certificate.ok
    model.add_objective((x.isel(dim_0=0) * y.sum()), sense="max", overwrite=True)  # products are many small problems
    result = model.solve(backend=fakes.Doomed("kill", always=True), isolated=True, formulation="slack", time_limit=20)
    assert result.status in ("error", "feasible", "time_limit", "optimal")
    assert result.certificate is None or result.certificate.ok


def test_without_isolation_the_same_solver_raises(fakes, net):
    with pytest.raises(ZeroDivisionError):
        nn.maximize(net, BOX, backend=fakes.Doomed("blunder"), formulation="slack")


def test_ctrl_c_reaches_the_solver():
    net = random_network(3, inputs=8, width=40)
    box = (-np.ones(8), np.ones(8))
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(2.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        began = time.perf_counter()
        result = nn.maximize(net, box, isolated=True, time_limit=60.0, gap=0.0, formulation="slack")
        seconds = time.perf_counter() - began
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, previous)
    if seconds > 2.4:  # else it was solved before the interrupt
        assert result.status == "interrupted" and seconds < 10
    assert result.certificate.ok and result.bound is not None


SCRIPT = """
import sys
import numpy as np
import nnembed as nn
from nnembed.testing import random_network
assert not [m for m in sys.modules if "isolated" in m]
net = random_network(4, inputs=2, width=4)
print(nn.maximize(net, (-np.ones(2), np.ones(2)), isolated=True).status)
"""


def test_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["optimal"], done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are listed on Linux")
def test_a_killed_parent_takes_the_solver_along(tmp_path):
    program = (
        "from nnembed.backends.highs import Highs\n"
        "from nnembed.backends.isolated import Isolated\n"
        "from nnembed.options import Options\n"
        "from nnembed.testing.problems import endless\n"
        "session = Isolated(Highs()).load(endless(), Options(time_limit=60.0))\n"
        "print(session._process._popen.pid, flush=True)\n"
        "session.solve(lambda event: None, lambda: False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "\nState:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the solver's process outlived its parent")
