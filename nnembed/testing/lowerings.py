"""Checks of lowerings: the lowered block has the same points, up to the columns that were added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.block import Block, ColumnGroup, Indicators, Role, Sos1
from nnembed.features import Feature, missing
from nnembed.fills import Above, Part, Value
from nnembed.protocols import Lowering
from nnembed.testing.blocks import assert_block_equal, block_optimum, optimum_point, violation, with_inputs
from nnembed.testing.kit import DEFAULT, Config, Unmet, since

_KNOWN = Feature.SOS1 | Feature.INDICATOR | Feature.COMPLEMENTARITY | Feature.RELU


class _Layer:
    """``y = v relu(W x + b)`` on a box, written by hand with every feature, independently of the formulations.

    The neurons' pre-activation bounds are interval bounds; the last neuron is always off.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.weights, self.bias, self.out = rng.normal(size=(4, 2)), rng.normal(size=4) * 0.3, rng.normal(size=(1, 4))
        self.bias[3] = -9.0
        self.low, self.high = np.array([-1.0, -0.5]), np.array([1.0, 1.5])
        plus, minus = np.maximum(self.weights, 0), np.minimum(self.weights, 0)
        self.pre_low = plus @ self.low + minus @ self.high + self.bias
        self.pre_high = plus @ self.high + minus @ self.low + self.bias
        self.cap, self.depth = np.maximum(self.pre_high, 0), np.maximum(-self.pre_low, 0)

    def state(self, x: Array) -> dict[str, Array]:
        """Return all tensors at a point."""
        g = self.weights @ x + self.bias
        y = self.out @ np.maximum(g, 0)
        return {"x": x[None], "g": g[None], "z": np.maximum(g, 0)[None], "y": y[None]}

    def block(self, feature: Feature) -> Block:
        """Return columns x (2), r (4), s (4), y (1) and, where the feature needs them, binaries (4)."""
        rows = np.zeros((5, 11))
        rows[:4, :2], rows[:4, 2:6], rows[:4, 6:10] = self.weights, -np.eye(4), np.eye(4)
        rows[4, 2:6], rows[4, 10] = -self.out[0], 1.0
        sides = np.append(-self.bias, 0.0)
        reach = float(np.abs(self.out[0]) @ self.cap) + 1.0
        every, pairs = np.arange(4), np.stack([np.arange(2, 6), np.arange(6, 10)], axis=1)
        block = Block(
            matrix=sp.csr_array(rows),
            row_lower=sides,
            row_upper=sides,
            lower=np.concatenate([self.low, np.zeros(8), [-reach]]),
            upper=np.concatenate([self.high, self.cap, self.depth, [reach]]),
            integer=np.zeros(11, dtype=bool),
            n_inputs=2,
            outputs=np.array([10]),
            groups=(
                ColumnGroup("input", Role.INPUT, 0, "x", 2, np.arange(2), Value("x", np.arange(2))),
                ColumnGroup("relu", Role.POST, 2, "z", 4, every, Value("z", every)),
                ColumnGroup("relu", Role.SLACK, 6, "g", 4, every, Part("g", every, -1.0)),
                ColumnGroup("y", Role.OUTPUT, 10, "y", 1, np.arange(1), Value("y", np.arange(1))),
            ),
        )
        if feature == Feature.SOS1:
            return replace(block, sos1=(Sos1(pairs),))
        if feature == Feature.COMPLEMENTARITY:
            return replace(block, complementarities=(pairs,))
        if feature == Feature.RELU:
            return self._stated(block)
        return self._switched(block) if feature == Feature.INDICATOR else block

    def _stated(self, block: Block) -> Block:
        """Make the columns s the pre-activations, and say that r is their positive part."""
        rows = block.matrix.toarray()
        rows[:4, 2:6], rows[:4, 6:10] = 0.0, -np.eye(4)
        every, lower, upper = np.arange(4), block.lower.copy(), block.upper.copy()
        lower[6:10], upper[6:10] = self.pre_low, self.pre_high
        groups = list(block.groups)
        groups[2] = ColumnGroup("relu", Role.PRE, 6, "g", 4, every, Value("g", every))
        pairs = (np.stack([np.arange(2, 6), np.arange(6, 10)], axis=1),)
        return replace(block, matrix=sp.csr_array(rows), lower=lower, upper=upper, groups=tuple(groups), relus=pairs)

    def _switched(self, block: Block) -> Block:
        """Add a binary per neuron: 1 makes s zero, 0 makes r zero."""
        every, binary, none = np.arange(4), np.arange(11, 15), np.full(4, -np.inf)
        unit = np.eye(15)
        on = Indicators(binary, np.ones(4), sp.csr_array(unit[6:10]), none, np.zeros(4))
        off = Indicators(binary, np.zeros(4), sp.csr_array(unit[2:6]), none, np.zeros(4))
        return replace(
            block,
            matrix=sp.csr_array(np.pad(block.matrix.toarray(), ((0, 0), (0, 4)))),
            lower=np.append(block.lower, np.zeros(4)),
            upper=np.append(block.upper, np.ones(4)),
            integer=np.append(block.integer, np.ones(4, dtype=bool)),
            groups=(*block.groups, ColumnGroup("relu", Role.INDICATOR, 11, "g", 4, every, Above("g", every))),
            indicators=(on, off),
        )


def _sources(lowering: Lowering) -> Iterator[tuple[str, _Layer, Block]]:
    """Yield blocks that have what the lowering removes."""
    known = lowering.removes & _KNOWN
    if not known:
        raise Unmet(f"the kit has no block with {lowering.removes}")
    for feature in known:
        for seed in range(3):
            layer = _Layer(seed)
            yield f"{feature.name}, seed {seed}", layer, layer.block(feature)


def _output_cost(block: Block) -> Array:
    cost = np.zeros(block.n_columns)
    cost[block.outputs] = 1.0
    return cost


@since("0.1")
def check_lowering_declares(lowering: Lowering, config: Config = DEFAULT) -> None:
    """Check: name, words, features and cost are there and of the right type."""
    assert lowering.name and lowering.summary, "name and summary must be there"
    assert isinstance(lowering.removes, Feature) and lowering.removes, "removes must be a Feature"
    assert isinstance(lowering.emits, Feature), "emits must be a Feature"
    assert lowering.cost > 0, "cost must be positive, or the planner could go in circles"
    assert not lowering.removes & lowering.emits, "a lowering must not emit what it removes"


@since("0.1")
def check_features_are_removed(lowering: Lowering, config: Config = DEFAULT) -> None:
    """Check: the lowered block needs nothing of `removes`, and nothing new but `emits`."""
    for name, _, source in _sources(lowering):
        lowered, _ = lowering.apply(source)
        left = missing(lowered.needs & lowering.removes, Feature.NONE)
        assert not left, f"{name}: {', '.join(left)} is still there"
        new = missing(lowered.needs, (source.needs & ~lowering.removes) | lowering.emits)
        assert not new, f"{name}: needs {', '.join(new)}, which emits does not declare"
        assert np.isfinite(lowered.matrix.data).all(), f"{name}: a coefficient is not finite"


@since("0.1")
def check_optimum_is_kept(lowering: Lowering, config: Config = DEFAULT) -> None:
    """Check: smallest and largest outputs are the same before and after, over the box and at fixed inputs."""
    for name, layer, source in _sources(lowering):
        lowered, _ = lowering.apply(source)
        points = np.random.default_rng(1).uniform(layer.low, layer.high, (3, 2))
        for at in (None, *points):
            before, after = (b if at is None else with_inputs(b, at) for b in (source, lowered))
            for up in (False, True):
                want = block_optimum(before, _output_cost(before), maximize=up)
                found = block_optimum(after, _output_cost(after), maximize=up)
                where = f"{name}, {'over the box' if at is None else f'at {at.tolist()}'}"
                assert want is not None and found is not None, (
                    f"{where}: no feasible point (before {want}, after {found})"
                )
                good = abs(found - want) <= config.close(want)
                assert good, (
                    f"{where}: {'largest' if up else 'smallest'} output {found:.9g}, before lowering {want:.9g}"
                )


@since("0.1")
def check_points_come_back(lowering: Lowering, config: Config = DEFAULT) -> None:
    """Check: recover() gives a feasible point of the source with the same inputs and outputs."""
    for name, _, source in _sources(lowering):
        lowered, recover = lowering.apply(source)
        for up in (False, True):
            _, x = optimum_point(lowered, _output_cost(lowered), maximize=up)
            assert x is not None, f"{name}: the lowered block has no feasible point"
            back = np.asarray(recover(x))
            assert back.shape == (source.n_columns,), f"{name}: recover() returns shape {back.shape}"
            worst, what = violation(source, back)
            assert worst <= 10 * config.atol, f"{name}: the recovered point violates {what}"
            same = np.abs(back[source.outputs] - x[lowered.outputs]).max()
            assert same <= config.atol, f"{name}: the outputs change by {same:.3g} on the way back"
            moved = np.abs(back[: source.n_inputs] - x[: lowered.n_inputs]).max()
            assert moved <= config.atol, f"{name}: the inputs change by {moved:.3g} on the way back"


@since("0.1")
def check_forward_points_survive(lowering: Lowering, config: Config = DEFAULT) -> None:
    """Check: a forward pass fills the lowered block too, and is feasible there; columns have names of their own."""
    for name, layer, source in _sources(lowering):
        lowered, _ = lowering.apply(source)
        assert lowered.n_inputs == source.n_inputs, f"{name}: the inputs are no longer the first columns"
        names = lowered.names("net")
        assert len(names) == len(set(names)) == lowered.n_columns, f"{name}: column names are missing or not unique"
        for x in np.random.default_rng(2).uniform(layer.low, layer.high, (30, 2)):
            worst, what = violation(lowered, lowered.fill(layer.state(x)))
            assert worst <= 1e-9, f"{name}: the forward pass at {x.tolist()} violates {what}"


@since("0.1")
def check_nothing_to_do(lowering: Lowering, config: Config = DEFAULT) -> None:
    """Check: a block without the feature comes back as it is, and so do its points; the source is never changed."""
    layer = _Layer(0)
    for feature in (Feature.NONE, *_KNOWN):
        source, twin = layer.block(feature), layer.block(feature)
        lowered, recover = lowering.apply(source)
        assert_block_equal(source, twin)
        if feature & lowering.removes:
            continue
        assert_block_equal(lowered, source)
        x = np.arange(float(source.n_columns))
        assert np.array_equal(recover(x), x), f"{feature}: recover() changes points though nothing was lowered"


@since("0.1")
def check_lowering_is_deterministic(lowering: Lowering, config: Config = DEFAULT) -> None:
    """Check: lowering twice gives the same block."""
    for _, _, source in _sources(lowering):
        assert_block_equal(lowering.apply(source)[0], lowering.apply(source)[0])
