"""Options of a HiGHS instance and the problem handed to it by arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from nnembed.errors import InputError, SolverError, UnknownName
from nnembed.options import Options

if TYPE_CHECKING:
    from nnembed.problem import Problem

_HUGE = 1e15  # coefficients from here on are refused
_TOO_LARGE = "coefficients of 1e15 and more; tighten the bounds of the networks' inputs or rescale them"
_SPARSIFY = 1 << 14  # a rule of presolve: on rows of weights it finds nothing and takes nearly all of the time
_SYMMETRIC = 100_000  # nonzeros up to which symmetry is looked for; beyond, that takes seconds and has no limit


def set_options(highs: Any, options: Options, problem: Problem) -> None:
    """Set what nnembed chooses, then what the user does.

    Raises
    ------
    UnknownName
        For an option that HiGHS does not have.
    InputError
        For a value that HiGHS does not take.
    """
    for name, value in (
        ("output_flag", False),
        ("threads", min(options.threads, os.cpu_count() or 1)),  # a thousand threads take 15 s to start
        ("mip_rel_gap", float(options.gap)),
        ("random_seed", int(options.seed) % (2**31)),
        ("presolve_rule_off", _SPARSIFY),
        ("mip_detect_symmetry", bool(problem.matrix.nnz <= _SYMMETRIC)),
    ):
        set_option(highs, name, value)
    _set_user_options(highs, options.solver_options)


def _set_user_options(highs: Any, chosen: Mapping[str, Any]) -> None:
    import highspy

    for name, value in chosen.items():
        if highs.getOptionType(name)[0] != highspy.HighsStatus.kOk:
            known = [k for k in dir(highs.getOptions()) if not k.startswith("_")]
            raise UnknownName("HiGHS option", name, known)
        if highs.setOptionValue(name, value) == highspy.HighsStatus.kError:
            raise InputError(f"HiGHS refuses {name}={value!r}; see its list of options for the allowed values")


def set_option(highs: Any, name: str, value: object) -> None:
    """Set one option.

    Raises
    ------
    SolverError
        If HiGHS refuses it.
    """
    check(highs.setOptionValue(name, value), f"option {name}")


def pass_problem(highs: Any, problem: Problem) -> None:
    """Hand a problem over.

    Raises
    ------
    SolverError
        If HiGHS refuses it, with what to change where coefficients are too large.
    """
    import highspy

    matrix = problem.matrix
    sense = highspy.ObjSense.kMaximize if problem.maximize else highspy.ObjSense.kMinimize
    code = highs.passModel(
        problem.n_columns,
        problem.n_rows,
        int(matrix.nnz),
        int(highspy.MatrixFormat.kRowwise),
        int(sense),
        float(problem.offset),
        problem.cost,
        problem.lower,
        problem.upper,
        problem.row_lower,
        problem.row_upper,
        matrix.indptr.astype(np.int32, copy=False),
        matrix.indices.astype(np.int32, copy=False),
        matrix.data,
        problem.integer.astype(np.int32),
    )
    check(code, "passModel" if matrix.nnz == 0 or np.abs(matrix.data).max() < _HUGE else _TOO_LARGE)
    if problem.quadratic is not None:
        lower = sp.csc_array(sp.tril(problem.quadratic))
        flat = (lower.indptr.astype(np.int32), lower.indices.astype(np.int32), lower.data)
        code = highs.passHessian(problem.n_columns, lower.nnz, int(highspy.HessianFormat.kTriangular), *flat)
        check(code, "passHessian")


def check(code: Any, what: str) -> None:
    """Raise `SolverError` where HiGHS answers with an error; its calls return codes."""
    import highspy

    if code == highspy.HighsStatus.kError:
        raise SolverError(f"HiGHS refuses {what}")
