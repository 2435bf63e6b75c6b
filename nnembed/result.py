"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nnembed.aliases import Array
from nnembed.certificate import Certificate
from nnembed.tables import Table


@dataclass(frozen=True)
class HistoryEntry:
    """The best objective and the proven bound at some time, and who changed them."""

    seconds: float
    objective: float | None
    bound: float | None
    source: str


@dataclass(frozen=True, eq=False)
class Result:
    """An answer, with its proof as far as it goes.

    Attributes
    ----------
    status : str
        "optimal" | "feasible" (stopped early with a point) | "infeasible" | "unbounded" | "time_limit" (stopped without
        a point) | "interrupted" | "error".
    objective : float or None
        Objective of the point, evaluated on the networks themselves.
    bound : float or None
        Proven bound on the objective.
    gap : float or None
        ``|objective - bound| / |objective|``.
    values : object
        Values in the host's own form (an xarray.Dataset for linopy models).
    x, y : array, dict of arrays by name, or None
        `maximize` and `minimize` only: the network's input and output at the answer.
    certificate : Certificate or None
        None without a point.
    history : tuple of HistoryEntry
        Incumbents and bounds over time with who found them.
    plan : object
        Which formulation for which layer and why, one per embedding.
    seconds : float
        Wall-clock time of the whole call.
    phases : dict of str -> float
        Wall-clock seconds per phase.
    """

    status: str
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    values: Any = None
    x: Any = None
    y: Any = None
    certificate: Certificate | None = None
    history: tuple[HistoryEntry, ...] = ()
    plan: Any = None
    nodes: int = 0
    seconds: float = 0.0
    message: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    point: Array | None = None

    def plot(self, path: Any = None) -> Any:
        """Draw incumbents and bound over time; needs matplotlib.

        Parameters
        ----------
        path : path or None
            Where to save the picture; None returns the figure only.
        """
        from nnembed.report.plots import plot_history

        return plot_history(self.history, path=path)

    def summary(self) -> Table:
        """Return the main figures as a table."""
        rows: list[tuple[str, object]] = [("status", self.status)]
        for name in ("objective", "bound", "gap"):
            value = getattr(self, name)
            if value is not None:
                rows.append((name, f"{value:.6g}"))
        if self.certificate is not None:
            rows.append(("certificate", "holds" if self.certificate.ok else "DOES NOT HOLD"))
            rows.append(("residual", f"{self.certificate.residual:.1e}"))
        rows.append(("seconds", f"{self.seconds:.3g}"))
        return Table("result", ("", ""), rows, self.message)

    def __repr__(self) -> str:
        """Say status, objective, bound and gap."""
        parts = [self.status]
        for name in ("objective", "bound", "gap"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name}={value:.6g}")
        if self.certificate is not None:
            parts.append(f"certificate {'ok' if self.certificate.ok else 'FAILS'}")
        return f"<Result {', '.join(parts)}, {self.seconds:.2f} s>"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()
