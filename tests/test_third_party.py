"""The example plugins as a third party would have them: installed, listed, put through the kit, solved with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "examples" / "plugins"
NAMES = ("nnembed-zhat", "nnembed-scipy")
SOLVE = """
import json
import nnembed as nn
from nnembed.testing import enumerate_optimum, random_network

net = random_network(4)
box = [-1.0, -1.0], [1.0, 1.0]
result = nn.maximize(net, box, formulation="hat", backend="scipy", gap=0.0)
chosen = {line.formulation for line in result.plan[0].lines}
want = enumerate_optimum(net, *box, [1.0])
print(json.dumps([result.status, result.objective, want, sorted(chosen), result.certificate.ok]))
"""


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    found = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, f"{' '.join(command)}\n{found.stdout}\n{found.stderr}"
    return found.stdout


def listed(python: str, environment: dict[str, str], folder: Path) -> dict:
    """What `nnembed plugins` says about the two."""
    report = json.loads(run([python, "-m", "nnembed", "plugins", "--json"], environment, folder))
    assert report["problems"] == []
    every = [(point, e) for point, entries in report["extension_points"].items() for e in entries]
    return {(point, e["name"]): e for point, e in every if e["distribution"] in NAMES}


def check_all(python: str, environment: dict[str, str], folder: Path) -> None:
    """Look at the list, solve with both."""
    found = listed(python, environment, folder)
    assert set(found) == {("formulation", "hat"), ("backend", "scipy")}
    assert found["backend", "scipy"]["distribution"] == "nnembed-scipy"
    assert found["backend", "scipy"]["available"] is True
    status, objective, want, chosen, certified = json.loads(run([python, "-c", SOLVE], environment, folder))
    assert (status, chosen, certified) == ("optimal", ["hat"], True)
    assert objective == pytest.approx(want, abs=1e-6)


def run_kit(python: str, environment: dict[str, str], folder: Path) -> str:
    tests = [str(PLUGINS / name / "tests") for name in NAMES]
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    return run([python, "-m", "pytest", *options, *tests], environment, folder)


def environment(*paths: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NNEMBED_DISABLE_PLUGINS")}
    return {**clean, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The packages as an installer would lay them out, without running one: quick, and works offline."""
    target = tmp_path_factory.mktemp("site")
    for name in NAMES:
        project = tomllib.loads((PLUGINS / name / "pyproject.toml").read_text())
        package = project["tool"]["setuptools"]["packages"][0]
        shutil.copytree(PLUGINS / name / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
        information = target / f"{package}-{project['project']['version']}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        entries = project["project"]["entry-points"]["nnembed"].items()
        (information / "entry_points.txt").write_text("[nnembed]\n" + "\n".join(f"{k} = {v}" for k, v in entries))
    return target


def test_listed_and_solved_with(unpacked, tmp_path):
    check_all(sys.executable, environment(unpacked, ROOT), tmp_path)


def test_the_kit_passes(unpacked, tmp_path):
    assert " passed" in run_kit(sys.executable, environment(unpacked, ROOT), tmp_path)


def test_left_out_on_purpose(unpacked, tmp_path):
    quiet = {**environment(unpacked, ROOT), "NNEMBED_DISABLE_PLUGINS": "nnembed-zhat"}
    assert set(listed(sys.executable, quiet, tmp_path)) == {("backend", "scipy")}


@pytest.mark.slow
def test_installed_into_a_fresh_environment(tmp_path):
    """pip builds and installs both; everything else is borrowed from the environment of the tests."""
    fresh = tmp_path / "fresh"
    run([sys.executable, "-m", "venv", "--without-pip", str(fresh)], dict(os.environ), tmp_path)
    python = fresh / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(
        run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], dict(os.environ), tmp_path
        ).strip()
    )
    borrowed = sysconfig.get_path("purelib")
    (site / "borrowed.pth").write_text(f"{ROOT}\nimport site; site.addsitedir({borrowed!r})\n")
    sources = [str(shutil.copytree(PLUGINS / name, tmp_path / name)) for name in NAMES]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", *sources]
    pip = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if pip.returncode and "No matching distribution found for setuptools" in pip.stderr:
        pytest.skip("no package index to build with")
    assert pip.returncode == 0, pip.stderr
    check_all(str(python), environment(), tmp_path)
    assert " passed" in run_kit(str(python), environment(), tmp_path)
