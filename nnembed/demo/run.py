"""Solve the pricing example, say what was decided and draw it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnembed.demo.decision import Decision
from nnembed.demo.market import NETWORK, load_market
from nnembed.demo.picture import check_target, draw
from nnembed.errors import Unavailable

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from nnembed.ir.network import Network
    from nnembed.model import Model
    from nnembed.result import Result
    from nnembed.tables import Table

MOST_CHANGES = 12
LARGEST_STEP = 0.08


@dataclass(frozen=True, eq=False)
class DemoReport:
    """What the demo did.

    Attributes
    ----------
    result : Result
    table : Table
        One row per store and coffee: price before and after in euros, predicted bags a week before and after. Where the
        time limit left no answer, nothing changes.
    picture : Path or None
        Where the picture is; None without matplotlib, without an answer, or when none was asked for.
    seconds : float
        Wall-clock seconds of everything.
    """

    result: Result
    table: Table
    picture: Path | None
    seconds: float


def run_demo(
    picture: Path | None = Path("nnembed_demo.png"),
    *,
    seed: int = 0,
    threads: int = 1,
    time_limit: float | None = 60.0,
    console: Console | None = None,
) -> DemoReport:
    """Decide the prices of 20 stores against a trained demand network, print the decision and draw it.

    Parameters
    ----------
    picture : Path or None
        Where to write the picture (.png, .svg, .pdf); None for none.
    seed, threads : int
    time_limit : float or None
        Wall-clock seconds for the solve.
    console : rich.console.Console or None
        Where to print; standard output by default.

    Returns
    -------
    DemoReport

    Raises
    ------
    InputError
        If the picture cannot be written; nothing is left half-written.
    """
    from rich.console import Console

    import nnembed as nn

    started = time.perf_counter()
    out = console if console is not None else Console(highlight=False)
    if picture is not None:
        check_target(picture)
    market, network = load_market(), nn.load(NETWORK)
    stores, coffees = market.today.shape
    out.print(f"{coffees} coffees in {stores} stores; {MOST_CHANGES} prices may change, by at most {LARGEST_STEP:.0%}.")
    progress = None if out.is_terminal else False
    result = build_model(network, market).solve(
        backend="highs", time_limit=time_limit, gap=1e-3, seed=seed, threads=threads, progress=progress
    )
    found = result.values is not None
    decision = Decision(network, market, result.values["price"].values if found else market.today.values)
    drawn = None
    if found:
        _print(out, decision, result)
        drawn = _draw(out, picture, decision, result)
    else:
        out.print(f"No plan was found: {result.status}. {result.message}".rstrip())
    return DemoReport(result, decision.table(), drawn, time.perf_counter() - started)


def build_model(network: Network, market: xr.Dataset) -> Model:
    """Return the model of ``examples/pricing.py``, where each rule is explained."""
    import nnembed as nn

    model = nn.Model()
    step = LARGEST_STEP * market.today
    price = model.add_variables(market.today - step, market.today + step, name="price")
    changed = model.add_variables(binary=True, coords=price.coords, name="changed")
    units = model.embed(network, [price, market.traits], name="demand")
    units = units.rename(output="coffee").assign_coords(coffee=market.coffee)

    model.add_constraints(units.sum("store") <= market.stock, name="stock")
    model.add_constraints(price.sum("store") >= market.today.sum("store"), name="no cheaper on average")
    house, classic, reserve = (price.sel(coffee=name, drop=True) for name in ("house", "classic", "reserve"))
    model.add_constraints(classic - house >= 0.80, name="classic above house")
    model.add_constraints(reserve - classic >= 1.50, name="reserve above classic")
    model.add_constraints(price - step * changed <= market.today, name="raised only if changed")
    model.add_constraints(price + step * changed >= market.today, name="lowered only if changed")
    model.add_constraints(changed.sum() <= MOST_CHANGES, name="few changes")
    model.add_objective((market.margin * units).sum(), sense="max")
    return model


def _print(out: Console, decision: Decision, result: Result) -> None:
    out.print(decision.changes())
    out.print(decision.totals())
    possible = "" if result.bound is None else f", at most {result.bound:.0f} possible"
    out.print(f"margin a week: {decision.margin_before:.0f} -> {result.objective:.0f} EUR{possible}")
    out.print(f"status: {result.status} after {result.seconds:.1f} s\n")
    if result.certificate is not None:
        out.print(result.certificate.summary())


def _draw(out: Console, picture: Path | None, decision: Decision, result: Result) -> Path | None:
    if picture is None:
        return None
    try:
        drawn = draw(picture, decision, result)
    except Unavailable as reason:
        out.print(f"no picture: {reason}", markup=False)
        return None
    out.print(f"picture: {drawn}", markup=False)
    return drawn
