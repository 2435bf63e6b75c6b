"""Neurons that the objective pushes onto their convex side need no binary.

Where the outputs of a network occur in a linear objective only, a neuron of the last hidden layer has one price. Is
its activation convex and its price such that less is better (or concave, and more is better), then its value at the
optimum of the relaxation is the network's own at the same inputs, whatever its binary is. Leaving out integrality is
always a relaxation: bounds stay proofs, and answers are evaluated on the networks in any case.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.engine.dual_side import own_rows, used_outputs
from nnembed.ir.nodes import Affine, Kink
from nnembed.problem import Placement, Problem


def eased(problem: Problem) -> Problem:
    """Return the problem without integrality of the binaries that do not matter; itself if all do."""
    if not problem.placements or not problem.integer.any():
        return problem
    own = own_rows(problem)
    integer = problem.integer.copy()
    for placement in problem.placements:
        outputs = placement.columns[placement.block.outputs]
        curved = problem.quadratic is not None and np.isin(outputs, problem.quadratic.nonzero()[0]).any()
        if not (curved or len(used_outputs(problem, own, placement)) or problem.integer[outputs].any()):
            integer[_idle(problem, placement)] = False
    for rule in problem.indicators:
        integer[rule.binary] = True  # solvers want binaries there
    return problem if (integer == problem.integer).all() else replace(problem, integer=integer)


def _idle(problem: Problem, placement: Placement) -> Index:
    """Return the binaries of a network's last hidden layers that do not matter."""
    network, block = placement.embedding.network, placement.block
    price = _prices(problem, placement)
    found = [np.zeros(0, dtype=np.intp)]
    for node in network.activations:
        v = price.get(node.output)
        if v is None or not isinstance(node, Kink):
            continue
        pushed = v * (node.right - node.left) > 0
        for group in block.groups:
            if group.layer == node.name and group.tensor == node.inputs[0]:
                columns = np.arange(group.start, group.start + len(group.elements))
                found.append(columns[pushed.ravel()[group.elements]])
    columns = np.concatenate(found)
    return placement.columns[columns[block.integer[columns]]]


def _prices(problem: Problem, placement: Placement) -> dict[str, Array]:
    """Return the price (batch, n) of tensors that only affine maps to outputs read, in minimisation form."""
    network, batch = placement.embedding.network, placement.block.batch
    cost = (-1.0 if problem.maximize else 1.0) * problem.cost[placement.columns[placement.block.outputs]]
    price: dict[str, Array] = {}
    start = 0
    for spec in network.outputs:
        part = cost[start : start + batch * spec.size].reshape(batch, spec.size)
        price[spec.name] = price[spec.name] + part if spec.name in price else part
        start += batch * spec.size
    for node in reversed(network.nodes):
        if not isinstance(node, Affine):
            for source in node.inputs:
                price[source] = np.full((batch, network.tensors[source].size), np.nan)  # not linear in the price
        elif node.output in price:
            for source, operator in zip(node.inputs, node.operators, strict=True):
                part = operator.pull(price[node.output][None])[0]
                price[source] = price[source] + part if source in price else part
    return price
