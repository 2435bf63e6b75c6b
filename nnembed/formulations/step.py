r"""Steps: ``y = high`` where ``g >= 0``, ``y = low`` below, with a binary; and the cuts of each neuron's hull.

For an open step, ``g = w x + b`` with proven ``L <= g <= U``, ``L < 0 <= U``, a binary z and a margin m

    y = low + (high - low) z,   g >= L (1 - z),   g <= (U + m) z - m

that is, ``z = 1 => g >= 0`` and ``z = 0 => g <= -m``: one binary, two rows, no column for y. *step_ideal* adds, for
every set I of terms over the box of the columns x, with wl_i, wu_i where ``w_i x_i`` is smallest and largest,

    sum_{i in I} w_i (x_i - wl_i (1 - z)) + (b + sum_{i not in I} w_i wu_i) z >= 0

and its mirror image (``-g - m`` for g, 1 - z for z), looked for where they are violated, in O(n). These are the
projections of Balas's extended form of the two cases, hence their hull.

**The threshold.** No set of rows with binaries holds ``g < 0``; what they hold is closed. With ``m = 0``, the default,
a point exactly at the threshold may have either value, and the block is the network and its limits, no more: bounds are
proofs, of a supremum that the network may approach but not reach. Solvers, moreover, hold rows only up to a tolerance
and like to answer at the threshold. So the answer is what the network itself says at the solver's inputs, as
everywhere; where that is the worse side of a jump the status is "feasible", with the gap that is left.

With ``m > 0`` the points with ``-m < g < 0`` are left out, and the value at the threshold is the network's. That is for
networks of which it is known that no such point counts: integer inputs, weights and biases have ``m = 1``, inputs and
weights of -1 and 1 with biases that make all sums odd or all even have ``m = 2``. It is the caller who states this;
nobody checks it, and optimum and bound are those over the points that are left. The plan names the margin.

Assumes finite proven bounds. Sources: the rows are folklore of binarised networks, Khalil, Gupta and Dilkina, ICLR
2019; the cuts follow Anderson, Huchette, Ma, Tjandraatmadja and Vielma, Mathematical Programming 183 (2020).

>>> import numpy as np
>>> from nnembed.formulations.show import show
>>> from nnembed.ir.nodes import Step
>>> node = Step("sign", ("x",), "y", np.array([-1.0]), np.array([1.0]))
>>> print(show(StepRows(), low=-3.0, high=2.0, node=node))
input.in[0] in [-3, 2]
sign.on[0] binary
y.out[0] in [-1, 1]
+1 input.in[0] -3 sign.on[0] >= -3
+1 input.in[0] -2 sign.on[0] <= 0
-2 sign.on[0] +1 y.out[0] == -1
>>> print(show(StepIdeal(margin=1.0), low=-3.0, high=2.0, node=node))
input.in[0] in [-3, 2]
sign.on[0] binary
y.out[0] in [-1, 1]
+1 input.in[0] -3 sign.on[0] >= -3
+1 input.in[0] -3 sign.on[0] <= -1
-2 sign.on[0] +1 y.out[0] == -1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnembed.aliases import Index
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder
from nnembed.errors import InputError
from nnembed.features import Feature
from nnembed.formulations.disjunctive import column_box
from nnembed.formulations.ideal_cuts import StepCuts
from nnembed.formulations.pieces import Steps, emit_steps, two_sides
from nnembed.ir.nodes import Node, Step


@dataclass(frozen=True)
class StepRows:
    """Big-M rows on both sides of the threshold.

    Parameters
    ----------
    margin : float
        Pre-activations between minus this and zero do not count, see the module; 0 leaves nothing out.
    """

    margin: float = 0.0

    summary: ClassVar[str] = "big-M on both sides of a step's threshold"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = frozenset({Step})
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no margin."""
        _require_margin("StepRows", self.margin)

    @property
    def name(self) -> str:
        """The name, with the margin where there is one, so that plans show it."""
        return _name("step", self.margin)

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Step):
            emit_steps(node, bounds, block, self._steps)

    def _steps(self, k: Steps, block: BlockBuilder) -> Index:
        return two_sides(k, block, margin=self.margin)


@dataclass(frozen=True)
class StepIdeal:
    """Big-M rows and the cuts of each neuron's hull.

    Parameters
    ----------
    margin : float
        As in `StepRows`.
    rounds : int
        Rounds of cuts before the search, for solvers that take none on the way.
    """

    margin: float = 0.0
    rounds: int = 3

    summary: ClassVar[str] = "big-M on both sides of a step's threshold, and the most violated cuts of its hull"
    emits: ClassVar[Feature] = Feature.LINEAR | Feature.INTEGER
    handles: ClassVar[frozenset[type[Node]]] = frozenset({Step})
    exact: ClassVar[bool] = True
    needs_finite_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no margin and a negative number of rounds."""
        _require_margin("StepIdeal", self.margin)
        if self.rounds < 0:
            raise InputError(f"StepIdeal(rounds={self.rounds}): give 0 or more")

    @property
    def name(self) -> str:
        """See `StepRows.name`."""
        return _name("step_ideal", self.margin)

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Step):
            emit_steps(node, bounds, block, self._steps)

    def _steps(self, k: Steps, block: BlockBuilder) -> Index:
        return two_sides_with_cuts(k, block, self.rounds, margin=self.margin)


def two_sides_with_cuts(k: Steps, block: BlockBuilder, rounds: int, *, margin: float = 0.0) -> Index:
    """Return the binaries of steps after writing both rows and leaving cuts to be looked for."""
    pre = block.unfolded(k.pre)
    box = column_box(pre, block)
    z = two_sides(k, block, margin=margin)
    block.separate(StepCuts(pre.matrix, pre.constant, *box, z, margin / k.unit, rounds))
    return z


def _name(name: str, margin: float) -> str:
    return f"{name}(margin={margin:g})" if margin else name


def _require_margin(name: str, margin: float) -> None:
    if not 0 <= margin < float("inf"):
        raise InputError(f"{name}(margin={margin}): give a number >= 0, 1 for a network of integers")
