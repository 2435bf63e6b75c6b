"""SCIP's side of cuts: a separator that asks for rows the relaxation violates. Runs on SCIP's thread."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from nnembed.aliases import Array
from pyscipopt import Sepa, scip

from nnembed_scip.checks import canonical
from nnembed_scip.loading import finite

Cuts = Callable[[Array], tuple[sp.csr_array, Array, Array]]

_RESULT: Any = scip.PY_SCIP_RESULT
NAME = "nnembed_separator"
ROOT_ROUNDS = 20
TREE_ROUNDS = 1
EVERY = 10  # levels of the tree between two looks


class Separator(Sepa):
    """Adds the rows that the relaxation's point violates."""

    def __init__(self, columns: list[Any]):
        self.columns = columns
        self.cuts: Cuts | None = None
        self.failure: BaseException | None = None
        self.rounds = 0

    def sepainitsol(self) -> None:
        """Begin a new search."""
        self.rounds = 0

    def _is_due(self) -> bool:
        if self.cuts is None or self.failure is not None:
            return False
        if self.model.getDepth() == 0:
            self.rounds += 1
            return self.rounds <= ROOT_ROUNDS
        return bool(self.model.getNSepaRounds() < TREE_ROUNDS)

    def sepaexeclp(self) -> dict[str, Any]:
        """Ask for rows; what the caller's function raises is kept for the caller's thread, because SCIP drops it."""
        try:
            if self.cuts is None or not self._is_due():
                return {"result": _RESULT.DIDNOTRUN}
            point = [self.model.getSolVal(None, variable) for variable in self.columns]
            return {"result": self._add(*self.cuts(np.array(point, dtype=float)))}
        except BaseException as failure:  # noqa: BLE001 - raised again by the session
            self.failure = failure
            self.model.interruptSolve()
            return {"result": _RESULT.DIDNOTRUN}

    def _add(self, matrix: sp.csr_array, lower: Array, upper: Array) -> Any:
        model, matrix = self.model, canonical(matrix)
        for i, (low, high) in enumerate(zip(finite(lower), finite(upper), strict=True)):
            row = model.createEmptyRowSepa(self, f"{NAME}_{i}", low, high, local=False, removable=True)
            part = slice(matrix.indptr[i], matrix.indptr[i + 1])
            model.cacheRowExtensions(row)
            for j, value in zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True):
                model.addVarToRow(row, self.columns[j], value)
            model.flushRowExtensions(row)
            cut_off = model.addCut(row)
            model.releaseRow(row)
            if cut_off:
                return _RESULT.CUTOFF
        return _RESULT.SEPARATED if len(lower) else _RESULT.DIDNOTFIND


def include(model: Any, columns: list[Any], chosen: Mapping[str, Any], quiet: bool) -> Separator:
    """Add a separator to a model and give it rounds to work in; what the user has `chosen` stays.

    `quiet` keeps SCIP's own separators off in these rounds.
    """
    settings: dict[str, Any] = {"separating/maxroundsroot": ROOT_ROUNDS, "separating/maxrounds": TREE_ROUNDS}
    if quiet:
        own = re.compile(r"separating/\w+/freq|constraints/\w+/sepafreq")
        settings |= {name: -1 for name in model.getParams() if own.fullmatch(name)}
        for name, value in settings.items():
            if name not in chosen:
                model.setParam(name, value)
    separator = Separator(columns)
    text = "rows offered to nnembed's session"
    model.includeSepa(separator, NAME, text, priority=1_000_000, freq=EVERY, maxbounddist=1.0)
    return separator
