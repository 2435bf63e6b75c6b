"""Operator readers: how one is written and how the right one is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nnembed.errors import PluginError
from nnembed.protocols import OpReader
from nnembed.readers.context import ReadContext, Symbol, Value
from nnembed.readers.tensors import AnyArray

Result = AnyArray | Symbol | Sequence[AnyArray | Symbol]
STANDARD = ""


@dataclass(frozen=True)
class BuiltinReader:
    """A function that reads one operator.

    Attributes
    ----------
    domain, op_type : str
    since : int
        First opset version it understands.
    folds : bool
        Whether it also takes operands that are all constant; other readers never see such nodes.
    function : callable
        Takes the `ReadContext`, returns the value of the only output or a list with one value per output.
    """

    domain: str
    op_type: str
    since: int
    folds: bool
    function: Callable[[ReadContext], Result]

    def read(self, node: Any, context: ReadContext) -> Sequence[Value]:
        """See `nnembed.protocols.OpReader`."""
        result = self.function(context)
        return list(result) if isinstance(result, list | tuple) else [result]  # type: ignore[list-item]


def reads(
    op_type: str, since: int = 1, domain: str = STANDARD, *, folds: bool = False
) -> Callable[[Callable[[ReadContext], Result]], BuiltinReader]:
    """Make a reader of the decorated function."""
    return lambda function: BuiltinReader(domain, op_type, since, folds, function)


class ReaderTable:
    """Finds the newest reader that knows an operator at an opset version.

    Raises
    ------
    PluginError
        If two readers claim the same operator from the same version on.
    """

    def __init__(self, readers: Iterable[OpReader]):
        self._readers: dict[tuple[str, str], dict[int, OpReader]] = {}
        for reader in readers:
            versions = self._readers.setdefault((reader.domain, reader.op_type), {})
            if versions.setdefault(reader.since, reader) is not reader:
                raise PluginError(
                    f"two readers claim operator {reader.op_type!r} of domain {reader.domain!r} since version "
                    f"{reader.since}: {versions[reader.since]!r} and {reader!r}; disable one"
                )

    def find(self, domain: str, op_type: str, opset: int) -> OpReader | None:
        """Return the reader, or None."""
        versions = self._readers.get((domain, op_type), {})
        fitting = [since for since in versions if since <= opset]
        return versions[max(fitting)] if fitting else None

    def names(self) -> list[str]:
        """Return the operator types that have a reader, sorted."""
        return sorted({op_type for _, op_type in self._readers})


def builtin_readers() -> tuple[OpReader, ...]:
    """Return the readers nnembed brings along."""
    from nnembed.readers.ops import (
        activations,
        arithmetic,
        constants,
        convolution,
        dense,
        jumps,
        pooling,
        reductions,
        shaping,
    )

    modules = (activations, arithmetic, constants, convolution, dense, jumps, pooling, reductions, shaping)
    return tuple(value for module in modules for value in vars(module).values() if isinstance(value, BuiltinReader))
