"""Measure nnembed against a hand-built baseline and the installed peers, phase by phase.

    python benchmarks/run.py                                        everything
    python benchmarks/run.py --family build --family crown          some families
    python benchmarks/run.py --family solve --tasks digits --limit 30
    python benchmarks/run.py --family batch --tasks 100             batch takes numbers of points, revenue percents
    python benchmarks/run.py --resume                               go on where the last run stopped
    python benchmarks/run.py --report --markdown                    print the tables of the last run again
    python benchmarks/run.py --report --into docs/benchmarks.md     or put them into the page

Every measurement is a process of its own on one thread. Results go to a file line by line, so that Ctrl-C loses
nothing; compare figures of one run on one machine only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tasks import BANDS, FAMILIES, HERE, POINTS, ROOT, Task, load_tasks, yardstick

sys.path.append(str(ROOT))  # behind everything: an installed nnembed wins

from report import markdown, tables

_FORMS = ("hand:two_row", "hand:slack")
_REPEATS = {"import": 5, "build": 5, "pyomo": 3, "batch": 5}  # the others once
_LIMITS = {"solve": 30.0, "scip": 30.0, "revenue": 60.0}  # the others solve nothing
#: Tasks of the `scip` family if none are asked for: those that SCIP proves in seconds.
_QUICK = ("peaks2_16x2", "digits_2x50", "digits_cnn", "digits_3x100_i0_e0.05", "peaks_12x2", "digits_30x2")
_PATIENCE = 900.0  # wall seconds before a measurement without a limit counts as hung
_MARKS = "<!-- measured: begin -->", "<!-- measured: end -->"
_PACKAGES = (
    "numpy", "scipy", "onnx", "onnxruntime", "highspy", "linopy", "pyomo", "omlt", "pyscipopt", "pyscipopt-ml"
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One measurement."""

    family: str
    task: str
    way: str
    limit: float
    repeat: int

    @property
    def key(self) -> str:
        """What --resume recognises a finished job by."""
        return f"{self.family} {self.task} {self.way} {self.limit:g} {self.repeat}"


def ways(family: str, task: Task | None) -> list[str]:
    """Return the ways a family compares; none where what it needs is not installed."""
    from peers import has_scip, installed

    peer = ["omlt"] if installed("omlt", "pyomo") else []
    if family == "import":
        return ["nnembed", "nnembed:maximize", "linopy", *peer]
    if family in ("crown", "load"):
        return ["nnembed"]
    if family == "batch":
        return ["nnembed:arrays", "nnembed:model"]
    if family == "revenue":
        return ["nnembed"] if installed("sklearn") else []
    if family == "pyomo":
        return ["nnembed:overlay", "nnembed:attach", *peer] if installed("pyomo") else []
    if family == "scip":
        others = ["hand:two_row", *(["pyscipopt_ml"] if installed("pyscipopt_ml") else [])]
        return ["nnembed", *(others if yardstick() else [])] if has_scip() else []
    if family == "build":
        return ["nnembed", "nnembed:unchecked", "nnembed:linopy", *_FORMS, *peer]
    assert task is not None
    if "cnn" in task.name:
        peer = []  # OMLT's reader drops the bias of convolutions and refuses the pool
    return ["nnembed", *_FORMS, *(f"{form}+start" for form in _FORMS), *peer]


def chosen(family: str, parts: Sequence[str] | None) -> list[tuple[str, Task | None]]:
    """Return the tasks of a family whose names contain one of `parts` (None: those of a normal run)."""
    if family in ("import", "load"):
        return [("-", None)]
    if family in ("batch", "revenue"):
        names = map(str, POINTS if family == "batch" else BANDS)
        return [(name, None) for name in names if not parts or name in parts]
    picked = [(n, t) for n, t in load_tasks().items() if not parts or any(part in n for part in parts)]
    if family in ("build", "pyomo"):
        return [(n, t) for n, t in picked if parts or t.family == "scale"]
    if family == "scip" and not parts:
        return [(n, t) for n, t in picked if n.startswith(_QUICK)]
    return [(n, t) for n, t in picked if family == "crown" or t.family != "scale"]


def jobs(given: argparse.Namespace) -> Iterator[Job]:
    """Yield the measurements of a run; the ways take turns, so that a busy moment hits all of them."""
    for family in given.family or FAMILIES:
        limit = _LIMITS.get(family, 0.0)
        limit = given.limit if limit and given.limit is not None else limit
        for name, task in chosen(family, given.tasks):
            for repeat in range(given.repeat or _REPEATS.get(family, 1)):
                for way in ways(family, task):
                    if not given.ways or any(part in way for part in given.ways):
                        yield Job(family, name, way, limit, repeat)


def run(job: Job) -> Iterator[dict[str, Any]]:
    """Run one measurement and yield its records as they come."""
    command = [sys.executable, str(HERE / "measure.py"), job.family, job.task, job.way, "--limit", str(job.limit)]
    # A session of its own: Ctrl-C is for this process, which then ends the measurement.
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True) as child,
    ):
        watch = threading.Timer(_PATIENCE + 20 * job.limit, child.kill)
        watch.start()
        seen = 0
        try:
            assert child.stdout is not None
            for line in child.stdout:
                seen += 1
                yield json.loads(line)
            if not seen:
                said.seek(0)
                tail = [*said.read().strip().splitlines(), f"ended with code {child.wait()}"]
                head = {"family": job.family, "task": job.task, "way": job.way, "limit": job.limit}
                yield head | {"error": tail[0 if len(tail) == 1 else -2]}
        finally:
            watch.cancel()
            child.kill()


def measure_all(todo: Sequence[Job], out: Path, resume: bool) -> list[dict[str, Any]]:
    """Run all jobs that the file does not have yet; return its records."""
    records = read(out) if resume else []
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {r["key"] for r in records if r.get("done")}
    started = time.perf_counter()
    with out.open("a" if resume else "w") as file:
        try:
            for number, job in enumerate(todo, 1):
                if job.key in done:
                    continue
                spent = time.perf_counter() - started
                print(f"[{number}/{len(todo)}, {spent:.0f} s] {job.family} {job.task} {job.way}", file=sys.stderr)
                for record in run(job):
                    records.append(record)
                    file.write(json.dumps(record) + "\n")
                file.write(json.dumps({"key": job.key, "done": True}) + "\n")
                file.flush()
        except KeyboardInterrupt:
            print(f"stopped; --resume --out {out} goes on from here", file=sys.stderr)
    return [r for r in records if "family" in r]


def read(out: Path) -> list[dict[str, Any]]:
    """Return the records of a file; a last line that was cut off is left out."""
    records = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def versions() -> str:
    """Return date, cores and versions."""
    found = [f"Python {sys.version.split()[0]}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    base = "the yardstick's core.py" if yardstick() else "benchmarks/baseline.py on generated tasks"
    return f"{date.today()}, {os.cpu_count()} cores, one thread a run; {', '.join(found)}; by hand: {base}"


def fill(page: Path, text: str) -> None:
    """Replace what a page has between its two markers.

    Raises
    ------
    SystemExit
        If it has no markers.
    """
    before, begin, rest = page.read_text().partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    if not end:
        sys.exit(f"{page} has no lines {_MARKS[0]} and {_MARKS[1]} to put the tables between")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
    print(f"tables written into {page}", file=sys.stderr)


def show(records: Sequence[dict[str, Any]], given: argparse.Namespace) -> None:
    """Print the result on standard output."""
    if given.into:
        fill(given.into, versions() + "\n\n" + "\n".join(map(markdown, tables(records))))
    elif given.json:
        print(json.dumps({"versions": versions(), "records": records}))
    elif given.markdown:
        print(versions() + "\n\n" + "\n".join(map(markdown, tables(records))))
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 150)
        for table in tables(records):
            console.print(table)
        console.print(versions(), style="dim")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="repeatable; default all")
    parser.add_argument("--tasks", action="append", help="part of task names; repeatable; default all")
    parser.add_argument("--ways", action="append", help="part of the names of ways; repeatable; default all")
    parser.add_argument("--limit", type=float, help="seconds of each solve: CPU (30), of `revenue` wall (60)")
    parser.add_argument("--repeat", type=int, help="runs of each measurement, the best counts")
    default = Path(tempfile.gettempdir()) / "nnembed-bench-results.jsonl"
    parser.add_argument("--out", type=Path, default=default, help=f"results as JSON lines ({default})")
    parser.add_argument("--resume", action="store_true", help="keep what --out has and go on")
    parser.add_argument("--report", action="store_true", help="measure nothing, print what --out has")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object on standard output")
    form.add_argument("--markdown", action="store_true", help="tables for a page")
    form.add_argument("--into", type=Path, metavar="PAGE", help="put them between the markers of a Markdown page")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run."""
    given = parse(arguments)
    todo = [] if given.report else list(jobs(given))
    if not todo and not given.report:
        sys.exit("nothing to measure: no task or way has such a name, or what the family needs is not installed")
    show(measure_all(todo, given.out, given.resume or given.report), given)


if __name__ == "__main__":
    main()
