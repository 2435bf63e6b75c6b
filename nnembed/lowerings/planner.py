"""The cheapest chain of lowerings from what a block needs to what a solver or host takes.

Dijkstra over sets of features; a lowering is an edge with its declared cost. Among equally cheap chains the shorter one
wins, then the one whose names come first, so the choice never depends on the order of registration.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnembed.aliases import Array
from nnembed.block import Block
from nnembed.features import Feature, missing
from nnembed.lowerings.rewrite import Recover
from nnembed.protocols import Lowering

_Label = tuple[float, int, tuple[str, ...]]


def cheapest(needs: Feature, accepts: Feature, lowerings: Iterable[Lowering]) -> tuple[Lowering, ...] | None:
    """Return the cheapest chain after which only accepted features are left, None when there is none.

    Parameters
    ----------
    needs, accepts : Feature
    lowerings : iterable of Lowering
        Costs must not be negative.
    """
    edges = {low.name: low for low in lowerings}
    queue: list[tuple[_Label, int]] = [((0.0, 0, ()), needs.value)]
    done: set[int] = set()
    while queue:
        (cost, steps, names), value = heapq.heappop(queue)
        if value in done:
            continue
        done.add(value)
        state = Feature(value)
        if not state & ~accepts:
            return tuple(edges[name] for name in names)
        for name, edge in edges.items():
            if edge.removes & state:
                label = (cost + edge.cost, steps + 1, (*names, name))
                heapq.heappush(queue, (label, ((state & ~edge.removes) | edge.emits).value))
    return None


def reachable(needs: Feature, accepts: Feature, lowerings: Iterable[Lowering]) -> bool:
    """Return whether `accepts` covers `needs`, if need be after lowerings."""
    return not missing(needs, accepts) or cheapest(needs, accepts, lowerings) is not None


def hopeless(needs: Feature, accepts: Feature, lowerings: Iterable[Lowering]) -> list[str]:
    """Return the names of the needed features that neither the solver nor any chain of lowerings takes care of."""
    known = tuple(lowerings)
    return [f.name or str(f) for f in needs & ~accepts if cheapest(f, accepts, known) is None]


@dataclass(frozen=True)
class Chain:
    """Lowerings one after the other; itself a map of points back to the first block."""

    steps: tuple[Lowering, ...]

    def apply(self, block: Block) -> tuple[Block, Recover]:
        """Return the lowered block and the map of its points back to points of `block`."""
        maps = []
        for step in self.steps:
            block, back = step.apply(block)
            maps.append(back)
        return block, Backwards(tuple(reversed(maps)))

    def __str__(self) -> str:
        """Return for example ``complementarity -> sos1 -> binary``."""
        return describe([step.name for step in self.steps])


@dataclass(frozen=True)
class Backwards:
    """Maps applied one after the other."""

    maps: tuple[Recover, ...]

    def __call__(self, x: Array) -> Array:
        """Return the point the maps lead to."""
        for back in self.maps:
            x = back(x)
        return x


def describe(names: Sequence[str]) -> str:
    """Return names such as ``a_to_b``, ``b_to_c`` as ``a -> b -> c``; other names as they are."""
    text, last = "", ""
    for name in names:
        start, found, end = name.partition("_to_")
        step = f"{start} -> {end}" if found else name
        if found and last == start:
            text += f" -> {end}"
        else:
            text += f"; {step}" if text else step
        last = end if found else ""
    return text
