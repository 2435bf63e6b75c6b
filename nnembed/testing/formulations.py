"""Checks of formulations: what they write must be the network, no more and no less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from nnembed.aliases import Array
from nnembed.block import Block
from nnembed.bounds.box import Bounds, input_bounds
from nnembed.bounds.ladder import climb
from nnembed.embedding import emit_block
from nnembed.errors import BoxError
from nnembed.features import Feature, missing
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Abs, Clip, LeakyRelu, Max, Node, Relu, Round, Step, Winner, absolute, leaky_relu, relu
from nnembed.options import Budget
from nnembed.protocols import Formulation
from nnembed.testing.blocks import assert_block_equal, block_optimum, violation, with_inputs
from nnembed.testing.enumerate import enumerate_optimum
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.networks import reference_networks

_STEPS: tuple[tuple[float, float], ...] = (
    (-2.0, 3.0),  # open
    (1.0, 2.0),  # on
    (-2.0, -1.0),  # off
    (0.0, 2.0),  # zero on the lower side
    (-2.0, 0.0),  # zero on the upper side
    (0.5, 0.5),  # no width
    (0.0, 0.0),  # no width, at the breakpoint
    (-1e-9, 1e-9),  # next to nothing
    (-1e-6, 1e3),  # lopsided
)


@dataclass(frozen=True, eq=False)
class Case:
    """A network, a box of its input and bounds proven on it."""

    name: str
    network: Network
    bounds: Bounds

    @property
    def low(self) -> Array:
        """Lower side of the box, (batch, inputs)."""
        return self.bounds.low[self.network.inputs[0].name]

    @property
    def high(self) -> Array:
        """Upper side of the box, (batch, inputs)."""
        return self.bounds.high[self.network.inputs[0].name]

    def points(self, count: int) -> Iterator[Array]:
        """Yield inputs (batch, n): corners of the box (some of them), its middle, random points."""
        rng = np.random.default_rng(0)
        for corner in list(product((0.0, 1.0), repeat=self.low.shape[1]))[:8]:
            yield np.where(np.array(corner) == 0, self.low, self.high)
        yield 0.5 * (self.low + self.high)
        for _ in range(count):
            yield rng.uniform(self.low, self.high)


def case(name: str, network: Network, low: object, high: object) -> Case:
    """Return a case with the bounds nnembed would take."""
    from nnembed.bounds.backward import Crown

    return Case(name, network, climb(input_bounds(network, (low, high)), [Crown()], Budget()))


@cache
def _references() -> tuple[Case, ...]:
    nets = reference_networks().items()
    return tuple(case(n, net, -np.ones(net.input_size), np.ones(net.input_size)) for n, net in nets)


@cache
def _extremes(name: str) -> tuple[Array, float, float]:
    """Return weights of the outputs, and the smallest and largest weighted output, for a reference network."""
    this = next(c for c in _references() if c.name == name)
    weights = np.random.default_rng(5).normal(size=this.network.output_size)
    low, high = this.low[0], this.high[0]
    ends = [enumerate_optimum(this.network, low, high, weights, maximize=up) for up in (False, True)]
    return weights, ends[0], ends[1]


def cases(formulation: Formulation) -> list[Case]:
    """Return the reference networks the formulation can write.

    Raises
    ------
    Unmet
        If it writes none of the node kinds the kit knows.
    """
    able = [c for c in _references() if c.network.activations and _writes(formulation, c.network)]
    if not able:
        raise Unmet(f"the kit has no network of {sorted(t.__name__ for t in formulation.handles)} only")
    return able


def _writes(formulation: Formulation, network: Network) -> bool:
    return all(type(node) in formulation.handles for node in network.activations)


def emitted(formulation: Formulation, this: Case) -> Block:
    """Return the block of a case, every layer written by the formulation."""
    return emit_block(this.network, this.bounds, {node.name: formulation for node in this.network.activations})


def output_cost(block: Block, weights: Array, point: int = 0) -> Array:
    """Return the column cost of a weighted sum of the outputs of one point of the batch."""
    cost = np.zeros(block.n_columns)
    np.add.at(cost, block.outputs.reshape(block.batch, -1)[point], weights)
    return cost


def _single(node: Node, low: float, high: float) -> Case:
    x = TensorSpec("x", (2 if isinstance(node, Max | Winner) else 1,))
    y = TensorSpec("y", (2 if isinstance(node, Winner) else 1,))
    network = Network((x,), (y,), (node,), {"x": x, "y": y}, name=node.kind)
    side = np.zeros(x.size)
    side[0] = 1.0  # a maximum's second member stays at zero
    return case(f"{node.kind} on [{low:g}, {high:g}]", network, low * side, high * side)


def _singles(formulation: Formulation) -> Iterator[Case]:
    """Yield one-neuron networks on boxes where the neuron is open, decided, or just so."""
    nodes = (
        relu("n", "x", "y", 1),
        leaky_relu("n", "x", "y", np.array([0.1])),
        leaky_relu("n", "x", "y", np.array([-1.5])),
        absolute("n", "x", "y", 1),
        Clip("n", ("x",), "y", np.array([-0.5]), np.array([1.5])),
        Clip("n", ("x",), "y", np.array([0.0]), np.array([0.0])),
        Max("n", ("x",), "y", np.array([[0, 1]])),
        Step("n", ("x",), "y", np.array([-1.0]), np.array([1.0])),
        Step("n", ("x",), "y", np.array([2.0]), np.array([-0.5])),
        Step("n", ("x",), "y", np.array([3.0]), np.array([3.0])),
        Round("n", ("x",), "y", np.ones(1), np.ones(1), np.full(1, -np.inf), np.full(1, np.inf)),
        Round("n", ("x",), "y", np.array([0.3]), np.array([0.7]), np.array([-1.0]), np.array([2.0])),
        Round("n", ("x",), "y", np.array([2.0]), np.array([0.5]), np.array([0.0]), np.array([0.0]), "down"),
        Winner("n", ("x",), "y", np.array([[0, 1]])),
    )
    for node in nodes:
        if type(node) in formulation.handles:
            for low, high in _STEPS:
                yield _single(node, low, high)


# ---- the checks -------------------------------------------------------------------------------------


@since("0.1")
def check_formulation_declares(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: name, words, features and node kinds are there and of the right type."""
    assert formulation.name and formulation.name.isprintable(), "name must be a word"
    assert formulation.summary, "summary must be a sentence"
    assert isinstance(formulation.emits, Feature), "emits must be a Feature"
    assert isinstance(formulation.handles, frozenset) and formulation.handles, (
        "handles must be a frozenset of node types"
    )
    assert all(issubclass(kind, Node) for kind in formulation.handles), "handles must hold node types"
    known = {Relu, LeakyRelu, Abs, Clip, Step, Round, Max, Winner}
    assert formulation.handles & known or formulation.handles, "handles must name at least one node type"
    assert isinstance(formulation.exact, bool) and isinstance(formulation.needs_finite_bounds, bool)


@since("0.1")
def check_forward_points_feasible(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: every forward pass satisfies all rows, and fills the outputs exactly."""
    for this in [*cases(formulation), *_singles(formulation)]:
        block = emitted(formulation, this)
        for x in this.points(40):
            state = this.network.forward({this.network.inputs[0].name: x})
            point = block.fill(state)
            worst, what = violation(block, point)
            assert worst <= 1e-9, f"{this.name}: the forward pass at {x.tolist()} violates {what}"
            want = np.concatenate([state[s.name].ravel() for s in this.network.outputs])
            assert np.array_equal(point[block.outputs], want), (
                f"{this.name}: the output columns are not filled by the outputs"
            )


@since("0.1")
def check_fixed_inputs(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: with fixed inputs the outputs can only be the forward pass (a relaxation must contain it)."""
    for this in cases(formulation):
        block = emitted(formulation, this)
        for x in [*this.points(3)][-4:]:
            _compare_at(formulation, this, block, x, config)


@since("0.1")
def check_optimum_equals_enumeration(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: smallest and largest weighted output equal those found by enumerating all linear pieces."""
    for this in cases(formulation):
        weights, least, most = _extremes(this.name)
        block = emitted(formulation, this)
        for want, up in ((least, False), (most, True)):
            found = block_optimum(block, output_cost(block, weights), maximize=up)
            _compare(formulation.exact, found, want, up, f"{this.name}: optimum over the box", config)


@since("0.1")
def check_declared_features(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: blocks need no more than `emits` says, and are exact where `exact` says so."""
    for this in [*cases(formulation), *_singles(formulation)]:
        block = emitted(formulation, this)
        lacking = missing(block.needs, formulation.emits)
        assert not lacking, f"{this.name}: the block needs {', '.join(lacking)}, which emits does not declare"
        if formulation.exact:
            assert block.exact, f"{this.name}: the block says it is a relaxation, the formulation says it is exact"
        elif this.bounds.unstable:
            assert not block.exact, (
                f"{this.name}: a relaxation must set block.exact = False when it writes open neurons"
            )


@since("0.1")
def check_degenerate_boxes(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: neurons that are on, off, of no width, or have zero on a side of their range."""
    for this in _singles(formulation):
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            block = emitted(formulation, this)
        assert np.isfinite(block.matrix.data).all(), f"{this.name}: a coefficient is not finite"
        for x in (this.low, this.high, 0.5 * (this.low + this.high)):
            _compare_at(formulation, this, block, x, config)


@since("0.1")
def check_infinite_bounds(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: infinite bounds raise `BoxError`, or, where they are not needed, do no harm."""
    for this in cases(formulation):
        node = this.network.activations[0]
        low, high = dict(this.bounds.low), dict(this.bounds.high)
        low[node.inputs[0]], high[node.inputs[0]] = low[node.inputs[0]] - np.inf, high[node.inputs[0]] + np.inf
        wide = replace(this, bounds=replace(this.bounds, low=low, high=high))
        if formulation.needs_finite_bounds:
            try:
                emitted(formulation, wide)
            except BoxError as error:
                assert node.name in str(error), f"the error must name the layer {node.name!r}: {error}"
                continue
            raise AssertionError(f"{this.name}: infinite bounds of layer {node.name!r} must raise BoxError")
        block = emitted(formulation, wide)
        assert np.isfinite(block.matrix.data).all(), f"{this.name}: an infinite bound became a coefficient"
        _compare_at(formulation, wide, block, 0.5 * (this.low + this.high), config)


@since("0.1")
def check_block_is_deterministic(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: the same input gives the same block, to the letter; bounds are left alone."""
    for this in cases(formulation):
        before = {k: (this.bounds.low[k].copy(), this.bounds.high[k].copy()) for k in this.bounds.low}
        first, second = emitted(formulation, this), emitted(formulation, this)
        assert_block_equal(first, second)
        assert first.to_text() == second.to_text(), f"{this.name}: two runs print different blocks"
        for name, (low, high) in before.items():
            same = np.array_equal(this.bounds.low[name], low) and np.array_equal(this.bounds.high[name], high)
            assert same, f"{this.name}: emit changed the bounds of {name!r}"


@since("0.1")
def check_column_names(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: every column belongs to one group and has a name of its own, the same on every run."""
    for this in [*cases(formulation), _batched(formulation)[0]]:
        block = emitted(formulation, this)
        names = block.names("net")
        assert len(names) == block.n_columns, f"{this.name}: {len(names)} names for {block.n_columns} columns"
        double = sorted({n for n in names if names.count(n) > 1})
        assert not double, f"{this.name}: column names are not unique: {double[:3]}"
        assert all(n.startswith("net.") for n in names), f"{this.name}: names must start with the embedding's name"
        covered = np.concatenate([np.arange(block.n_columns)[g.columns] for g in block.groups])
        assert np.array_equal(np.sort(covered), np.arange(block.n_columns)), (
            f"{this.name}: groups do not cover the columns"
        )


@since("0.1")
def check_batch_equals_points(formulation: Formulation, config: Config = DEFAULT) -> None:
    """Check: points of a batch have the optima they have alone, whatever boxes the others have."""
    many, alone = _batched(formulation)
    whole = emitted(formulation, many)
    weights = np.ones(many.network.output_size)
    for k, one in enumerate(alone):
        block = emitted(formulation, one)
        for up in (False, True):
            want = block_optimum(block, output_cost(block, weights), maximize=up)
            found = block_optimum(whole, output_cost(whole, weights, k), maximize=up)
            assert want is not None, f"{one.name}: the block of one point has no feasible point"
            assert found is not None, f"{many.name}: the block of a batch has no feasible point"
            good = abs(found - want) <= config.close(want)
            assert good, f"point {k} of a batch: optimum {found:.9g}, alone {want:.9g}"


def _batched(formulation: Formulation) -> tuple[Case, list[Case]]:
    """Return a case with three different boxes, and the three alone."""
    network = cases(formulation)[0].network
    centre = np.array([0.0, 0.7, -3.0])[:, None] + np.zeros((3, network.input_size))
    half = np.array([1.0, 0.0, 0.5])[:, None]
    alone = [case(f"point {k}", network, c - h, c + h) for k, (c, h) in enumerate(zip(centre, half, strict=True))]
    return case("batch", network, centre - half, centre + half), alone


def _compare_at(formulation: Formulation, this: Case, block: Block, x: Array, config: Config) -> None:
    """Compare smallest and largest outputs at fixed inputs with the forward pass.

    Next to a jump rows hold the value of either side, so there they must only contain the pass.
    """
    state = this.network.forward({this.network.inputs[0].name: x})
    want = np.concatenate([state[s.name][0] for s in this.network.outputs])
    fixed = with_inputs(block, x.ravel())
    for k, up in product(range(len(want)), (False, True)):
        found = block_optimum(fixed, output_cost(block, np.eye(len(want))[k]), maximize=up)
        what = f"{this.name}: output {k} at {x.ravel().tolist()}"
        _compare(formulation.exact and not _jumps(this.network, state), found, float(want[k]), up, what, config)


def _jumps(network: Network, state: Mapping[str, Array]) -> bool:
    """Return whether a layer is so close to a jump that a solver's tolerance reaches over it."""
    return any(bool((jump_distance(node, state) <= 2e-6).any()) for node in network.activations)


def jump_distance(node: Node, state: Mapping[str, Array]) -> Array:
    """Return how far the pre-activations of a layer are from where its value jumps; nothing for continuous layers."""
    g = state[node.inputs[0]]
    if isinstance(node, Step):
        return np.abs(g)
    if isinstance(node, Round):
        steps = g / node.step - node.shift
        near: Array = np.abs(np.clip(np.rint(steps), node.low, node.high - 1) - steps) * node.step
        return near[..., node.low < node.high]
    if isinstance(node, Winner) and node.groups.shape[1] > 1:
        members = np.sort(g[..., node.groups], axis=-1)
        return members[..., -1] - members[..., -2]
    return np.zeros(0)


def _compare(exact: bool, found: float | None, want: float, up: bool, what: str, config: Config) -> None:
    assert found is not None, f"{what}: the block has no feasible point"
    side = "largest" if up else "smallest"
    if exact:
        assert abs(found - want) <= config.close(want), f"{what}: {side} {found:.9g}, the network says {want:.9g}"
    else:
        beyond = want - found if up else found - want
        assert beyond <= config.close(want), f"{what}: {side} {found:.9g} cuts off the network's {want:.9g}"
