"""What all hosts share: matching what the user passed with network inputs, and rows with one side each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from nnembed.aliases import Array, Index
from nnembed.errors import InputError, UnknownName, UnsupportedFeature
from nnembed.features import Feature, missing
from nnembed.matrices import stack
from nnembed.problem import InputMap


class Spec(Protocol):
    """Name, shape and size of an input or output; what hosts need to know of a network."""

    @property
    def name(self) -> str:
        """Name of the tensor."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without batch axes."""
        ...

    @property
    def size(self) -> int:
        """Number of entries."""
        ...


def by_input(specs: Sequence[Spec], x: Any) -> list[Any]:
    """Return what was passed for each input; `x` is a mapping by name, or the value of the only input."""
    names = [spec.name for spec in specs]
    if isinstance(x, Mapping):
        for key in x:
            if key not in names:
                raise UnknownName("input", str(key), names)
        if lacking := [n for n in names if n not in x]:
            raise InputError(f"no value for network input(s) {', '.join(map(repr, lacking))}; pass all of {names}")
        return [x[n] for n in names]
    if len(specs) != 1:
        wanted = ", ".join(f"{s.name!r} {s.shape}" for s in specs)
        raise InputError(f"the network has {len(specs)} inputs; pass a dict with {wanted}")
    return [x]


def feature_axes(shape: tuple[int, ...], spec: Spec) -> int | None:
    """Return how many trailing axes of `shape` are features; None if neither own shape nor flat fits.

    The input's own shape goes before the flat form; an array that holds nothing but batch axes is right for an
    input with one entry.
    """
    rank = len(spec.shape)
    if len(shape) >= rank and shape[len(shape) - rank :] == spec.shape:
        return rank
    if shape and shape[-1] == spec.size:
        return 1
    return 0 if spec.size == 1 else None


def expected(spec: Spec) -> str:
    """Say in words which shapes `spec` takes."""
    own = f"shape (..., {', '.join(map(str, spec.shape))})" if spec.shape else "one number per batch point"
    flat = f" or flat (..., {spec.size})" if len(spec.shape) > 1 else ""
    return f"{own}{flat}; leading axes are batch"


def input_map(
    parts: Sequence[tuple[sp.csr_array, Array]], lead: tuple[int, ...], axes: Any, width: int = 0
) -> InputMap:
    """Join the affine rows of all inputs; columns are labels of the model until here.

    Parameters
    ----------
    parts : sequence of (matrix, constant)
        One per input, rows in the order (batch point, entry).
    lead, axes
        See `InputMap`.
    width : int
        At least the number of labels; matrices may be narrower.
    """
    wide = max([width, 1, *(matrix.shape[1] for matrix, _ in parts)])
    matrix = stack([m for m, _ in parts], wide)
    constant = np.concatenate([c for _, c in parts]).astype(float)
    if not (np.isfinite(constant).all() and np.isfinite(matrix.data).all()):
        raise InputError("a number in the network's input is NaN or infinite; give finite numbers")
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    labels, place = np.unique(matrix.indices, return_inverse=True)
    shape = (matrix.shape[0], len(labels))
    matrix = sp.csr_array((matrix.data, place.astype(np.int32).reshape(-1), matrix.indptr), shape=shape)
    return InputMap(labels.astype(np.intp), matrix, constant, lead, axes)


def by_output(outputs: Sequence[Spec], batch: int, values: NDArray[Any]) -> list[NDArray[Any]]:
    """Split a vector in the order of `Block.outputs` into one (batch * size,) part per output."""
    cuts = np.cumsum([batch * spec.size for spec in outputs])
    if len(values) != (cuts[-1] if len(cuts) else 0):
        raise ValueError("outputs do not fit the batch of the inputs")
    return np.split(values, cuts[:-1])


def refuse_features(needs: Feature, accepts: Feature, host: str) -> None:
    """Raise if a block needs what this host cannot write into a model."""
    if lacking := missing(needs, accepts):
        raise UnsupportedFeature(
            f"the formulation needs {', '.join(lacking)}, which cannot be attached to {host}; choose "
            'formulation="two_row", name a solver that takes it with backend=, or keep the network out of the model '
            "(attach=False) and solve with nnembed"
        )


def one_sided(matrix: sp.csr_array, lower: Array, upper: Array) -> tuple[sp.csr_array, NDArray[np.str_], Array]:
    """Return rows ``matrix @ x (sign) rhs`` with one side each; see `numbered_one_sided`."""
    return numbered_one_sided(matrix, lower, upper)[:3]


def numbered_one_sided(
    matrix: sp.csr_array, lower: Array, upper: Array
) -> tuple[sp.csr_array, NDArray[np.str_], Array, Index]:
    """Return rows ``matrix @ x (sign) rhs`` with one side each; ranged rows become two, free rows none.

    Returns
    -------
    matrix, sign ("=", "<=", ">="), rhs, number of the row that each comes from

    Raises
    ------
    InputError
        If a row without entries is violated: no point fits the bounds the block was made for.
    """
    empty = np.diff(matrix.indptr) == 0
    if (empty & ((lower > 0) | (upper < 0))).any():
        raise InputError("the network fits no point of the given input bounds; widen the bounds of the input variables")
    equal = (lower == upper) & ~empty
    above = np.isfinite(upper) & ~equal & ~empty
    below = np.isfinite(lower) & ~equal & ~empty
    rows = np.concatenate([np.flatnonzero(m) for m in (equal, above, below)])
    sign = np.repeat(["=", "<=", ">="], [equal.sum(), above.sum(), below.sum()])
    order = np.argsort(rows, kind="stable")
    rows, sign = rows[order], sign[order]
    rhs = np.where(sign == ">=", lower[rows], upper[rows])
    unchanged = len(rows) == matrix.shape[0] and (rows == np.arange(len(rows))).all()
    return (matrix if unchanged else matrix[rows]), sign, rhs, rows


def entry_name(inputs: InputMap, i: int, name: Callable[[int], str]) -> str:
    """Return the user's words for input entry `i`; `name` says what a label is called."""
    row = slice(inputs.matrix.indptr[i], inputs.matrix.indptr[i + 1])
    labels, factors = inputs.labels[inputs.matrix.indices[row]], inputs.matrix.data[row]
    if inputs.direct[i] >= 0:
        return name(int(inputs.direct[i]))
    if not len(labels):
        return f"the number {inputs.constant[i]:g}"
    terms = [f"{c:+g} {name(int(label))}" for c, label in zip(factors[:3], labels[:3], strict=True)]
    return f"the expression {' '.join(terms)}{' ...' if len(labels) > 3 else ''}"
