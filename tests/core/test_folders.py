"""The package's folders show its architecture: what is imported stands above, and every file and function is short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import distmeta

PACKAGE = Path(distmeta.__file__).parent
FOLDERS = (
    "version",
    "core",
    "errors",
    "config",
    "storage",
    "data",
    "objectives",
    "tasks",
    "models",
    "adaptations",
    "estimators",
    "outer",
    "origins",
    "trust",
    "algorithms",
    "compatibility",
    "loading",
    "functional/kernels",
    "functional",
    "programs/engine",
    "programs",
    "workers",
    "workers/ray",
    "runs",
    "sweeps",
    "sweeps/tune",
    "jobs",
    "serving",
    "cli",
)
"""Folders, and single files beside them, in the order in which they may import one another: from above."""

RAY = ("workers/ray", "sweeps/tune", "jobs", "serving")
"""The folders that import Ray."""

LINES = 400
"""Of a file."""

STATEMENT_LINES = 60
"""Of a function."""


def modules() -> dict[str, Path]:
    """Every module of the package but its outermost one, which gives names from everywhere, lazily."""
    files = {
        ".".join(("distmeta", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }
    return {name: file for name, file in files.items() if name not in ("distmeta", "distmeta.__main__")}


MODULES = modules()


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every module of the package that a file imports, lazily and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            known = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
            found = next((each for each in known if each in MODULES), None)
            if found is not None:
                yield node.lineno, found


def rank(module: str) -> int:
    """The place of a module's folder in :data:`FOLDERS`."""
    path = module.removeprefix("distmeta.").replace(".", "/")
    found = [folder for folder in FOLDERS if f"{path}/".startswith(f"{folder}/")]
    assert found, f"{module} lies in no folder of the list"
    return FOLDERS.index(max(found, key=len))


def test_imports_come_from_above() -> None:
    back = [
        f"{file.relative_to(PACKAGE)}:{line} imports {name}"
        for module, file in MODULES.items()
        for line, name in imports(file)
        if rank(name) > rank(module)
    ]
    assert back == []


def test_ray_is_imported_in_its_folders_alone() -> None:
    found = {
        str(file.relative_to(PACKAGE))
        for file in MODULES.values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
        if name.partition(".")[0] == "ray"
    }
    assert [file for file in sorted(found) if not file.startswith(tuple(f"{folder}/" for folder in RAY))] == []
    assert {folder for folder in RAY if any(file.startswith(f"{folder}/") for file in found)} == set(RAY)


def test_there_is_no_circle() -> None:
    graph = {name: {other for _, other in imports(file)} - {name} for name, file in MODULES.items()}
    for name, file in MODULES.items():  # to import a module of a package is to import the package first
        if file.name == "__init__.py":
            graph[name] -= {other for other in graph[name] if other.startswith(f"{name}.")}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_files_and_functions_are_short() -> None:
    texts = {file.relative_to(PACKAGE): file.read_text() for file in MODULES.values()}
    assert [file for file, text in texts.items() if text.count("\n") > LINES] == []
    long = [
        f"{file}:{node.lineno} {node.name}"
        for file, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno >= STATEMENT_LINES
    ]
    assert long == []


def public_names(file: Path) -> Iterator[str]:
    """The classes, constants and type aliases that a module defines for others."""
    for node in ast.parse(file.read_text()).body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.Assign):
            targets = [each for target in node.targets for each in getattr(target, "elts", [target])]
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name) and target.id[0].isupper())


def test_one_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {}
    for module, file in MODULES.items():
        for name in public_names(file):
            homes.setdefault(name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
