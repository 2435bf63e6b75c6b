"""Each lowering by itself: text pairs, equivalence at random points, nothing done where there is nothing to do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from nnembed.block import Block, ColumnGroup, Indicators, Role, Sos1
from nnembed.bounds.box import input_bounds
from nnembed.bounds.interval import Interval
from nnembed.builder import BlockBuilder
from nnembed.errors import BoxError
from nnembed.features import Feature, missing
from nnembed.fills import Undetermined
from nnembed.formulations.complementarity import Complementarity
from nnembed.formulations.indicator import Indicator
from nnembed.formulations.native import Native
from nnembed.formulations.sos1 import Sets
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Max, relu
from nnembed.lowerings.complementarity_to_indicator import ComplementarityToIndicator
from nnembed.lowerings.complementarity_to_sos1 import ComplementarityToSos1
from nnembed.lowerings.indicator_to_bigm import IndicatorToBigM, row_maximum
from nnembed.lowerings.relu_to_bigm import ReluToBigM
from nnembed.lowerings.relu_to_complementarity import ReluToComplementarity
from nnembed.lowerings.sos1_to_binary import Sos1ToBinary
from nnembed.options import Budget

ALL = [
    Sos1ToBinary(),
    IndicatorToBigM(),
    ComplementarityToSos1(),
    ComplementarityToIndicator(),
    ReluToBigM(),
    ReluToComplementarity(),
]


def neuron(form, low=-1.0, high=2.0):
    """The block of ``y = max(x, 0)``."""
    x, y = TensorSpec("x", (1,)), TensorSpec("y", (1,))
    node = relu("relu", "x", "y", 1)
    return written(form, Network((x,), (y,), (node,), {"x": x, "y": y}), np.full(1, low), np.full(1, high))


def written(form, network, low, high):
    bounds = Interval().tighten(network, input_bounds(network, (low, high)), Budget())
    builder = BlockBuilder(network, bounds)
    for node in network.activations:
        form.emit(node, bounds, builder)
    return builder.finish()


def bare(lower, upper, integer=None, **more):
    """A block of plain columns x.in[0], x.in[1], ... without rows."""
    n = len(lower)
    group = ColumnGroup("x", Role.INPUT, 0, "x", n, np.arange(n), Undetermined())
    empty = sp.csr_array((0, n))
    return Block(
        matrix=empty,
        row_lower=np.zeros(0),
        row_upper=np.zeros(0),
        lower=np.asarray(lower, float),
        upper=np.asarray(upper, float),
        integer=np.zeros(n, dtype=bool) if integer is None else np.asarray(integer),
        n_inputs=n,
        outputs=np.zeros(0, dtype=np.intp),
        groups=(group,),
        **more,
    )


def holds(block, x, tolerance=1e-9):
    value = block.matrix @ x
    size = tolerance * (1 + np.abs(value))
    rows = (value >= block.row_lower - size).all() and (value <= block.row_upper + size).all()
    return bool(rows and (x >= block.lower - tolerance).all() and (x <= block.upper + tolerance).all())


def extendable(block, x):
    """Whether some values of the new binaries make a point feasible."""
    new = block.n_columns - len(x)
    return any(holds(block, np.r_[x, bits]) for bits in product((0.0, 1.0), repeat=new))


HEAD = """\
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.slack[0] in [0, 1]
"""
ROWS = """\
y.out[0] in [0, 2]
+1 input.in[0] -1 relu.post[0] +1 relu.slack[0] == 0
-1 relu.post[0] +1 y.out[0] == 0
"""
STATED = """\
input.in[0] in [-1, 2]
relu.pre[0] in [-1, 2]
relu.post[0] in [0, 2]
y.out[0] in [0, 2]
-1 input.in[0] +1 relu.pre[0] == 0
-1 relu.post[0] +1 y.out[0] == 0
"""
GOLDEN = {
    "sos1_to_binary": (
        Sets(),
        HEAD + ROWS + "sos1 relu.post[0], relu.slack[0]",
        HEAD
        + ROWS.replace("+1 input", "relu.on[0] binary\n+1 input")
        + "+1 relu.post[0] -2 relu.on[0] <= 0\n+1 relu.slack[0] +1 relu.on[0] <= 1",
    ),
    "indicator_to_bigm": (
        Indicator(),
        HEAD
        + "relu.on[0] binary\n"
        + ROWS
        + "relu.on[0] == 1 => +1 relu.slack[0] <= 0\nrelu.on[0] == 0 => +1 relu.post[0] <= 0",
        HEAD + "relu.on[0] binary\n" + ROWS + "+1 relu.slack[0] +1 relu.on[0] <= 1\n+1 relu.post[0] -2 relu.on[0] <= 0",
    ),
    "complementarity_to_sos1": (
        Complementarity(),
        HEAD + ROWS + "relu.post[0] * relu.slack[0] == 0",
        HEAD + ROWS + "sos1 relu.post[0], relu.slack[0]",
    ),
    "complementarity_to_indicator": (
        Complementarity(),
        HEAD + ROWS + "relu.post[0] * relu.slack[0] == 0",
        HEAD
        + ROWS.replace("+1 input", "relu.on[0] binary\n+1 input")
        + "relu.on[0] == 1 => +1 relu.slack[0] <= 0\nrelu.on[0] == 0 => +1 relu.post[0] <= 0",
    ),
    "relu_to_bigm": (
        Native(),
        STATED + "relu.post[0] == max(relu.pre[0], 0)",
        STATED.replace("-1 input", "relu.on[0] binary\n-1 input")
        + "-1 relu.pre[0] +1 relu.post[0] >= 0\n+1 relu.post[0] -2 relu.on[0] <= 0\n"
        + "-1 relu.pre[0] +1 relu.post[0] +1 relu.on[0] <= 1",
    ),
    "relu_to_complementarity": (
        Native(),
        STATED + "relu.post[0] == max(relu.pre[0], 0)",
        STATED.replace("-1 input", "relu.slack[0] in [0, 1]\n-1 input")
        + "-1 relu.pre[0] +1 relu.post[0] -1 relu.slack[0] == 0\nrelu.post[0] * relu.slack[0] == 0",
    ),
}


@pytest.mark.parametrize("lowering", ALL, ids=lambda low: low.name)
def test_text_in_and_text_out(lowering):
    form, before, after = GOLDEN[lowering.name]
    block = neuron(form)
    assert block.to_text() == before
    assert lowering.apply(block)[0].to_text() == after


@pytest.mark.parametrize("lowering", ALL, ids=lambda low: low.name)
@pytest.mark.parametrize("form", [Sets(), Indicator(), Complementarity(), Native()], ids=lambda f: f.name)
def test_removes_its_feature_and_adds_only_what_it_declares(lowering, form):
    block = neuron(form)
    new, recover = lowering.apply(block)
    if not lowering.removes & block.needs:
        assert new is block
    assert not new.needs & lowering.removes
    assert not new.needs & ~(block.needs | lowering.emits)
    x = np.arange(new.n_columns, dtype=float)
    assert np.array_equal(recover(x), x[: block.n_columns])
    assert new.n_inputs == block.n_inputs and np.array_equal(new.outputs, block.outputs)
    assert new.exact == block.exact and new.batch == block.batch


# ---- sets ------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_sets_of_any_size_and_sign(seed, members):
    rng = np.random.default_rng(seed)
    n = members + 1
    low, high = rng.choice([-2.0, -0.5, 0.0], n), rng.choice([0.0, 1.0, 3.0], n)
    sets = np.stack([np.arange(members), np.r_[np.arange(1, members), n - 1]])
    block = bare(low, high, sos1=(Sos1(sets),))
    new, recover = Sos1ToBinary().apply(block)
    for _ in range(20):
        x = rng.uniform(low, high) * rng.choice([0.0, 1.0], n, p=[0.6, 0.4])
        wanted = (np.count_nonzero(x[sets], axis=1) <= 1).all()
        assert extendable(new, x) == wanted
    assert np.array_equal(recover(np.arange(new.n_columns)), np.arange(n))


def test_one_binary_per_pair_and_one_per_member_beyond():
    box = np.zeros(5), np.ones(5)
    pair = Sos1ToBinary().apply(bare(*box, sos1=(Sos1(np.array([[0, 1], [2, 3]])),)))[0]
    triple = Sos1ToBinary().apply(bare(*box, sos1=(Sos1(np.array([[0, 1, 2]])),)))[0]
    assert (pair.binaries, triple.binaries) == (2, 3)


def test_members_fixed_at_zero_leave_the_set():
    block = bare([0, 0, 0], [1, 0, 2], sos1=(Sos1(np.array([[0, 1]])), Sos1(np.array([[0, 1, 2]]))))
    new = Sos1ToBinary().apply(block)[0]
    assert new.binaries == 1
    assert new.to_text().splitlines()[-2:] == ["+1 x.in[0] -1 x.on[0] <= 0", "+1 x.in[2] +2 x.on[0] <= 2"]


def test_sets_with_open_members_are_refused_by_name():
    block = bare([0, 0], [1, np.inf], sos1=(Sos1(np.array([[0, 1]])),))
    with pytest.raises(BoxError, match=r"'x\.in\[1\]' is in \[0, inf\]"):
        Sos1ToBinary().apply(block)


def test_columns_in_two_sets_get_names_of_their_own():
    x, y = TensorSpec("x", (3,)), TensorSpec("y", (2,))
    node = Max("pool", ("x",), "y", np.array([[0, 1], [1, 2]]))
    block = written(Sets(), Network((x,), (y,), (node,), {"x": x, "y": y}), -np.ones(3), np.ones(3))
    names = Sos1ToBinary().apply(block)[0].names("net")
    assert len(set(names)) == len(names)
    assert "net.pool.on[1]_2" in names


# ---- indicator rows --------------------------------------------------------------------------------


def rule_block(rng, value):
    """Two ranged or one-sided rows over three columns, behind binaries."""
    low, high = -rng.uniform(0, 2, 3), rng.uniform(0, 2, 3)
    matrix = np.c_[rng.normal(size=(2, 3)) * rng.choice([0, 1], (2, 3), p=[0.3, 0.7]), np.zeros((2, 2))]
    lower, upper = np.sort(rng.normal(size=(2, 2)) * 0.5, axis=0)
    lower[0] = rng.choice([lower[0], -np.inf, upper[0]])
    upper[1] = rng.choice([upper[1], np.inf])
    rule = Indicators(np.array([3, 4]), np.full(2, float(value)), sp.csr_array(matrix), lower, upper)
    whole = np.array([False] * 3 + [True] * 2)
    return bare(np.r_[low, 0, 0], np.r_[high, 1, 1], whole, indicators=(rule,)), rule


@given(st.integers(0, 10**6), st.sampled_from([0, 1]))
@settings(max_examples=80, deadline=None)
def test_big_m_rows_say_what_the_indicator_rows_say(seed, value):
    rng = np.random.default_rng(seed)
    block, rule = rule_block(rng, value)
    new, _ = IndicatorToBigM().apply(block)
    assert new.n_columns == block.n_columns
    ends = [np.array(c) for c in product(*zip(block.lower[:3], block.upper[:3], strict=True))]
    for x in [*ends, *rng.uniform(block.lower[:3], block.upper[:3], (10, 3))]:
        for bits in product((0.0, 1.0), repeat=2):
            point = np.r_[x, bits]
            row = rule.matrix @ point
            on = np.array(bits) == value
            margin = np.minimum(row - rule.row_lower, rule.row_upper - row)[on]
            if (np.abs(margin) < 1e-7).any():
                continue
            assert holds(new, point) == (margin > 0).all()


def test_rows_the_bounds_imply_are_dropped():
    matrix = sp.csr_array(np.array([[1.0, 0.0], [1.0, 0.0]]))
    rule = Indicators(np.array([1, 1]), np.ones(2), matrix, np.full(2, -np.inf), np.array([2.0, 0.5]))
    new = IndicatorToBigM().apply(bare([0, 0], [2, 1], [False, True], indicators=(rule,)))[0]
    assert new.n_rows == 1
    assert new.to_text().splitlines()[-1] == "+1 x.in[0] +1.5 x.in[1] <= 2"


def test_open_rows_are_refused_by_name():
    matrix = sp.csr_array(np.array([[1.0, -1.0, 0.0]]))
    rule = Indicators(np.array([2]), np.ones(1), matrix, np.full(1, -np.inf), np.zeros(1))
    block = bare([0, -np.inf, 0], [2, 1, 1], [False, False, True], indicators=(rule,))
    with pytest.raises(BoxError, match=r"'x\.in\[2\]'.*column 'x\.in\[1\]' is in \[-inf, 1\]"):
        IndicatorToBigM().apply(block)
    other = bare([0, -5, 0], [2, np.inf, 1], [False, False, True], indicators=(rule,))
    assert IndicatorToBigM().apply(other)[0].n_rows == 1  # only the side that is needed must be finite


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_m_is_rounded_outward(seed):
    """Against exact rational arithmetic."""
    from fractions import Fraction

    rng = np.random.default_rng(seed)
    matrix = sp.csr_array(rng.normal(size=(4, 6)) * 10.0 ** rng.integers(-6, 6, (4, 6)))
    low = rng.normal(size=6) - 1
    high = low + rng.uniform(0, 3, 6)
    found = row_maximum(matrix, low, high)
    for i, row in enumerate(matrix.toarray()):
        ends = [
            max(Fraction(a) * Fraction(lo), Fraction(a) * Fraction(hi))
            for a, lo, hi in zip(row, low, high, strict=True)
        ]
        assert Fraction(found[i]) >= sum(ends)
        assert found[i] <= float(sum(ends)) + 1e-13 * float(sum(abs(e) for e in ends))


# ---- complementary pairs ---------------------------------------------------------------------------


@pytest.mark.parametrize("lowering", [ComplementarityToSos1(), ComplementarityToIndicator()], ids=lambda low: low.name)
def test_pairs_keep_what_else_the_block_has(lowering):
    rule = Indicators(np.array([3]), np.ones(1), sp.csr_array(np.eye(4)[[0]]), np.full(1, -np.inf), np.zeros(1))
    block = bare(
        np.zeros(4),
        [1, 2, 3, 1],
        [False, False, False, True],
        sos1=(Sos1(np.array([[0, 2]])),),
        indicators=(rule,),
        complementarities=(np.array([[0, 1], [1, 2]]),),
    )
    new, _ = lowering.apply(block)
    assert new.needs == block.needs & ~Feature.COMPLEMENTARITY
    final = new
    for step in (Sos1ToBinary(), IndicatorToBigM()):
        final = step.apply(final)[0]
    rng = np.random.default_rng(0)
    for _ in range(40):
        x = np.r_[rng.uniform(0, [1, 2, 3]) * rng.choice([0, 1], 3), rng.choice([0.0, 1.0])]
        wanted = x[0] * x[1] == 0 and x[1] * x[2] == 0 and x[0] * x[2] == 0 and (x[3] == 0 or x[0] == 0)
        assert extendable(final, x) == wanted


# ---- ReLU rows -------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=80, deadline=None)
def test_relu_rows_of_any_range(seed, through_pairs):
    """Open, always on, always off, zero at an end, and results with bounds of their own."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.choice([-2.0, -0.5, 0.0, 0.5, 3.0], (2, 2)), axis=0)
    top = rng.choice([0.4, 9.0, np.inf], 2) if through_pairs else rng.choice([0.4, 9.0], 2)
    block = bare(np.r_[[-5.0, 0.0], low], np.r_[top, high], relus=(np.array([[0, 2], [1, 3]]),))
    if through_pairs:
        new, recover = ReluToComplementarity().apply(block)
    else:
        new, recover = ReluToBigM().apply(block)
    for _ in range(20):
        g = rng.uniform(low, high)
        y = np.where(rng.random(2) < 0.7, np.maximum(g, 0), rng.uniform(-1, 4, 2))
        wanted = bool((y == np.maximum(g, 0)).all() and (y <= block.upper[:2]).all())
        point = np.r_[y, g]
        if through_pairs:
            slack = y - g
            whole = np.r_[point, slack]
            pairs = np.concatenate(new.complementarities)
            assert (holds(new, whole) and (whole[pairs].min(axis=1) <= 1e-9).all()) == wanted
        else:
            assert extendable(new, point) == wanted
    assert np.array_equal(recover(np.arange(new.n_columns)), np.arange(4))


def test_relu_rows_that_cannot_change_sign_get_no_binary():
    block = bare([0, 0, 1, -3], [9, 9, 2, -1], relus=(np.array([[0, 2], [1, 3]]),))
    new = ReluToBigM().apply(block)[0]
    assert new.binaries == 0 and new.upper[1] == 0 and new.n_rows == 1


def test_open_relu_rows_are_refused_by_name_or_go_through_pairs():
    block = bare([0, -np.inf], [9, 4], relus=(np.array([[0, 1]]),))
    with pytest.raises(BoxError, match=r"'x\.in\[0\]'.*argument 'x\.in\[1\]' is in \[-inf, 4\]"):
        ReluToBigM().apply(block)
    pairs = ReluToComplementarity().apply(block)[0]
    assert pairs.needs == Feature.LINEAR | Feature.COMPLEMENTARITY and pairs.upper[2] == np.inf


@pytest.mark.parametrize("lowering", [ReluToBigM(), ReluToComplementarity()], ids=lambda low: low.name)
def test_relu_rows_keep_what_else_the_block_has(lowering):
    rule = Indicators(np.array([3]), np.ones(1), sp.csr_array(np.eye(4)[[0]]), np.full(1, -np.inf), np.zeros(1))
    block = bare(
        [0, -1, -1, 0],
        [1, 2, 3, 1],
        [False, False, False, True],
        sos1=(Sos1(np.array([[0, 2]])),),
        indicators=(rule,),
        relus=(np.array([[0, 1]]),),
    )
    new, _ = lowering.apply(block)
    assert not missing(block.needs & ~Feature.RELU, new.needs)
    assert new.indicators[0].matrix.shape == (1, new.n_columns)
