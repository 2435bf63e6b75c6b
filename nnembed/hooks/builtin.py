"""The built-in parts, through the same door as everybody else's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnembed.hooks import hookimpl

if TYPE_CHECKING:
    from nnembed.options import Options
    from nnembed.problem import Problem
    from nnembed.protocols import Backend, BoundTightener, Formulation, Heuristic, Host, OpReader


@hookimpl
def nnembed_op_readers() -> Iterable[OpReader]:
    """Return the readers of the operators that are read exactly."""
    from nnembed.readers import builtin_readers

    return builtin_readers()


@hookimpl
def nnembed_bound_tighteners() -> Iterable[BoundTightener]:
    """Return interval arithmetic and CROWN."""
    from nnembed.bounds.backward import Crown
    from nnembed.bounds.interval import Interval

    return [Interval(), Crown()]


@hookimpl
def nnembed_formulations() -> Iterable[Formulation]:
    """Return the big-M forms and the triangle relaxation."""
    from nnembed.formulations.bigm import Slack, TwoRow
    from nnembed.formulations.triangle import Triangle

    return [TwoRow(), Slack(), Triangle()]


@hookimpl
def nnembed_backends() -> Iterable[Backend]:
    """Return HiGHS."""
    from nnembed.backends.highs import Highs

    return [Highs()]


@hookimpl
def nnembed_hosts() -> Iterable[Host]:
    """Return linopy and raw arrays."""
    from nnembed.hosts.arrays import ArrayHost
    from nnembed.hosts.linopy import LinopyHost

    return [ArrayHost(), LinopyHost()]


@hookimpl
def nnembed_heuristics() -> Iterable[Heuristic]:
    """Return the start from forward passes."""
    from nnembed.heuristics.forward import ForwardStart

    return [ForwardStart()]


@hookimpl(trylast=True)
def nnembed_choose_backend(problem: Problem, available: tuple[str, ...], options: Options) -> str | None:
    """Choose HiGHS when it takes the problem, else the first that is there."""
    if "highs" in available:
        return "highs"
    return available[0] if available else None
