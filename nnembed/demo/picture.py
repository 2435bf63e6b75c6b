"""The picture of the demo: what was decided, on the surface of what the network predicts, and how it was proved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnembed.aliases import Array
from nnembed.errors import InputError
from nnembed.report.plots import GREY, ORANGE, new_figure, plot_history, save

if TYPE_CHECKING:
    from nnembed.demo.decision import Decision
    from nnembed.result import Result

_FORMATS = (".png", ".svg", ".pdf")


def check_target(path: Path) -> None:
    """Refuse a place where no picture can be written, before any work is done.

    Raises
    ------
    InputError
        If the format is not known, or the folder does not exist or may not be written to.
    """
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"cannot write a picture as {path.name!r}; use one of the endings {', '.join(_FORMATS)}")
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write the picture {path}; give a file name in a folder that exists and is writable")


def draw(path: Path, decision: Decision, result: Result) -> Path:
    """Draw demand with the decisions in it, and bound and best answer over time; return the path.

    Parameters
    ----------
    path : Path
        Where to write; the ending says the format.
    decision : Decision
    result : Result

    Raises
    ------
    Unavailable
        If matplotlib is not installed.
    InputError
        If the file cannot be written; nothing is left half-written.
    """
    figure = new_figure(12.5, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
    _draw_demand(left, decision)
    plot_history(result.history, title="Margin a week: best plan found and proven bound", ax=right)
    right.set_ylabel("EUR a week")
    return save(figure, path)


def _draw_demand(axes: Any, decision: Decision) -> None:
    """Show the demand for the coffee with most changes over its own price and that of the runner-up."""
    market, old, new, changed = decision.market, decision.old, decision.new, decision.changed
    names = market.coffee.values
    first, second = np.argsort(-changed.sum(axis=0), kind="stable")[:2]
    both = np.stack([old, new])[..., [first, second]].reshape(-1, 2)
    room = np.array([0.4, 0.2])  # for the names
    low, high = both.min(axis=0) - room, both.max(axis=0) + room
    across, up = (np.linspace(low[k], high[k], 80) for k in range(2))
    x = np.tile(np.concatenate([old.mean(axis=0), market.traits.values.mean(axis=0)]), (80, 80, 1))
    x[..., first], x[..., second] = np.meshgrid(across, up)

    bags = decision.network(x)[..., first]
    surface = axes.contourf(across, up, bags, levels=12, cmap="GnBu", vmin=bags.min(), vmax=1.4 * bags.max())
    axes.figure.colorbar(surface, ax=axes, label=f"bags of {names[first]} a week in an average store")
    axes.plot(old[:, first], old[:, second], "o", ms=5, mfc="white", mec=GREY, mew=1.2, label="price today")
    for store in np.flatnonzero(changed[:, [first, second]].any(axis=1)):
        start, end = (price[store, [first, second]] for price in (old, new))
        axes.plot(*zip(start, end, strict=True), "-", color=ORANGE, lw=1.3, zorder=1)
        axes.plot(*end, "o", ms=6, color=ORANGE, mec="white", mew=0.8)
        _name(axes, market.store.values[store], end, np.sign(np.round(end - start, 2)))
    shown = f"{changed[:, [first, second]].sum()} of {changed.sum()} changes"
    axes.plot([], [], "o", ms=6, color=ORANGE, mec="white", label=f"new price ({shown})")
    axes.set_title("Demand as the network sees it, and the prices decided", loc="left", fontsize=11)
    axes.set_xlabel(f"price of {names[first]}, EUR")
    axes.set_ylabel(f"price of {names[second]}, EUR")
    axes.legend(frameon=True, fontsize=8, loc="upper left")


def _name(axes: Any, text: str, place: Array, direction: Array) -> None:
    """Write a name where an arrow ends, beyond its head."""
    sideways = "left" if direction[0] > 0 else "right" if direction[0] < 0 else "center"
    upright = "bottom" if direction[1] > 0 else "top" if direction[1] < 0 else "center"
    axes.annotate(text, place, 6 * direction, textcoords="offset points", ha=sideways, va=upright, fontsize=7)
