"""The picture of the demo: what was decided, on the surface of what the network predicts, and how it was proved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnembed.errors import InputError
from nnembed.ir.linear import Array
from nnembed.report.plots import BLUE, GREY, ORANGE, new_figure, plot_history, save

if TYPE_CHECKING:
    import xarray as xr

    from nnembed.ir.network import Network
    from nnembed.result import Result


def check_target(path: Path) -> None:
    """Refuse a place where no picture can be written, before any work is done.

    Raises
    ------
    InputError
        If the folder does not exist or may not be written to.
    """
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write the picture {path}; give a file name in a folder that exists and is writable")


def draw(path: Path, network: Network, market: xr.Dataset, new: Array, result: Result) -> Path:
    """Draw demand with the decisions in it, and bound and best answer over time; return the path.

    Parameters
    ----------
    path : Path
        Where to write; the ending says the format.
    network : Network
    market : xarray.Dataset
        As from `load_market`.
    new : array (store, coffee)
        The prices decided.
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
    _draw_demand(left, network, market, new)
    plot_history(result.history, title="Margin a week: best plan found and proven bound", ax=right)
    right.set_ylabel("EUR a week")
    return save(figure, path)


def _draw_demand(axes: Any, network: Network, market: xr.Dataset, new: Array) -> None:
    """Show the demand for the coffee with most changes over its own price and that of the runner-up."""
    old, names = market.today.values, market.coffee.values
    changed = np.abs(new - old) > 0.005
    first, second = np.argsort(-changed.sum(axis=0), kind="stable")[:2]
    both = np.stack([old, new])[..., [first, second]].reshape(-1, 2)
    low, high = both.min(axis=0) - [0.4, 0.2], both.max(axis=0) + [0.4, 0.2]  # room for names
    across, up = (np.linspace(low[k], high[k], 80) for k in range(2))
    x = np.tile(np.concatenate([old.mean(axis=0), market.traits.values.mean(axis=0)]), (80, 80, 1))
    x[..., first], x[..., second] = np.meshgrid(across, up)

    bags = network(x)[..., first]
    surface = axes.contourf(across, up, bags, levels=12, cmap="GnBu", vmin=bags.min(), vmax=1.4 * bags.max())
    axes.figure.colorbar(surface, ax=axes, label=f"bags of {names[first]} a week in an average store")
    axes.plot(old[:, first], old[:, second], "o", ms=5, mfc="white", mec=GREY, mew=1.2, label="price today")
    for store in np.flatnonzero(changed[:, [first, second]].any(axis=1)):
        start, end = (price[store, [first, second]] for price in (old, new))
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-", "color": ORANGE, "lw": 1.3})
        axes.plot(*end, "o", ms=6, color=ORANGE, mec="white", mew=0.8)
        _name(axes, market.store.values[store], end, np.sign(end - start))
    axes.plot([], [], "o", ms=6, color=ORANGE, mec="white", label="new price")
    axes.set_title("Demand as the network sees it, and the prices decided", loc="left", fontsize=11)
    axes.set_xlabel(f"price of {names[first]}, EUR")
    axes.set_ylabel(f"price of {names[second]}, EUR")
    axes.legend(frameon=True, fontsize=8, loc="upper left")


def _name(axes: Any, text: str, place: Array, direction: Array) -> None:
    """Write a name where an arrow ends, beyond its head."""
    sideways = "left" if direction[0] > 0 else "right" if direction[0] < 0 else "center"
    upright = "bottom" if direction[1] > 0 else "top" if direction[1] < 0 else "center"
    axes.annotate(text, place, 6 * direction, textcoords="offset points", ha=sideways, va=upright, fontsize=7)
