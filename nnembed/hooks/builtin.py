"""The built-in parts, through the same door as everybody else's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnembed.hooks import hookimpl

if TYPE_CHECKING:
    from nnembed.options import Options
    from nnembed.problem import Problem
    from nnembed.protocols import Backend, BoundTightener, Formulation, Heuristic, Host, Lowering, OpReader


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
    """Return the big-M forms, the forms without big-M and the triangle relaxation."""
    from nnembed.formulations.bigm import Slack, TwoRow
    from nnembed.formulations.complementarity import Complementarity
    from nnembed.formulations.indicator import Indicator
    from nnembed.formulations.sos1 import Sets
    from nnembed.formulations.triangle import Triangle

    return [TwoRow(), Slack(), Sets(), Indicator(), Complementarity(), Triangle()]


@hookimpl
def nnembed_lowerings() -> Iterable[Lowering]:
    """Return the rewrites of sets, indicator rows and complementary pairs."""
    from nnembed.lowerings.complementarity_to_indicator import ComplementarityToIndicator
    from nnembed.lowerings.complementarity_to_sos1 import ComplementarityToSos1
    from nnembed.lowerings.indicator_to_bigm import IndicatorToBigM
    from nnembed.lowerings.sos1_to_binary import Sos1ToBinary

    return [Sos1ToBinary(), IndicatorToBigM(), ComplementarityToSos1(), ComplementarityToIndicator()]


@hookimpl
def nnembed_backends() -> Iterable[Backend]:
    """Return HiGHS."""
    from nnembed.backends.highs import Highs

    return [Highs()]


@hookimpl
def nnembed_hosts() -> Iterable[Host]:
    """Return linopy, Pyomo and raw arrays."""
    from nnembed.hosts.arrays import ArrayHost
    from nnembed.hosts.linopy import LinopyHost
    from nnembed.hosts.pyomo import PyomoHost

    return [ArrayHost(), LinopyHost(), PyomoHost()]


@hookimpl
def nnembed_heuristics() -> Iterable[Heuristic]:
    """Return the start from forward passes."""
    from nnembed.heuristics.forward import ForwardStart

    return [ForwardStart()]


@hookimpl(trylast=True)
def nnembed_choose_backend(problem: Problem, available: tuple[str, ...], options: Options) -> str | None:
    """Choose HiGHS when it takes the problem, else the first that is there without a limit of size."""
    ranked = [name for name in ("highs", "scip") if name in available] + list(available)
    return ranked[0] if ranked else None
