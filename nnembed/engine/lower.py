"""Lower what the chosen solver does not take: the blocks of networks, and sets and indicator rows of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnembed.block import Block, ColumnGroup, Role, Sos1
from nnembed.embedding import able_solvers, lower_block, no_way
from nnembed.features import Feature, missing
from nnembed.fills import Undetermined
from nnembed.hooks.manager import Registry
from nnembed.lowerings.planner import Chain, cheapest, hopeless
from nnembed.matrices import widen_square
from nnembed.problem import Overlay, Problem, overlay
from nnembed.protocols import Backend, Lowering

_QUADRATIC = Feature.QUADRATIC_OBJECTIVE | Feature.QUADRATIC_ROWS | Feature.NONCONVEX


def chain_to_come(needs: Feature) -> str:
    """Return a note on the features of a network that is not attached, before its solver is known."""
    special = missing(needs, Feature.LINEAR | Feature.INTEGER)
    return f"{', '.join(special)} where the solver lacks it, once the solver is known" if special else ""


def needs_after(problem: Problem, backend: Backend, registry: Registry) -> Feature:
    """Return what a problem needs once lowerings have replaced what `backend` lacks and they can replace."""
    needs = problem.needs
    for feature in needs & ~(backend.accepts | _QUADRATIC):
        for step in _steps(feature, backend, registry):
            needs = (needs & ~step.removes) | step.emits
    if problem.quadratic is not None and needs & Feature.INTEGER:
        needs |= Feature.NONCONVEX
    return needs


def _steps(needs: Feature, backend: Backend, registry: Registry) -> tuple[Lowering, ...]:
    return cheapest(needs, backend.accepts | _QUADRATIC, registry.parts("lowering").values()) or ()


def lower_for(
    stated: Problem, own: Problem, layers: Sequence[Overlay], backend: Backend, registry: Registry
) -> Problem:
    """Return the user's rows and the networks on top, both lowered for a solver; plans get their chain.

    Parameters
    ----------
    stated : Problem
        The model with its networks as their formulations wrote them.
    own : Problem
        The model without the networks that are not attached.
    layers : sequence of Overlay
        These networks.
    """
    accepts = backend.accepts
    if not missing(stated.needs & ~_QUADRATIC, accepts):
        for layer in layers:
            layer.embedding.plan = replace(layer.embedding.plan, chain="")
        return stated
    lowered = []
    for layer in layers:
        block, plan = lower_block(layer.block, layer.embedding.plan, accepts, backend.name, registry)
        layer.embedding.plan = plan
        lowered.append(replace(layer, block=block))
    return overlay(lower_own(own, Chain(_steps(own.needs, backend, registry))), lowered)


def lower_own(problem: Problem, chain: Chain) -> Problem:
    """Return a problem with its own sets, indicator rows and pairs lowered; new columns and rows come last."""
    if not chain.steps:
        return problem
    block = Block(
        matrix=problem.matrix,
        row_lower=problem.row_lower,
        row_upper=problem.row_upper,
        lower=problem.lower,
        upper=problem.upper,
        integer=problem.integer,
        n_inputs=0,
        outputs=np.zeros(0, dtype=np.intp),
        groups=_groups(problem),
        sos1=tuple(Sos1(columns) for columns in problem.sos1),
        indicators=problem.indicators,
        complementarities=problem.complementarities,
        relus=problem.relus,
    )
    new = chain.apply(block)[0]
    n, m = problem.n_columns, problem.n_rows
    return replace(
        problem,
        matrix=new.matrix,
        row_lower=new.row_lower,
        row_upper=new.row_upper,
        lower=new.lower,
        upper=new.upper,
        integer=new.integer,
        cost=np.pad(problem.cost, (0, new.n_columns - n)),
        quadratic=None if problem.quadratic is None else widen_square(problem.quadratic, new.n_columns),
        row_groups=(*problem.row_groups, (str(chain), m, new.n_rows)),
        column_groups=(*problem.column_groups, (str(chain), n, new.n_columns)),
        sos1=tuple(s.columns for s in new.sos1),
        indicators=new.indicators,
        complementarities=new.complementarities,
        relus=new.relus,
    )


@dataclass(frozen=True, eq=False)
class _UserColumns(ColumnGroup):
    """Columns of the user's own model, under the user's name."""

    def names(self, prefix: str, batch: int) -> list[str]:
        """Return the name, with the place in the group where there is more than one column."""
        single = len(self.elements) == 1
        return [self.layer] if single else [f"{self.layer}[{e}]" for e in self.elements.tolist()]


def _groups(problem: Problem) -> tuple[ColumnGroup, ...]:
    return tuple(
        _UserColumns(name, Role.INPUT, start, "", 1, np.arange(stop - start), Undetermined())
        for name, start, stop in problem.column_groups
        if stop > start
    )


def refusal(problem: Problem, backend: Backend, lacking: Sequence[str], registry: Registry) -> str:
    """Return why a solver cannot take a problem: the formulation or the user's rows, and what would work."""
    lowerings = tuple(registry.parts("lowering").values())
    who = f"solver {backend.name!r}"
    for placement in problem.placements:
        for line in placement.embedding.plan.lines:
            form = registry.parts("formulation").get(line.formulation)
            if form is None or not (stuck := hopeless(form.emits, backend.accepts, lowerings)):
                continue
            kind = next(type(n) for n in placement.embedding.network.activations if n.name == line.layer)
            return no_way(form.name, line.layer, form.emits, stuck, who, backend.accepts, registry, kind)
    able = [name for name in able_solvers(problem.needs, registry) if name != backend.name]
    more = f"backend= one of {', '.join(able)}" if able else "a model without it"
    return f"{who} does not take {', '.join(lacking)}, which this model needs and no lowering replaces; use {more}"
