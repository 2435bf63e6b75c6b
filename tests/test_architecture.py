"""Import directions, module sizes and lazy third-party imports, checked on the source text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "nnembed"
FILES = sorted(ROOT.rglob("*.py"))

# Lowest first; a module imports at run time only from its own line or from lines above it.
LAYERS = [
    {
        "lazy",
        "aliases",
        "errors",
        "keywords",
        "matrices",
        "features",
        "options",
        "tables",
        "events",
        "hooks",
        "parallel",
    },
    {"ir"},
    {"bounds.box", "fills", "block"},
    {"presolve", "problem", "rows", "ledger", "builder"},
    {"protocols"},
    {
        "bounds",
        "formulations",
        "lowerings",
        "heuristics",
        "backends",
        "hosts",
        "readers",
        "writers",
        "certificate",
        "surrogates",
    },
    {"hooks.specs", "hooks.builtin", "hooks.manager", "report", "result"},
    {"embedding", "reduction"},
    {"engine"},
    {"model", "testing", "demo", "cli"},
]
LAZY = {"onnx", "onnxruntime", "linopy", "highspy", "xarray", "rich", "matplotlib", "pandas", "pyomo", "typer"}
# Modules that are themselves imported on first use only.
MAY_IMPORT = {"model": {"linopy"}, "cli": {"typer", "rich"}, "demo": {"xarray"}, "__main__": set()}
FORBIDDEN = [  # (importer, imported): never, not even inside a function
    ("hosts", "ir"),
    ("backends", "ir"),
    ("hosts", "backends"),
    ("backends", "hosts"),
    ("formulations", "hosts"),
    ("formulations", "backends"),
    ("ir", "hosts"),
    ("ir", "backends"),
    ("block", "hosts"),
    ("block", "backends"),
]


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def imports(tree: ast.AST, *, inside_functions: bool) -> set[str]:
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.add(child.module)
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            walk(child)

    walk(tree)
    return found


def level(module: str) -> int | None:
    """Return the layer of the longest prefix that is named."""
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        name = ".".join(parts[:n])
        for i, layer in enumerate(LAYERS):
            if name in layer:
                return i
    return None


def own(modules: set[str]) -> set[str]:
    known = {dotted(f) for f in FILES}
    return {m.removeprefix("nnembed.") for m in modules if m.removeprefix("nnembed.") in known and m != "nnembed"}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_point_downwards(path):
    module = dotted(path)
    here = level(module)
    if here is None:
        assert module in ("", "__main__")
        return
    for other in own(imports(ast.parse(path.read_text()), inside_functions=False)):
        there = level(other)
        assert there is None or there <= here, f"{module} (layer {here}) imports {other} (layer {there})"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_forbidden_directions(path):
    module = dotted(path)
    seen = own(imports(ast.parse(path.read_text()), inside_functions=True))
    for importer, imported in FORBIDDEN:
        if module.split(".")[0] == importer:
            assert not [m for m in seen if m.split(".")[0] == imported], f"{module} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_only_orchestrators_touch_the_registry(path):
    module = dotted(path)
    if module.split(".")[0] in ("engine", "model", "testing", "cli", "hooks"):
        return
    assert "hooks.manager" not in own(imports(ast.parse(path.read_text()), inside_functions=True)), module


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_heavy_packages_are_imported_inside_functions(path):
    module = dotted(path)
    allowed = MAY_IMPORT.get(module.split(".")[0], set())
    if module.startswith("hosts.linopy_"):
        allowed = {"linopy", "xarray", "pandas"}
    if module.startswith("hosts.pyomo_"):
        allowed = {"pyomo"}
    top = {m.split(".")[0] for m in imports(ast.parse(path.read_text()), inside_functions=False)}
    assert not (top & LAZY) - allowed, module
    assert "scipy.optimize" not in imports(ast.parse(path.read_text()), inside_functions=False), module


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= 420, f"{dotted(path)} is too long"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno - (doc.count("\n") + 1 if doc else 0)
            assert length <= 60, f"{dotted(path)}.{node.name} has {length} lines"


def test_no_module_takes_a_dependencys_name():
    names = {p.stem for p in FILES} | {p.parent.name for p in FILES}
    assert not names & {"onnx", "numpy", "scipy", "pluggy", "highspy", "rich", "typer", "xarray"}
