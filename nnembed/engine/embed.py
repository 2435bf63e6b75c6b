"""Bounds of a network, and a network put into a model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.box import Bounds, input_bounds
from nnembed.bounds.cache import cache_at
from nnembed.bounds.choose import automatic
from nnembed.bounds.ladder import climb
from nnembed.embedding import Embedding, embeddings_of, emit_block, lower_block, make_plan, record
from nnembed.engine.lower import chain_to_come
from nnembed.engine.region import region_from
from nnembed.errors import BoxError, InputError, UnsupportedFeature
from nnembed.events import BlockEmitted, BoundsTightened
from nnembed.features import Feature, missing
from nnembed.hooks.manager import Registry, registry
from nnembed.ir.network import Network
from nnembed.keywords import explicit
from nnembed.options import Budget, Options
from nnembed.problem import InputMap
from nnembed.protocols import BoundTightener, Host


@explicit
def tighten(
    network: Network,
    box: Any,
    methods: str | Sequence[str | BoundTightener] = "auto",
    budget: Budget | None = None,
    *,
    constraints: Any = None,
    cache: str | os.PathLike[str] | bool | None = None,
    executor: Executor | None = None,
) -> Bounds:
    """Bound every tensor of a network over a box.

    Parameters
    ----------
    network : Network
    box : pair (lower, upper)
        Scalars, arrays of the input's shape or flat, with batch axes in front for many boxes at once, or dicts of
        them by input name.
    methods : str or sequence
        Names of registered tighteners or objects; run in order of cost. ``"auto"`` is CROWN, after the propagation of
        constraints where there are any, and alpha-CROWN or FastC2V after it where many neurons are left open.
    budget : Budget or None
        Seconds for all of it, and what else may be spent.
    constraints : linear constraints or None
        As in `maximize`: rows that the points of interest meet besides the box, every box of a batch by itself. The
        bounds then hold for these points only, and cannot be passed on to a model.
    cache : path, True or None
        A folder where results are looked for and kept; True is the user's own cache folder. What a budget stopped is
        taken up again.
    executor : Executor or None
        Where work that splits is run; also a function that returns one.

    Returns
    -------
    Bounds
        Proven in float64 with outward rounding.

    Raises
    ------
    BoxError
        If the box is infinite, empty or does not fit.
    InputError
        If constraints or cache do not fit.
    UnknownName
        If a method is not registered.
    """
    start = input_bounds(network, box)
    start = replace(start, region=region_from(constraints, start))
    parts = tighteners(methods, registry(), region=start.region is not None)
    budget = budget or Budget()
    if executor is not None:
        budget = replace(budget, executor=executor)
    return climb(start, parts, budget, cache=cache_at(cache))


def tighteners(methods: Any, reg: Registry, *, region: bool = False, splits: bool = False) -> list[BoundTightener]:
    """Return the tightener objects that an option stands for; see `automatic` for `region` and `splits`."""
    if isinstance(methods, str) and methods == "auto":
        return automatic(lambda name: reg.get("bound tightener", name), region=region, splits=splits)
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        methods = (methods,)
    if not methods:
        raise InputError("no bound method given; bounds='auto' or names such as ('interval', 'crown')")
    return [reg.get("bound tightener", m) for m in methods]


def find_host(model: Any, reg: Registry) -> Host:
    """Return the host whose model this is.

    Raises
    ------
    InputError
        If no installed host knows the type.
    """
    hosts = reg.parts("host")
    for host in hosts.values():
        if host.owns(model):
            return host
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise InputError(f"no host for a model of type {kind}; installed hosts: {', '.join(hosts)}")


@explicit
def embed(
    model: Any,
    network: Network,
    x: Any,
    *,
    name: str | None = None,
    formulation: Any = "auto",
    bounds: Any = "auto",
    attach: bool = True,
    backend: str | None = None,
) -> Embedding:
    """Put a network into a user's model.

    Parameters
    ----------
    model : linopy.Model, nnembed.Model or nnembed.ArrayModel
    network : Network
    x : variables, expressions, numbers or a mixture
        The inputs: last axis features, leading axes batch; a dict by input name for several inputs.
    name : str or None
        Prefix of names in the model; default the network's own name.
    formulation : str, Formulation or mapping layer -> either
    bounds : str, sequence of str or Bounds
        Tighteners, or finished bounds of this network that contain the model's box.
    backend : str or None
        The solver that the user will call on a model with attached rows, under the modelling layer's name for it: sets
        and indicator rows are then attached as such where it takes them. None keeps to what all solvers take.
    attach : bool
        Write the rows into the model, so that the user solves it as always; False keeps the network out of it and only
        `solve` can solve it.

    Returns
    -------
    Embedding

    Raises
    ------
    InputError
        If the inputs do not fit, or the name is taken.
    BoxError
        If an input is not bounded; names the variable.
    UnsupportedFeature
        If formulation and host do not fit together. Nothing is left in the model on any error.
    """
    options = Options() if backend is None else Options(backend=backend)
    return embed_for(options, model, network, x, name, formulation, bounds, attach=attach, backend=backend)


def embed_for(
    options: Options,
    model: Any,
    network: Network,
    x: Any,
    name: str | None = None,
    formulation: Any = "auto",
    bounds: Any = "auto",
    *,
    attach: bool,
    backend: str | None = None,
    budget: Budget | None = None,
) -> Embedding:
    """Put a network into a model that is solved with `options`, as far as they are known; else as `embed`."""
    if not isinstance(network, Network):
        raise InputError(f"embed needs a network from nnembed.load, got {type(network).__name__}")
    reg = registry()
    host = _serving(find_host(model, reg), backend, attach=attach)
    if name is not None and not isinstance(name, str):
        raise InputError(f"name={name!r}; give a string, the prefix of the network's names in the model")
    name = name or free_name(network, model)
    if name in embeddings_of(model):
        raise InputError(f"the model already contains a network named {name!r}; pass another name=")
    inputs = host.parse(model, network.inputs, x)
    splits = not attach and isinstance(formulation, str) and formulation == "auto"
    found = derive_bounds(host, model, network, inputs, bounds, budget or Budget(), reg, splits=splits)
    accepts = host.accepts if attach else Feature.LINEAR | Feature.INTEGER | host.accepts
    by = host.name if attach else ""
    plan, parts = make_plan(network, found, formulation, accepts, reg, options, name, host=by)
    block = emit_block(network, found, parts)
    plan = replace(plan, stable=block.presolved)
    if attach:
        block, plan = lower_block(block, plan, accepts, by if backend is None else f"{by} with {backend}", reg)
        native = missing(block.needs, Feature.LINEAR | Feature.INTEGER)
        if native and backend is not None and not plan.chain:
            plan = replace(plan, chain=f"nothing, {backend} takes {', '.join(native)} from {by}")
    else:
        plan = replace(plan, chain=chain_to_come(block.needs))
    tell_block(reg, name, block, 0.0)
    if attach:
        if not block.exact:
            raise UnsupportedFeature(
                f"a relaxation ({', '.join(sorted({p.formulation for p in plan.lines}))}) cannot be attached: the "
                "model would not follow the network; use attach=False and read the bound from nnembed.solve"
            )
        attached = host.attach(model, block, inputs, network.outputs, name)
    else:
        sides = block.lower[block.outputs], block.upper[block.outputs]
        attached = host.declare(model, sides, inputs, network.outputs, name)
    embedding = Embedding(name, network, host, inputs, found, plan, block, attached, formulation, bounds)
    record(model, embedding)
    return embedding


def _serving(host: Host, backend: str | None, *, attach: bool) -> Host:
    """Return the host for models that one solver will be called on."""
    if backend is None:
        return host
    if not attach:
        raise InputError("backend= says whose rows to attach; with attach=False pass it to nnembed.solve instead")
    change: Callable[[str], Host] | None = getattr(host, "serving", None)
    if change is None:
        raise InputError(f"models of host {host.name!r} are solved by nnembed.solve; pass backend= there")
    return change(backend)


def free_name(network: Network, model: Any) -> str:
    """Return the network's own name made safe, with a number when it is taken."""
    base = re.sub(r"\W+", "_", network.name).strip("_") or "network"
    taken, name, number = embeddings_of(model), base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def derive_bounds(
    host: Host,
    model: Any,
    network: Network,
    inputs: InputMap,
    choice: Any,
    budget: Budget,
    reg: Registry,
    *,
    splits: bool = True,
) -> Bounds:
    """Return bounds of a network over the box its inputs have in the model now; see `automatic` for `splits`."""
    low, high = host.input_box(model, inputs)
    refuse_open_box(host, model, network, inputs, low, high)
    start = input_bounds(network, _by_name(network, inputs.batch, low, high))
    start = replace(start, lead=inputs.lead)
    if isinstance(choice, Bounds):
        return _given_bounds(network, choice, start)
    started = budget.start()

    def tell(method: str, seconds: float, unstable: int) -> None:
        reg.notify(BoundsTightened(started.elapsed, method, unstable))

    return climb(start, tighteners(choice, reg, splits=splits), budget, tell)


def _given_bounds(network: Network, given: Bounds, start: Bounds) -> Bounds:
    """Check that finished bounds belong to the network and contain the model's box."""
    if given.network is not network:
        raise InputError("the Bounds passed as bounds= belong to another network; call nnembed.tighten on this one")
    if given.region is not None:
        raise InputError(
            "the Bounds passed as bounds= hold only for the constraints they were computed with; compute them without "
            "constraints=, or leave bounds= out: nnembed.solve uses the rows of the model by itself"
        )
    if given.batch not in (1, start.batch):
        raise InputError(f"the Bounds passed are for {given.batch} boxes, the inputs have {start.batch} points")
    index = np.zeros(start.batch, dtype=np.intp) if given.batch == 1 else np.arange(start.batch)
    wide = given.repeat(index, start.lead)
    for spec in network.inputs:
        inside = (start.low[spec.name] >= wide.low[spec.name]) & (start.high[spec.name] <= wide.high[spec.name])
        if not inside.all():
            raise BoxError(
                f"the Bounds passed do not hold here: input {spec.name!r} may leave their box in the model; "
                "recompute them with nnembed.tighten on the model's box"
            )
    return wide


def refuse_open_box(host: Host, model: Any, network: Network, inputs: InputMap, low: Array, high: Array) -> None:
    """Raise an error that names the first input entry without finite bounds, or with an empty range."""
    for bad, what in (
        (~(np.isfinite(low) & np.isfinite(high)), "has no finite bounds; give it lower and upper bounds"),
        (low > high, "has an empty range (lower above upper)"),
    ):
        if not bad.any():
            continue
        entry = int(np.flatnonzero(bad)[0])
        describe = getattr(host, "describe_entry", None)
        who = describe(model, inputs, entry) if describe else f"entry {entry}"
        more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        raise BoxError(
            f"{network.name}: input {_input_of(network, inputs.batch, entry)}, {who}, is in "
            f"[{low[entry]:g}, {high[entry]:g}]{more}: it {what}"
        )


def _input_of(network: Network, batch: int, entry: int) -> str:
    """Return the network input an entry of the block order belongs to."""
    for spec in network.inputs:
        if entry < batch * spec.size:
            return f"{spec.name!r}[{entry % spec.size}]"
        entry -= batch * spec.size
    return "?"


def _by_name(network: Network, batch: int, low: Array, high: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    lows, highs, start = {}, {}, 0
    for spec in network.inputs:
        part = slice(start, start + batch * spec.size)
        lows[spec.name] = low[part].reshape(batch, spec.size)
        highs[spec.name] = high[part].reshape(batch, spec.size)
        start += batch * spec.size
    return lows, highs


def tell_block(reg: Registry, name: str, block: Any, seconds: float) -> None:
    """Tell observers that a network has become rows."""
    reg.notify(BlockEmitted(seconds, name, block.n_rows, block.n_columns, block.binaries, int(block.matrix.nnz)))


def residual_of(embedding: Embedding) -> float:
    """Return the residual of an embedding at the model's present solution; see `Embedding.residual`."""
    values = getattr(embedding.host, "solution_of", None)
    if values is None:
        raise InputError(f"host {embedding.host.name!r} keeps no solution; read result.certificate instead")
    inputs, outputs = values(embedding.model, embedding.inputs, embedding.attached)
    from nnembed.heuristics.scene import joined_outputs, split_inputs

    network = embedding.network
    state = network.forward(split_inputs(network, inputs[None], embedding.inputs.batch))
    ours = joined_outputs(network, state, 1)[0]
    return float((np.abs(outputs - ours) / (1 + np.abs(ours))).max(initial=0.0))
