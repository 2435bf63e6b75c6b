"""Checks of heuristics (provisional): candidates are feasible points, each better than the last, soon enough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.embedding import embeddings_of
from nnembed.engine import embed
from nnembed.features import Capability
from nnembed.heuristics.scene import Scene
from nnembed.hosts.arrays import ArrayHost, ArrayModel
from nnembed.ir.network import Network
from nnembed.options import Budget, Options
from nnembed.problem import Overlay, overlay
from nnembed.protocols import Candidate, Heuristic
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.networks import chain

_MOST = 2000  # candidates looked at


def scene(network: Network, low: Array, high: Array, *, integer: Any = False, limit: float | None = None) -> Scene:
    """Return what a heuristic gets: one network on a box, its first output as objective, a row where asked for.

    The row is ``sum of inputs <= limit``.
    """
    n = len(low)
    model = ArrayModel(low, high, integer=integer, maximize=True)
    embed(model, network, np.arange(n), name="net", attach=False)
    model.cost = np.zeros(model.n_columns)
    model.cost[n] = 1.0
    if limit is not None:
        model.add_rows(np.r_[np.ones(n), np.zeros(model.n_columns - n)][None], -np.inf, limit)
    layers = [Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels) for e in embeddings_of(model).values()]
    return Scene(overlay(ArrayHost().compile(model), layers))


def _scenes() -> dict[str, Scene]:
    rng = np.random.default_rng(6)
    small = chain([(6, "relu"), (5, "leaky"), (2, "none")], 2, rng)
    wide = chain([(20, "relu"), (20, "relu"), (1, "none")], 10, rng)
    return {
        "small": scene(small, -np.ones(2), np.array([2.0, 1.0])),
        "with a row": scene(wide, -np.ones(10), np.ones(10), limit=1.0),
        "integers": scene(wide, -np.full(10, 2.0), np.full(10, 2.0), integer=np.arange(10) % 2 == 0),
        "a point": scene(small, np.full(2, 0.3), np.full(2, 0.3)),
    }


@contextmanager
def _session(heuristic: Heuristic, this: Scene) -> Iterator[Any]:
    """Give a solver session to heuristics that need more of it than a place for their start."""
    if not heuristic.requires & ~Capability.MIP_START:
        yield None
        return
    from nnembed.backends.highs import Highs

    if heuristic.requires & ~Highs.capabilities:
        raise Unmet(f"{heuristic.name} requires {heuristic.requires}, which HiGHS does not offer")
    with Highs().load(this.problem, Options()) as session:
        yield session


def _candidates(heuristic: Heuristic, this: Scene, budget: Budget, seed: int = 0) -> list[Candidate]:
    found = []
    with _session(heuristic, this) as session:
        for candidate in heuristic.run(this, session, budget, np.random.default_rng(seed)):
            found.append(candidate)
            if len(found) >= _MOST:
                break
    return found


def _drivers(candidate: Candidate) -> Array:
    return np.asarray(candidate.inputs["drivers"]["x"], float)


@since("0.1")
def check_heuristic_declares(heuristic: Heuristic, config: Config = DEFAULT) -> None:
    """Check: name, words and requirements are there and of the right type."""
    assert heuristic.name and heuristic.name.isprintable(), "name must be a word"
    assert heuristic.summary, "summary must be a sentence"
    assert isinstance(heuristic.requires, Capability), "requires must be a Capability"


@since("0.1")
def check_candidates_are_feasible(heuristic: Heuristic, config: Config = DEFAULT) -> None:
    """Check: every candidate is in the box, whole where it must be, satisfies the rows, and has its claimed score."""
    for name, this in _scenes().items():
        for k, candidate in enumerate(_candidates(heuristic, this, config.budget)):
            x, what = _drivers(candidate), f"{name}: candidate {k}"
            assert x.shape == this.lower.shape, f"{what} has shape {x.shape}, there are {len(this.lower)} variables"
            outside = max((this.lower - x).max(), (x - this.upper).max())
            assert outside <= 1e-9, f"{what} leaves the box by {outside:.3g}"
            assert np.abs(x - np.rint(x))[this.integer].max(initial=0.0) <= 1e-9, f"{what} is not whole"
            point = this.point(x)
            assert point.violation <= 1e-6, f"{what} violates a row by {point.violation:.3g}"
            score = this.sign * point.objective
            good = abs(candidate.score - score) <= config.close(score)
            assert good, f"{what} claims a score of {candidate.score:.9g}, it has {score:.9g}"


@since("0.1")
def check_candidates_improve(heuristic: Heuristic, config: Config = DEFAULT) -> None:
    """Check: there is a candidate on easy problems, and each is better than the last; leaving early is fine."""
    for name, this in _scenes().items():
        scores = [c.score for c in _candidates(heuristic, this, config.budget)]
        assert scores, f"{name}: no candidate at all"
        assert (np.diff(scores) > 0).all(), f"{name}: a candidate is no better than the one before it"
        with _session(heuristic, this) as session:
            run = heuristic.run(this, session, config.budget, np.random.default_rng(0))
            next(iter(run))
            close = getattr(run, "close", None)
            if close is not None:
                close()


@since("0.1")
def check_same_seed_same_candidates(heuristic: Heuristic, config: Config = DEFAULT) -> None:
    """Check: the same random generator gives the same candidates (as far as both runs got in their time)."""
    this = _scenes()["with a row"]
    first, second = (_candidates(heuristic, this, config.budget, seed=3) for _ in range(2))
    for k, (a, b) in enumerate(zip(first, second, strict=False)):
        assert np.array_equal(_drivers(a), _drivers(b)), f"candidate {k} differs between two runs with the same seed"


@since("0.1")
def check_stops_in_time(heuristic: Heuristic, config: Config = DEFAULT) -> None:
    """Check: a heuristic stops within its budget and some grace, also when there is no time at all."""
    rng = np.random.default_rng(7)
    network = chain([(150, "relu"), (150, "relu"), (150, "relu"), (1, "none")], 30, rng)
    this = scene(network, -np.ones(30), np.ones(30), limit=1.0)
    for seconds in (0.0, 0.3):
        began = time.perf_counter()
        _candidates(heuristic, this, Budget(seconds))
        spent = time.perf_counter() - began
        assert spent <= seconds + config.grace, f"a budget of {seconds} s took {spent:.2f} s"


@since("0.1")
def check_stops_when_told(heuristic: Heuristic, config: Config = DEFAULT) -> None:
    """Check: a budget whose clock ends before its seconds are over is obeyed, as the engine ends what stagnates."""
    from nnembed.engine.effort import Leash

    rng = np.random.default_rng(8)
    network = chain([(100, "relu"), (100, "relu"), (1, "none")], 20, rng)
    this = scene(network, -np.ones(20), np.ones(20))
    began = time.perf_counter()
    budget = Leash(60.0, ended=lambda: time.perf_counter() - began > 0.3)
    with _session(heuristic, this) as session:
        for _ in heuristic.run(this, session, budget, np.random.default_rng(0)):
            pass
    spent = time.perf_counter() - began
    assert spent <= 0.3 + config.grace, f"told to stop after 0.3 s, it went on for {spent:.2f} s"
