"""The conformance kit's frame: which checks there are for a part, and how pytest runs them.

A check is a plain function ``check_*(subject, config)`` that raises `AssertionError` when the part breaks its protocol
and `Unmet` when it does not apply. Every check says since which version of the kit it exists, so a plugin can pin the
suite it was written against with `upto`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nnembed.errors import InputError, UnknownName
from nnembed.options import Budget

#: extension point -> (modules of its checks, attribute by which a part is recognised)
SUITES: dict[str, tuple[tuple[str, ...], str]] = {
    "host": (("hosts",), "host"),
    "op reader": (("readers",), "op_type"),
    "formulation": (("formulations",), "emit"),
    "bound tightener": (("tighteners",), "tighten"),
    "lowering": (("lowerings",), "apply"),
    "backend": (("backends", "sessions", "conduct", "searches", "cells"), "capabilities"),
    "heuristic": (("heuristics",), "run"),
    "surrogate": (("surrogates",), "build"),
}

Check = Callable[..., None]
F = TypeVar("F", bound=Callable[..., None])


class Unmet(Exception):
    """A check does not apply to this part, or not on this machine; pytest reports it as skipped with the reason."""


@dataclass(frozen=True)
class Config:
    """What a suite may spend and how close is equal.

    Parameters
    ----------
    atol, rtol : float
        Values agree within ``atol + rtol * |value|``.
    budget : Budget
        Given to parts that take a budget.
    grace : float
        Seconds by which a part may overrun a limit.
    """

    atol: float = 1e-6
    rtol: float = 1e-6
    budget: Budget = field(default_factory=lambda: Budget(seconds=2.0))
    grace: float = 2.0

    def close(self, value: float) -> float:
        """Return the tolerance for a value of this size."""
        return self.atol + self.rtol * abs(value)


DEFAULT = Config()


@dataclass(frozen=True)
class Outcome:
    """What one check found: status is "passed", "failed", "skipped" (`Unmet`) or "error" (any other exception)."""

    check: str
    status: str
    message: str = ""


def since(version: str) -> Callable[[F], F]:
    """Mark a check with the version of the kit that brought it."""

    def mark(check: F) -> F:
        check.since = version  # type: ignore[attr-defined]
        return check

    return mark


def prepared(subject: Any) -> Any:
    """Return what the checks take: the subject itself; for a known host its adapter."""
    if hasattr(subject, "owns"):
        from nnembed.testing.adapters import adapter_for

        return adapter_for(subject)
    return subject


def point_of(subject: Any) -> str:
    """Return the extension point of a part.

    Raises
    ------
    InputError
        If it looks like none of them.
    """
    for point, (_, attribute) in SUITES.items():
        if hasattr(subject, attribute):
            return point
    raise InputError(f"{subject!r} is no part of any extension point ({', '.join(SUITES)}); pass an instance")


def name_of(subject: Any) -> str:
    """Return a short name for test ids."""
    if hasattr(subject, "op_type"):
        return f"{subject.domain or 'ai.onnx'}.{subject.op_type}@{subject.since}"
    return str(getattr(subject, "name", type(subject).__name__))


def checks_of(point: str, upto: str | None = None) -> list[Any]:
    """Return the checks of an extension point, in the order they are written."""
    modules = [importlib.import_module(f"nnembed.testing.{name}") for name in SUITES[point][0]]
    found: list[Any] = [f for m in modules for name, f in vars(m).items() if name.startswith("check_")]
    return [f for f in found if upto is None or _version(f.since) <= _version(upto)]


def checks_for(subject: Any, upto: str | None = None) -> list[Any]:
    """Return the checks that apply to a part.

    Parameters
    ----------
    subject : a part of any extension point
    upto : str or None
        Leave out checks that came after this version of nnembed.
    """
    return checks_of(point_of(prepared(subject)), upto)


def run_checks(subject: Any, *, upto: str | None = None, config: Config | None = None) -> list[Outcome]:
    """Run all checks of a part without pytest and return what each found."""
    ready, found = prepared(subject), []
    for check in checks_for(subject, upto):
        status, message = "passed", ""
        try:
            check(ready, config or DEFAULT)
        except Unmet as reason:
            status, message = "skipped", str(reason)
        except AssertionError as failure:
            status, message = "failed", str(failure)
        except Exception as error:  # noqa: BLE001 - foreign code under test
            status, message = "error", f"{type(error).__name__}: {error}"
        found.append(Outcome(check.__name__, status, message))
    return found


def parametrize_with_checks(
    subjects: Iterable[Any],
    *,
    upto: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    config: Config | None = None,
) -> Any:
    """Return a pytest mark that runs every check of every part.

    Parameters
    ----------
    subjects : iterable of parts
        Instances; for a host nnembed does not bring along, its `HostAdapter`.
    upto : str or None
        Pin the suite to a version of nnembed, so that new checks do not break old plugins.
    expected_failures : mapping check name -> reason
        Checks that are known to fail; one that passes is an error. ``"part/check_x"`` names the check of one part.
    config : Config or None

    Examples
    --------
    >>> @parametrize_with_checks([MyFormulation()], upto="0.1")  # doctest: +SKIP
    ... def test_conformance(subject, check):
    ...     check(subject)
    """
    import pytest

    cases, known = [], set[str]()
    expected = dict(expected_failures or {})
    for subject in subjects:
        name, ready = name_of(subject), prepared(subject)
        for check in checks_for(subject):
            short = check.__name__
            known |= {short, f"{name}/{short}"}
            if upto is not None and _version(check.since) > _version(upto):
                continue
            reason = expected.get(f"{name}/{short}", expected.get(short))
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
            cases.append(
                pytest.param(ready, _under_pytest(check, config or DEFAULT), id=f"{name}-{short}", marks=marks)
            )
    for wrong in expected.keys() - known:
        raise UnknownName("check", wrong, known)
    return pytest.mark.parametrize(("subject", "check"), cases)


def _under_pytest(check: Check, config: Config) -> Callable[[Any], None]:
    """Return the check with `Unmet` turned into a skip."""

    def run(subject: Any) -> None:
        import pytest

        try:
            check(subject, config)
        except Unmet as reason:
            pytest.skip(str(reason))

    run.__name__ = check.__name__
    return run


def _version(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        raise InputError(f"upto={text!r} is no version; write it like '0.1'") from None
