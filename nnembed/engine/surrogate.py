"""Twins of networks: choosing, configuring and running a surrogate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from nnembed.bounds.box import Bounds, input_bounds
from nnembed.errors import InputError, PluginError, UnknownName
from nnembed.hooks.manager import Registry, registry
from nnembed.ir.network import Network
from nnembed.keywords import explicit
from nnembed.options import Budget
from nnembed.protocols import Surrogate
from nnembed.surrogates.centring import points_of
from nnembed.surrogates.difference import error_bound
from nnembed.surrogates.twin import Given, Twin, TwinReport, agreement, count_layers, refuse_misfit
from nnembed.surrogates.undecayed import undecayed_share


@explicit
def surrogate(
    network: Network,
    method: Any = "magnitude",
    *,
    sparsity: float | None = None,
    box: Any = None,
    samples: Any = None,
    labels: Any = None,
    options: Mapping[str, Any] | None = None,
    time_limit: float | None = None,
    threads: int = 1,
    seed: int = 0,
) -> Twin:
    """Make a smaller twin of a network.

    Parameters
    ----------
    network : Network
    method : str, Surrogate, Twin or Network
        A registered surrogate, ``"magnitude"`` for example; options may follow the name, as in
        ``"magnitude:0.5,scope=global"`` (a bare number is the sparsity). A network that was made elsewhere is taken as
        it is, whatever the names of its inputs and outputs: what is proved and reported is found for it.
    sparsity : float or None
        Share of the weights to take away; None is the surrogate's own.
    box : pair (lower, upper) or None
        Where the twin's error is bounded; see `tighten`. None proves nothing.
    samples : array (k, ...), dict of arrays by input name, or None
        Points that matter, for surrogates that look at them, and for the report.
    labels : int array (k,) or None
        Classes of the samples: the report then says accuracies and the slope of recall balance. Some surrogates also
        take values that the outputs should have, floats (k, outputs).
    options : mapping or None
        Further options of the surrogate, by name.
    time_limit : float or None
        Seconds the surrogate may take.
    threads, seed : int

    Returns
    -------
    Twin
        ``twin.network``, to be saved with `save` or embedded; ``twin.error_bound``; ``twin.report``.

    Raises
    ------
    UnknownName
        For a surrogate, or an option of it, that does not exist.
    InputError
        If samples, labels or an option do not fit, or the network has nothing to take away.
    BoxError
        If the box does not fit.
    UnsupportedFeature
        If the twin does not have the network's inputs and outputs.
    """
    if not isinstance(network, Network):
        raise InputError(f"surrogate needs a network from nnembed.load, got {type(network).__name__}")
    if labels is not None and samples is None:
        raise InputError("labels= needs samples=, the points that the labels belong to")
    given = {} if sparsity is None else {"sparsity": sparsity}
    part = configured(method, registry(), {**dict(options or {}), **given}, labels)
    bounds = input_bounds(network, (-np.inf, np.inf) if box is None else box, finite=box is not None)
    twin = built(part, network, bounds, samples, Budget(time_limit, threads, seed))
    assert twin.report is not None
    report = twin.report
    if labels is not None and np.asarray(labels).dtype.kind == "f" and hasattr(part, "labels"):
        labels = None  # values that the outputs should have, which the surrogate has dealt with
    if labels is not None and report.agreement is None:
        report = replace(report, agreement=agreement(network, twin.network, samples, labels))
    if "undecayed" not in report.facts:
        report = replace(report, facts={**report.facts, **_undecayed(network, twin.network, bounds, samples, labels)})
    return replace(twin, report=report)


def _undecayed(network: Network, twin: Network, bounds: Bounds, samples: Any, labels: Any) -> dict[str, float]:
    """Return the undecayed score that was pruned away, where there are points to measure it on."""
    points = points_of(network, bounds, samples, 0)
    share = (
        None
        if points is None
        else undecayed_share(network, twin, points, None if labels is None else np.asarray(labels))
    )
    return {} if share is None else {"undecayed": share}


def built(part: Surrogate, network: Network, bounds: Bounds, samples: Any, budget: Budget) -> Twin:
    """Return the twin of a surrogate with everything that can be proved and said of it.

    Raises
    ------
    UnsupportedFeature
        If the twin does not have the network's inputs and outputs.
    """
    started, clock = time.perf_counter(), budget.start()
    twin = _fitting(part, network, bounds, samples, budget)
    error = twin.error_bound if part.sound else None
    if error is None:
        left = None if budget.seconds is None else clock.remaining
        error = error_bound(network, twin.network, bounds, replace(budget, seconds=left))
    report = twin.report or TwinReport(part.name, count_layers(twin.network), time.perf_counter() - started)
    return Twin(twin.network, error, report)


def bare(part: Surrogate, network: Network, bounds: Bounds, budget: Budget) -> Network:
    """Return the network of a twin alone; surrogates that have a switch `proves` leave their proof out.

    Raises
    ------
    UnsupportedFeature
        If the twin does not have the network's inputs and outputs.
    """
    if hasattr(part, "proves"):
        part = copy(part)
        object.__setattr__(part, "proves", False)
    return _fitting(part, network, bounds, None, budget).network


def _fitting(part: Surrogate, network: Network, bounds: Bounds, samples: Any, budget: Budget) -> Twin:
    twin: Twin = part.build(network, bounds, samples, budget)
    if not isinstance(getattr(twin, "network", None), Network):
        raise PluginError(f"surrogate {part.name!r} returned no twin with a network")
    refuse_misfit(network, twin.network, part.name)
    return twin


def configured(choice: Any, reg: Registry, options: Mapping[str, Any], labels: Any = None) -> Surrogate:
    """Return a surrogate with its options set; options are the fields of a surrogate that is a dataclass.

    Raises
    ------
    UnknownName
        For a surrogate or an option that does not exist.
    InputError
        If an option does not fit.
    """
    told: dict[str, Any] = {}
    if isinstance(choice, Network | Twin):
        choice = Given(choice if isinstance(choice, Network) else choice.network)
    if isinstance(choice, str):
        choice, _, rest = choice.partition(":")
        told = _spelt(rest)
    part: Surrogate = reg.get("surrogate", choice)
    known: list[str] = [f.name for f in fields(part) if f.init] if is_dataclass(part) else []
    known = [] if isinstance(part, Given) else known
    wanted = {**{k: _read(part, k, v) for k, v in told.items() if k in known}, **options}
    for name in (*told, *options):
        if name not in known:
            raise UnknownName(f"option of surrogate {part.name!r}", name, [n for n in known if n != "labels"])
    if labels is not None and "labels" in known:
        wanted["labels"] = labels
    return replace(part, **wanted) if wanted else part  # type: ignore[type-var]


def _spelt(text: str) -> dict[str, str]:
    """Return the options of ``0.5,scope=global``."""
    found = {}
    for item in filter(None, text.split(",")):
        name, mark, value = item.partition("=")
        name, value = (name, value) if mark else ("sparsity", item)
        found[name.strip()] = value.strip()
    return found


def _read(part: Any, name: str, text: str) -> Any:
    """Return an option that was spelt out, of the type it has now."""
    now = getattr(part, name)
    if isinstance(now, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif isinstance(now, int | float):
        try:
            return type(now)(text)
        except ValueError:
            pass
    elif isinstance(now, str):
        return text
    kind = type(now).__name__
    raise InputError(f"surrogate {part.name!r}: {name}={text} is no {kind}; write it like {name}={now}")
