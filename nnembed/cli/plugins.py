"""``nnembed plugins``: what is installed, per extension point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnembed.cli.common import (
    JsonFlag,
    QuietFlag,
    Report,
    SeedOption,
    Shared,
    ThreadsOption,
    TimeOption,
    execute,
)

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 20


def plugins(
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    time_limit: TimeOption = None,
) -> int:
    """List what is installed per extension point, whether it can be used here, and why not."""
    shared = Shared(as_json, quiet, seed, threads, time_limit)
    return execute(shared, _plugins)


def _plugins() -> Report:
    from nnembed.hooks.manager import registry

    book = registry()
    points: dict[str, list[dict[str, Any]]] = {}
    for entry in book.entries():
        fact = {
            "name": entry.name,
            "summary": entry.summary,
            "distribution": entry.distribution,
            "available": bool(entry.available),
            "reason": entry.reason,
        }
        points.setdefault(str(entry.extension_point), []).append(fact)
    problems = [str(p) for p in book.problems]
    count = sum(map(len, points.values()))
    line = f"{count} parts in {len(points)} extension points, {len(problems)} broken plugin(s)"

    def show(console: Console) -> None:
        """Print one table per extension point and the plugins that are left out."""
        from nnembed.tables import Table

        head = ("name", "summary", "from", "usable")
        for point, entries in points.items():
            rows = [(e["name"], e["summary"], e["distribution"] or "nnembed", _usable(e)) for e in _folded(entries)]
            console.print(Table(point, head, rows))
        for problem in problems:
            console.print(f"broken: {problem}", style="red", markup=False)
        console.print(line)

    return Report({"command": "plugins", "extension_points": points, "problems": problems}, line, show)


def _folded(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per distribution instead where there are very many, as of operator readers."""
    if len(entries) <= _MOST_ROWS:
        return entries
    names: dict[tuple[Any, bool, Any], list[str]] = {}
    for e in entries:
        names.setdefault((e["distribution"], e["available"], e["reason"]), []).append(e["name"])
    return [
        {
            "name": f"{len(group)} of them",
            "summary": ", ".join(name.removeprefix("ai.onnx.") for name in group),
            "distribution": distribution,
            "available": available,
            "reason": reason,
        }
        for (distribution, available, reason), group in names.items()
    ]


def _usable(entry: dict[str, Any]) -> str:
    if entry["available"]:
        return "yes" if entry["reason"] in ("", None, "ready") else f"yes, {entry['reason']}"
    return f"no: {entry['reason']}" if entry["reason"] else "no"
