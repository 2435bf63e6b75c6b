"""Unknown keyword arguments are errors that name the closest known one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nnembed.errors import UnknownKeyword

P = ParamSpec("P")
R = TypeVar("R")


def explicit(function: Callable[P, R]) -> Callable[P, R]:
    """Make calls with a misspelt keyword raise `UnknownKeyword` with a suggestion; everything else is unchanged."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise UnknownKeyword(function.__name__, name, [n for n in names if n != "self"])
        return function(*args, **kwargs)

    return call
