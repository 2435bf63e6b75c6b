"""Bounds in files: found again, taken up again, never trusted."""

from __future__ import annotations

import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import nnembed as nn
from nnembed.bounds.box import Provenance, input_bounds
from nnembed.bounds.cache import BoundCache, cache_at, key_of, user_folder
from nnembed.ir.network import feed
from nnembed.parallel import run_tasks
from nnembed.testing import chain


def network(seed=0):
    return chain([(6, "relu"), (5, "relu"), (2, "none")], 3, np.random.default_rng(seed))


@dataclass(frozen=True)
class Halving:
    """A costly method: one 'program' per neuron, each halves nothing but may move a bound; counts what it solves."""

    calls: list = field(compare=False)
    strength: float = 1.0
    name = "halving"
    summary = "for tests"
    sound = True
    cost = 40

    def tighten(self, network, bounds, budget):
        started = time.perf_counter()
        tensor = network.activations[-1].inputs[0]
        mine = [p for p in bounds.history if p.method == self.name and not p.finished]
        tried = mine[-1].state["tried"].copy() if mine else np.zeros(bounds.low[tensor].size, dtype=bool)
        low = {t: a.copy() for t, a in bounds.low.items()}
        solved = 0
        for neuron in np.flatnonzero(~tried):
            if budget.lps is not None and solved >= budget.lps:
                break
            self.calls.append(int(neuron))
            solved += 1
            tried[neuron] = True
            low[tensor].reshape(-1)[neuron] += 1e-9 * self.strength
        record = Provenance(
            self.name, time.perf_counter() - started, -1, lps=solved, finished=bool(tried.all()), state={"tried": tried}
        )
        return bounds.intersect(low, dict(bounds.high), record)


def run(net, folder, calls, box=(-1.0, 1.0), **budget):
    return nn.tighten(net, box, ("crown", Halving(calls)), nn.Budget(**budget), cache=folder)


def files(folder):
    return sorted(folder.glob("*.npz"))


def test_found_again(tmp_path):
    net, calls = network(), []
    first = run(net, tmp_path, calls)
    again = run(net, tmp_path, calls)
    assert calls == [0, 1, 2, 3, 4]
    assert len(files(tmp_path)) == 1
    for tensor in first.low:
        assert np.array_equal(first.low[tensor], again.low[tensor])
        assert np.array_equal(first.high[tensor], again.high[tensor])
    assert [p.cached for p in again.history] == [False, True]
    assert "from the cache" in again.summary().note
    assert again.sound


def test_taken_up_again_where_a_budget_ended(tmp_path):
    net, calls = network(), []
    first = run(net, tmp_path, calls, lps=2)
    assert not first.history[-1].finished
    assert "not finished" in first.summary().note
    second = run(net, tmp_path, calls, lps=2)
    third = run(net, tmp_path, calls)
    assert calls == [0, 1, 2, 3, 4]  # nothing twice
    assert [p.lps for p in second.history if not p.cached] == [0, 2]
    assert third.history[-1].finished
    whole = nn.tighten(net, (-1.0, 1.0), ("crown", Halving([])))
    assert all(np.array_equal(third.low[t], whole.low[t]) for t in whole.low)
    run(net, tmp_path, calls)
    assert len(calls) == 5


def test_a_method_that_does_not_say_so_is_unfinished_when_its_time_was_over(tmp_path):
    class Slow:
        name, summary, sound, cost = "slow", "for tests", True, 40

        def tighten(self, network, bounds, budget):
            time.sleep(0.02)
            return bounds.intersect(bounds.low, bounds.high, Provenance(self.name, 0.02, -1))

    net = network()
    found = nn.tighten(net, (-1.0, 1.0), ("crown", Slow()), nn.Budget(seconds=0.01), cache=tmp_path)
    assert found.complete
    found = nn.tighten(net, (-1.0, 1.0), ("crown", Slow()), nn.Budget(seconds=10), cache=tmp_path)
    assert found.history[-1].finished


def test_other_networks_boxes_methods_options_and_rows_have_other_files(tmp_path):
    calls = []
    net = network()
    run(net, tmp_path, calls)
    run(network(1), tmp_path, calls)
    run(net, tmp_path, calls, box=(-1.0, 1.5))
    nn.tighten(net, (-1.0, 1.0), ("crown", Halving(calls, 2.0)), cache=tmp_path)
    rows = (np.ones((1, 3)), 0.0, 1.0)
    nn.tighten(net, (-1.0, 1.0), ("crown", Halving(calls)), cache=tmp_path, constraints=rows)
    assert len(files(tmp_path)) == 5
    assert len(calls) == 25


def test_cheap_methods_are_not_kept(tmp_path):
    nn.tighten(network(), (-1.0, 1.0), ("interval", "crown"), cache=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_batch_is_kept_whole(tmp_path):
    net, calls = network(), []
    low = np.array([[-1.0, -1, -1], [0, 0, 0], [-1, -1, -1]])
    first = run(net, tmp_path, calls, box=(low, low + 1))
    again = run(net, tmp_path, calls, box=(low, low + 1))
    assert len(calls) == 10  # two distinct boxes
    assert all(np.array_equal(first.low[t], again.low[t]) for t in first.low)


def test_linear_programs_are_taken_up_again(tmp_path):
    """The real thing: interrupted runs end where one run ends, and a finished one costs no program."""
    net = chain([(12, "relu"), (12, "relu"), (2, "none")], 3, np.random.default_rng(0))
    methods, box = ("crown", "lp"), (-0.5, 0.5)
    whole = nn.tighten(net, box, methods)
    spent = []
    for _ in range(60):
        found = nn.tighten(net, box, methods, nn.Budget(lps=8), cache=tmp_path)
        spent.append(found.history[-1].lps)
        if found.history[-1].finished:
            break
    assert found.history[-1].finished
    assert len(spent) > 1
    assert max(spent) <= 8
    assert found.unstable <= whole.unstable
    out = net.outputs[0].name
    assert (found.high[out] - found.low[out]).sum() <= (whole.high[out] - whole.low[out]).sum() + 1e-6
    again = nn.tighten(net, box, methods, cache=tmp_path)
    assert again.history[-1].cached
    assert again.history[-1].lps == 0


# ---- not trusted --------------------------------------------------------------------------------


def stored(tmp_path):
    net, calls = network(), []
    run(net, tmp_path, calls)
    return net, files(tmp_path)[0]


def rewritten(file, change):
    """Write a file again with changed arrays and a check sum that is right for them, as a liar would."""
    from nnembed.bounds.cache import _checksum

    with np.load(file) as archive:
        content = dict(archive)
    change(content)
    content["checksum"] = np.array(_checksum(content))
    np.savez(file, **content)


def assert_ignored(net, folder, reason):
    calls = []
    with pytest.warns(RuntimeWarning, match=reason) as heard:
        found = run(net, folder, calls)
    assert str(files(folder)[0]) in str(heard[0].message)
    assert len(calls) == 5
    plain = nn.tighten(net, (-1.0, 1.0), ("crown", Halving([])))
    assert all(np.array_equal(found.low[t], plain.low[t]) for t in plain.low)
    with warnings.catch_warnings():  # and it has been replaced
        warnings.simplefilter("error")
        run(net, folder, calls)
    assert len(calls) == 5


def test_truncated(tmp_path):
    net, file = stored(tmp_path)
    whole = file.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert_ignored(net, tmp_path, "ignored the cached bounds")


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes(tmp_path, seed):
    net, file = stored(tmp_path)
    rng = np.random.default_rng(seed)
    data = bytearray(file.read_bytes())
    for place in rng.integers(0, len(data), 3):
        data[place] ^= int(rng.integers(1, 256))
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a byte between the members may not matter
        found = run(net, tmp_path, [])
    plain = nn.tighten(net, (-1.0, 1.0), ("crown", Halving([])))
    assert all(np.array_equal(found.low[t], plain.low[t]) for t in plain.low)


def test_foreign_content(tmp_path):
    net, file = stored(tmp_path)
    for content in (b"hello", json.dumps({"low": 1}).encode(), b"\x93NUMPY\x01\x00"):
        file.write_bytes(content)
        assert_ignored(net, tmp_path, "ignored the cached bounds")
    np.savez(file, something=np.ones(3))
    assert_ignored(net, tmp_path, "ignored the cached bounds")


def test_a_file_of_another_network_under_this_name(tmp_path):
    net, file = stored(tmp_path)
    run(network(1), tmp_path / "other", [])
    file.write_bytes(files(tmp_path / "other")[0].read_bytes())
    assert_ignored(net, tmp_path, "written for something else")


def test_pickles_are_not_read(tmp_path):
    net, file = stored(tmp_path)

    class Boom:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    np.savez(file, facts=np.array([Boom()], dtype=object))
    assert_ignored(net, tmp_path, "ignored the cached bounds")


def test_a_bomb_is_not_unpacked(tmp_path):
    net, file = stored(tmp_path)
    np.savez_compressed(file, low0=np.zeros(10_000_000))
    assert_ignored(net, tmp_path, "larger than bounds")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(low1=np.full_like(c["low1"], np.nan)), "do not fit"),
        (lambda c: c.update(low1=c["low1"][:, :2]), "do not fit"),
        (lambda c: c.update(low1=c["low1"].astype(np.float32)), "do not fit"),
        (lambda c: c.update(low1=c["high1"] + 1), "are empty"),
        (lambda c: c.update(high3=0.5 * (c["low3"] + c["high3"])), "a point of the box leaves"),
        (lambda c: c.update(low0=c["low0"] + 0.5), "a point of the box leaves"),  # a smaller box than was asked for
        (lambda c: c.pop("low2"), "low2"),
        (lambda c: c.update(facts=np.array("[]")), "ignored"),
        (lambda c: c.update(facts=np.array("{")), "ignored"),
    ],
)
def test_lies(tmp_path, change, reason):
    net, file = stored(tmp_path)
    rewritten(file, change)
    assert_ignored(net, tmp_path, reason)


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("nnembed.bounds.cache.np.savez", refuse)
    with pytest.warns(RuntimeWarning, match="no space left"):
        found = run(network(), tmp_path, [])
    assert found.complete
    assert not list(tmp_path.iterdir())


def test_many_writers_leave_one_good_file(tmp_path):
    net = network()
    with ThreadPoolExecutor(4) as executor:
        run_tasks(lambda _: run(net, tmp_path, []), range(8), executor)
    assert len(list(tmp_path.iterdir())) == 1
    calls = []
    run(net, tmp_path, calls)
    assert not calls


# ---- where --------------------------------------------------------------------------------------


def test_where(tmp_path, monkeypatch):
    assert cache_at(None) is None and cache_at(False) is None
    assert cache_at(str(tmp_path)).folder == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_at(True).folder == user_folder() == tmp_path / "xdg" / "nnembed" / "bounds"
    run(network(), True, [])
    assert files(user_folder())
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert "nnembed" in user_folder().parts
    file = tmp_path / "file"
    file.write_text("")
    for wrong, words in ((file, "is a file"), (3, "pass a folder")):
        with pytest.raises(nn.InputError, match=words):
            nn.tighten(network(), (-1.0, 1.0), cache=wrong)


def test_keys_depend_on_content_only():
    net, method = network(), Halving([])
    start = input_bounds(net, (-1.0, 1.0))
    again = input_bounds(network(), (-np.ones(3), np.ones(3)))
    assert key_of(method, start) == key_of(Halving([]), again)
    assert key_of(method, start) != key_of(method, replace(start, low={"x": start.low["x"] - 1e-16 * 3}))


def test_feed_tells_values_apart():
    import hashlib

    import scipy.sparse as sp

    values = [
        None, 0, 0.0, False, "0", b"0", "", (), (0,), ((0,),), ("0", "1"), ("01",), np.zeros(2), np.zeros((2, 1)),
        np.zeros(2, np.float32), np.zeros(2, int), sp.csr_array(np.eye(2)), sp.csr_array(np.ones((2, 2))), {"a": 1},
        {"a": 2}, BoundCache, Provenance("a", 1.0, 2), Provenance("b", 1.0, 2),
    ]  # fmt: skip
    digests = []
    for value in values:
        h = hashlib.sha256()
        feed(h, value)
        digests.append(h.hexdigest())
    assert len(set(digests)) == len(values)
