"""What a network file is, gathered for a terminal, a page and JSON alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnembed.errors import UnsupportedOperators
from nnembed.tables import Table

if TYPE_CHECKING:
    from nnembed.ir.network import Network
    from nnembed.protocols import OpReader

STATUS_WORDS = {
    "exact": "exact",
    "piecewise": "exact, piecewise linear",
    "relaxed": "relaxed (an enclosure, not exact)",
    "unread": "fine by itself, behind a refused node",
    "refused": "refused",
}


@dataclass(frozen=True)
class Operator:
    """How often an operator occurs and how it is read."""

    op: str
    status: str
    count: int
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Description:
    """A network file in words and numbers.

    Attributes
    ----------
    path : Path
        The file.
    properties : tuple of (name, value)
        Facts of the file: producer, operator set, sizes.
    operators : tuple of Operator
        Most frequent first.
    network : Network or None
        None when the file cannot be read exactly.
    refused : tuple of str
        Why not, one line per node.
    """

    path: Path
    properties: tuple[tuple[str, Any], ...]
    operators: tuple[Operator, ...]
    network: Network | None
    refused: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name of the page and of the first table."""
        return self.path.name

    @property
    def line(self) -> str:
        """The file in one line."""
        known = dict(self.properties)
        if self.network is None:
            return f"{self.path}: {len(self.refused)} node(s) cannot be read exactly"
        ways = f"{known['inputs']} -> {known['outputs']}"
        return f"{self.path}: {ways}, {known['neurons']:,} neurons, {known['parameters']:,} parameters"

    def table(self) -> Table:
        """Return the properties as a table."""
        rows = [(name, f"{v:,}" if isinstance(v, int) else v) for name, v in self.properties]
        return Table(self.title, ("property", "value"), rows)

    def operator_table(self) -> Table:
        """Return the operators as a table."""
        rows = [(o.op, o.count, STATUS_WORDS.get(o.status, o.status), o.reason) for o in self.operators]
        return Table("operators", ("operator", "nodes", "how it is read", "reason"), rows)

    def layers(self) -> list[dict[str, Any]]:
        """Return one record per node of the network as read; empty when it cannot be read."""
        if self.network is None:
            return []
        table = self.network.summary()
        keys = [c.replace(" ", "_") for c in table.columns]
        return [dict(zip(keys, row, strict=True)) for row in table.rows]

    def facts(self) -> dict[str, Any]:
        """Return everything as plain objects."""
        return {
            "status": "ok" if self.network is not None else "unsupported",
            "properties": dict(self.properties),
            "operators": [vars(o) for o in self.operators],
            "layers": self.layers(),
            "problems": self.refused,
        }


def describe(path: Path, readers: Sequence[OpReader] | None = None) -> Description:
    """Look at a network file.

    Parameters
    ----------
    path : Path
        An ONNX file.
    readers : sequence of OpReader or None
        Operator readers; the built-in ones by default.

    Raises
    ------
    ModelFileError
        If there is no readable ONNX model. Operators that are refused are no error here.
    """
    from nnembed.readers import load, survey
    from nnembed.readers.files import open_model

    model = open_model(path).model
    network: Network | None = None
    refused: tuple[str, ...] = ()
    try:
        network = load(path, readers=readers)
    except UnsupportedOperators as error:
        refused = error.problems
    return Description(
        path, _properties(path, model, network), _operators(survey(path, readers=readers)), network, refused
    )


def _operators(found: Sequence[Any]) -> tuple[Operator, ...]:
    """Group the records of a survey by operator, status and, for those not exact, reason."""
    groups: Counter[tuple[str, str, str]] = Counter()
    for record in found:
        bent = record.status == "exact" and record.kind == "piecewise linear"
        groups[record.op, "piecewise" if bent else record.status, record.reason] += 1
    return tuple(Operator(op, status, count, reason) for (op, status, reason), count in groups.most_common())


def _properties(path: Path, model: Any, network: Network | None) -> tuple[tuple[str, Any], ...]:
    producer = " ".join(part for part in (model.producer_name, model.producer_version) if part)
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    facts: list[tuple[str, Any]] = [
        ("file", str(path)),
        ("bytes", path.stat().st_size),
        ("graph", model.graph.name or "(no name)"),
        ("producer", producer or "(not stated)"),
        ("opset", opsets),
        ("ir version", int(model.ir_version)),
        ("onnx nodes", len(model.graph.node)),
        ("parameters", _parameters(model)),
    ]
    if network is not None:
        for word, specs in (("inputs", network.inputs), ("outputs", network.outputs)):
            facts.append((word, "; ".join(f"{s.name} {s.shape} {s.dtype}" for s in specs)))
        neurons = sum(network.tensors[node.output].size for node in network.activations)
        facts += [("neurons", neurons), ("activation layers", len(network.activations))]
    return tuple(facts)


def _parameters(model: Any) -> int:
    """Return the numbers stored as floats: initializers and tensors of Constant nodes."""
    import math

    import onnx

    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    constants = (
        a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t")
    )
    tensors = [*model.graph.initializer, *constants]
    return sum(math.prod(t.dims) for t in tensors if t.data_type in kinds)
