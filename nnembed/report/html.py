"""A page about a network: one file, no script, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nnembed.report.describe import STATUS_WORDS
from nnembed.report.layout import Picture, arrange

if TYPE_CHECKING:
    from nnembed.report.describe import Description, Operator

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6675; --line: #dfe3ea; --paper: #ffffff; --back: #f4f6f9;
  --linear: #2f7dbd; --piecewise: #d9731a; --good: #1f8a5b; --bad: #c0362c; --bar: #cfe2f2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b5; --line: #333b49; --paper: #1d232d;
  --back: #141920; --linear: #6fb3e8; --piecewise: #f0a35e; --good: #5cc795; --bad: #f08479; --bar: #2b4861; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 3rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .8rem; }
.lead { color: var(--soft); margin: 0 0 1.4rem; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .8rem; margin-bottom: 1rem; }
.card, section { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; }
.card { padding: .7rem .9rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .82rem; }
section { padding: 1rem 1.1rem; margin-bottom: 1rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; white-space: nowrap; color: var(--soft); font-weight: 500; font-size: .8rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.w { overflow-wrap: anywhere; }
.bar { height: .55rem; min-width: 1px; border-radius: .2rem; background: var(--bar); margin-top: .45rem; }
td.b { width: 22%; }
.chip { border-radius: 1rem; padding: .05rem .6rem; font-size: .8rem; border: 1px solid currentColor;
  white-space: nowrap; }
.exact { color: var(--linear); } .piecewise { color: var(--piecewise); }
.relaxed { color: var(--soft); } .refused { color: var(--bad); }
.bad { border-color: var(--bad); } .bad li { overflow-wrap: anywhere; }
svg { display: block; margin: 0 auto; max-width: 100%; height: auto; }
svg text { fill: var(--ink); text-anchor: middle; font-size: 12px; }
svg .d { fill: var(--soft); font-size: 11px; }
svg rect { fill: var(--back); stroke: var(--line); stroke-width: 1.2; }
svg .linear { stroke: var(--linear); } svg .piecewise { stroke: var(--piecewise); } svg .output { stroke: var(--good); }
svg path { fill: none; stroke: var(--soft); stroke-width: 1.2; }
svg marker path { fill: var(--soft); stroke: none; }
footer { color: var(--soft); font-size: .8rem; }
"""
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 230, 44, 22, 28
_MOST_BOXES = 400


def page(about: Description) -> str:
    """Return a self-contained HTML page about a network file."""
    title = html.escape(about.title)
    body = [f"<h1>{title}</h1>", f'<p class="lead">{html.escape(str(about.path))}</p>', _cards(about)]
    if about.refused:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in about.refused)
        body.append(f'<section class="bad"><h2>This network cannot be embedded as it is</h2><ul>{items}</ul></section>')
    body.append(_section("File", _properties(about)))
    body.append(_section("Operators", _operators(about.operators)))
    if about.network is not None:
        body.append(_section("Layers as read", _layers(about.layers())))
        if len(about.network.nodes) <= _MOST_BOXES:
            body.append(_section("Graph", graph_svg(arrange(about.network))))
        else:
            text = f"{len(about.network.nodes):,} nodes are too many to draw; the table above lists them all."
            body.append(_section("Graph", f"<p>{text}</p>"))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><main>{''.join(body)}"
        "<footer>Written by nnembed inspect.</footer></main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>\n"


def _cards(about: Description) -> str:
    known = dict(about.properties)
    wanted = [
        ("neurons", "piecewise-linear neurons"),
        ("activation layers", "activation layers"),
        ("parameters", "parameters"),
        ("onnx nodes", "ONNX nodes"),
        ("opset", "operator set"),
    ]
    cards = [(known[key], text) for key, text in wanted if key in known]
    if about.refused:
        cards.insert(0, (len(about.refused), "nodes refused"))
    inner = "".join(f'<div class="card"><b>{_cell(value)}</b><span>{text}</span></div>' for value, text in cards)
    return f'<div class="cards">{inner}</div>\n'


def _properties(about: Description) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td class="w">{_cell(value)}</td></tr>'
        for name, value in about.properties
    )
    return f"<table>{rows}</table>"


def _operators(operators: Iterable[Operator]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(o.op)}</td><td class="n">{o.count:,}</td><td>{_chip(o.status)}</td>'
        f'<td class="w">{html.escape(o.reason)}</td></tr>'
        for o in operators
    )
    head = '<tr><th>operator</th><th class="n">nodes</th><th>how it is read</th><th></th></tr>'
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _chip(status: str) -> str:
    style = status if status in STATUS_WORDS else "relaxed"
    return f'<span class="chip {style}">{html.escape(STATUS_WORDS.get(status, status))}</span>'


def _layers(layers: list[dict[str, Any]]) -> str:
    most = max((int(layer["weights"]) for layer in layers), default=0)
    rows = []
    for layer in layers:
        share = 100 * int(layer["weights"]) / most if most else 0
        bar = f'<div class="bar" style="width:{share:.1f}%"></div>' if layer["weights"] else ""
        shape = " &times; ".join(map(str, layer["output_shape"])) or "scalar"
        rows.append(
            f'<tr><td class="w">{_cell(layer["node"])}</td><td>{_cell(layer["kind"])}</td><td>{shape}</td>'
            f'<td class="n">{_count(layer["neurons"])}</td><td class="n">{_count(layer["weights"])}</td>'
            f'<td class="b">{bar}</td></tr>'
        )
    head = (
        '<tr><th>node</th><th>kind</th><th>output shape</th><th class="n">neurons</th>'
        '<th class="n">weights</th><th></th></tr>'
    )
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _count(value: Any) -> str:
    return f"{int(value):,}" if value else ""


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


# ---- graph --------------------------------------------------------------------------------------


def graph_svg(picture: Picture) -> str:
    """Return the graph of a network as an inline SVG element."""
    half = (picture.width + 0.5) * (_BOX_WIDTH + _GAP_X)
    width, height = 2 * half + 40, picture.depth * (_BOX_HEIGHT + _GAP_Y) + _GAP_Y
    parts = [
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        'aria-label="graph of the network"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
    ]
    centres = [
        (width / 2 + c.lane * (_BOX_WIDTH + _GAP_X), _GAP_Y + c.depth * (_BOX_HEIGHT + _GAP_Y) + _BOX_HEIGHT / 2)
        for c in picture.cells
    ]
    for source, target in picture.edges:
        skips = picture.cells[target].depth - picture.cells[source].depth > 1
        parts.append(_arrow(centres[source], centres[target], skips))
    for cell, (x, y) in zip(picture.cells, centres, strict=True):
        parts.append(
            f'<rect class="{cell.role}" x="{x - _BOX_WIDTH / 2:.1f}" y="{y - _BOX_HEIGHT / 2:.1f}" '
            f'width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="8"/>'
            f'<text x="{x:.1f}" y="{y - 3:.1f}">{html.escape(_short(cell.title))}</text>'
            f'<text class="d" x="{x:.1f}" y="{y + 14:.1f}">{html.escape(_short(cell.detail))}</text>'
        )
    return "".join([*parts, "</svg>"])


def _arrow(start: tuple[float, float], end: tuple[float, float], skips: bool) -> str:
    (x0, y0), (x1, y1) = start, end
    if skips and abs(x0 - x1) < 1:  # a straight line would run through the boxes between
        x0, x1 = x0 + _BOX_WIDTH / 2, x1 + _BOX_WIDTH / 2
        bend = [(x0 + 16, y0), (x0 + 16, y1)]
    else:
        y0, y1 = y0 + _BOX_HEIGHT / 2, y1 - _BOX_HEIGHT / 2
        bend = [(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2)]
    curve = " ".join(f"{x:.1f} {y:.1f}" for x, y in [*bend, (x1, y1)])
    return f'<path d="M{x0:.1f} {y0:.1f} C{curve}" marker-end="url(#tip)"/>'


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
