"""The network: a directed acyclic graph of nodes over named tensors, in float64, immutable."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from nnembed.aliases import Array
from nnembed.errors import InputError, SelfCheckFailed, UnknownName
from nnembed.ir.nodes import Activation, Affine, Max, Node, Winner
from nnembed.tables import Table

_PLAIN = (type(None), bool, int, float, str, bytes, np.generic)


@dataclass(frozen=True)
class TensorSpec:
    """Name and shape (without the batch axis) of a tensor; `dtype` is the file's element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class Reference(Protocol):
    """The original model behind a network, run by somebody else's code."""

    @property
    def name(self) -> str:
        """The runtime's name and version."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return flat outputs (batch, n) by name for flat inputs (batch, n) by name."""
        ...  # pragma: no cover


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network.

    Attributes
    ----------
    inputs, outputs : tuple of TensorSpec
        What goes in and what comes out, in the order of the ONNX graph.
    nodes : tuple of Node
        In topological order.
    tensors : mapping name -> TensorSpec
        All tensors that still exist after simplification.
    aliases : mapping name -> name
        ONNX node names (where unique) and dropped tensors that equal a tensor that still exists.
    name : str
        The graph's name, used in messages and as the default name of an embedding.
    reference : Reference or None
        The original model; `self_check` and certificates replay answers on it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorSpec]
    aliases: Mapping[str, str] = field(default_factory=dict)
    name: str = "network"
    reference: Reference | None = None

    def __post_init__(self) -> None:
        """Freeze the mappings and check that the graph is ordered."""
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))
        known = {spec.name for spec in self.inputs}
        for node in self.nodes:
            if not known.issuperset(node.inputs):
                raise ValueError(f"node {node.name!r} reads a tensor that no earlier node writes")
            known.add(node.output)
        if not known.issuperset(spec.name for spec in self.outputs):
            raise ValueError("an output of the network is written by no node")

    def __getstate__(self) -> dict[str, Any]:
        """Make the network picklable: plain dicts, and nothing that is only cached."""
        names = ("inputs", "outputs", "nodes", "name", "reference")
        return {n: getattr(self, n) for n in names} | {"tensors": dict(self.tensors), "aliases": dict(self.aliases)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled network."""
        for name, value in state.items():
            object.__setattr__(self, name, MappingProxyType(value) if isinstance(value, dict) else value)

    # ---- reading ------------------------------------------------------------------------------

    @property
    def input_size(self) -> int:
        """Entries of all inputs together."""
        return sum(spec.size for spec in self.inputs)

    @property
    def output_size(self) -> int:
        """Entries of all outputs together."""
        return sum(spec.size for spec in self.outputs)

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that writes each tensor."""
        return MappingProxyType({node.output: node for node in self.nodes})

    @property
    def activations(self) -> tuple[Node, ...]:
        """The nodes that are not affine."""
        return tuple(node for node in self.nodes if isinstance(node, Activation | Max | Winner))

    @cached_property
    def digest(self) -> str:
        """A content hash of weights, structure, inputs and outputs; names of network and model file do not count."""
        h = hashlib.sha256()
        feed(h, [(s.name, s.shape) for s in (*self.inputs, *self.outputs)])
        feed(h, len(self.inputs))
        feed(h, self.nodes)
        return h.hexdigest()

    def resolve(self, name: str) -> str:
        """Return the tensor that a tensor or node name stands for."""
        if name in self.tensors:
            return name
        if name in self.aliases:
            return self.aliases[name]
        raise UnknownName("tensor or node", name, [*self.tensors, *self.aliases])

    # ---- evaluation ---------------------------------------------------------------------------

    def forward(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return every tensor for flat inputs.

        Parameters
        ----------
        values : mapping input name -> array of shape (..., n)
            Same leading axes for all.

        Returns
        -------
        dict tensor name -> array of shape (..., n)
        """
        state = {spec.name: np.asarray(values[spec.name], float) for spec in self.inputs}
        for node in self.nodes:
            state[node.output] = node.evaluate(*(state[t] for t in node.inputs))
        return state

    def __call__(self, x: ArrayLike | Mapping[str, ArrayLike]) -> Any:
        """Evaluate the network in float64.

        Parameters
        ----------
        x : array or mapping input name -> array
            Shape (..., *input shape) or flat (..., n); leading axes are batch.

        Returns
        -------
        array of shape (..., *output shape), or a dict of them by name if there are several outputs

        Raises
        ------
        InputError
            If a shape does not fit or an input is missing.
        """
        flat, lead = self.flatten(x)
        state = self.forward(flat)
        result = {s.name: state[s.name].reshape((*lead, *s.shape)) for s in self.outputs}
        return result[self.outputs[0].name] if len(result) == 1 else result

    def flatten(self, x: ArrayLike | Mapping[str, ArrayLike]) -> tuple[dict[str, Array], tuple[int, ...]]:
        """Return flat inputs by name, (batch, n) each, and the batch axes they had."""
        flat: dict[str, Array] = {}
        leads: dict[str, tuple[int, ...]] = {}
        for spec, value in self.split_inputs(x).items():
            array = np.asarray(value, float)
            leads[spec.name] = lead = batch_axes(array.shape, spec)
            flat[spec.name] = array.reshape(-1, spec.size) if lead else array.reshape(1, spec.size)
        lead = np.broadcast_shapes(*leads.values())
        count = int(np.prod(lead, dtype=np.int64))
        for name, array in flat.items():
            if leads[name] != lead:
                wide = np.broadcast_to(array.reshape(*leads[name], -1), (*lead, array.shape[-1]))
                flat[name] = wide.reshape(count, -1)
        return flat, lead

    def split_inputs(self, x: Any) -> dict[TensorSpec, Any]:
        """Return what was passed for each input; a mapping by name, or one value for one input."""
        if isinstance(x, Mapping):
            names = [s.name for s in self.inputs]
            for key in x:
                if key not in names:
                    raise UnknownName("input", str(key), names)
            if lacking := [n for n in names if n not in x]:
                raise InputError(f"{self.name}: no value for input(s) {', '.join(lacking)}; pass all of {names}")
            return {spec: x[spec.name] for spec in self.inputs}
        if len(self.inputs) != 1:
            names_text = ", ".join(f"{s.name!r} {s.shape}" for s in self.inputs)
            raise InputError(f"{self.name} has {len(self.inputs)} inputs; pass a dict with {names_text}")
        return {self.inputs[0]: x}

    def flat_outputs(self, state: Mapping[str, Array]) -> Array:
        """Return all outputs joined along the last axis."""
        return np.concatenate([state[s.name] for s in self.outputs], axis=-1)

    # ---- reports ------------------------------------------------------------------------------

    def summary(self) -> Table:
        """Return a table of the layers: kind, shapes, parameters, neurons."""
        rows: list[Sequence[object]] = []
        for node in self.nodes:
            operators = node.operators if isinstance(node, Affine) else ()
            kind = " + ".join(type(op).__name__.lower() for op in operators) if operators else node.kind
            parameters = sum(op.parameters for op in operators)
            rows.append((node.name, kind, self.tensors[node.output].shape, self._neurons(node), parameters))
        neurons = sum(self._neurons(node) for node in self.nodes)
        parameters = sum(int(row[4]) for row in rows)  # type: ignore[call-overload]
        shapes = "; ".join(
            f"{way} {s.name} {s.shape}" for way, specs in (("in", self.inputs), ("out", self.outputs)) for s in specs
        )
        note = f"{neurons} piecewise-linear neurons, {parameters} weights; {shapes}"
        return Table(self.name, ("node", "kind", "output shape", "neurons", "weights"), rows, note)

    def _neurons(self, node: Node) -> int:
        return self.tensors[node.output].size if isinstance(node, Activation | Max | Winner) else 0

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __repr__(self) -> str:
        """Say name, inputs and outputs."""
        ins = ", ".join(f"{s.name}{s.shape}" for s in self.inputs)
        outs = ", ".join(f"{s.name}{s.shape}" for s in self.outputs)
        return f"<Network {self.name}: {ins} -> {outs}, {len(self.nodes)} nodes>"

    def self_check(self, samples: int = 64, seed: int = 0) -> float:
        """Return the largest difference to the reference runtime on random points.

        Parameters
        ----------
        samples : int
            Random points, of several magnitudes.
        seed : int
            Seed of the points.

        Raises
        ------
        SelfCheckFailed
            If a difference is larger than float arithmetic explains.
        """
        from nnembed.ir.check import compare

        if self.reference is None:
            raise SelfCheckFailed(f"{self.name}: no original model is attached to this network")
        return compare(self, self.reference, samples, seed)


def feed(h: Any, value: Any) -> None:
    """Add a value to a hash so that different values give different bytes: type and size first, then the content.

    Plain values, arrays, sparse matrices, sequences and mappings. An object counts as its type and its fields: of a
    dataclass those that are compared (others may be caches), of other objects those that are plain or arrays.
    """
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        h.update(f"array {array.dtype.str} {array.shape};".encode())
        h.update(array.tobytes())
    elif isinstance(value, _PLAIN):
        text = repr(value).encode()
        h.update(f"{type(value).__name__} {len(text)};".encode() + text)
    elif isinstance(value, tuple | list):
        h.update(f"sequence {len(value)};".encode())
        for item in value:
            feed(h, item)
    elif isinstance(value, Mapping):
        feed(h, list(value.items()))
    elif sp.issparse(value):
        matrix = sp.csr_array(value)
        feed(h, (matrix.shape, matrix.data, matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)))
    else:
        h.update(f"object {type(value).__module__}.{type(value).__qualname__};".encode())
        if isinstance(value, type):
            feed(h, f"{value.__module__}.{value.__qualname__}")
        elif is_dataclass(value):
            feed(h, [(f.name, getattr(value, f.name)) for f in fields(value) if f.compare])
        else:
            held = getattr(value, "__dict__", {})
            feed(h, [(k, held[k]) for k in sorted(held) if isinstance(held[k], (*_PLAIN, np.ndarray))])


def batch_axes(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    """Return the leading axes of an array given for `spec`, own shape or flat.

    Raises
    ------
    InputError
        If the trailing axes fit neither form.
    """
    rank = len(spec.shape)
    if len(shape) >= rank and shape[len(shape) - rank :] == spec.shape:
        return shape[: len(shape) - rank]
    if shape and shape[-1] == spec.size:
        return shape[:-1]
    if spec.size == 1 and not shape:
        return ()
    flat = f" or flat (..., {spec.size})" if rank != 1 else ""
    raise InputError(
        f"input {spec.name!r} expects shape (..., {', '.join(map(str, spec.shape))}){flat}, got {shape}; "
        "leading axes are batch"
    )
