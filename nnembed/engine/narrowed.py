"""Networks written for the rows of the model they are in, for one solve.

Bounds that use the model's rows hold for the model as it is now. They are derived at each solve and used for that solve
only: an embedding gets the bounds and the plan of its box back afterwards, and never gives up its block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.box import Bounds
from nnembed.bounds.ladder import climb, uses_region
from nnembed.embedding import Embedding, Plan, emit_block, make_plan
from nnembed.engine.embed import tighteners
from nnembed.engine.lower import chain_to_come, lower_for
from nnembed.engine.region import region_of
from nnembed.hooks.manager import Registry
from nnembed.options import Budget, Clock, Options
from nnembed.problem import Overlay, Problem, overlay
from nnembed.protocols import Backend, BoundTightener

_CHEAP = 10  # cost of the methods that are tried first
_PART = 0.5  # of the time that is left, at most
_WORTH = 0.01  # part of its widths that a network must lose to be written anew


@dataclass(eq=False)
class ForThisSolve:
    """What one solve makes of the model's rows.

    Attributes
    ----------
    formulation, bounds : as in `solve`
        None keeps what each embedding was made with.
    """

    registry: Registry
    options: Options
    clock: Clock
    formulation: Any = None
    bounds: Any = None
    _plain: tuple[Problem, Sequence[Overlay]] | None = None
    _kept: list[tuple[Embedding, Bounds, Plan]] = field(default_factory=list)

    def narrow(self, problem: Problem, layers: Sequence[Overlay]) -> tuple[Problem, list[Overlay]]:
        """Return the model, its outputs in narrower bounds, and its networks, written for its rows where that pays.

        Parameters
        ----------
        problem : Problem
            The user's model without the networks.
        layers : sequence of Overlay
            The networks, written for their boxes.
        """
        self._plain, result = (problem, layers), []
        for layer in layers:
            embedding = layer.embedding
            found = self._bounds(problem, layer)
            if found is None:
                result.append(layer)
                continue
            formulation = embedding.formulation if self.formulation is None else self.formulation
            plan, parts = make_plan(
                embedding.network, found, formulation, embedding.host.accepts, self.registry, self.options,
                embedding.name,
            )  # fmt: skip
            block = emit_block(embedding.network, found, parts)
            self._kept.append((embedding, embedding.bounds, embedding.plan))
            embedding.bounds = found
            embedding.plan = replace(plan, chain=chain_to_come(block.needs), stable=block.presolved)
            result.append(replace(layer, block=block))
            problem = _cut_outputs(problem, layer, found)
        return problem, result

    def restore(self) -> None:
        """Give the embeddings the bounds and plans of their boxes back; what lowering has said of them stays."""
        for embedding, bounds, plan in self._kept:
            embedding.bounds, embedding.plan = bounds, replace(plan, chain=embedding.plan.chain)
        self._kept = []

    def without_rows(self, problem: Problem, backend: Backend) -> Problem:
        """Return the problem with the networks as they are on their boxes, for asking what if a row were not there."""
        if not self._kept or self._plain is None:
            return problem
        own, layers = self._plain
        plans = [(layer.embedding, layer.embedding.plan) for layer in layers]
        try:
            return lower_for(overlay(own, layers), own, layers, backend, self.registry)
        finally:
            for embedding, plan in plans:
                embedding.plan = plan

    def _bounds(self, problem: Problem, layer: Overlay) -> Bounds | None:
        embedding = layer.embedding
        methods = embedding.methods if self.bounds is None else self.bounds
        if isinstance(methods, Bounds) or self.clock.expired:
            return None
        left = None if self.options.time_limit is None else _PART * self.clock.remaining
        budget = replace(self.options.budget, seconds=left)
        box = embedding.box()
        return bounds_for(problem, layer, tighteners(methods, self.registry, region=True, splits=True), box, budget)


def bounds_for(
    problem: Problem, layer: Overlay, parts: Sequence[BoundTightener], box: tuple[Array, Array], budget: Budget
) -> Bounds | None:
    """Return bounds of a network for the model as it is; None where they are hardly better than those of the box.

    Parameters
    ----------
    problem : Problem
        The user's model without the network.
    layer : Overlay
        The network; its embedding has bounds on its box.
    parts : sequence of BoundTightener
    box : pair of arrays
        The bounds of the inputs now, in block order.
    """
    known: Bounds = layer.embedding.bounds
    if layer.outputs is None or not any(uses_region(m) for m in parts) or (box[0] > box[1]).any():
        return None
    region = region_of(problem, layer.inputs, layer.outputs, known)
    if region is None:
        return None
    clock = budget.start()
    start = replace(_on_box(known, *box), region=region)
    cheap = [m for m in parts if uses_region(m) and m.cost <= _CHEAP]
    found = climb(start, cheap, budget)
    better = _pays(found, start)
    rest = [m for m in parts if m not in cheap and (better or uses_region(m))]
    if rest:
        left = None if budget.seconds is None else clock.remaining
        found = climb(found, rest, replace(budget, seconds=left))
    return found if _pays(found, start) else None


def _pays(new: Bounds, old: Bounds) -> bool:
    """Return whether neurons are decided, or inputs, outputs or a layer are narrower altogether."""
    if new is old or new.unstable < old.unstable:
        return new is not old
    network = new.network
    tensors = [n.inputs[0] for n in network.activations] + [s.name for s in (*network.inputs, *network.outputs)]
    return any(
        float((new.high[t] - new.low[t]).sum()) < (1 - _WORTH) * float((old.high[t] - old.low[t]).sum())
        for t in tensors
    )


def _on_box(bounds: Bounds, low: Array, high: Array) -> Bounds:
    """Return the bounds with the inputs, in block order, cut to a box."""
    lows, highs, start = dict(bounds.low), dict(bounds.high), 0
    for spec in bounds.network.inputs:
        part = slice(start, start + bounds.batch * spec.size)
        shape = (bounds.batch, spec.size)
        lows[spec.name] = np.maximum(lows[spec.name], low[part].reshape(shape))
        highs[spec.name] = np.minimum(highs[spec.name], high[part].reshape(shape))
        start = part.stop
    crossed = any((lows[s.name] > highs[s.name]).any() for s in bounds.network.inputs)
    return bounds if crossed else replace(bounds, low=lows, high=highs)


def _cut_outputs(problem: Problem, layer: Overlay, found: Bounds) -> Problem:
    """Return the model with its output columns inside what is known of the outputs."""
    assert layer.outputs is not None
    places = problem.position(layer.outputs)
    low, high = (
        np.concatenate([side[s.name].ravel() for s in found.network.outputs]) for side in (found.low, found.high)
    )
    lower, upper = problem.lower.copy(), problem.upper.copy()
    low, high = np.maximum(lower[places], low), np.minimum(upper[places], high)
    good = low <= high
    lower[places[good]], upper[places[good]] = low[good], high[good]
    return replace(problem, lower=lower, upper=upper)
