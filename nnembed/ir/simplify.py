"""Make a network small before anything is computed on it.

Identities vanish, affine chains become one node, a rounding takes up the clip behind it, what no output needs is
dropped. Numbers stay float64; inputs and outputs keep their names, everything else is reachable through
`Network.aliases` where it still exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from nnembed.ir.compose import add, compose, is_cheap
from nnembed.ir.linear import LinearOperator, Selection
from nnembed.ir.network import Network
from nnembed.ir.nodes import Affine, Clip, Max, Node, Relu, Round, Winner


def simplify(network: Network) -> Network:
    """Return an equal network of fewer nodes.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Network
        Same inputs, outputs and reference. A chain of affine nodes keeps the name of its last tensor.
    """
    work = _Simplifier(network)
    while work.sweep():
        pass
    return work.result()


class _Simplifier:
    """The state of one simplification: current nodes and where names have gone."""

    def __init__(self, network: Network):
        self.network = network
        self.nodes = list(network.nodes)
        self.tensors = dict(network.tensors)
        self.equal = dict(network.aliases)  # name -> tensor of the same numbers
        self.chain: dict[str, str] = {}  # inner tensor of an affine chain -> a later one
        taken = self.tensors.keys() | self.equal.keys()  # a name means the tensor first
        self.node_names = {node.name: node.output for node in network.nodes if node.name not in taken}
        self.fixed = {spec.name for spec in (*network.inputs, *network.outputs)}

    def sweep(self) -> bool:
        """Go through the graph once, first node to last; return whether anything changed."""
        before = self.nodes
        self._drop_dead()
        self._rename_outputs()
        uses = Counter(t for node in self.nodes for t in node.inputs)
        uses.update(spec.name for spec in self.network.outputs)
        moved: dict[str, str] = {}
        done: dict[str, Node] = {}
        for node in self.nodes:
            sources = tuple(moved.get(t, t) for t in node.inputs)
            current = node if sources == node.inputs else replace(node, inputs=sources)
            if isinstance(current, Affine):
                current = self._merge(current, done, uses)
            elif isinstance(current, Max | Winner):
                current = _picked(current, done)
            elif isinstance(current, Clip) and current.input not in self.fixed and uses[current.input] == 1:
                current = _limited(current, done)
            source = _same_as(current, done)
            if source is not None and current.output not in self.fixed:
                moved[current.output] = source
                continue
            done[current.output] = current
        self.equal.update(moved)
        self.nodes = list(done.values())
        self._drop_dead()
        return len(before) != len(self.nodes) or any(a is not b for a, b in zip(before, self.nodes, strict=True))

    def result(self) -> Network:
        """Return the network with the names that still mean something."""
        alive = self.fixed | {node.output for node in self.nodes}
        tensors = {name: spec for name, spec in self.tensors.items() if name in alive}
        aliases = {name: self._target(name, self.equal) for name in self.equal}
        both = self.chain | self.equal
        aliases.update((name, self._target(tensor, both)) for name, tensor in self.node_names.items())
        aliases = {name: tensor for name, tensor in aliases.items() if name not in tensors and tensor in tensors}
        return replace(self.network, nodes=tuple(self.nodes), tensors=tensors, aliases=aliases)

    @staticmethod
    def _target(name: str, links: dict[str, str]) -> str:
        while name in links:
            name = links[name]
        return name

    def _merge(self, node: Affine, done: dict[str, Node], uses: Counter[str]) -> Affine:
        merged = _merged(node, done, uses)
        if merged is not node:
            inner = set(node.inputs) - set(merged.inputs)
            self.chain.update((t, node.output) for t in inner if uses[t] == 1 and t not in self.fixed)
        return merged

    def _drop_dead(self) -> None:
        needed = {spec.name for spec in self.network.outputs}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]

    def _rename_outputs(self) -> None:
        """Let an output that only copies an inner tensor be that tensor."""
        for copy in [n for n in self.nodes if _is_copy(n) and n.output in self.fixed]:
            source, name = copy.inputs[0], copy.output
            if source not in self.fixed:
                self.nodes = [_renamed(node, source, name) for node in self.nodes if node is not copy]
                self.equal[source] = name
                self.equal.pop(name, None)
                return  # the next sweep sees to the next one


def _renamed(node: Node, old: str, new: str) -> Node:
    if node.output == old:
        return replace(node, output=new)
    if old in node.inputs:
        return replace(node, inputs=tuple(new if t == old else t for t in node.inputs))
    return node


def _is_copy(node: Node) -> bool:
    if not isinstance(node, Affine) or len(node.operators) != 1 or node.bias.any():
        return False
    operator = node.operators[0]
    return isinstance(operator, Selection) and operator.is_identity


def _same_as(node: Node, done: dict[str, Node]) -> str | None:
    """Return the tensor a node merely repeats, if any."""
    if _is_copy(node):
        return node.inputs[0]
    if isinstance(node, Relu) and isinstance(done.get(node.input), Relu):
        return node.input
    return None


def _picked(node: Max | Winner, done: dict[str, Node]) -> Max | Winner:
    """Take the members of groups directly from where a selection took them."""
    source = done.get(node.input)
    if not isinstance(source, Affine) or len(source.operators) != 1 or source.bias.any():
        return node
    operator = source.operators[0]
    if not isinstance(operator, Selection) or (operator.index < 0).any():
        return node
    return replace(node, inputs=source.inputs, groups=operator.index[node.groups])


def _limited(node: Clip, done: dict[str, Node]) -> Clip | Round:
    """Let a rounding in front of a clip at whole levels have its limits."""
    before = done.get(node.input)
    if not isinstance(before, Round):
        return node
    low, high = node.lower / before.scale, node.upper / before.scale
    if not all(
        (k == np.rint(k)).all() and (before.scale * k == end).all()
        for k, end in ((low, node.lower), (high, node.upper))
    ):
        return node
    limits = np.clip(before.low, low, high), np.clip(before.high, low, high)
    return replace(before, name=node.name, output=node.output, low=limits[0], high=limits[1])


# ---- affine chains ------------------------------------------------------------------------------


def _merged(node: Affine, done: dict[str, Node], uses: Counter[str]) -> Affine:
    """Pull the affine nodes in front of `node` into it where that costs nothing."""
    bias = node.bias
    terms: list[tuple[str, LinearOperator]] = []
    changed = False
    for source, operator in zip(node.inputs, node.operators, strict=True):
        before = done.get(source)
        parts = None
        if isinstance(before, Affine) and (uses[source] == 1 or is_cheap(before.operators)):
            parts = _through(operator, before)
        if parts is None:
            terms.append((source, operator))
            continue
        assert isinstance(before, Affine)
        changed = True
        terms += parts
        bias = bias + operator.apply(before.bias)
    summed = _summed(terms)
    if not changed and len(summed) == len(terms):
        return node
    return replace(
        node, inputs=tuple(t for t, _ in summed), operators=tuple(m for _, m in summed), bias=np.asarray(bias)
    )


def _through(operator: LinearOperator, before: Affine) -> list[tuple[str, LinearOperator]] | None:
    """Return the terms of `operator` applied to an affine node, None if one of them would grow."""
    parts = []
    for source, inner in zip(before.inputs, before.operators, strict=True):
        product = compose(operator, inner)
        if product is None:
            return None
        parts.append((source, product))
    return parts


def _summed(terms: Iterable[tuple[str, LinearOperator]]) -> list[tuple[str, LinearOperator]]:
    """Add up the terms that read the same tensor, where the sum is no larger."""
    kept: list[tuple[str, LinearOperator]] = []
    for source, operator in terms:
        for k, (other, present) in enumerate(kept):
            total = add(present, operator) if other == source else None
            if total is not None:
                kept[k] = (source, total)
                break
        else:
            kept.append((source, operator))
    return kept
