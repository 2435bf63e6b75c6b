"""Checks of solver backends: networks in every formulation have the optimum that enumeration of their pieces has."""

from __future__ import annotations

from functools import cache

import numpy as np

from nnembed.errors import UnsupportedFeature
from nnembed.features import Feature
from nnembed.ir.network import Network
from nnembed.protocols import Backend, Formulation
from nnembed.result import Result
from nnembed.testing.backends import usable
from nnembed.testing.enumerate import enumerate_optimum
from nnembed.testing.kit import DEFAULT, Config, since
from nnembed.testing.networks import chain

_LOW, _HIGH = np.array([-1.0, -0.5]), np.array([1.0, 1.5])
#: solved for the largest and the smallest output in turn
_KINDS = (("relu", "relu"), ("leaky", "relu"), ("relu",), ("steep", "clip"), ("max", "abs"), ("clip", "relu"))


def _network(seed: int, kinds: tuple[str, ...]) -> Network:
    return chain([(3, kind) for kind in kinds] + [(1, "none")], 2, np.random.default_rng(seed))


@cache
def _optimum(kinds: tuple[str, ...], up: bool) -> float:
    return enumerate_optimum(_network(5, kinds), _LOW, _HIGH, np.ones(1), maximize=up)


def _best(backend: Backend, net: Network, formulation: str, up: bool) -> Result:
    import nnembed as nn

    call = nn.maximize if up else nn.minimize
    return call(net, (_LOW, _HIGH), backend=backend, formulation=formulation, gap=1e-6, time_limit=60.0)


@since("0.1")
def check_networks_in_every_formulation(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: every formulation that reaches the solver gives the optimum of enumeration; every other one is refused."""
    usable(backend)
    from nnembed.hooks.manager import registry
    from nnembed.lowerings.planner import hopeless

    book = registry()
    lowerings = tuple(book.parts("lowering").values())
    forms: list[Formulation] = list(book.parts("formulation").values())
    for form in forms:
        for k, kinds in enumerate(_KINDS):
            net = _network(5, kinds)
            if any(type(node) not in form.handles for node in net.activations):
                continue
            what = f"formulation {form.name!r}, layers {', '.join(kinds)}"
            if hopeless(form.emits, backend.accepts, lowerings):
                _refused(backend, net, form.name, what)
            else:
                up = k % 2 == 0
                found = _best(backend, net, form.name, up)
                _agrees(form, found, _optimum(kinds, up), up, what, config)


def _refused(backend: Backend, net: Network, formulation: str, what: str) -> None:
    try:
        _best(backend, net, formulation, True)
    except UnsupportedFeature:
        return
    raise AssertionError(f"{what}: no chain of lowerings leads to the solver, but it took the network")


def _agrees(form: Formulation, found: Result, want: float, up: bool, what: str, config: Config) -> None:
    close = 10 * config.close(want)
    if not form.exact:
        assert found.bound is not None, f"{what}: a relaxation without a bound"
        beyond = want - found.bound if up else found.bound - want
        assert beyond <= close, f"{what}: a bound of {found.bound:.9g}, enumeration says {want:.9g}"
        return
    assert found.status == "optimal", f"{what}: status {found.status!r} ({found.message})"
    for name, value in (("optimum", found.objective), ("bound", found.bound)):
        good = value is not None and abs(value - want) <= close
        assert good, f"{what}: {name} {value}, enumeration says {want:.9g}"
    assert found.certificate is not None and found.certificate.ok, f"{what}: the certificate fails"


@since("0.1")
def check_networks_with_rows(backend: Backend, config: Config = DEFAULT) -> None:
    """Check: the user's rows hold beside a network; rows that cannot hold are found; no time is a status."""
    import nnembed as nn

    usable(backend, Feature.INTEGER)
    net, row = _network(1, ("relu", "relu")), np.array([[1.0, 1.0]])
    found = nn.maximize(net, (_LOW, _HIGH), constraints=(row, -np.inf, 0.0), backend=backend)
    assert found.x is not None and found.x.sum() <= 1e-6, "the user's row does not hold"
    assert found.certificate is not None and found.certificate.ok, "the certificate fails"
    found = nn.maximize(net, (_LOW, _HIGH), constraints=(row, 9.0, np.inf), backend=backend)
    assert found.status == "infeasible", f"status {found.status!r} for rows that cannot hold"
    found = nn.maximize(net, (_LOW, _HIGH), backend=backend, time_limit=0.0)
    assert found.status in ("time_limit", "feasible"), f"status {found.status!r} after no time"
