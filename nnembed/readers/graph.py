"""Read a whole ONNX graph, operator by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnembed.errors import ModelFileError, UnsupportedOperators
from nnembed.ir.linear import Selection
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Activation, Affine, Max, Node, Winner
from nnembed.protocols import OpReader
from nnembed.readers.context import ReadContext, Refused, Symbol, Unread, Value
from nnembed.readers.files import Original
from nnembed.readers.folding import Outline, check_form, clashing_types, find_schema, fold, outline
from nnembed.readers.interface import Slot, output_slot, read_inputs
from nnembed.readers.operators import zero
from nnembed.readers.refusals import why_unknown
from nnembed.readers.registry import ReaderTable
from nnembed.readers.tensors import AnyArray, check_external, element_type, is_float, sparse_to_array, to_array


@dataclass(frozen=True)
class NodeRecord:
    """What became of one node of the file.

    Attributes
    ----------
    node, op : str
        Name (made up where the file has none) and operator.
    status : str
        "exact", "refused", or "unread": fine by itself as far as can be seen behind a refused node.
    kind : str
        "constant", "affine", "piecewise linear", or "" if not exact.
    reason : str
        Why it was refused and what to do.
    """

    node: str
    op: str
    status: str
    kind: str = ""
    reason: str = ""


class GraphReader:
    """Reads one model; used once.

    Parameters
    ----------
    original : Original
        The opened model.
    readers : iterable of OpReader
    """

    def __init__(self, original: Original, readers: Iterable[OpReader]):
        self.original, self.table = original, ReaderTable(readers)
        self.external = check_external(original.model, original.folder)
        self.graph = _inlined(original.model).graph
        self.opsets = {_domain(o.domain): int(o.version) for o in original.model.opset_import}
        _check_opset(self.opsets)
        self.inputs = read_inputs(self.graph)
        self.values: dict[str, Value] = {s.spec.name: Symbol(s.spec.name, s.shape, s.spec.dtype) for s in self.inputs}
        self.nodes: list[Node] = []
        self.tensors: dict[str, TensorSpec] = {s.spec.name: s.spec for s in self.inputs}
        self.aliases: dict[str, str] = {}
        self.records: list[NodeRecord] = []
        self.model_types = frozenset(_float_types(self.graph, self.inputs))
        self._node_names = Counter(node.name for node in self.graph.node)
        self._tensor_names = {name for node in self.graph.node for name in node.output} | set(self.values)
        self._uses = Counter(name for node in self.graph.node for name in node.input)
        self._uses.update(value.name for value in self.graph.output)

    # ---- the walk -----------------------------------------------------------------------------

    def run(self) -> None:
        """Read every node; refusals are recorded, not raised."""
        for tensor in self.graph.initializer:
            self.values[tensor.name] = to_array(tensor, self.original.folder)
        for sparse in self.graph.sparse_initializer:
            self.values[sparse.values.name] = sparse_to_array(sparse, self.original.folder)
        _check_names(self.graph, set(self.values))
        for node in _ordered(self.graph.node, set(self.values)):
            self._read(node, self._node_name(node))

    def network(self) -> tuple[Network, tuple[Slot, ...]]:
        """Return the network as the nodes say it, not yet simplified, and the original's outputs.

        Raises
        ------
        UnsupportedOperators
            Listing every refused node of the graph.
        """
        problems = [f"{r.node!r} ({r.op}): {r.reason}" for r in self.records if r.status == "refused"]
        if problems:
            raise UnsupportedOperators(problems, self.original.label)
        outputs = tuple(self._output(value.name) for value in self.graph.output)
        name = self.graph.name or (self.original.path.stem if self.original.path else "network")
        specs = tuple(slot.spec for slot in outputs)
        inputs = tuple(slot.spec for slot in self.inputs)
        return Network(inputs, specs, tuple(self.nodes), self.tensors, self.aliases, name), outputs

    def _read(self, node: Any, name: str) -> None:
        for source in node.input:
            if source and source not in self.values:
                raise ModelFileError(
                    f"node {name!r} ({node.op_type}) reads tensor {source!r}, which nothing before it can "
                    "write; the file is damaged, export it again"
                )
        operands = [self.values[n] if n else None for n in node.input]
        domain = _domain(node.domain)
        outlines: list[Outline] = []
        try:
            schema = find_schema(domain, node.op_type, self._opset(domain))
            if schema is not None:
                check_form(schema, node)
            reader = self.table.find(domain, node.op_type, self._opset(domain))
            known = [v for v in operands if not isinstance(v, Unread)]
            if reader is None and (len(known) < len(operands) or any(isinstance(v, Symbol) for v in known)):
                outlines = self._outline(schema, node, name, operands)
                raise Refused(why_unknown(node.op_type, domain))
            if len(known) < len(operands):
                self.values.update(dict.fromkeys(filter(None, node.output), Unread()))
                self.records.append(NodeRecord(name, node.op_type, "unread"))
                return
            outlines = self._outline(schema, node, name, operands)
            self._commit(node, name, *self._values(node, name, reader, known))
        except Refused as refusal:
            self.records.append(NodeRecord(name, node.op_type, "refused", reason=str(refusal)))
            self._stand_in(node, outlines)

    def _outline(self, schema: Any, node: Any, name: str, operands: Sequence[Value | None]) -> list[Outline]:
        """Check types and sizes by the standard before any operator runs."""
        if schema is None or node.op_type == "Constant" or any(isinstance(v, Unread) for v in operands):
            return []
        known: list[AnyArray | Symbol | None] = list(operands)  # type: ignore[arg-type]
        if clash := clashing_types(schema, node, known):
            raise ModelFileError(
                f"node {name!r} ({node.op_type}): {clash}, but the standard asks for one type, so onnxruntime refuses "
                "the file too; export it with one element type (change the declared type, or insert a Cast)"
            )
        return outline(schema, node, known, self.opsets)

    def _values(
        self, node: Any, name: str, reader: OpReader | None, operands: Sequence[AnyArray | Symbol | None]
    ) -> tuple[Sequence[Value], ReadContext | None]:
        """Return the values of a node's outputs."""
        constant = not any(isinstance(v, Symbol) for v in operands)
        if reader is None or (constant and not getattr(reader, "folds", False)):
            return fold(node, operands, self.opsets), None  # type: ignore[arg-type]
        context = ReadContext(
            node,
            name,
            self._opset(_domain(node.domain)),
            operands,
            wanted=[bool(n) and self._uses[n] > 0 for n in node.output],
            folder=self.original.folder,
            fresh=self._fresh,
            model_types=self.model_types,
        )
        try:
            return reader.read(node, context), context
        except ModelFileError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise Refused(f"its operands do not fit together ({error}); the file is not valid ONNX") from error

    # ---- keeping results ----------------------------------------------------------------------

    def _commit(self, node: Any, name: str, results: Sequence[Value], context: ReadContext | None) -> None:
        """Name the results as the file does and keep what the reader added."""
        added = context.added if context else []
        made = context.made if context else {}
        rename: dict[str, str] = {}
        for target, value in zip(node.output, results, strict=False):
            if not target:
                continue
            if isinstance(value, Symbol):
                if value.tensor in made and value.tensor not in rename:
                    rename[value.tensor] = target
                final = rename.get(value.tensor, value.tensor)
                value = Symbol(final, value.shape, value.dtype)  # noqa: PLW2901
                if final != target:
                    self.aliases[target] = final
            self.values[target] = value
        for fresh in added:
            output = rename.get(fresh.output, fresh.output)
            main = node.output and output == node.output[0]
            sources = tuple(rename.get(t, t) for t in fresh.inputs)
            label = output
            if main:
                label = name
            elif output not in made and output in self._node_names:
                label = self._fresh(output)
            self.nodes.append(replace(fresh, name=label, inputs=sources, output=output))
            self.tensors[output] = self._spec(output, made[fresh.output])
        alias = self.values.get(node.output[0]) if node.output and not added else None
        if isinstance(alias, Symbol) and name not in self._tensor_names:
            self.aliases[name] = alias.tensor
        self.records.append(NodeRecord(name, node.op_type, "exact", _kind(added, results)))

    def _stand_in(self, node: Any, outlines: Sequence[Outline]) -> None:
        """Let reading go on behind a refused node where the shape of its result is known."""
        for k, name in enumerate(node.output):
            known = k < len(outlines) and outlines[k].shape is not None and is_float(outlines[k].dtype)
            shape = outlines[k].shape if known else None
            self.values[name] = Unread() if shape is None else Symbol(f"{name}?", shape, outlines[k].dtype)

    def _output(self, name: str) -> Slot:
        """Return an output; one that is a constant or another tensor gets a node of its own."""
        if name not in self.values:
            raise ModelFileError(f"output {name!r} is written by no node; the file is damaged, export it again")
        value = self.values[name]
        assert not isinstance(value, Unread)
        fixed = not isinstance(value, Symbol)
        slot = output_slot(name, value.shape, str(value.dtype), self.inputs, fixed=fixed)
        if isinstance(value, Symbol) and value.tensor == name:
            self.tensors[name] = slot.spec
            return slot
        if isinstance(value, Symbol):
            copy = Selection(np.arange(value.size), value.size)
            node = Affine(self._fresh(f"{name}/output"), (value.tensor,), name, (copy,), np.zeros(value.size))
        else:
            first = self.inputs[0].spec
            if value.dtype == object or not np.isfinite(value.astype(float)).all():
                raise ModelFileError(f"output {name!r} is a constant that is not finite; remove it from the model")
            operator = zero(value.size, first.size)
            node = Affine(self._fresh(f"{name}/output"), (first.name,), name, (operator,), value.astype(float).ravel())
        self.aliases.pop(name, None)
        self.nodes.append(node)
        self.tensors[name] = slot.spec
        return slot

    # ---- names --------------------------------------------------------------------------------

    def _spec(self, name: str, symbol: Symbol) -> TensorSpec:
        shape = symbol.shape
        batched = any(s.batched for s in self.inputs) and len(shape) > 1 and shape[0] == 1
        return TensorSpec(name, shape[1:] if batched else shape, symbol.dtype)

    def _fresh(self, wanted: str) -> str:
        """Return a name nothing else has."""
        name, k = wanted, 1
        while name in self._tensor_names or name in self._node_names:
            k += 1
            name = f"{wanted}#{k}"
        self._node_names[name] += 1
        return name

    def _node_name(self, node: Any) -> str:
        if node.name and self._node_names[node.name] == 1:
            return str(node.name)
        return self._fresh(str(node.name) or f"{node.op_type}_{len(self.records)}")

    def _opset(self, domain: str) -> int:
        if domain not in self.opsets:
            raise Refused(f"its domain {domain!r} is not imported by the model; the file is not valid ONNX")
        return self.opsets[domain]


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _check_names(graph: Any, known: set[str]) -> None:
    """Refuse a tensor that is written twice: which of the two is read would be a guess."""
    for name in (name for node in graph.node for name in node.output if name):
        if name in known:
            raise ModelFileError(f"tensor {name!r} is written twice; the file is damaged, export it again")
        known.add(name)


def _ordered(nodes: Sequence[Any], known: set[str]) -> list[Any]:
    """Return the nodes with every tensor written before it is read, otherwise in the order of the file.

    The standard asks for this order, onnxruntime does not. Nodes that can never run come last.
    """
    ordered: list[Any] = []
    waiting: dict[str, list[Any]] = {}
    known.add("")
    for node in nodes:
        stack = [node]
        while stack:
            current = stack.pop()
            missing = next((name for name in current.input if name not in known), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(current)
                continue
            ordered.append(current)
            known.update(current.output)
            for name in current.output:
                stack += waiting.pop(name, [])[::-1]
    return ordered + [node for held in waiting.values() for node in held]


def _inlined(model: Any) -> Any:
    """Return the model with its local functions written out."""
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _check_opset(opsets: dict[str, int]) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if "" not in opsets:
        opsets[""] = newest
    if opsets[""] > newest:
        raise ModelFileError(
            f"the model uses operator set {opsets['']}, onnx {onnx.__version__} knows up to {newest}; upgrade onnx, or "
            "export with an older operator set"
        )


def _float_types(graph: Any, inputs: tuple[Slot, ...]) -> set[str]:
    """Return the floating-point types the model takes and gives."""
    codes = {v.type.tensor_type.elem_type for v in graph.output if v.type.HasField("tensor_type")} - {0}
    return {t for t in (*(s.spec.dtype for s in inputs), *map(element_type, codes)) if is_float(t)}


def _kind(added: Sequence[Node], results: Sequence[Value]) -> str:
    if any(isinstance(n, Activation | Max | Winner) for n in added):
        return "piecewise linear"
    return "affine" if any(isinstance(v, Symbol) for v in results) else "constant"
