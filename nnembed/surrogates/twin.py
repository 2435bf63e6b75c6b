"""What a surrogate returns: the twin, its proven error, and what was taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.box import Bounds
from nnembed.errors import InputError, UnsupportedFeature
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine
from nnembed.options import Budget
from nnembed.tables import Table


@dataclass(frozen=True)
class LayerCount:
    """Weights of one layer: how many there are, and how many are not zero."""

    layer: str
    weights: int
    nonzeros: int

    @property
    def sparsity(self) -> float:
        """The share that is zero."""
        return 1.0 - self.nonzeros / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Agreement:
    """What a classifier is worth on labelled samples.

    Attributes
    ----------
    accuracy, twin_accuracy : float
        Shares of samples classified rightly by the original and by the twin.
    balance : float or None
        Slope of recall balance: above 1, differences between the classes have grown; None where the original treats
        all classes alike.
    """

    accuracy: float
    twin_accuracy: float
    balance: float | None


@dataclass(frozen=True)
class TwinReport:
    """What became of a network; prints as a table.

    Attributes
    ----------
    method : str
    layers : tuple of LayerCount
    seconds : float
        Wall-clock time of pruning and of proving the error.
    agreement : Agreement or None
        Where labelled samples were given.
    facts : mapping str -> float
        What else the method has to tell.
    """

    method: str
    layers: tuple[LayerCount, ...]
    seconds: float = 0.0
    agreement: Agreement | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """Weights that could have been taken away."""
        return sum(layer.weights for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Weights that are left."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """The share of all weights that is zero."""
        return LayerCount("", self.weights, self.nonzeros).sparsity

    def summary(self) -> Table:
        """Return a table of the layers."""
        rows = [(p.layer, p.weights, p.nonzeros, p.sparsity) for p in (*self.layers, self._total())]
        notes = [f"{self.method}, {self.seconds:.3g} s"]
        if self.agreement is not None:
            found = self.agreement
            notes.append(f"accuracy {found.accuracy:.4f} -> {found.twin_accuracy:.4f}")
            notes += [] if found.balance is None else [f"recall balance {found.balance:.3f}"]
        notes += [f"{name} {value:.4g}" for name, value in self.facts.items()]
        return Table("twin", ("layer", "weights", "nonzeros", "sparsity"), rows, "; ".join(notes))

    def _total(self) -> LayerCount:
        return LayerCount("all", self.weights, self.nonzeros)

    def __str__(self) -> str:
        """Render as plain text."""
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


@dataclass(frozen=True, eq=False)
class Twin:
    """A smaller network in place of another.

    Attributes
    ----------
    network : Network
        Inputs and outputs as the original's.
    error_bound : array or None
        What ``|twin - original|`` cannot exceed on the whole box, one number per output entry, all outputs joined;
        None where nothing is proved.
    report : TwinReport or None
    """

    network: Network
    error_bound: Array | None = None
    report: TwinReport | None = None

    def __repr__(self) -> str:
        """Say what is left and how far it may be off."""
        left = "" if self.report is None else f", {self.report.nonzeros} of {self.report.weights} weights"
        proof = (
            "nothing proved" if self.error_bound is None else f"error at most {self.error_bound.max(initial=0.0):.4g}"
        )
        return f"<Twin of {self.network.name}{left}, {proof}>"


@dataclass(frozen=True, eq=False)
class Given:
    """A surrogate that is a network made elsewhere: read from a file, trained, or pruned before.

    Parameters
    ----------
    twin : Network
    """

    twin: Network

    name = "given"
    summary = "a network that was made before"
    sound = True

    def build(self, network: Network, bounds: Bounds, samples: Any, budget: Budget) -> Twin:
        """Return the twin under the original's names of inputs and outputs; see `protocols.Surrogate`."""
        return Twin(renamed(self.twin, network))


def renamed(twin: Network, network: Network) -> Network:
    """Return a twin with the original's names of inputs and outputs, where it has as many of each."""
    names: dict[str, str] = {}
    for theirs, ours in ((twin.inputs, network.inputs), (twin.outputs, network.outputs)):
        if len(theirs) != len(ours):
            return twin
        names |= {t.name: o.name for t, o in zip(theirs, ours, strict=True)}
    if all(old == new for old, new in names.items()):
        return twin
    taken = set(names.values())
    for name in twin.tensors:
        if name not in names:
            names[name] = f"{name} of the twin" if name in taken else name
    tensors = {names[n]: replace(spec, name=names[n]) for n, spec in twin.tensors.items()}
    nodes = tuple(
        replace(node, inputs=tuple(names[t] for t in node.inputs), output=names[node.output]) for node in twin.nodes
    )
    inputs, outputs = (tuple(tensors[names[s.name]] for s in specs) for specs in (twin.inputs, twin.outputs))
    return replace(twin, inputs=inputs, outputs=outputs, nodes=nodes, tensors=tensors, reference=None)


def refuse_misfit(network: Network, twin: Network, method: str) -> None:
    """Raise an error if a twin does not have the original's inputs and outputs.

    Raises
    ------
    UnsupportedFeature
        Names what differs, with both sizes.
    """
    for way, ours, theirs in (("input", network.inputs, twin.inputs), ("output", network.outputs, twin.outputs)):
        left, right = ([(s.name, s.shape) for s in specs] for specs in (ours, theirs))
        if left != right:
            raise UnsupportedFeature(
                f"the twin that surrogate {method!r} made of {network.name!r} does not fit: its {way}s are "
                f"{_listed(theirs)}, the network's are {_listed(ours)}; choose another surrogate="
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{s.name!r} of shape {s.shape}" for s in specs) or "none"


def count_layers(network: Network) -> tuple[LayerCount, ...]:
    """Return the weights of every layer that has any."""
    found = []
    for node in network.nodes:
        if not isinstance(node, Affine):
            continue
        sizes = [(op.parameters, numbers(op)) for op in node.operators if op.parameters]
        if sizes:
            found.append(LayerCount(node.name, sum(s for s, _ in sizes), sum(n for _, n in sizes)))
    return tuple(found)


def numbers(operator: Any) -> int:
    """Return how many of an operator's weights are not zero."""
    for name in ("weight", "kernel"):
        if hasattr(operator, name):
            return int(np.count_nonzero(getattr(operator, name)))
    return int(np.count_nonzero(operator.csr().data))


def agreement(network: Network, twin: Network, samples: Any, labels: Any) -> Agreement:
    """Return accuracies on labelled samples and the slope of recall balance.

    With ``B_c = (recall_c - accuracy) / accuracy`` of the original and ``B'_c`` of the twin, the slope is
    ``sum B_c B'_c / sum B_c^2``. Source: Good et al. (2022).

    Parameters
    ----------
    samples : array (k, ...) or dict of arrays by input name
    labels : int array (k,)
        Classes; the largest output entry is a network's answer, the first of equal ones.

    Raises
    ------
    InputError
        If the labels do not fit.
    """
    flat, _ = network.flatten(samples)
    classes = np.asarray(labels)
    count = len(next(iter(flat.values())))
    whole = classes.shape == (count,) and count > 0 and np.issubdtype(classes.dtype, np.integer)
    if not whole or classes.min() < 0 or classes.max() >= network.output_size:
        raise InputError(
            f"labels do not fit: pass {count} whole numbers from 0 to {network.output_size - 1}, one class per sample"
        )
    recalls, accuracies = [], []
    for net in (network, twin):
        right = net.flat_outputs(net.forward(flat)).argmax(axis=1) == classes
        present = np.unique(classes)
        recalls.append(np.array([right[classes == c].mean() for c in present]))
        accuracies.append(float(right.mean()))
    balance = None
    if all(accuracies):
        before, after = (r / a - 1.0 for r, a in zip(recalls, accuracies, strict=True))
        spread = float(before @ before)
        balance = float(before @ after) / spread if spread > 0 else None
    return Agreement(accuracies[0], accuracies[1], balance)
