"""Records become tables, for the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from nnembed.tables import Table

Record = dict[str, Any]
_ORDER = ("load", "model", "bounds", "build", "attach", "compile", "start", "hand-over", "solve", "check")


def whole(record: Record) -> float:
    """Return the CPU seconds of everything but loading the network."""
    return sum(seconds for name, seconds in record["cpu"].items() if name != "load")


def best(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    """Return the repeat with the least whole cost per (task, way)."""
    kept: dict[tuple[str, str], Record] = {}
    for record in records:
        key = record["task"], record["way"]
        old = kept.get(key)
        if old is None or "error" in old or ("error" not in record and whole(record) < whole(old)):
            kept[key] = record
    return kept


def geometric(values: Sequence[float]) -> float:
    """Return the geometric mean, NaN of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def ordered(names: Iterable[str], first: Sequence[str] = ()) -> list[str]:
    """Return distinct names as they come, those of `first` in front."""
    seen = list(dict.fromkeys(names))
    return [n for n in first if n in seen] + [n for n in seen if n not in first]


def tables(records: Sequence[Record]) -> list[Table]:
    """Return all tables the records allow."""
    found: list[Table] = []
    for family, make in (
        ("import", import_tables), ("build", build_tables), ("crown", crown_tables),
        ("load", load_tables), ("pyomo", pyomo_tables), ("batch", batch_tables), ("scip", scip_tables),
        ("solve", solve_tables), ("revenue", revenue_tables),
    ):  # fmt: skip
        own = [r for r in records if r["family"] == family]
        if own:
            found += make(own)
    return found


# ---- solve ------------------------------------------------------------------------------------------


def proved(record: Record) -> bool:
    """Return whether the optimum was proved."""
    return record.get("status") == "optimal"


def cost(record: Record) -> float:
    """Return the whole cost; a run that proved nothing counts the limit."""
    return whole(record) if proved(record) else float(record["limit"])


def cell(record: Record | None) -> str:
    """Return the whole cost, or what was reached in the limit."""
    if record is None:
        return ""
    if "error" in record:
        return "fails"
    if proved(record):
        return f"{whole(record):.3g}"
    objective, bound = record.get("objective"), record.get("bound")
    if objective is None:
        return f">{record['limit']:g} (no point)"
    gap = abs(bound - objective) / max(abs(objective), 1e-9) if bound is not None else math.inf
    return f">{record['limit']:g} (gap {100 * gap:.2g}%)"


def ratio(kept: dict[tuple[str, str], Record], task: str, ours: str, theirs: str) -> float | None:
    """Return our cost over theirs; None where neither proved anything or one could not do the task."""
    pair = [kept.get((task, way)) for way in (ours, theirs)]
    if any(r is None or "error" in r for r in pair):
        return None
    first, second = pair
    assert first is not None and second is not None
    return cost(first) / cost(second) if proved(first) or proved(second) else None


def solve_tables(records: Sequence[Record]) -> list[Table]:
    """Return whole costs per task, ratios, phases, and whether the answers hold."""
    kept = best(records)
    tasks, ways = ordered(t for t, _ in kept), ordered((w for _, w in kept), ("nnembed",))
    limit = max(r["limit"] for r in records)
    rows = [[task, *(cell(kept.get((task, way))) for way in ways)] for task in tasks]
    note = "bounds, build, start, hand-over, solve and check, without loading the network"
    found = [Table(f"whole cost, CPU seconds (limit {limit:g} of solving)", ["task", *ways], rows, note)]
    if "nnembed" in ways:
        found.append(ratio_table(kept, tasks, [w for w in ways if w != "nnembed"]))
    found.append(phase_table(kept, tasks, ways))
    found.append(answer_table(kept, tasks, ways))
    return found


def ratio_table(kept: dict[tuple[str, str], Record], tasks: Sequence[str], others: Sequence[str]) -> Table:
    """Return the geometric means of nnembed's cost over that of each other way."""
    rows: list[list[object]] = []
    for way in others:
        values = [(r, t) for t in tasks if (r := ratio(kept, t, "nnembed", way)) is not None]
        if not values:
            continue
        low, high = min(values), max(values)
        mean = geometric([r for r, _ in values])
        span = f"{low[0]:.2g} ({low[1]})", f"{high[0]:.2g} ({high[1]})"
        rows.append([way, len(values), f"{mean:.3g}", f"{1 / mean:.3g}", *span])
    columns = ["nnembed against", "tasks", "cost ratio", "times faster", "best task", "worst task"]
    note = "geometric mean over tasks that one of the two proved; an unproved run counts the limit"
    return Table("nnembed's whole cost over that of each other way", columns, rows, note)


def phase_table(kept: dict[tuple[str, str], Record], tasks: Sequence[str], ways: Sequence[str]) -> Table:
    """Return CPU milliseconds per phase and way, summed over the tasks that every way could do.

    A way that could do none is left out.
    """
    good = {key for key, r in kept.items() if "error" not in r}
    ways = [w for w in ways if any((t, w) in good for t in tasks)]
    able = [t for t in tasks if all((t, w) in good for w in ways)]
    phases = ordered((p for r in kept.values() for p in r.get("cpu", {})), _ORDER)
    rows: list[list[object]] = []
    for way in ways:
        mine = [kept[t, way] for t in able]
        if not mine:
            continue
        sums = [sum(r["cpu"].get(p, 0.0) for r in mine) for p in phases]
        memory = max(r.get("over_mb", 0.0) for r in mine)
        rows.append([way, *(f"{1000 * s:.0f}" if s else "" for s in sums), f"{memory:.0f}"])
    title = f"phase by phase, CPU milliseconds summed over {len(able)} tasks, and the largest memory over imports"
    return Table(title, ["way", *phases, "MB"], rows)


def answer_table(kept: dict[tuple[str, str], Record], tasks: Sequence[str], ways: Sequence[str]) -> Table:
    """Return how many optima each way proved, how exact its points are, and whether proved optima agree."""
    rows: list[list[object]] = []
    for way in ways:
        mine = [kept[t, way] for t in tasks if (t, way) in kept and "error" not in kept[t, way]]
        residual = max((r["residual"] for r in mine if "residual" in r), default=math.nan)
        nodes = sum(r.get("nodes") or 0 for r in mine)
        rows.append([way, len(mine), sum(map(proved, mine)), f"{residual:.1e}", nodes, disagreement(kept, mine)])
    columns = ["way", "tasks", "proved", "largest residual", "nodes", "optima off by"]
    note = (
        "residual: output against onnxruntime (nnembed relative to 1 + |y|, the yardstick's ways absolute); optima off "
        "by: largest relative difference to another way's proved optimum, 2e-4 is within two gaps of 1e-4"
    )
    return Table("answers", columns, rows, note)


def disagreement(kept: dict[tuple[str, str], Record], mine: Sequence[Record]) -> str:
    """Return the largest relative difference of proved optima to those of other ways."""
    worst = 0.0
    for record in filter(proved, mine):
        for other in kept.values():
            if other["task"] == record["task"] and proved(other) and "error" not in other:
                a, b = record["objective"], other["objective"]
                worst = max(worst, abs(a - b) / max(abs(a), abs(b), 1e-3))
    return f"{worst:.0e}"


# ---- the other families -------------------------------------------------------------------------------


def build_tables(
    records: Sequence[Record], title: str = "build {}, nothing solved", to: str = "hand:slack", note: str = ""
) -> list[Table]:
    """Return phases, sizes and memory of building and handing over, the whole also relative to one of the ways."""
    kept = best(records)
    found = []
    for task in ordered(t for t, _ in kept):
        mine = {way: r for (t, way), r in kept.items() if t == task}
        good = {way: r for way, r in mine.items() if "error" not in r}
        phases = ordered((p for r in good.values() for p in r["cpu"]), _ORDER)
        reference = good.get(to)
        rows: list[list[object]] = []
        for way, r in mine.items():
            if "error" in r:
                rows.append([way, "fails: " + r["error"][:60], *[""] * (len(phases) + 3)])
                continue
            relative = f"{whole(r) / whole(reference):{'.2f' if to == 'hand:slack' else '.3f'}}" if reference else ""
            size = f"{r['rows']} x {r['columns']}, {r['nonzeros'] / 1000:.0f}k" if "rows" in r else ""
            cells = [f"{1000 * r['cpu'][p]:.0f}" if p in r["cpu"] else "" for p in phases]
            rows.append([way, *cells, f"{1000 * whole(r):.0f}", relative, f"{r['over_mb']:.0f}", size])
        columns = ["way", *phases, "whole", f"to {to}", "MB", "rows x columns, nonzeros"]
        said = "whole: without load; MB: largest resident memory over imports, load and self-check included"
        found.append(Table(f"{title.format(task)}: CPU milliseconds", columns, rows, said + note))
    return found


def pyomo_tables(records: Sequence[Record]) -> list[Table]:
    """Return what a network in a Pyomo model costs until HiGHS has it, relative to OMLT."""
    note = "; to be reached: overlay 0.05 of omlt, attach 0.5"
    return build_tables(records, "{} in a Pyomo model, handed to HiGHS, nothing solved", "omlt", note)


def batch_tables(records: Sequence[Record]) -> list[Table]:
    """Return what embedding costs by the number of points."""
    kept = best(records)
    phases = ordered((p for r in kept.values() for p in r.get("cpu", {})), _ORDER)
    rows: list[list[object]] = []
    for (task, way), r in sorted(kept.items(), key=lambda item: (item[0][1], int(item[0][0]))):
        if "error" in r:
            rows.append([way, task, "fails: " + r["error"][:60], *[""] * (len(phases) + 4)])
            continue
        cells = [f"{1000 * r['cpu'].get(p, 0.0):.1f}" for p in phases]
        total = 1000 * whole(r)
        ends = f"{r['over_mb']:.0f}", f"{r['rows']} x {r['columns']}", ", ".join(r["forms"])
        rows.append([way, task, *cells, f"{total:.1f}", f"{total / int(task):.2f}", *ends])
    columns = ["way", "points", *phases, "whole", "a point", "MB", "rows x columns", "form"]
    note = (
        "every point has a box of its own; model: nnembed.Model, its variables included; form: as the planner chooses "
        "it; to be reached: 200 ms for 100 points, and linear in the points"
    )
    return [Table("nn.embed of 10-32-32-1 at many points: CPU milliseconds", columns, rows, note)]


def scip_tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of `solve` for solving with SCIP."""
    found = [replace(table, title=f"SCIP: {table.title}") for table in solve_tables(records) if table.rows]
    if len(found) > 3:  # there are ratios
        note = f"{found[1].note}; to be reached: 1.1 of hand:two_row, which has separation off, 0.2 of pyscipopt_ml"
        found[1] = replace(found[1], note=note)
    return found


def revenue_tables(records: Sequence[Record]) -> list[Table]:
    """Return the gap that is left of price x predicted demand."""
    rows: list[list[object]] = []
    for (task, _), r in best(records).items():
        if "error" in r:
            rows.append([f"{task} %", "fails: " + r["error"][:60], *[""] * 7])
            continue
        values = [f"{r[k]:.1f}" if r[k] is not None else "" for k in ("today", "objective", "bound")]
        gap = f"{100 * r['gap']:.2f}" if r["gap"] is not None else ""
        seconds = f"{r['wall']['solve']:.1f}", f"{whole(r):.1f}"
        residual = f"{r['residual']:.1e}" if "residual" in r else ""
        rows.append([f"{task} %", r["status"], *values, gap, *seconds, residual])
    columns = ["prices within", "status", "today", "revenue", "bound", "gap %", "wall s", "CPU s", "residual"]
    limit = max(r["limit"] for r in records)
    note = (
        "20 stores, 5 products, stock and a price ladder; stops at a gap of 1 %, to be reached within 60 s; residual: "
        "demand against the network, relative to 1 + |y|"
    )
    return [Table(f"revenue = price x predicted demand on HiGHS, limit {limit:g} wall seconds", columns, rows, note)]


def crown_tables(records: Sequence[Record]) -> list[Table]:
    """Return unstable neurons, widths and times of CROWN."""
    rows: list[list[object]] = []
    ratios = []
    for r in best_crown(records):
        own, hand = r["cpu"]["nnembed"], r["cpu"]["hand"]
        ratios.append(own / hand)
        counts = [r["neurons"], r["unstable"], r["unstable_hand"], f"{r['width']:.6g}", f"{r['width_hand']:.6g}"]
        rows.append([r["task"], *counts, f"{1000 * own:.2f}", f"{1000 * hand:.2f}", f"{own / hand:.2f}"])
    columns = ["task", "neurons", "unstable", "by hand", "width", "by hand", "ms", "by hand", "ratio"]
    note = f"geometric mean of the ratios {geometric(ratios):.2f}; width: of the objective; ms: CPU, least of 9"
    return [Table("CROWN bounds", columns, rows, note)]


def best_crown(records: Sequence[Record]) -> list[Record]:
    """Return one record per task: the repeat with the least ratio is not chosen, times are each the least."""
    kept: dict[str, Record] = {}
    for record in records:
        if "error" in record:
            continue
        old = kept.get(record["task"])
        times = record["cpu"] if old is None else {k: min(v, old["cpu"][k]) for k, v in record["cpu"].items()}
        kept[record["task"]] = {**record, "cpu": times}
    return list(kept.values())


def import_tables(records: Sequence[Record]) -> list[Table]:
    """Return CPU seconds of imports."""
    rows: list[list[object]] = []
    for (_, way), r in best(records).items():
        if "error" not in r:
            rows.append([way, f"{r['cpu']['import']:.4f}", r["modules"], ", ".join(r["forbidden"]) or "none"])
    columns = ["import", "CPU seconds", "modules", "heavy packages among them"]
    return [Table("imports in a fresh interpreter", columns, rows)]


def load_tables(records: Sequence[Record]) -> list[Table]:
    """Return how many networks of each folder are read, refused or fail."""
    groups: dict[str, list[Record]] = {}
    for record in {r["task"]: r for r in records if "status" in r}.values():
        parts = record["task"].split("/")
        groups.setdefault("/".join(parts[:2]) if len(parts) > 2 else parts[0], []).append(record)
    rows: list[list[object]] = []
    for name, mine in groups.items():
        counts = [sum(r["status"] == s for r in mine) for s in ("read", "refused", "invalid", "failed")]
        seconds = [r["cpu"]["load"] for r in mine]
        rows.append([name, len(mine), *counts, f"{sum(seconds):.2f}", f"{max(seconds):.2f}"])
    total = [sum(int(str(row[k])) for row in rows) for k in range(1, 6)]
    rows.append(["all", *total, f"{sum(float(str(row[6])) for row in rows):.2f}", ""])
    columns = ["folder", "networks", "read", "refused", "invalid", "failed", "CPU s", "slowest"]
    note = (
        "read: passes the self-check against onnxruntime; refused: an operator is not exact, all are named; invalid: "
        "the file breaks the ONNX standard; failed: the self-check or anything else"
    )
    found = [Table("loading", columns, rows, note)]
    bad = [[r["task"], r["status"], brief(r["reason"])] for r in records if "reason" in r]
    bad += [[r["task"], "failed", brief(r["error"])] for r in records if "error" in r]
    if bad:
        found.append(Table("networks that are not read", ["network", "", "why"], bad))
    return found


def brief(reason: str) -> str:
    """Return the start of a message on one line."""
    line = " ".join(reason.split())
    return line if len(line) <= 110 else line[:107] + "..."


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    numeric = [all(_is_number(row[k]) for row in table.rows) for k in range(len(table.columns))]
    lines = [f"**{table.title}**", "", "| " + " | ".join(table.columns) + " |"]
    lines.append("| " + " | ".join("---:" if n else "---" for n in numeric) + " |")
    lines += [
        "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in table.rows
    ]
    return "\n".join([*lines, "", table.note] if table.note else lines) + "\n"


def _is_number(text: object) -> bool:
    return str(text).replace(".", "").replace("e-", "").lstrip("-").isdigit() or not str(text)
