"""Everything nnembed raises on purpose.

::

    NnembedError
    |-- ModelFileError          the ONNX file cannot be used
    |   |-- UnsupportedOperators    operators or attributes without an exact reading, all listed at once
    |   |-- ExternalDataError       weights outside the file are missing or not inside the model's folder
    |   `-- SelfCheckFailed         our forward pass and the reference disagree
    |-- InputError              what the user passed does not fit the network or the model
    |   |-- BoxError                an infinite, empty or malformed box
    |   |-- WrongModel              variables of another model
    |   `-- UnknownName             a name nobody registered; suggests the closest known one
    |       `-- UnknownKeyword          a keyword argument that a function does not have (also a TypeError)
    |-- UnsupportedFeature      never possible here: the chosen parts do not fit together
    |-- Unavailable             not now: a package or licence is missing
    |-- PluginError             a plugin breaks the rules of its extension point
    |-- SolverError             the solver failed in a way that is not a status
    |-- WorkerLost              a task keeps killing the worker process it runs on
    `-- CertificateFailed       an internal check failed: the answer does not hold

Each message says the cause first and then what to change.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 40  # names that a message lists at most


class NnembedError(Exception):
    """Base class of all errors raised on purpose."""


class ModelFileError(NnembedError, ValueError):
    """The ONNX model cannot be used."""


class UnsupportedOperators(ModelFileError):
    """Some operators of the graph have no exact reading.

    Attributes
    ----------
    problems : tuple of str
        One line per refused node: node name, operator, attribute and what to do.
    """

    def __init__(self, problems: Iterable[str], model: str = "the model"):
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {line}" for line in self.problems)
        super().__init__(f"{model}: {len(self.problems)} node(s) cannot be read exactly\n{lines}")


class ExternalDataError(ModelFileError):
    """External weights are missing or lie outside the model's folder."""


class SelfCheckFailed(ModelFileError):
    """The network as read and the reference runtime disagree."""


class InputError(NnembedError, ValueError):
    """An argument does not fit the network or the model."""


class BoxError(InputError):
    """The box of an input is infinite, empty or has the wrong shape."""


class WrongModel(InputError):
    """Variables belong to another model."""


class UnknownName(InputError):
    """A name that is not registered.

    Parameters
    ----------
    kind : str
        What the name stands for, for example ``"formulation"``.
    name : str
        The name as given.
    known : iterable of str
        The names that would have been accepted.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = f"known: {', '.join(names) or 'none'}"
        if len(names) > _LISTED:
            listed = f"{len(names)} are known, such as {', '.join(difflib.get_close_matches(name, names, 8, 0.0))}"
        super().__init__(f"unknown {kind} {name!r}{hint} ({listed})")


class UnknownKeyword(UnknownName, TypeError):
    """A keyword argument that a function does not have."""

    def __init__(self, function: str, name: str, known: Iterable[str]):
        super().__init__(f"keyword of {function}()", name, known)


class UnsupportedFeature(NnembedError):
    """The chosen parts can never work together."""


class Unavailable(NnembedError):
    """Something optional is missing on this machine."""


class PluginError(NnembedError):
    """A plugin breaks the rules of its extension point."""


class SolverError(NnembedError, RuntimeError):
    """The solver failed in a way that is not a status."""


class WorkerLost(NnembedError, RuntimeError):
    """A task keeps killing the worker it runs on."""


class CertificateFailed(NnembedError, RuntimeError):
    """An answer does not survive its own check."""


class CoefficientWarning(UserWarning):
    """Coefficients so large that a solver's tolerances may hide a wrong answer."""
