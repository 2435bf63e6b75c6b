"""Plots of results, bounds and networks (matplotlib, the extra ``nnembed[plot]``)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnembed.aliases import Array
from nnembed.errors import InputError, Unavailable
from nnembed.report.files import write_atomic
from nnembed.report.layout import Cell, arrange

if TYPE_CHECKING:
    from nnembed.bounds.box import Bounds
    from nnembed.ir.network import Network

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8f98"  # told apart by colour-blind readers
FILL = {"input": "#e8eaed", "linear": "#d7e8f5", "piecewise": "#fde3cf", "output": "#d3f0e4"}
_MOST_NEURONS = 2000
_MOST_LAYERS = 12
_MARKERS = "osD^vPX*"
_WILD = 12  # bounds further away than this many times the spread of the answers are not shown


class HistoryEntry(Protocol):
    """What is plotted of an entry of `Result.history`."""

    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def objective(self) -> float | None: ...  # noqa: D102
    @property
    def bound(self) -> float | None: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of `width` x `height` inches, tied to no global state.

    Raises
    ------
    Unavailable
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Unavailable("plots need matplotlib, which is not installed; pip install 'nnembed[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def save(figure: Any, path: Path | str) -> Path:
    """Write a figure as PNG, SVG or PDF, by the ending of `path`; whole or not at all.

    Raises
    ------
    InputError
        If the ending is unknown or the file cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lstrip(".").lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise InputError(
            f"cannot write a picture as {target.name!r}; use one of the endings {', '.join(sorted(known))}"
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return write_atomic(target, buffer.getvalue())


# ---- bound and incumbent over time --------------------------------------------------------------


def plot_history(
    history: Sequence[HistoryEntry],
    *,
    title: str = "Bound and best answer over time",
    ax: Any = None,
    path: Path | str | None = None,
) -> Any:
    """Plot the proven bound and the best known objective over time.

    Parameters
    ----------
    history : sequence of entries with `seconds`, `objective`, `bound` and `source`
        As in `Result.history`; None stands for "not known yet".
    title : str
        Title of the plot.
    ax : matplotlib axes or None
        Where to draw; a new figure by default.
    path : path or None
        Also save the figure there (.png, .svg, .pdf).

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    Unavailable
        If matplotlib is not installed.
    InputError
        If the picture cannot be written.
    """
    figure = new_figure(7.2, 3.8) if ax is None else ax.figure
    axes = figure.add_subplot() if ax is None else ax
    _draw_history(axes, history, title)
    if path is not None:
        save(figure, path)
    return figure


def _draw_history(axes: Any, history: Sequence[HistoryEntry], title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("seconds")
    axes.set_ylabel("objective")
    seconds = np.array([entry.seconds for entry in history], float)
    objective, bound = (_carry([getattr(entry, name) for entry in history]) for name in ("objective", "bound"))
    if not (np.isfinite(objective).any() or np.isfinite(bound).any()):
        axes.text(0.5, 0.5, "no answer and no bound recorded", ha="center", va="center", transform=axes.transAxes)
        return
    if np.isfinite(bound).any():
        axes.step(seconds, bound, where="post", color=ORANGE, lw=1.8, label="proven bound")
        axes.plot(seconds[-1:], bound[-1:], "_", ms=9, mew=1.8, color=ORANGE)
    if np.isfinite(objective).any():
        axes.step(seconds, objective, where="post", color=BLUE, lw=1.8, label="best answer")
        axes.fill_between(seconds, objective, bound, step="post", color=GREY, alpha=0.13, lw=0)
        _mark_sources(axes, history, objective)
    _focus(axes, objective, bound)
    _tidy(axes)
    axes.legend(frameon=False, fontsize=8)


def _carry(values: Sequence[float | None]) -> Array:
    """Return the values with gaps filled by the last known one; NaN before the first."""
    array = np.array([np.nan if v is None else v for v in values], float)
    array[~np.isfinite(array)] = np.nan
    last = np.maximum.accumulate(np.where(np.isnan(array), -1, np.arange(len(array))))
    return np.where(last >= 0, array[last], np.nan)


def _mark_sources(axes: Any, history: Sequence[HistoryEntry], objective: Array) -> None:
    """Put one marker per improvement, its form telling who found it."""
    changed = np.flatnonzero(np.diff(np.concatenate([[np.nan], objective])) != 0)
    better: list[int] = changed[np.isfinite(objective[changed])].tolist()
    sources = [history[i].source or "the solver" for i in better]
    named = list(dict.fromkeys(sources))[: len(_MARKERS) - 1]  # a longer legend would cover the plot
    sources = [s if s in named else "others" for s in sources]
    for source, marker in zip(dict.fromkeys(sources), _MARKERS, strict=False):
        mine = [i for i, s in zip(better, sources, strict=True) if s == source]
        seconds = [history[i].seconds for i in mine]
        axes.plot(seconds, objective[mine], marker, ms=5, color=BLUE, label=f"found by {source}")


def _focus(axes: Any, objective: Array, bound: Array) -> None:
    """Keep a wild first bound from flattening the rest; say where it starts."""
    known, answers = bound[np.isfinite(bound)], objective[np.isfinite(objective)]
    if not len(known):
        return
    core = np.append(answers, known[-1])
    span = max(core.max() - core.min(), 1e-6 * (1 + np.abs(core).max()))
    wild = (known < core.min() - _WILD * span) | (known > core.max() + _WILD * span)
    if not wild.any():
        return
    shown = np.concatenate([core, known[~wild]])
    pad = 0.06 * (shown.max() - shown.min()) + 0.01 * span
    axes.set_ylim(shown.min() - pad, shown.max() + pad)
    axes.set_title(f"bound starts at {known[0]:.4g}, beyond the plot", loc="right", fontsize=8, color=ORANGE)


# ---- bounds of the layers -----------------------------------------------------------------------


def plot_bounds(bounds: Bounds) -> Any:
    """Plot the interval of every pre-activation, one panel per layer, neurons sorted by their centre.

    Undecided neurons are orange. At most 12 layers and 2000 neurons per layer are drawn; the titles say what
    was left out. For a batch of boxes the intervals of all boxes are drawn together.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If not every tensor is bounded yet, or the network has no activations.
    Unavailable
        If matplotlib is not installed.
    """
    layers = bounds.network.activations
    if not bounds.complete:
        raise InputError("these bounds do not cover every layer; run tighten with a larger budget first")
    if not layers:
        raise InputError(f"{bounds.network.name} has no activations to plot bounds of")
    shown = layers[:_MOST_LAYERS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.6 * columns + 0.6, 2.6 * rows + 0.8)
    left_out = f" (first {len(shown)} of {len(layers)} layers)" if len(shown) < len(layers) else ""
    how = " + ".join(p.method for p in bounds.history)
    figure.suptitle(f"Pre-activation bounds of {bounds.network.name}, {how}{left_out}", x=0.01, ha="left", fontsize=11)
    for place, node in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        _panel(axes, node.name, bounds.low[node.inputs[0]], bounds.high[node.inputs[0]], _undecided(bounds, node))
    handles = [_line(color) for color in (ORANGE, BLUE)]
    figure.legend(handles, ["undecided", "decided"], loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def _undecided(bounds: Bounds, node: Any) -> np.ndarray:
    """Return the mask (batch, n) of input entries of a layer that are undecided."""
    opened = bounds.open(node)
    groups = getattr(node, "groups", None)
    if groups is None:
        return opened
    mask = np.zeros(bounds.low[node.inputs[0]].shape, dtype=bool)
    box, group = np.nonzero(opened)
    mask[box[:, None], groups[group]] = True
    return mask


def _panel(axes: Any, name: str, low: Array, high: Array, opened: np.ndarray) -> None:
    low, high, opened = low.ravel(), high.ravel(), opened.ravel()
    order = np.argsort((low + high) / 2, kind="stable")
    note = f"{len(order):,} neurons, {int(opened.sum()):,} undecided"
    if len(order) > _MOST_NEURONS:
        order = order[np.linspace(0, len(order) - 1, _MOST_NEURONS).astype(int)]
        note += f" ({_MOST_NEURONS:,} shown)"
    place = np.arange(len(order))
    width = float(np.clip(220 / max(1, len(order)), 0.3, 4.0))
    for mask, color in ((~opened[order], BLUE), (opened[order], ORANGE)):
        axes.vlines(place[mask], low[order][mask], high[order][mask], color=color, lw=width)
        axes.plot(place[mask], ((low + high) / 2)[order][mask], ",", color=color)  # zero-width intervals stay visible
    axes.axhline(0, color="black", lw=0.6)
    axes.set_title(f"{name}\n{note}", loc="left", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_xticks([])
    _tidy(axes)


def _line(color: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, lw=3)


# ---- the network --------------------------------------------------------------------------------


def plot_network(network: Network) -> Any:
    """Draw the graph of a network: one box per node, linear nodes blue, piecewise-linear ones orange.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    Unavailable
        If matplotlib is not installed.
    """
    picture = arrange(network)
    half = picture.width + 0.6
    figure = new_figure(max(4.0, 2.8 * 2 * half), 0.62 * picture.depth + 0.7)
    axes = figure.add_subplot()
    axes.set_xlim(-half, half)
    axes.set_ylim(picture.depth - 0.45, -0.55)
    axes.axis("off")
    axes.set_title(f"{network.name}: {len(network.nodes)} nodes", loc="left", fontsize=11)
    for source, target in picture.edges:
        _draw_arrow(axes, picture.cells[source], picture.cells[target])
    for cell in picture.cells:
        _draw_cell(axes, cell)
    return figure


def _draw_arrow(axes: Any, start: Cell, end: Cell) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    x0, y0, x1, y1 = start.lane, float(start.depth), end.lane, float(end.depth)
    if y1 - y0 > 1 and x0 == x1:  # a straight line would run through the boxes between
        points = [(x0 + 0.42, y0), (x0 + 0.55, y0), (x0 + 0.55, y1), (x1 + 0.42, y1)]
    else:
        points = [(x0, y0 + 0.29), (x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2), (x1, y1 - 0.29)]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    axes.add_patch(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=8, color=GREY, lw=1, fill=False))


def _draw_cell(axes: Any, cell: Cell) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (cell.lane - 0.4, cell.depth - 0.27)
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, 0.8, 0.54, style, facecolor=FILL[cell.role], edgecolor=GREY, lw=0.6))
    text = f"{_short(cell.title)}\n{_short(cell.detail)}"
    axes.text(cell.lane, cell.depth, text, ha="center", va="center", fontsize=7, parse_math=False)


def _short(text: str, most: int = 36) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GREY, alpha=0.2, lw=0.6)
