"""The hooks: one per extension point.

A registry collects the objects once; dispatch never goes through pluggy in a loop.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from nnembed.bounds.box import Bounds
from nnembed.events import Event
from nnembed.features import Feature
from nnembed.hooks import NAME
from nnembed.ir.network import Network
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import (
    Backend,
    BoundTightener,
    Command,
    Formulation,
    Heuristic,
    Host,
    Lowering,
    OpReader,
    Surrogate,
)

hookspec = pluggy.HookspecMarker(NAME)


@hookspec
def nnembed_op_readers() -> Iterable[OpReader]:  # type: ignore[empty-body]
    """Readers of ONNX operators."""


@hookspec
def nnembed_bound_tighteners() -> Iterable[BoundTightener]:  # type: ignore[empty-body]
    """Methods that narrow bounds."""


@hookspec
def nnembed_surrogates() -> Iterable[Surrogate]:  # type: ignore[empty-body]
    """Builders of smaller twins of a network."""


@hookspec
def nnembed_formulations() -> Iterable[Formulation]:  # type: ignore[empty-body]
    """Ways to write an activation as rows."""


@hookspec
def nnembed_lowerings() -> Iterable[Lowering]:  # type: ignore[empty-body]
    """Rewrites for solvers that lack a feature."""


@hookspec
def nnembed_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """Solvers."""


@hookspec
def nnembed_hosts() -> Iterable[Host]:  # type: ignore[empty-body]
    """Modelling layers."""


@hookspec
def nnembed_heuristics() -> Iterable[Heuristic]:  # type: ignore[empty-body]
    """Finders of good points."""


@hookspec(firstresult=True)
def nnembed_choose_formulation(
    network: Network, bounds: Bounds, layer: str, accepts: Feature, options: Options
) -> tuple[str, str] | None:
    """Return (name of the formulation, reason) for one layer; the first plugin that answers wins."""


@hookspec(firstresult=True)
def nnembed_choose_backend(problem: Problem, available: tuple[str, ...], options: Options) -> str | None:
    """Return the solver for a problem; the first plugin that answers wins."""


@hookspec
def nnembed_event(event: Event) -> None:
    """Hear of progress."""


@hookspec
def nnembed_commands() -> Iterable[Command]:  # type: ignore[empty-body]
    """Further ``nnembed`` subcommands."""
