"""The benchmark runs on tasks of its own, and its tables say what the records say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch, tmp_path):
    """Make the scripts importable, without the yardstick and without the networks of others."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("NNEMBED_BENCH", str(tmp_path / "none"))
    monkeypatch.setenv("NNEMBED_DATA", str(tmp_path / "none"))
    return FOLDER


def run(folder, out, *arguments):
    command = [sys.executable, str(folder / "run.py"), "--out", str(out), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    return json.loads(done.stdout)["records"], done.stderr


def record(task, way, seconds, limit=10.0, **more):
    cpu = {"load": 1.0, "bounds": 0.25 * seconds, "solve": 0.75 * seconds}
    filled = {"status": "optimal", "objective": 2.0, "bound": 2.0, "nodes": 3, "residual": 1e-7, "over_mb": 5.0}
    return {"family": "solve", "task": task, "way": way, "limit": limit, "cpu": cpu, **filled, **more}


def test_generated_networks_are_what_they_say(benchmarks, monkeypatch, tmp_path):
    """The chain that is written evaluates as scikit-learn's layers do, and the hand-built bounds contain it."""
    np = pytest.importorskip("numpy")
    baseline, generate = pytest.importorskip("baseline"), pytest.importorskip("generate")
    rng = np.random.default_rng(1)
    layers = [(rng.normal(size=(6, 3)), rng.normal(size=6)), (rng.normal(size=(2, 6)), rng.normal(size=2))]
    generate.write_chain(tmp_path / "net.onnx", layers)
    found = baseline.read_chain(tmp_path / "net.onnx")
    box = np.full(3, -1.0), np.full(3, 1.0)
    points = rng.uniform(*box, (500, 3))
    hidden = points @ found[0][0].T + found[0][1]
    outputs = np.maximum(hidden, 0) @ found[1][0].T + found[1][1]
    pre = baseline.crown(found, box)
    for (low, high), values in zip(pre, (hidden, outputs), strict=True):
        assert (values >= low - 1e-9).all() and (values <= high + 1e-9).all()
    np.testing.assert_allclose(found[0][0], layers[0][0], rtol=1e-6)


def test_ratios_count_the_limit_for_what_is_not_proved(benchmarks):
    import report

    stopped = {"status": "stopped", "bound": 3.0}
    records = [
        record("a", "nnembed", 1.0),
        record("a", "hand:slack", 4.0),
        record("b", "nnembed", 2.0),
        record("b", "hand:slack", 12.0, **stopped),  # overshot its limit of 10
        record("c", "nnembed", 11.0, **stopped),
        record("c", "hand:slack", 11.0, objective=None, **stopped),
    ]
    kept = report.best(records)
    assert report.ratio(kept, "a", "nnembed", "hand:slack") == pytest.approx(0.25)
    assert report.ratio(kept, "b", "nnembed", "hand:slack") == pytest.approx(0.2)
    assert report.ratio(kept, "c", "nnembed", "hand:slack") is None
    assert report.cell(kept["b", "hand:slack"]) == ">10 (gap 50%)"
    assert report.cell({**kept["c", "hand:slack"], "objective": None}) == ">10 (no point)"
    text = "\n".join(map(report.markdown, report.tables(records)))
    assert "| hand:slack | 2 | 0.224 |" in text


def test_best_repeat_and_errors(benchmarks):
    import report

    records = [record("a", "x", 3.0), record("a", "x", 1.0), {**record("a", "x", 2.0), "error": "no"}]
    assert report.whole(report.best(records)["a", "x"]) == pytest.approx(1.0)
    assert report.cell({"error": "no"}) == "fails"
    assert report.disagreement(report.best([record("a", "x", 1.0), record("a", "y", 1.0, objective=3.0)]), records[:1])


def test_batch_runs_and_is_reported(benchmarks, tmp_path):
    """The family runs without any tasks, and its table is printed from the file again."""
    out = tmp_path / "results.jsonl"
    records, _ = run(benchmarks, out, "--family", "batch", "--tasks", "2", "--ways", "arrays", "--repeat", "1")
    (only,) = records
    assert (only["task"], only["way"]) == ("2", "nnembed:arrays") and "error" not in only
    assert set(only["cpu"]) == {"bounds", "build", "attach"} and only["rows"] > 0
    again, said = run(benchmarks, out, "--report")
    assert again == records and not said
    import report

    text = "\n".join(map(report.markdown, report.tables(records)))
    assert "| nnembed:arrays | 2 |" in text


def test_tables_of_the_families_on_hosts_and_solvers(benchmarks):
    """Ratios are to OMLT and to the hand-built SCIP, a failure is a row, and what has no point has no gap."""
    import report

    sizes = {"rows": 3, "columns": 4, "nonzeros": 5000}
    records = [
        {**record("net", "nnembed:overlay", 1.0), "family": "pyomo", **sizes},
        {**record("net", "omlt", 50.0), "family": "pyomo"},
        {"family": "pyomo", "task": "net", "way": "nnembed:attach", "limit": 0.0, "error": "no"},
        {**record("a", "nnembed", 1.0), "family": "scip"},
        {**record("a", "hand:two_row", 2.0), "family": "scip"},
        {**record("5", "nnembed", 7.0, limit=60.0, gap=0.004, today=1.0, wall={"solve": 7.5}), "family": "revenue"},
        {"family": "batch", "task": "2", "way": "nnembed:model", "limit": 0.0, "error": "no"},
    ]
    blank = {"objective": None, "bound": None, "gap": None, "status": "time_limit"}
    records.append({**records[5], **blank, "task": "20"})
    del records[-1]["residual"]
    found = report.tables(records)
    assert all(len(row) == len(table.columns) for table in found for row in table.rows)
    text = "\n".join(map(report.markdown, found))
    assert "0.020" in text and "| hand:two_row | 1 | 0.5 |" in text and "| 5 % | optimal |" in text
    assert "| 20 % | time_limit | 1.0 |  |  |  | 7.5 | 7.0 |  |" in text


@pytest.mark.slow
def test_runs_and_resumes(benchmarks, monkeypatch, tmp_path):
    """Small tasks are trained, measured against the hand-built way, and a second run measures nothing again."""
    pytest.importorskip("sklearn")
    monkeypatch.setenv("NNEMBED_BENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "results.jsonl"
    arguments = ["--family", "solve", "--family", "crown", "--tasks", "digits", "--ways", "nnembed", "--ways", "slack"]
    records, _ = run(benchmarks, out, *arguments, "--limit", "20")
    solved = [r for r in records if r["family"] == "solve"]
    assert {r["way"] for r in solved} == {"nnembed", "hand:slack", "hand:slack+start"}
    assert all(r["status"] == "optimal" and r["residual"] < 1e-5 for r in solved)
    for task in {r["task"] for r in solved}:
        values = [r["objective"] for r in solved if r["task"] == task]
        assert max(values) - min(values) <= 1e-3 * (1 + abs(values[0]))
    bounds = [r for r in records if r["family"] == "crown"]
    assert bounds and all(r["unstable"] <= r["unstable_hand"] for r in bounds)
    again, said = run(benchmarks, out, *arguments, "--limit", "20", "--resume")
    assert len(again) == len(records) and "] solve" not in said


@pytest.mark.slow
def test_loading_and_import(benchmarks, monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("NNEMBED_BENCH_CACHE", str(tmp_path / "cache"))
    records, _ = run(benchmarks, tmp_path / "r.jsonl", "--family", "load", "--family", "import", "--repeat", "1")
    assert {r["status"] for r in records if r["family"] == "load"} == {"read"}
    own = next(r for r in records if r["way"] == "nnembed" and r["family"] == "import")
    assert own["cpu"]["import"] < 0.3 and not own["forbidden"]
