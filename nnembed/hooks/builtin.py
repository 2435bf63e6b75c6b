"""The built-in parts, through the same door as everybody else's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnembed.hooks import hookimpl

if TYPE_CHECKING:
    from nnembed.options import Options
    from nnembed.problem import Problem
    from nnembed.protocols import Backend, BoundTightener, Formulation, Heuristic, Host, Lowering, OpReader, Surrogate


@hookimpl
def nnembed_op_readers() -> Iterable[OpReader]:
    """Return the readers of the operators that are read exactly."""
    from nnembed.readers import builtin_readers

    return builtin_readers()


@hookimpl
def nnembed_bound_tighteners() -> Iterable[BoundTightener]:
    """Return intervals, propagation of the model's rows, backward bounds, linear and mixed-integer programs."""
    from nnembed.bounds.alpha import AlphaCrown
    from nnembed.bounds.backward import Crown
    from nnembed.bounds.hull_lp import OptC2V
    from nnembed.bounds.hull_sweep import FastC2V
    from nnembed.bounds.interval import Interval
    from nnembed.bounds.lp import Lp
    from nnembed.bounds.mip import Mip, Rolling
    from nnembed.bounds.propagate import Fbbt

    return [Interval(), Fbbt(), Crown(), AlphaCrown(), FastC2V(), OptC2V(), Lp(), Rolling(), Mip()]


@hookimpl
def nnembed_formulations() -> Iterable[Formulation]:
    """Return the big-M forms, the forms without big-M and the triangle relaxation."""
    from nnembed.formulations.bigm import Slack, TwoRow
    from nnembed.formulations.complementarity import Complementarity
    from nnembed.formulations.crelu import CRelu
    from nnembed.formulations.dependency import Dependency
    from nnembed.formulations.extended import Extended
    from nnembed.formulations.hull import Hull
    from nnembed.formulations.ideal import Ideal
    from nnembed.formulations.indicator import Indicator
    from nnembed.formulations.maxout import Maxout
    from nnembed.formulations.maxout_extended import MaxExtended
    from nnembed.formulations.maxout_split import MaxSplit
    from nnembed.formulations.native import Native
    from nnembed.formulations.onehot import OneHot
    from nnembed.formulations.partition import Partition
    from nnembed.formulations.round import RoundRows
    from nnembed.formulations.sos1 import Sets
    from nnembed.formulations.step import StepIdeal, StepRows
    from nnembed.formulations.triangle import Triangle
    from nnembed.formulations.winner import WinnerRows
    from nnembed.formulations.zhat import ZHat

    hulls: tuple[Formulation, ...] = ZHat(), Partition(), Extended(), Ideal(), OneHot(), Dependency(), Hull()
    maxima: tuple[Formulation, ...] = Maxout(), MaxSplit(), MaxExtended()
    jumps: tuple[Formulation, ...] = StepRows(), StepIdeal(), RoundRows(), WinnerRows()
    return [
        TwoRow(),
        Slack(),
        CRelu(),
        Sets(),
        Indicator(),
        Complementarity(),
        Native(),
        Triangle(),
        *hulls,
        *maxima,
        *jumps,
    ]


@hookimpl
def nnembed_lowerings() -> Iterable[Lowering]:
    """Return the rewrites of sets, indicator rows, complementary pairs and ReLU rows."""
    from nnembed.lowerings.complementarity_to_indicator import ComplementarityToIndicator
    from nnembed.lowerings.complementarity_to_sos1 import ComplementarityToSos1
    from nnembed.lowerings.indicator_to_bigm import IndicatorToBigM
    from nnembed.lowerings.relu_to_bigm import ReluToBigM
    from nnembed.lowerings.relu_to_complementarity import ReluToComplementarity
    from nnembed.lowerings.sos1_to_binary import Sos1ToBinary

    pairs = ComplementarityToSos1(), ComplementarityToIndicator()
    return [Sos1ToBinary(), IndicatorToBigM(), *pairs, ReluToBigM(), ReluToComplementarity()]


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


@hookimpl
def nnembed_surrogates() -> Iterable[Surrogate]:
    """Return magnitude pruning."""
    from nnembed.surrogates.magnitude import Magnitude

    return [Magnitude()]


@hookimpl(trylast=True)
def nnembed_choose_backend(problem: Problem, available: tuple[str, ...], options: Options) -> str | None:
    """Choose HiGHS when it takes the problem, else the first that is there without a limit of size."""
    ranked = [name for name in ("highs", "scip") if name in available] + list(available)
    return ranked[0] if ranked else None
