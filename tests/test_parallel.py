"""Tasks on executors: order, overhead, lost workers, balance."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnembed as nn
from nnembed.parallel import chunks, run_tasks, shares, workers_of
from nnembed.testing import chain

# Module-level functions, as workers need them. Spawned workers cannot import a test module that pytest has loaded by
# path, so pools in these tests fork where that exists.
FORK = "fork" in multiprocessing.get_all_start_methods()


def square(x):
    return x * x


def fail_at_three(x):
    if x == 3:
        raise KeyError("three")
    return x


def die_once(payload):
    """Kill the worker the first time task 2 runs."""
    x, flag = payload
    if x == 2 and not Path(flag).exists():
        Path(flag).write_text("dead")
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def die_always(payload):
    x, parent = payload
    if x == 2 and os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def slow_square(x):
    time.sleep(0.1)
    return x * x


def pool(workers=2):
    context = multiprocessing.get_context("fork" if FORK else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context)


class Instant(Executor):
    """Runs at once, in the caller."""

    def submit(self, function, /, *args):
        future = Future()
        try:
            future.set_result(function(*args))
        except (KeyError, ValueError) as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("make", [lambda: None, Instant, lambda: ThreadPoolExecutor(3), pool])
def test_results_come_in_the_order_of_the_payloads(make):
    heard = {}
    executor = make()
    found = run_tasks(square, list(range(20)), executor, on_result=heard.__setitem__)
    assert found == [x * x for x in range(20)] == [heard[k] for k in range(20)]
    assert run_tasks(square, [], executor) == []
    if executor is not None:
        executor.shutdown()


def test_a_factory_is_asked_once_and_what_it_made_is_closed():
    made = []

    def factory():
        made.append(ThreadPoolExecutor(2))
        return made[-1]

    assert run_tasks(square, [1, 2], factory) == [1, 4]
    assert len(made) == 1
    with pytest.raises(RuntimeError):
        made[0].submit(square, 1)


def test_what_is_no_executor_is_refused():
    for wrong in (3, lambda: 3):
        with pytest.raises(nn.InputError, match="Executor"):
            run_tasks(square, [1], wrong)


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(2), pool])
def test_an_error_of_the_function_is_raised(make):
    with pytest.raises(KeyError, match="three"):
        run_tasks(fail_at_three, range(10), make())


def test_stops_in_this_process():
    seen = []
    found = run_tasks(square, range(10), on_result=lambda k, r: seen.append(k), should_stop=lambda: len(seen) >= 3)
    assert found == [0, 1, 4] + [None] * 7


def test_stops_on_an_executor_and_keeps_what_was_running():
    seen = []
    with ThreadPoolExecutor(2) as executor:
        found = run_tasks(
            slow_square, range(30), executor, on_result=lambda k, r: seen.append(k), should_stop=lambda: len(seen) >= 3
        )
    done = [k for k, r in enumerate(found) if r is not None]
    assert 3 <= len(done) <= 6
    assert sorted(seen) == done
    assert all(found[k] == k * k for k in done)


def test_a_worker_killed_mid_run_loses_nothing(tmp_path):
    payloads = [(x, str(tmp_path / "flag")) for x in range(12)]
    heard = []
    with pool() as executor, pytest.warns(RuntimeWarning, match="new pool"):
        found = run_tasks(die_once, payloads, executor, on_result=lambda k, r: heard.append(k))
    assert found == [x * x for x in range(12)]
    assert sorted(heard) == list(range(12))  # each once


def test_a_factory_replaces_the_broken_pool_without_a_word(tmp_path, recwarn):
    made = []

    def factory():
        made.append(pool())
        return made[-1]

    payloads = [(x, str(tmp_path / "flag")) for x in range(12)]
    assert run_tasks(die_once, payloads, factory) == [x * x for x in range(12)]
    assert len(made) == 2
    assert not [w for w in recwarn if w.category is RuntimeWarning]


def test_a_task_that_keeps_killing_is_named_and_its_neighbours_are_kept():
    heard = {}
    payloads = [(x, os.getpid()) for x in range(8)]
    with pytest.raises(nn.WorkerLost, match="task 2 of 8"):
        run_tasks(die_always, payloads, pool, on_result=heard.__setitem__, retries=1)
    assert 2 not in heard
    assert {0, 1} <= heard.keys()


def test_an_executor_that_cannot_be_replaced_says_so():
    class Broken(Executor):
        def submit(self, function, /, *args):
            raise BrokenProcessPool("gone")

    with pytest.raises(nn.WorkerLost, match="returns a new one"):
        run_tasks(square, [1, 2], Broken())
    with pytest.raises(nn.WorkerLost, match="task 0"):
        run_tasks(square, [1, 2], Broken)


def test_a_spawned_pool_runs_library_functions():
    """Workers that share nothing with this process: what users on every platform have."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert [c.tolist() for c in run_tasks(np.sort, [[3, 1], [2, 0]], executor)] == [[1, 3], [0, 2]]


def test_overhead_in_process():
    count = 2000
    started = time.process_time()
    run_tasks(square, range(count), on_result=lambda k, r: None, should_stop=lambda: False)
    assert (time.process_time() - started) / count < 1e-4


def test_overhead_on_an_executor_that_costs_nothing():
    count = 1000
    started = time.process_time()
    run_tasks(square, range(count), Instant())
    assert (time.process_time() - started) / count < 2e-3


# ---- dask ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    import dask

    quick = {"distributed.worker.daemon": False, "distributed.scheduler.allowed-failures": 0}
    with (
        dask.config.set(quick),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as running,
        distributed.Client(running) as client,
    ):
        yield client


def _ship(client):
    """Let the workers unpickle functions of this module by value; they cannot import it."""
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow
def test_dask_survives_a_worker_that_kills_itself(cluster, tmp_path):
    _ship(cluster)
    payloads = [(x, str(tmp_path / "flag")) for x in range(12)]
    assert run_tasks(die_once, payloads, cluster.get_executor()) == [x * x for x in range(12)]


@pytest.mark.slow
def test_dask_survives_a_worker_killed_from_outside(cluster):
    _ship(cluster)
    pids = list(cluster.run(os.getpid).values())
    threading.Timer(0.3, lambda: os.kill(pids[0], signal.SIGKILL)).start()
    assert run_tasks(slow_square, range(16), cluster.get_executor()) == [x * x for x in range(16)]


@pytest.mark.slow
def test_dask_names_the_task_that_keeps_killing(cluster):
    _ship(cluster)
    with pytest.raises(nn.WorkerLost, match="task 2 of 4"):
        run_tasks(die_always, [(x, -1) for x in range(4)], cluster.get_executor(), retries=1)


# ---- chunks -------------------------------------------------------------------------------------


def balance(costs, parts, workers):
    """Mean over largest load when the parts are handed out in order, each to the worker that is free first."""
    loads = np.zeros(workers)
    for part in parts:
        loads[loads.argmin()] += np.asarray(costs)[part].sum()
    return loads.mean() / loads.max()


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_chunks_are_a_partition(seed, count, workers, per_worker):
    costs = np.random.default_rng(seed).exponential(size=count)
    parts = chunks(costs, workers, per_worker)
    assert sorted(np.concatenate(parts).tolist() if parts else []) == list(range(len(costs)))
    assert len(parts) <= workers * per_worker
    assert all(len(p) for p in parts)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]))
@settings(max_examples=50, deadline=None)
def test_four_workers_are_busy_on_skewed_costs(seed, per_worker):
    costs = np.random.default_rng(seed).lognormal(sigma=1.0, size=80)
    costs = np.minimum(costs, 0.2 * costs.sum() / 4)  # no single task fills a worker
    assert balance(costs, chunks(costs, 4, per_worker), 4) >= 0.9


def test_shares_are_as_many_as_workers_can_have_evenly():
    with ThreadPoolExecutor(4) as executor:
        assert workers_of(executor) == 4
        parts = shares(np.ones(54), executor, 8)
        assert len(parts) == 8
        assert balance(np.ones(54), parts, 4) >= 0.9
        assert len(shares(np.ones(3), executor, 8)) == 3
        assert shares([], executor, 8) == []
    assert [p.tolist() for p in shares(np.ones(3), None, 1)] == [[0, 1, 2]]
    assert shares([], None, 8) == []
    assert workers_of(None) == 1
    assert workers_of(Instant()) >= 1


def test_lp_tightening_keeps_four_workers_busy(monkeypatch):
    """Counted, not timed: the programs of each layer, handed in order to the worker that is free first."""
    from nnembed.bounds import lp_run

    layers = []

    def watched(function, payloads, executor):
        found = run_tasks(function, payloads, executor)
        layers.append([f.lps for f in found])
        return found

    monkeypatch.setattr(lp_run, "run_tasks", watched)
    net = chain([(40, "relu")] * 3 + [(10, "none")], 12, np.random.default_rng(0))
    four = Instant()
    four._max_workers = 4
    bounds = nn.tighten(net, (-0.15, 0.15), ("crown", "lp"), executor=four)
    monkeypatch.undo()
    alone = nn.tighten(net, (-0.15, 0.15), ("crown", "lp"))
    assert bounds.unstable == pytest.approx(alone.unstable, abs=2)
    spans = [sum(t) / (balance(t, [[k] for k in range(len(t))], 4) * 4) for t in layers if sum(t)]
    assert sum(map(sum, layers)) / (4 * sum(spans)) >= 0.9
