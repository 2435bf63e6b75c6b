"""Which solver a problem goes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nnembed.backends.alone import NAME as NO_SOLVER
from nnembed.backends.alone import NoSolver
from nnembed.engine.lower import needs_after, refusal
from nnembed.errors import Unavailable, UnknownName, UnsupportedFeature
from nnembed.features import Availability, Feature, missing
from nnembed.hooks.manager import Registry
from nnembed.options import Options
from nnembed.problem import Problem
from nnembed.protocols import Backend


def lacking_features(problem: Problem, backend: Backend, reg: Registry) -> list[str]:
    """Return what a solver lacks; products of the objective can be relaxed with linear rows and binaries."""
    needs = needs_after(problem, backend, reg)
    if problem.quadratic is not None and missing(needs, backend.accepts):
        needs = needs & ~(Feature.QUADRATIC_OBJECTIVE | Feature.NONCONVEX) | Feature.INTEGER
    return missing(needs, backend.accepts)


def choose_backend(problem: Problem, options: Options, reg: Registry) -> Backend:
    """Return the solver, installed and able to take the problem.

    Raises
    ------
    UnknownName, Unavailable, UnsupportedFeature
    """
    choice = options.backend
    if isinstance(choice, str) and choice == NO_SOLVER:
        choice = NoSolver()
    backends: dict[str, Backend] = reg.parts("backend")
    if isinstance(choice, str) and choice == "auto":
        able = tuple(n for n, b in backends.items() if b.available() and not lacking_features(problem, b, reg))
        choice = reg.plugins.hook.nnembed_choose_backend(problem=problem, available=able, options=options)
        if choice is None:
            raise UnsupportedFeature(
                f"no installed solver takes this model, which needs {problem.needs}; installed: {', '.join(backends)}"
            )
    if isinstance(choice, str) and choice not in backends:
        known = "gurobi", "scip"
        if choice in known:
            raise Unavailable(
                f"solver {choice!r} comes with the package nnembed-{choice}; run: pip install nnembed-{choice}"
            )
        raise UnknownName("backend", choice, [*backends, NO_SOLVER])
    backend: Backend = reg.get("backend", choice)
    if not (state := backend.available()):
        raise Unavailable(
            f"solver {backend.name!r} cannot be used: {state.reason}; {remedy(backend, state, reg)} or choose another "
            "backend="
        )
    if lacking := lacking_features(problem, backend, reg):
        raise UnsupportedFeature(refusal(problem, backend, lacking, reg))
    return apart(backend) if options.isolated and not isinstance(backend, NoSolver) else backend


def remedy(backend: Backend, state: Availability, reg: Registry) -> str:
    """Return what makes an unavailable solver available."""
    if state is Availability.NO_LICENSE:
        return "set up its licence"
    homes = {e.name: e.distribution.split()[0] for e in reg.entries() if e.extension_point == "backend"}
    home = homes.get(backend.name)
    return f"run: pip install --upgrade {home}" if home else "install it"


@contextmanager
def held(backend: Backend) -> Iterator[Backend]:
    """Let go, in the end, of what a solver keeps between solves (processes of its own)."""
    try:
        yield backend
    finally:
        close = getattr(backend, "close", None)
        if close is not None:
            close()


def apart(backend: Backend) -> Backend:
    """Return a backend that runs in a process of its own."""
    from nnembed.backends.isolated import Isolated

    return backend if isinstance(backend, Isolated) else Isolated(backend)
