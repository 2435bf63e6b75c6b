"""What must be right before SCIP sees it: it takes contradictions for errors; SoPlex crashes on repeated entries."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array
from nnembed.problem import Problem

_INFINITY = 1e20


def contradiction(problem: Problem) -> str:
    """Return what no point can satisfy, in the user's names; empty when nothing is seen."""
    if (bad := empty(problem.lower, problem.upper)) is not None:
        return f"the bounds of {problem.column_name(bad)} exclude each other"
    if (bad := empty(problem.row_lower, problem.row_upper)) is not None:
        return f"the two sides of {problem.row_name(bad)} exclude each other"
    return ""


def empty(lower: Array, upper: Array) -> int | None:
    """Return the first place where no number lies between the two sides."""
    with np.errstate(invalid="ignore"):
        bad = (lower - upper > 1e-9 * (1 + np.abs(lower))) | (lower >= _INFINITY) | (upper <= -_INFINITY)
    return int(np.flatnonzero(bad)[0]) if bad.any() else None


def canonical(matrix: sp.csr_array) -> sp.csr_array:
    """Return the matrix with repeated entries added up; SoPlex crashes on them."""
    if matrix.has_canonical_format:
        return matrix
    summed = sp.csr_array(matrix, copy=True)
    summed.sum_duplicates()
    return summed
