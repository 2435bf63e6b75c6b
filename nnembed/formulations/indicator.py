r"""Indicator rows: a binary says which of the positive and the negative part is zero; no big-M.

For an open ReLU ``y = max(g, 0)``, ``g = w x + b``, proven ``L <= g <= U`` and a binary z

    g = r - s,   0 <= r <= U,   0 <= s <= -L,   z = 1 => s <= 0,   z = 0 => r <= 0,   y = r

that is, ``z = 1 => y = g`` and ``z = 0 => y = 0``, with the affine row written once as an equality: an indicator row
holds a single column, so a solver, or a rewrite as big-M, finds the proven bounds of the neuron instead of interval
bounds over its inputs. Other kinks and a clip as in the ``sos1`` form, each pair with a binary of its own. A maximum is

    y = x_i + s_i,   s_i >= 0,   sum z_i = 1,   z_i = 1 => s_i <= 0

and a step ``y = low + (high - low) z`` with r, s and z as above; see *step* for what that means at the threshold.

Assumes nothing about the bounds but that they hold. Source: Bonami, Lodi, Tramontani and Wiese, Mathematical
Programming 151 (2015), on indicator rows and what big-M loses.

>>> from nnembed.formulations.show import show
>>> print(show(Indicator(), low=-1.0, high=2.0))
input.in[0] in [-1, 2]
relu.post[0] in [0, 2]
relu.slack[0] in [0, 1]
relu.on[0] binary
y.out[0] in [0, 2]
+1 input.in[0] -1 relu.post[0] +1 relu.slack[0] == 0
-1 relu.post[0] +1 y.out[0] == 0
relu.on[0] == 1 => +1 relu.slack[0] <= 0
relu.on[0] == 0 => +1 relu.post[0] <= 0
"""

from __future__ import annotations

import numpy as np

from nnembed.aliases import Index
from nnembed.block import Role
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder, Rows
from nnembed.features import Feature
from nnembed.fills import Part
from nnembed.formulations.bigm import CONTINUOUS
from nnembed.formulations.pieces import Contest, Kinks, Steps, TwoKinks, emit_activation, emit_max
from nnembed.formulations.sos1 import Pair, lifted, split, split_twice
from nnembed.ir.nodes import Activation, Max, Node, Step


class Indicator:
    """Positive and negative part, switched off by indicator rows."""

    name = "indicator"
    summary = "indicator rows on positive and negative part: no big-M"
    emits = Feature.LINEAR | Feature.INTEGER | Feature.INDICATOR
    handles: frozenset[type[Node]] = CONTINUOUS | {Step}
    exact = True
    needs_finite_bounds = False

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add the rows of one layer."""
        if isinstance(node, Max):
            emit_max(node, bounds, block, _contest, finite=False)
        elif isinstance(node, Activation):
            emit_activation(node, bounds, block, _kinks, _two_kinks, steps=_steps, finite=False)


def _switch(pair: Pair, block: BlockBuilder) -> None:
    """Write ``z = 1 => second <= 0`` and ``z = 0 => first <= 0``."""
    z = block.binaries(pair.layer, pair.tensor, pair.elements, pair.above)
    block.indicators(z, 1, [block.unit(pair.second).matrix], -np.inf, 0.0)
    block.indicators(z, 0, [block.unit(pair.first).matrix], -np.inf, 0.0)


def _kinks(k: Kinks, block: BlockBuilder) -> Rows:
    pair, rows = split(k, block)
    _switch(pair, block)
    return rows


def _two_kinks(k: TwoKinks, block: BlockBuilder) -> Rows:
    lower, upper, rows = split_twice(k, block)
    _switch(lower, block)
    _switch(upper, block)
    return rows


def _steps(k: Steps, block: BlockBuilder) -> Index:
    """Return the binaries of steps: ``g = r - s``, ``z = 1 => s <= 0``, ``z = 0 => r <= 0``."""
    part = (k.tensor, k.elements)
    r = block.columns(k.layer, Role.PRE, *part, 0.0, k.high, Part(*part, 1.0))
    s = block.columns(k.layer, Role.SLACK, *part, 0.0, -k.low, Part(*part, -1.0))
    block.add([k.pre.matrix, block.unit(r, -1.0).matrix, block.unit(s).matrix], -k.pre.constant, -k.pre.constant)
    z = k.columns(block)
    block.indicators(z, 1, [block.unit(s).matrix], -np.inf, 0.0)
    block.indicators(z, 0, [block.unit(r).matrix], -np.inf, 0.0)
    return z


def _contest(k: Contest, block: BlockBuilder) -> Rows:
    z, gaps, rows = lifted(k, block, integer=True)
    block.indicators(z, 1, [block.unit(gaps).matrix], -np.inf, 0.0)
    return rows
