"""Where the nodes of a network go in a picture; used by the HTML page and the plot alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnembed.ir.network import Network
    from nnembed.ir.nodes import Node


@dataclass(frozen=True)
class Cell:
    """One box of the picture.

    Attributes
    ----------
    role : str
        "input", "linear", "piecewise" or "output"; decides the colour.
    title, detail : str
        Two lines of text.
    depth : int
        Row, from the inputs down.
    lane : float
        Place in the row, 0 in the middle, one unit per box.
    """

    role: str
    title: str
    detail: str
    depth: int
    lane: float


@dataclass(frozen=True)
class Picture:
    """Boxes and the arrows between them (pairs of positions in `cells`)."""

    cells: tuple[Cell, ...]
    edges: tuple[tuple[int, int], ...]

    @property
    def depth(self) -> int:
        """Number of rows."""
        return 1 + max(c.depth for c in self.cells)

    @property
    def width(self) -> float:
        """Largest distance of a box from the middle, in boxes."""
        return max(abs(c.lane) for c in self.cells)


def arrange(network: Network) -> Picture:
    """Place inputs on top, every node one row below the last node it reads, outputs at the bottom."""
    texts: list[tuple[str, str, str]] = []
    reads: list[tuple[int, ...]] = []
    writer: dict[str, int] = {}
    for spec in network.inputs:
        writer[spec.name] = len(texts)
        texts.append(("input", spec.name, shape_text(spec.shape)))
        reads.append(())
    for node in network.nodes:
        texts.append((_role(node), f"{node.name}", f"{kind_text(node)}  {shape_text(_shape(network, node))}"))
        reads.append(tuple(writer[t] for t in node.inputs))
        writer[node.output] = len(texts) - 1
    for spec in network.outputs:
        texts.append(("output", spec.name, shape_text(spec.shape)))
        reads.append((writer[spec.name],))
    depths = _depths(reads, len(network.outputs))
    lanes = _lanes(reads, depths)
    cells = [Cell(*text, depth, lane) for text, depth, lane in zip(texts, depths, lanes, strict=True)]
    edges = [(source, target) for target, sources in enumerate(reads) for source in sources]
    return Picture(tuple(cells), tuple(edges))


def _depths(reads: Sequence[tuple[int, ...]], outputs: int) -> list[int]:
    depths: list[int] = []
    for sources in reads:
        depths.append(1 + max((depths[s] for s in sources), default=-1))
    bottom = max(depths)
    return [*depths[: len(depths) - outputs], *[bottom] * outputs]


def _lanes(reads: Sequence[tuple[int, ...]], depths: Sequence[int]) -> list[float]:
    """Order each row by the mean place of what its boxes read, so that few arrows cross."""
    lanes = [0.0] * len(reads)
    rows: dict[int, list[int]] = {}
    for cell, depth in enumerate(depths):
        rows.setdefault(depth, []).append(cell)
    for depth in sorted(rows):
        row = rows[depth]
        wish = {c: sum(lanes[s] for s in reads[c]) / max(1, len(reads[c])) for c in row}
        for place, cell in enumerate(sorted(row, key=lambda c: wish[c])):
            lanes[cell] = place - (len(row) - 1) / 2
    return lanes


def _role(node: Node) -> str:
    from nnembed.ir.nodes import Affine

    return "linear" if isinstance(node, Affine) else "piecewise"


def _shape(network: Network, node: Node) -> tuple[int, ...]:
    return network.tensors[node.output].shape


def kind_text(node: Node) -> str:
    """Return the kind of a node in words: the operators of a linear node, the function of the others."""
    from nnembed.ir.nodes import Affine

    if not isinstance(node, Affine):
        return node.kind
    return " + ".join(type(operator).__name__.lower() for operator in node.operators)


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as people write it: ``3 x 32 x 32``."""
    return " x ".join(map(str, shape)) or "scalar"
