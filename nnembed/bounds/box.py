"""Bounds of every tensor of a network over one or many boxes, with their provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array, Index, Mask
from nnembed.errors import BoxError, InputError
from nnembed.ir.network import Network, TensorSpec, batch_axes
from nnembed.ir.nodes import Clip, Kink, Max, Node, Round, Step, Winner
from nnembed.tables import Table


@dataclass(frozen=True)
class Provenance:
    """One method that has worked on the bounds: its time and what it left open.

    Attributes
    ----------
    method : str
    seconds : float
        Wall-clock.
    unstable : int
        Neurons left undecided.
    sound : bool
        Whether its bounds are proofs.
    lps : int
        Linear or mixed-integer programs it has solved.
    finished : bool
        False where a budget stopped it before its end; a later run goes on from there.
    cached : bool
        Whether the bounds come from a cache.
    state : mapping name -> array
        What the method wants to find again when it goes on: it looks for the last entry of its name in the history.
    """

    method: str
    seconds: float
    unstable: int
    sound: bool = True
    lps: int = 0
    finished: bool = True
    cached: bool = False
    state: Mapping[str, Array] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        """Return method and effort, for example ``lp 2.1 s, 180 programs, not finished``."""
        effort = [f"{self.method} {self.seconds:.3g} s"]
        effort += [f"{self.lps} programs"] if self.lps else []
        effort += ["from the cache"] if self.cached else []
        return ", ".join(effort if self.finished else [*effort, "not finished"])


class TensorView(Mapping[str, Array]):
    """Bounds by tensor or node name, in the tensor's own shape (batch axes in front where there are any)."""

    def __init__(self, network: Network, flat: Mapping[str, Array], lead: tuple[int, ...]):
        self._network, self._flat, self._lead = network, flat, lead

    def __getitem__(self, name: str) -> Array:
        """Return a copy-free view in the tensor's shape."""
        key = self._network.resolve(name)
        if key not in self._flat:
            raise KeyError(f"no bounds for {name!r}")
        return self._flat[key].reshape((*self._lead, *self._network.tensors[key].shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._flat)

    def __len__(self) -> int:
        return len(self._flat)


@dataclass(frozen=True, eq=False)
class Region:
    """Linear rows of the user's model that the inputs and outputs of a network meet, beyond their box.

    ``row_lower <= matrix @ u <= row_upper, lower <= u <= upper`` over the user's columns u that are linked with them;
    integrality is left out. Bounds that use a region hold for the points of that region only.

    Attributes
    ----------
    matrix : CSR array (rows, k)
    row_lower, row_upper : arrays (rows,)
    lower, upper : arrays (k,)
        May be infinite.
    inputs : CSR array (batch * input size, k), constant : array (batch * input size,)
        The network's inputs as affine functions of u, in the order of a block's input columns: the inputs one after
        the other, each (batch, entry) row-major.
    outputs : int array (batch * output size,)
        The column of u that each output entry equals, -1 where the model has none; outputs one after the other.
    """

    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    inputs: sp.csr_array
    constant: Array
    outputs: Index


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bounds per tensor that hold on the whole box.

    Attributes
    ----------
    network : Network
    low, high : mapping tensor -> array (batch, n)
        Flat bounds. Tensors without an entry are not bounded yet.
    lead : tuple of int
        Batch axes of the box.
    history : tuple of Provenance
        The methods that have contributed.
    region : Region or None
        Rows of the user's model that every point of interest meets; methods may use it.
    """

    network: Network
    low: Mapping[str, Array]
    high: Mapping[str, Array]
    lead: tuple[int, ...] = ()
    history: tuple[Provenance, ...] = field(default=())
    region: Region | None = None

    @property
    def batch(self) -> int:
        """Number of boxes."""
        return int(np.prod(self.lead, dtype=np.int64))

    @property
    def lower(self) -> TensorView:
        """Lower bounds by tensor or node name."""
        return TensorView(self.network, self.low, self.lead)

    @property
    def upper(self) -> TensorView:
        """Upper bounds by tensor or node name."""
        return TensorView(self.network, self.high, self.lead)

    @property
    def sound(self) -> bool:
        """Whether every contribution was a proof."""
        return all(p.sound for p in self.history)

    @property
    def complete(self) -> bool:
        """Whether every tensor is bounded."""
        return self.network.tensors.keys() <= self.low.keys()

    def open(self, node: Node) -> Mask:
        """Return the mask (batch, n) of the neurons of a layer whose linear piece is not decided.

        A bound that merely touches the breakpoint decides; not so an upper bound at the threshold of a step, where it
        jumps. For a rounding it says where more than one level is in reach, for maxima and winners it marks groups with
        more than one member that may win.
        """
        low, high = self.low[node.inputs[0]], self.high[node.inputs[0]]
        if isinstance(node, Kink):
            return (low < 0) & (high > 0) & (node.left != node.right)
        if isinstance(node, Clip):
            at_lower = (low < node.lower) & (high > node.lower)
            return at_lower | ((low < node.upper) & (high > node.upper))
        if isinstance(node, Step):
            return (low < 0) & (high >= 0) & (node.low != node.high)
        if isinstance(node, Round):
            first, last = levels(node, low, high)
            return first < last
        if isinstance(node, Max | Winner):
            return contenders(node, low, high).sum(axis=-1) > 1
        return np.zeros(low.shape, dtype=bool)

    @property
    def unstable(self) -> int:
        """Neurons whose linear piece is not decided, over all layers and boxes."""
        return sum(int(self.open(node).sum()) for node in self.network.activations)

    def intersect(self, low: Mapping[str, Array], high: Mapping[str, Array], record: Provenance) -> Bounds:
        """Return bounds narrowed by further valid ones; never wider.

        Where rounding makes two valid bounds cross by a hair, the older ones are kept.
        """
        new_low, new_high = dict(self.low), dict(self.high)
        for name in low:
            if new_low.get(name) is low[name] and new_high.get(name) is high[name]:
                continue
            if name in new_low:
                lo, hi = np.maximum(new_low[name], low[name]), np.minimum(new_high[name], high[name])
                crossed = lo > hi
                new_low[name] = np.where(crossed, new_low[name], lo)
                new_high[name] = np.where(crossed, new_high[name], hi)
            else:
                new_low[name], new_high[name] = low[name], high[name]
        result = replace(self, low=new_low, high=new_high)
        record = replace(record, unstable=result.unstable if result.complete else record.unstable)
        return replace(result, history=(*self.history, record))

    def repeat(self, index: Index, lead: tuple[int, ...]) -> Bounds:
        """Return the bounds of boxes ``index`` as a batch with axes `lead`; a region, which joins them, is left out."""
        low = {k: v[index] for k, v in self.low.items()}
        high = {k: v[index] for k, v in self.high.items()}
        return replace(self, low=low, high=high, lead=lead, region=None)

    def summary(self) -> Table:
        """Return a table per layer: width of the pre-activations, active, inactive and open neurons."""
        rows = []
        for node in self.network.activations:
            low, high = self.low[node.inputs[0]], self.high[node.inputs[0]]
            opened = self.open(node)
            rows.append((node.name, node.kind, opened.size, int(opened.sum()), float((high - low).mean())))
        for spec in self.network.outputs:
            width = float((self.high[spec.name] - self.low[spec.name]).mean())
            rows.append((spec.name, "output", spec.size * self.batch, 0, width))
        how = "; ".join(str(p) for p in self.history)
        head = ("layer", "kind", "neurons", "unstable", "mean width")
        return Table(f"bounds of {self.network.name}", head, rows, f"{self.unstable} unstable; {how}")

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def levels(node: Round, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the least and the greatest level (batch, n) of roundings of arguments in [low, high]; whole or infinite.

    For the exact function and for what a forward pass computes, whose division rounds unless steps are powers of two.
    """
    first, last = low / node.step, high / node.step
    exact = np.frexp(node.step)[0] == 0.5
    first, last = (
        np.where(exact, first, np.nextafter(first, -np.inf)),
        np.where(exact, last, np.nextafter(last, np.inf)),
    )
    return node.level(first), node.level(last)


def contenders(node: Max | Winner, low: Array, high: Array) -> Mask:
    """Return the mask (batch, groups, members) of the members that may be the largest of their group.

    A member that the best lower bound of another reaches can be dropped (from a maximum; it still wins over a later one
    that it equals); repeated members count once.
    """
    members = node.groups
    lo, hi = low[:, members], high[:, members]
    if isinstance(node, Winner):
        before = np.maximum.accumulate(lo, axis=-1)
        alive = hi >= before[..., -1:]
        alive[..., 1:] &= hi[..., 1:] > before[..., :-1]
        return _once(members, alive)
    best = lo.argmax(axis=-1)[..., None]  # argmax takes the first, so never a repetition
    alive = hi > np.take_along_axis(lo, best, axis=-1)
    np.put_along_axis(alive, best, True, axis=-1)
    return _once(members, alive)


def pairs(owner: Index) -> tuple[Index, Index]:
    """Return all ordered pairs of different places i, j with ``owner[i] == owner[j]``; `owner` is sorted."""
    count = np.bincount(owner)[owner] if len(owner) else np.zeros(0, dtype=np.intp)
    first = np.searchsorted(owner, owner)
    i = np.repeat(np.arange(len(owner)), count)
    j = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return i[i != j], j[i != j]


def _once(members: Index, alive: Mask) -> Mask:
    """Return the mask without repeated members."""
    for k in range(1, members.shape[1]):
        alive[..., k] &= ~(members[:, :k] == members[:, k : k + 1]).any(axis=1)
    return alive


def input_bounds(network: Network, box: Any, *, finite: bool = True) -> Bounds:
    """Return the bounds of the inputs only, from a box as users give it.

    Parameters
    ----------
    network : Network
    box : pair (lower, upper)
        Scalars, arrays of the input's shape or flat (batch axes in front), or dicts of them by input name.
    finite : bool
        Refuse infinite bounds.

    Raises
    ------
    BoxError
        If the box is infinite, not a number, empty or of the wrong form; names the input and the entry.
    """
    try:
        lower, upper = box
    except (TypeError, ValueError):
        raise BoxError("a box is a pair (lower, upper) of numbers, arrays or dicts by input name") from None
    low_by, high_by = _by_input(network, lower, "lower"), _by_input(network, upper, "upper")
    pairs = {s.name: (low_by[s.name], high_by[s.name]) for s in network.inputs}
    leads = [batch_axes(a.shape, s) if a.ndim else () for s in network.inputs for a in pairs[s.name]]
    lead = np.broadcast_shapes(*leads)
    low, high = {}, {}
    for spec in network.inputs:
        lo, hi = (_flat(a, spec, lead) for a in pairs[spec.name])
        _refuse_bad(spec, lo, hi, finite)
        low[spec.name], high[spec.name] = lo, hi
    return Bounds(network, low, high, lead)


def _by_input(network: Network, value: Any, side: str) -> dict[str, Array]:
    if isinstance(value, Mapping) or len(network.inputs) == 1:
        try:
            split = network.split_inputs(value)
        except InputError as error:
            raise BoxError(f"{side} side of the box: {error}") from None
        return {spec.name: _numbers(v, side) for spec, v in split.items()}
    array = _numbers(value, side)
    if array.ndim == 0:
        return {spec.name: array for spec in network.inputs}
    names = [s.name for s in network.inputs]
    raise BoxError(f"{network.name} has inputs {names}; give the box as a pair of dicts by input name")


def _numbers(value: Any, side: str) -> Array:
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise BoxError(f"{side} side of the box: {value!r:.80} is no number or array of numbers") from None


def _flat(array: Array, spec: TensorSpec, lead: tuple[int, ...]) -> Array:
    if array.ndim == 0:
        return np.full((int(np.prod(lead, dtype=np.int64)), spec.size), float(array))
    own = batch_axes(array.shape, spec)
    return np.broadcast_to(array.reshape(*own, spec.size), (*lead, spec.size)).reshape(-1, spec.size).copy()


def _refuse_bad(spec: TensorSpec, low: Array, high: Array, finite: bool) -> None:
    for bad, what in (
        (np.isnan(low) | np.isnan(high), "is not a number"),
        (low > high, "is empty (lower above upper)"),
        (~(np.isfinite(low) & np.isfinite(high)) & finite, "is infinite; give finite bounds, a network needs them"),
    ):
        if bad.any():
            point, entry = np.argwhere(bad)[0]
            where = np.unravel_index(entry, spec.shape) if spec.shape else ()
            place = f"{spec.name}[{', '.join(map(str, where))}]"
            batch = f" of batch point {point}" if len(low) > 1 else ""
            raise BoxError(f"the box of input {place}{batch} {what}: [{low[point, entry]:g}, {high[point, entry]:g}]")
