"""What an operator reader sees: its node, its operands, and the means to add to the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nnembed.aliases import Array
from nnembed.errors import ModelFileError
from nnembed.ir.linear import LinearOperator, Selection
from nnembed.ir.nodes import Affine, Node, Round
from nnembed.readers.operators import Positions, as_bias, is_finite, positions
from nnembed.readers.tensors import AnyArray, check_count, is_float, to_array

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Symbol:
    """A tensor that depends on the network's inputs.

    Attributes
    ----------
    tensor : str
        Name of the flat tensor in the network.
    shape : tuple of int
        Full ONNX shape, the batch axis of 1 included.
    dtype : str
        Element type in the file.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def positions(self) -> Positions:
        """Flat positions of the entries, in the tensor's shape."""
        return positions(self.shape)


@dataclass(frozen=True)
class Unread:
    """Stands for a tensor behind a node that was refused."""


Value = AnyArray | Symbol | Unread


class Refused(Exception):
    """A node cannot be read exactly; raised by readers, collected for the whole graph."""


class ReadContext:
    """One node about to be read.

    Attributes
    ----------
    node : onnx.NodeProto
    name : str
        The node's name, unique; made up where the file has none.
    opset : int
        Version of the node's operator set in this model.
    inputs : tuple
        Operands: a numpy array if constant, a `Symbol` if not, None if left out.
    added : list of Node
        What the reader has added so far.
    made : dict
        The symbols of the tensors it has added, by name.
    """

    def __init__(
        self,
        node: Any,
        name: str,
        opset: int,
        inputs: Sequence[AnyArray | Symbol | None],
        *,
        wanted: Sequence[bool] = (True,),
        folder: Path | None = None,
        fresh: Callable[[str], str] = str,
        model_types: frozenset[str] = frozenset({"float32"}),
    ):
        self.node, self.name, self.opset, self.inputs = node, name, opset, tuple(inputs)
        self.added: list[Node] = []
        self.made: dict[str, Symbol] = {}
        self.model_types = model_types
        self._wanted, self.folder, self._fresh = tuple(wanted), folder, fresh
        self._attributes = {a.name: a for a in node.attribute}

    # ---- reading the node ---------------------------------------------------------------------

    def refuse(self, reason: str) -> NoReturn:
        """Say why the node cannot be read exactly, and what to do."""
        raise Refused(reason)

    def attribute(self, name: str, default: T) -> T:
        """Return an attribute, or `default` where it is left out."""
        from onnx import AttributeProto, helper

        if name not in self._attributes:
            return default
        attribute = self._attributes[name]
        if attribute.type == AttributeProto.TENSOR:
            value: Any = to_array(attribute.t, self.folder)
        else:
            value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        return value

    def has(self, name: str) -> bool:
        """Return whether an attribute is written out."""
        return name in self._attributes

    def wanted(self, position: int) -> bool:
        """Return whether output `position` is used by anything."""
        return position < len(self._wanted) and self._wanted[position]

    def given(self, position: int) -> bool:
        """Return whether operand `position` is there."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def operand(self, position: int) -> AnyArray | Symbol:
        """Return an operand that has to be there."""
        if not self.given(position):
            self.refuse(f"its input {position} is missing; the file is not valid ONNX")
        value = self.inputs[position]
        assert value is not None
        return value

    def symbol(self, position: int) -> Symbol:
        """Return an operand that has to depend on the inputs (constants were folded before)."""
        value = self.operand(position)
        if not isinstance(value, Symbol):
            self.refuse(f"its input {position} is a constant where the network's data was expected")
        return value

    def constant(self, position: int, what: str) -> AnyArray:
        """Return an operand that has to be constant; `what` names it in the refusal."""
        value = self.operand(position)
        if isinstance(value, Symbol):
            self.refuse(f"{what} is computed from the network's input; only constants can be read exactly")
        return value

    def optional(self, position: int, what: str) -> AnyArray | None:
        """Return an operand that has to be constant where it is there."""
        return self.constant(position, what) if self.given(position) else None

    def integers(self, name: str, position: int) -> list[int] | None:
        """Return integers given as operand `position` in newer opsets, as attribute `name` in older ones."""
        value = self.optional(position, name)
        if value is None:
            attribute: Sequence[int] | None = self.attribute(name, None)
            return None if attribute is None else [int(i) for i in attribute]
        return [int(i) for i in value.ravel()]

    def axis(self, axis: int, rank: int) -> int:
        """Return a valid axis counted from the front."""
        if not -rank <= axis < max(rank, 1):
            self.refuse(f"axis {axis} does not exist in a tensor of rank {rank}; the file is not valid ONNX")
        return axis % rank if rank else 0

    # ---- adding to the network ----------------------------------------------------------------

    def affine(
        self,
        terms: Sequence[tuple[Symbol, LinearOperator]],
        bias: ArrayLike,
        shape: tuple[int, ...],
        *,
        moves: bool = False,
    ) -> Symbol:
        """Add ``sum_k M_k x_k + bias`` and return it.

        Parameters
        ----------
        terms : sequence of (Symbol, LinearOperator)
        bias : array broadcastable to `shape`, or a number
        shape : tuple of int
            Shape of the result.
        moves : bool
            Entries are only moved about, so that integers stay what they are.

        Raises
        ------
        ModelFileError
            If a weight is NaN or infinite; names it.
        """
        for x, _ in terms:
            if not moves and not is_float(x.dtype):
                self.refuse(f"it computes with {x.dtype} numbers; cast the network's input to float32 before it")
        bias = as_bias(np.asarray(bias, float), shape)
        self.check_finite(bias, *(m for _, m in terms))
        return self._emit_affine(terms, bias, shape)

    def select(self, x: Symbol, index: Positions) -> Symbol:
        """Return the tensor whose entries are those of `x` at `index`, zero where it is -1."""
        flat = np.ascontiguousarray(index).ravel().astype(np.intp, copy=False)
        selection = Selection(flat, x.size)
        if selection.is_identity:
            return Symbol(x.tensor, index.shape, x.dtype)
        return self._emit_affine([(x, selection)], np.zeros(flat.size), index.shape)

    def rearrange(self, move: Callable[[AnyArray], AnyArray], position: int = 0) -> AnyArray | Symbol:
        """Apply an index-like numpy function to a constant, or to the positions of a tensor."""
        value = self.operand(position)
        if isinstance(value, Symbol):
            return self.select(value, move(value.positions))
        return np.asarray(move(value))

    def add(self, make: Callable[[str, str], Node], shape: tuple[int, ...], dtype: str) -> Symbol:
        """Add a node; `make` gets its name and the name of its output."""
        tensor = self._fresh(f"{self.name}/{len(self.added) + 1}")
        node = make(tensor, tensor)
        if not isinstance(node, Round):  # whose limits may be infinite; it checks itself
            self.check_finite(*(v for v in vars(node).values() if isinstance(v, np.ndarray)))
        self.added.append(node)
        self.made[tensor] = Symbol(tensor, shape, dtype)
        return self.made[tensor]

    def apply(self, make: Callable[[str, str, str], Node], x: Symbol) -> Symbol:
        """Add an elementwise node on `x`; `make` gets its name, its source and its output."""
        if not is_float(x.dtype):
            self.refuse(f"it computes with {x.dtype} numbers; cast the network's input to float32 before it")
        return self.add(lambda name, out: make(name, x.tensor, out), x.shape, x.dtype)

    def check_finite(self, *numbers: LinearOperator | Array) -> None:
        """Refuse NaN and infinite weights, naming the tensor they come from.

        Raises
        ------
        ModelFileError
        """
        for value in numbers:
            if isinstance(value, LinearOperator):
                fine = is_finite(value)
            else:
                fine = value.dtype.kind != "f" or bool(np.isfinite(value).all())
            if not fine:
                names = [n for n, v in zip(self.node.input, self.inputs, strict=False) if _bad(v)]
                where = f"tensor {names[0]!r} has" if names else "its constants give"
                raise ModelFileError(
                    f"node {self.name!r} ({self.node.op_type}): {where} NaN or infinite weights; "
                    "the training diverged or the export failed: fix the weights"
                )

    def _emit_affine(
        self, terms: Sequence[tuple[Symbol, LinearOperator]], bias: Array, shape: tuple[int, ...]
    ) -> Symbol:
        check_count(math.prod(shape), f"the result of node {self.name!r}")
        sources = tuple(x.tensor for x, _ in terms)
        operators = tuple(m for _, m in terms)
        return self.add(lambda name, out: Affine(name, sources, out, operators, bias), shape, terms[0][0].dtype)


def _bad(value: object) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype == object:
        return False
    return not bool(np.isfinite(value.astype(float)).all())
