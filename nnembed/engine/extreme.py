"""The largest or smallest weighted output of a network over a box: one call, no model."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.bounds.box import input_bounds
from nnembed.engine.embed import embed_for
from nnembed.engine.region import read_constraints
from nnembed.engine.solve import run_of
from nnembed.errors import InputError, UnknownName
from nnembed.hosts.arrays import ArrayModel
from nnembed.ir.network import Network
from nnembed.keywords import explicit
from nnembed.options import Options
from nnembed.result import Result

_AUTO, _ASKED = 0.2, 0.5  # parts of the time limit for bounds, chosen by nnembed and by the caller


@explicit
def maximize(
    network: Network,
    box: Any,
    objective: Any = None,
    constraints: Any = None,
    *,
    backend: Any = "auto",
    formulation: Any = "auto",
    bounds: Any = "auto",
    heuristics: Any = "auto",
    start: Any = None,
    time_limit: float | None = None,
    gap: float = 1e-4,
    threads: int = 1,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool | None = None,
    tolerance: float = 1e-5,
    solver_options: Mapping[str, Any] | None = None,
    isolated: bool = False,
    surrogate: Any = None,
    target: float | None = None,
) -> Result:
    """Maximise a weighted sum of outputs over a box of inputs.

    Parameters
    ----------
    network : Network
    box : pair (lower, upper)
        Finite; scalars, arrays of the input's shape or flat, or dicts of them by input name.
    objective : weights or None
        One number per output entry (own shape or flat), or a dict of them by output name. None is allowed for a network
        with a single output entry and means that entry.
    constraints : linear constraints or None
        One or a list of ``(A, lower, upper)`` or objects with ``A``, ``lb``, ``ub``
        (`scipy.optimize.LinearConstraint`), over the inputs, or over inputs and outputs joined, inputs first.
    backend, formulation, bounds, heuristics, time_limit, gap, threads, seed, executor, progress, tolerance,
    solver_options, isolated, surrogate, target
        As in `solve`.
    start : array, dict of arrays, Result, "auto" or None
        Inputs to start from, moved where they break bounds or constraints.

    Returns
    -------
    Result
        ``result.x`` and ``result.y`` are the network's input and output at the answer.

    Raises
    ------
    BoxError, InputError, UnsupportedFeature, Unavailable
    """
    options = Options(
        backend, formulation, bounds, heuristics, start, time_limit, gap, threads, seed, executor, progress, tolerance,
        solver_options or {}, isolated, surrogate, target,
    )  # fmt: skip
    return _extreme(network, box, objective, constraints, options, maximize=True)


@explicit
def minimize(
    network: Network,
    box: Any,
    objective: Any = None,
    constraints: Any = None,
    *,
    backend: Any = "auto",
    formulation: Any = "auto",
    bounds: Any = "auto",
    heuristics: Any = "auto",
    start: Any = None,
    time_limit: float | None = None,
    gap: float = 1e-4,
    threads: int = 1,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool | None = None,
    tolerance: float = 1e-5,
    solver_options: Mapping[str, Any] | None = None,
    isolated: bool = False,
    surrogate: Any = None,
    target: float | None = None,
) -> Result:
    """Minimise a weighted sum of outputs over a box of inputs; everything as in `maximize`."""
    options = Options(
        backend, formulation, bounds, heuristics, start, time_limit, gap, threads, seed, executor, progress, tolerance,
        solver_options or {}, isolated, surrogate, target,
    )  # fmt: skip
    return _extreme(network, box, objective, constraints, options, maximize=False)


def _extreme(
    network: Network, box: Any, objective: Any, constraints: Any, options: Options, *, maximize: bool
) -> Result:
    clock = options.budget.start()
    weights = output_weights(network, objective)
    inputs = input_bounds(network, box)
    if inputs.batch != 1:
        raise InputError(
            f"the box describes {inputs.batch} boxes; call once per box, or build a model with nnembed.Model"
        )
    low, high = (np.concatenate([side[s.name][0] for s in network.inputs]) for side in (inputs.low, inputs.high))
    model = ArrayModel(low, high, maximize=maximize)
    columns = _columns(network)
    share = _AUTO if isinstance(options.bounds, str) and options.bounds == "auto" else _ASKED
    budget = replace(options.budget, seconds=None if options.time_limit is None else share * options.time_limit)
    embed_for(options, model, network, columns, None, options.formulation, options.bounds, attach=False, budget=budget)
    model.cost = np.concatenate([np.zeros(len(low)), weights])
    for matrix, lower, upper in read_constraints(constraints, network):
        wide = sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], model.n_columns))
        model.add_rows(wide, lower, upper)
    result = run_of(model, replace(options, start=_start(network, options.start)), clock=clock).result()
    if result.point is None:
        return result
    flat = result.point[: len(low)]
    values = _split(network, flat)
    x = {s.name: values[s.name].reshape(s.shape) for s in network.inputs}
    state = network.forward({k: v[None] for k, v in values.items()})
    y = {s.name: state[s.name][0].reshape(s.shape) for s in network.outputs}
    plain = len(x) == 1, len(y) == 1
    return replace(result, x=next(iter(x.values())) if plain[0] else x, y=next(iter(y.values())) if plain[1] else y)


def _columns(network: Network) -> Any:
    """Return the columns of each input, in the order of the model."""
    start, columns = 0, {}
    for spec in network.inputs:
        columns[spec.name] = np.arange(start, start + spec.size)
        start += spec.size
    return columns


def _split(network: Network, flat: Array) -> dict[str, Array]:
    cuts = np.cumsum([s.size for s in network.inputs])[:-1]
    return {s.name: part for s, part in zip(network.inputs, np.split(flat, cuts), strict=True)}


def _start(network: Network, start: Any) -> Any:
    """Return a user's start as values of the model's columns (inputs, then outputs)."""
    if start is None or isinstance(start, str | Result):
        return start
    try:
        flat, lead = network.flatten(start)
    except InputError:
        raise
    except (TypeError, ValueError):
        wanted = ", ".join(f"{s.name!r} {s.shape}" for s in network.inputs)
        raise InputError(
            f"start= is a {type(start).__name__}; pass a Result, or numbers for the input(s) of {network.name}: "
            f"{wanted}"
        ) from None
    if lead not in ((), (1,)):
        raise InputError(f"start has batch axes {lead}; pass one point")
    inputs = np.concatenate([flat[s.name][0] for s in network.inputs])
    outputs = network.flat_outputs(network.forward(flat))[0]
    return np.concatenate([inputs, outputs])


def output_weights(network: Network, objective: Any) -> Array:
    """Return one weight per output entry, all outputs joined.

    Raises
    ------
    InputError
        If the weights do not fit, are not finite, or are missing for a network with several output entries.
    """
    sizes = ", ".join(f"{s.name!r} {s.shape}" for s in network.outputs)
    if objective is None:
        if network.output_size != 1:
            raise InputError(
                f"{network.name} has {network.output_size} output entries ({sizes}); say which to optimise with "
                "objective=weights, one per entry"
            )
        return np.ones(1)
    if isinstance(objective, Mapping):
        names = [s.name for s in network.outputs]
        for key in objective:
            if key not in names:
                raise UnknownName("output", str(key), names)
        parts = [np.asarray(objective.get(s.name, np.zeros(s.size)), float).reshape(-1) for s in network.outputs]
        fits = all(len(p) == s.size for p, s in zip(parts, network.outputs, strict=True))
    else:
        parts = [np.asarray(objective, float).reshape(-1)]
        fits = len(parts[0]) == network.output_size
    if not fits:
        raise InputError(f"the weights do not fit the outputs of {network.name}: {sizes}; pass one number per entry")
    weights = np.concatenate(parts)
    if not np.isfinite(weights).all():
        raise InputError("the weights of the objective are not finite numbers")
    return weights
