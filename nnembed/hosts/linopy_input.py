"""Joining what the user passed into one affine map: along the feature axis, broadcast over the batch axes.

Batch axes are matched by dimension name and coordinate, as xarray would; nothing is matched by position that has
names on both sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from nnembed.aliases import Array, Index
from nnembed.errors import InputError
from nnembed.hosts.linopy_pieces import Axis, Piece, read_pieces
from nnembed.hosts.shapes import Spec, by_input, expected, feature_axes, input_map
from nnembed.matrices import stack
from nnembed.problem import InputMap


@dataclass(frozen=True, eq=False)
class Slab:
    """A piece whose last axis are features; the axes before it are batch."""

    piece: Piece
    batch: tuple[Axis, ...]
    features: int


def parse(model: Any, specs: Sequence[Spec], x: Any) -> InputMap:
    """Return the user's `x` as one affine map over all inputs; see `Host.parse`."""
    slabs = [_slabs(model, spec, value) for spec, value in zip(specs, by_input(specs, x), strict=True)]
    axes = _batch_axes([s for group in slabs for s in group])
    lead = tuple(a.size for a in axes)
    parts = [_join(group, axes) for group in slabs]
    return input_map(parts, lead, _named(axes))


# ---- which axes are features ---------------------------------------------------------------------


def _slabs(model: Any, spec: Spec, x: Any) -> list[Slab]:
    pieces = read_pieces(model, x)
    for piece in pieces:
        if 0 in piece.shape:
            raise InputError(f"input {spec.name!r}: {piece.text} has an axis of length 0")
    if len(pieces) == 1:
        if (rank := feature_axes(pieces[0].shape, spec)) is not None:
            return [_slab(pieces[0], rank)]
        raise InputError(f"input {spec.name!r} expects {expected(spec)}; got {_describe(pieces)}{_hint(pieces, spec)}")
    return _several(pieces, spec)


def _slab(piece: Piece, rank: int) -> Slab:
    split = len(piece.axes) - rank
    return Slab(piece, piece.axes[:split], int(np.prod(piece.shape[split:], dtype=np.int64)))


def _several(pieces: list[Piece], spec: Spec) -> list[Slab]:
    """Join along the last axis; a piece that only has batch axes is one feature.

    An axis is batch when another piece has it in front of its features. Where that leaves a choice, the size of the
    input decides.
    """
    certain = {a.name for p in pieces for a in p.axes[:-1] if a.name is not None}
    open_ = sorted({p.axes[-1].name for p in pieces if p.axes and p.axes[-1].name is not None} - certain)
    fits = []
    for k in range(len(open_) + 1):
        for extra in itertools.combinations(open_, k):
            slabs = [_slab(p, _rank(p, certain.union(extra))) for p in pieces]
            if sum(s.features for s in slabs) == spec.size:
                fits.append(slabs)
        if k == 0 and fits:
            break
    if len(fits) == 1:
        return fits[0]
    cause = "these pieces can be read in more than one way" if fits else "the pieces do not add up"
    raise InputError(
        f"input {spec.name!r} expects {spec.size} features, but {cause}: {_describe(pieces)}. The last axis of a "
        "piece are its features, a piece with batch axes only is one feature; give pieces an explicit last axis"
    )


def _rank(piece: Piece, batch: set[str]) -> int:
    """Return 0 if the last axis is batch, else 1; an axis without a name holds features."""
    return 0 if not piece.axes or piece.axes[-1].name in batch else 1


def _describe(pieces: list[Piece]) -> str:
    return "; ".join(f"{p.text} with sizes {p.shape}" if p.axes else p.text for p in pieces)


def _hint(pieces: list[Piece], spec: Spec) -> str:
    for axis in pieces[0].axes[:-1]:
        if axis.size == spec.size and axis.name is not None:
            return f"; put the features last: .transpose(..., {axis.name!r})"
    return ""


# ---- batch axes ------------------------------------------------------------------------------------


def _batch_axes(slabs: list[Slab]) -> tuple[Axis, ...]:
    """Return the batch axes in order of appearance, with the coordinates of the first piece that has any."""
    named: dict[str, Axis] = {}
    for slab in slabs:
        for axis in slab.batch:
            if axis.name is None:
                continue
            known = named.setdefault(axis.name, axis)
            if known.index is None and axis.index is not None and known.size == axis.size:
                named[axis.name] = axis
    if named:
        return tuple(named.values())
    shapes = [tuple(a.size for a in s.batch) for s in slabs]
    try:
        lead = np.broadcast_shapes(*shapes)
    except ValueError:
        raise InputError(f"the batch axes {shapes} of the inputs do not fit together") from None
    return tuple(Axis(None, n) for n in lead)


def _named(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Give anonymous batch axes names, and every axis coordinates."""
    single = len(axes) == 1
    return tuple(
        Axis(
            a.name if a.name is not None else ("batch" if single else f"batch_{i}"),
            a.size,
            a.index if a.index is not None else pd.RangeIndex(a.size),
        )
        for i, a in enumerate(axes)
    )


def _join(slabs: list[Slab], axes: tuple[Axis, ...]) -> tuple[sp.csr_array, Array]:
    """Return the rows of one input in the order (batch point, entry)."""
    start = np.cumsum([0, *(len(s.piece.constant) for s in slabs)])
    order = np.concatenate([_cells(s, axes) + b for s, b in zip(slabs, start[:-1], strict=True)], axis=1).reshape(-1)
    matrix = stack([s.piece.matrix for s in slabs], max(s.piece.matrix.shape[1] for s in slabs))
    constant = np.concatenate([s.piece.constant for s in slabs])
    if len(order) == len(constant) and (order == np.arange(len(order))).all():
        return matrix, constant
    return sp.csr_array(matrix[order]), constant[order]


def _cells(slab: Slab, axes: tuple[Axis, ...]) -> Any:
    """Return which cell of the piece each (batch point, feature) is, shape (batch, features)."""
    cells = np.arange(len(slab.piece.constant)).reshape(*(a.size for a in slab.batch), slab.features)
    names = [a.name for a in axes]
    own = _positions(slab, names)
    for k, (axis, place) in enumerate(zip(slab.batch, own, strict=True)):
        take = _aligned(axis, axes[place], slab.piece.text)
        cells = cells if take is None else cells.take(take, axis=k)
    order = sorted(range(len(own)), key=own.__getitem__)
    cells = cells.transpose(*order, len(own))
    shape = [1] * len(axes)
    for k in order:
        shape[own[k]] = cells.shape[order.index(k)]
    lead = tuple(a.size for a in axes)
    return np.broadcast_to(cells.reshape(*shape, slab.features), (*lead, slab.features)).reshape(-1, slab.features)


def _positions(slab: Slab, names: list[str | None]) -> list[int]:
    """Return where each batch axis of the slab is among all batch axes: by name, anonymous ones by position."""
    anonymous = [a for a in slab.batch if a.name is None]
    if not anonymous:
        return [names.index(a.name) for a in slab.batch]
    if any(a.name is not None for a in slab.batch) or (len(anonymous) != len(names) and None not in names):
        raise InputError(
            f"{slab.piece.text} has batch axes without names beside the dimensions {names}; "
            "pass an xarray.DataArray with these dimensions"
        )
    return list(range(len(names) - len(anonymous), len(names)))


def _aligned(axis: Axis, target: Axis, text: str) -> Index | None:
    """Return the order that brings `axis` to the coordinates of `target`; None if it has that order already."""
    name = target.name or "batch"
    if axis.name is None and axis.size == 1:
        return None
    plain = axis.index is None or target.index is None or (axis.name is None and _is_default(axis.index))
    if plain or axis.index is None or target.index is None:
        if axis.size == target.size:
            return None
        raise InputError(f"{text} has {axis.size} entries along {name!r}, other inputs have {target.size}")
    if axis.index.equals(target.index):
        return None
    if axis.index.is_unique and target.index.is_unique and axis.size == target.size:
        order = axis.index.get_indexer(target.index)
        if (order >= 0).all():
            return np.asarray(order, dtype=np.intp)
    raise InputError(
        f"{text} and other inputs have different coordinates along {name!r}: {_preview(axis.index)} and "
        f"{_preview(target.index)}; select the same ones with .sel(...)"
    )


def _is_default(index: pd.Index) -> bool:
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _preview(index: pd.Index) -> str:
    shown = ", ".join(map(str, index[:4]))
    return f"[{shown}{', ...' if len(index) > 4 else ''}]"
