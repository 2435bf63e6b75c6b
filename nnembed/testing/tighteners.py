"""Checks of bound tighteners: a bound is a proof, so no point of the box may lie outside."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.box import Bounds, Provenance, input_bounds
from nnembed.bounds.interval import Interval
from nnembed.ir.network import Network
from nnembed.options import Budget
from nnembed.protocols import BoundTightener
from nnembed.testing.enumerate import enumerate_optimum
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.networks import chain, reference_networks

_SAMPLES = 10_000


@cache
def _networks() -> dict[str, Network]:
    rng = np.random.default_rng(2)
    deeper = chain([(12, "relu"), (10, "leaky"), (8, "abs"), (6, "clip"), (4, "max"), (3, "none")], 4, rng, skip=True)
    return {**reference_networks(), "deeper": deeper}


def _box(network: Network) -> tuple[Array, Array]:
    """Return a box that is neither centred nor square, with one side of no width."""
    n = network.input_size
    low: Array = -1.0 - 0.3 * np.arange(n, dtype=float)
    high: Array = 0.5 + 0.4 * np.arange(n, dtype=float)
    if n > 2:
        low[-1] = high[-1]
    return low, high


def _start(network: Network, low: Array, high: Array) -> Bounds:
    """Return interval bounds of all tensors, which every method may build on."""
    return Interval().tighten(network, input_bounds(network, (low, high)), Budget())


def _points(low: Array, high: Array, count: int) -> Array:
    """Return samples of a box, its corners (as many as there are up to ten entries), edges and middle."""
    rng = np.random.default_rng(0)
    n = len(low)
    corners = np.array(list(product((0.0, 1.0), repeat=min(n, 10))))
    corners = np.pad(corners, ((0, 0), (0, n - corners.shape[1])))
    inside = rng.uniform(size=(count, n))
    edges = np.where(rng.uniform(size=(count // 10, n)) < 0.5, rng.integers(0, 2, (count // 10, n)), 0.5)
    share = np.vstack([corners, edges, inside])
    return np.clip(low + share * (high - low), low, high)


def _inside(network: Network, bounds: Bounds, points: Array, box: int = 0, where: str = "") -> None:
    """Raise unless every tensor at every point is within the bounds, up to the rounding of the forward pass."""
    state = network.forward({network.inputs[0].name: points})
    for name, value in state.items():
        pad = 1e-12 * (1 + np.abs(value).max())
        below = (bounds.low[name][box] - value).max()
        above = (value - bounds.high[name][box]).max()
        assert max(below, above) <= pad, (
            f"{where}: a point of the box leaves the bounds of {name!r} by {max(below, above):.3g}"
        )


def _complete(network: Network, bounds: Bounds, where: str) -> None:
    lacking = [t for t in network.tensors if t not in bounds.low or t not in bounds.high]
    assert not lacking, f"{where}: no bounds of {', '.join(lacking)}"
    for name in network.tensors:
        low, high = bounds.low[name], bounds.high[name]
        assert low.shape == high.shape == (bounds.batch, network.tensors[name].size), f"{where}: shape of {name!r}"
        assert not (np.isnan(low).any() or np.isnan(high).any()), f"{where}: the bounds of {name!r} hold NaN"
        assert (low <= high).all(), f"{where}: the bounds of {name!r} are empty"


@cache
def _range(name: str) -> tuple[float, float]:
    """Return the smallest and largest first output of a reference network on its box."""
    network = reference_networks()[name]
    unit = np.eye(network.output_size)[0]
    least, most = (enumerate_optimum(network, *_box(network), unit, maximize=up) for up in (False, True))
    return least, most


@since("0.1")
def check_tightener_declares(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: name, words, cost and soundness are there and of the right type."""
    assert tightener.name and tightener.name.isprintable(), "name must be a word"
    assert tightener.summary, "summary must be a sentence"
    assert isinstance(tightener.sound, bool), "sound must be True or False"
    assert isinstance(tightener.cost, int), "cost must be a whole number: methods run in this order"


@since("0.1")
def check_samples_inside(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: 10 000 samples and the corners of the box stay inside, in every tensor."""
    if not tightener.sound:
        raise Unmet("the method claims no proof")
    for name, network in _networks().items():
        low, high = _box(network)
        bounds = tightener.tighten(network, _start(network, low, high), config.budget)
        _complete(network, bounds, name)
        _inside(network, bounds, _points(low, high, _SAMPLES), where=name)


@since("0.1")
def check_encloses_enumerated_optimum(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: the bounds of the outputs contain the optima found by enumerating all linear pieces."""
    if not tightener.sound:
        raise Unmet("the method claims no proof")
    for name, network in reference_networks().items():
        low, high = _box(network)
        bounds = tightener.tighten(network, _start(network, low, high), config.budget)
        output, (least, most) = network.outputs[0].name, _range(name)
        found = float(bounds.low[output][0, 0]), float(bounds.high[output][0, 0])
        good = found[0] <= least + config.close(least) and found[1] >= most - config.close(most)
        assert good, f"{name}: bounds {found} of an output do not contain its range ({least:.9g}, {most:.9g})"


@since("0.1")
def check_never_widens(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: bounds that come in are nowhere tighter than those that go out, and are not changed themselves."""
    from nnembed.bounds.backward import Crown

    for name, network in _networks().items():
        low, high = _box(network)
        given = Crown().tighten(network, _start(network, low, high), Budget())
        before = {t: (given.low[t].copy(), given.high[t].copy()) for t in given.low}
        found = tightener.tighten(network, given, config.budget)
        for tensor, (lo, hi) in before.items():
            narrower = (found.low[tensor] >= lo).all() and (found.high[tensor] <= hi).all()
            assert narrower, f"{name}: the bounds of {tensor!r} became wider"
            same = np.array_equal(given.low[tensor], lo) and np.array_equal(given.high[tensor], hi)
            assert same, f"{name}: the arrays of the bounds that were passed were changed"
        assert found.network is network and found.lead == given.lead, f"{name}: network or batch axes were changed"


@since("0.1")
def check_second_run_changes_nothing(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: running again on one's own bounds changes them by no more than a tolerance."""
    for name, network in _networks().items():
        once = tightener.tighten(network, _start(network, *_box(network)), config.budget)
        if not once.history[-1].finished:
            continue  # the budget has stopped it, a second run goes on
        twice = tightener.tighten(network, once, config.budget)
        for tensor in network.tensors:
            change = np.maximum(twice.low[tensor] - once.low[tensor], once.high[tensor] - twice.high[tensor])
            size = 1 + np.maximum(np.abs(once.low[tensor]), np.abs(once.high[tensor]))
            worst = float((change / size).max(initial=0.0))
            assert worst <= config.atol, f"{name}: a second run moves the bounds of {tensor!r} by {worst:.3g}"


@since("0.1")
def check_budget(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: no time means: back at once, with bounds no worse than those given; little time is kept to."""
    rng = np.random.default_rng(4)
    network = chain([(120, "relu"), (120, "relu"), (120, "relu"), (10, "none")], 20, rng)
    low, high = -np.ones(20), np.ones(20)
    start = _start(network, low, high)
    for seconds in (0.0, 0.3):
        began = time.perf_counter()
        found = tightener.tighten(network, start, Budget(seconds))
        spent = time.perf_counter() - began
        assert spent <= seconds + config.grace, f"a budget of {seconds} s took {spent:.2f} s"
        _complete(network, found, f"budget of {seconds} s")
        if tightener.sound:
            _inside(network, found, _points(low, high, 500), where=f"budget of {seconds} s")


@since("0.1")
def check_batch_equals_boxes(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: a batch of boxes gives what each box gives alone, up to rounding."""
    network = _networks()["skip"]
    low = np.array([[-1.0, -1.0], [0.2, -2.0], [0.3, 0.3]])
    high = np.array([[1.0, 1.0], [0.9, 3.0], [0.3, 0.3]])
    whole = tightener.tighten(network, _start(network, low, high), config.budget)
    _complete(network, whole, "a batch of three boxes")
    for k in range(3):
        alone = tightener.tighten(network, _start(network, low[k], high[k]), config.budget)
        if tightener.sound:
            _inside(network, whole, _points(low[k], high[k], 500), k, f"box {k} of a batch")
        for tensor in network.tensors:
            for side in ("low", "high"):
                ours, theirs = getattr(whole, side)[tensor][k], getattr(alone, side)[tensor][0]
                good = np.abs(ours - theirs) <= config.atol + config.rtol * np.abs(theirs)
                assert good.all(), f"box {k} of a batch: the {side} bounds of {tensor!r} differ from those alone"


@since("0.1")
def check_history(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: the bounds say which method worked on them, and whether it is a proof; older entries stay."""
    network = _networks()["relu"]
    start = _start(network, *_box(network))
    start = replace(start, history=(*start.history, Provenance("somebody", 0.0, 0, sound=False)))
    found = tightener.tighten(network, start, config.budget)
    assert found.history[: len(start.history)] == start.history, "older entries of the history were dropped"
    new = found.history[len(start.history) :]
    assert new, "the history must say that the method has run (Bounds.intersect does it)"
    assert all(p.sound == tightener.sound for p in new), (
        f"the history must say sound={tightener.sound}, as the method does"
    )


@since("0.1")
def check_point_boxes(tightener: BoundTightener, config: Config = DEFAULT) -> None:
    """Check: on a box of no width the bounds are the forward pass, up to rounding."""
    if not tightener.sound:
        raise Unmet("the method claims no proof")
    for name, network in _networks().items():
        x = np.linspace(-0.7, 0.9, network.input_size)
        bounds = tightener.tighten(network, _start(network, x, x), config.budget)
        _complete(network, bounds, name)
        _inside(network, bounds, x[None], where=f"{name} at a point")
