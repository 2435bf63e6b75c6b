"""Certificate: an answer checked against the original network, the rows, the bounds and integrality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nnembed.aliases import Array
from nnembed.heuristics.scene import joined_outputs, split_inputs
from nnembed.ir.check import rounding_bound, unit_roundoff
from nnembed.problem import Placement, Problem
from nnembed.tables import Table


@dataclass(frozen=True)
class Check:
    """One line of a certificate: a measured number, what is allowed, and whether it holds."""

    what: str
    value: float
    allowed: float
    ok: bool
    where: str = ""


@dataclass(frozen=True)
class Certificate:
    """What was checked about an answer.

    Attributes
    ----------
    checks : tuple of Check
    residual : float
        Largest ``|y - network(x)| / (1 + |network(x)|)`` against the original model.
    sound : bool
        Whether all bounds behind the model are proofs.
    gap : float or None
        Relative gap of the answer to the proven bound.
    notes : tuple of str
        Where bounds came from, which runtime replayed the answer.
    """

    checks: tuple[Check, ...]
    residual: float
    sound: bool = True
    gap: float | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def summary(self) -> Table:
        """Return the checks as a table."""
        rows = [
            (c.what, f"{c.value:.2e}", f"{c.allowed:.0e}", "holds" if c.ok else "FAILS", c.where) for c in self.checks
        ]
        title = "certificate: " + ("holds" if self.ok else "DOES NOT HOLD")
        return Table(title, ("check", "largest", "allowed", "", "where"), rows, "; ".join(self.notes))

    def __str__(self) -> str:
        """Render as plain text."""
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def certify(problem: Problem, x: Array, bound: float | None, gap: float | None, tolerance: float) -> Certificate:
    """Check a point of a problem.

    Parameters
    ----------
    problem : Problem
    x : array (columns,)
    bound, gap : float or None
        Proven bound and relative gap as reported.
    tolerance : float
        Allowed residual relative to ``1 + |y|``.
    """
    checks: list[Check] = []
    notes: list[str] = []
    worst = 0.0
    for placement in problem.placements:
        found, value, note = _network_check(placement, x, tolerance)
        checks.append(found)
        notes.append(note)
        worst = max(worst, value)
    checks += _row_checks(problem, x, tolerance)
    if bound is not None:
        value = problem.objective(x)
        beyond = (value - bound) if problem.maximize else (bound - value)
        beyond = max(beyond, 0.0) / (1 + abs(bound))
        checks.append(Check("objective within the proven bound", beyond, tolerance, beyond <= tolerance))
    sound = all(p.embedding.bounds is None or p.embedding.bounds.sound for p in problem.placements)
    exact = all(p.block.exact for p in problem.placements)
    if not exact:
        notes.append("a relaxation was embedded: the bound is proven, the point need not follow the network")
    return Certificate(tuple(checks), worst, sound and exact, gap, tuple(dict.fromkeys(notes)))


def _network_check(placement: Placement, x: Array, tolerance: float) -> tuple[Check, float, str]:
    """Replay one network on the original model; float32 rounding of the original is allowed for where it is larger."""
    network, batch = placement.embedding.network, placement.block.batch
    values = x[placement.columns]
    inputs = split_inputs(network, values[: placement.block.n_inputs][None], batch)
    state = network.forward(inputs)
    ours = joined_outputs(network, state, 1)[0]
    claimed = values[placement.block.outputs]
    exact = np.abs(claimed - ours) / (1 + np.abs(ours))
    residual, name, allowed = exact, "float64 evaluation", np.full(len(ours), tolerance)
    if network.reference is not None:
        theirs = joined_outputs(network, network.reference.run(inputs), 1)[0]
        residual = np.abs(claimed - theirs) / (1 + np.abs(theirs))
        name = network.reference.name
        noise = _in_block_order(network, rounding_bound(network, state, unit_roundoff(network)), batch)
        noise = 2 * noise / (1 + np.abs(theirs))
        allowed = np.where(residual > tolerance, np.maximum(tolerance, noise), tolerance)
    ok = bool((exact <= tolerance).all() and (residual <= allowed).all())
    worst = int(np.argmax(residual / allowed)) if len(residual) else 0
    value = float(residual.max(initial=0.0))
    where = f"output entry {worst} of {placement.embedding.name!r}"
    bounds = placement.embedding.bounds
    how = ", ".join(p.method for p in bounds.history) if bounds is not None else "given"
    note = f"{placement.embedding.name}: replayed with {name}, bounds from {how}"
    limit = float(allowed[worst]) if len(allowed) else tolerance
    if ok and value > tolerance:
        note += (
            f"; {where} differs by {value:.1e}, as far as rounding in the original's own precision explains: the "
            "point is at a jump or the numbers are large, and the original may say something else there (formulations "
            "of roundings, steps and winners with margin= keep away from jumps)"
        )
    return Check(f"network {placement.embedding.name!r} replayed", value, limit, ok, where), value, note


def _in_block_order(network: object, error: Array, batch: int) -> Array:
    """Rearrange (batch, all outputs) to output by output, then point."""
    sizes = [s.size for s in network.outputs]  # type: ignore[attr-defined]
    parts = np.split(error, np.cumsum(sizes)[:-1], axis=1)
    return np.concatenate([p.reshape(-1) for p in parts])


def _row_checks(problem: Problem, x: Array, tolerance: float) -> list[Check]:
    value = problem.matrix @ x
    size = 1 + abs(problem.matrix) @ np.abs(x)
    excess = np.maximum(np.maximum(problem.row_lower - value, value - problem.row_upper), 0.0) / size
    bounds = np.maximum(np.maximum(problem.lower - x, x - problem.upper), 0.0) / (1 + np.abs(x))
    whole = np.abs(x - np.rint(x)) * problem.integer
    return [
        _check("rows", excess, tolerance, problem.row_name),
        _check("variable bounds", bounds, tolerance, problem.column_name),
        _check("integrality", whole, 1e-5, problem.column_name),
        *_condition_checks(problem, x, tolerance),
    ]


def _condition_checks(problem: Problem, x: Array, tolerance: float) -> list[Check]:
    if not (problem.sos1 or problem.indicators or problem.complementarities or problem.relus):
        return []
    value = problem.condition_residual(x)
    return [Check("sets and indicator rows", value, tolerance, value <= tolerance)]


def _check(what: str, excess: Array, allowed: float, name: object) -> Check:
    if not len(excess):
        return Check(what, 0.0, allowed, True)
    worst = int(excess.argmax())
    value = float(excess[worst])
    return Check(what, value, allowed, value <= allowed, name(worst) if value > 0 else "")  # type: ignore[operator]


def relative_gap(objective: float | None, bound: float | None, size: float = 1.0) -> float | None:
    """Return ``|objective - bound| / |objective|``, None where one is missing.

    `size` is what objectives are like: differences up to 1e-12 of it are none, and no objective counts as below 1e-9 of
    it.
    """
    if objective is None or bound is None:
        return None
    difference = abs(objective - bound)
    return 0.0 if difference <= 1e-12 * size else difference / max(abs(objective), 1e-9 * size)


def names(checks: Sequence[Check]) -> str:
    """Return the failing checks in words."""
    return "; ".join(f"{c.what}: {c.value:.2e} > {c.allowed:.0e} at {c.where}" for c in checks if not c.ok)
