"""What importing costs, and where Ray is known."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import distmeta
from distmeta import adaptations, estimators, models, tasks

PACKAGE = Path(distmeta.__file__).parent
KNOW_RAY = ("workers/ray/", "sweeps/tune/", "jobs/")
"""Folders that may import Ray."""

SLOW = {"torch", "ray", "pyarrow", "numpy", "scipy", "pandas", "matplotlib"}
"""Packages that take long to import."""

COMMAND = """
import json, sys
from distmeta.cli.main import app
code = app(sys.argv[1:], standalone_mode=False)
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""

HELP = [
    [],
    *([name] for name in ("train", "evaluate", "plan", "list", "submit", "jobs", "logs", "stop", "tune", "data")),
    ["data", "build"],
]
CONFIG = "tasks: {kind: glyphs}\nmodel: {kind: conv4}\nalgorithm: {name: maml}\n"


def imported(*arguments: str) -> tuple[int, set[str], str]:
    """What a command exits with, the packages that it has imported by then, and what it says."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=True)
    *said, last = done.stderr.splitlines()
    code, packages = json.loads(last)
    return code or 0, set(packages), "\n".join(said)


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_imports_nothing_slow(command: list[str]) -> None:
    code, packages, _ = imported(*command, "--help")
    assert (code, packages & SLOW) == (0, set())


@pytest.mark.parametrize("registry", ["tasks", "models", "algorithms"])
def test_lists_import_nothing_slow(registry: str) -> None:
    code, packages, _ = imported("list", registry)
    assert (code, packages & SLOW) == (0, set())


@pytest.mark.parametrize("command", ["train", "plan", "submit", "tune"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.stepps=1", "there is no such setting"),
        ("model.filters=none", "model.filters"),
        ("algorithm={name: reptile, adapt: head}", "displacement"),
        ("", "missing.yaml"),
    ],
    ids=["unknown key", "wrong value", "wrong together", "missing file"],
)
def test_refusals_import_nothing_slow(command: str, override: str, said: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"name: a\nbase: {config}\nsettings: {{run.validate_every: 9}}\nspace: {{outer.lr: {{choice: [0.1, 0.2]}}}}\n"
    )
    file = sweep if command == "tune" else config
    arguments = [str(file), override] if override else [str(tmp_path / "missing.yaml")]
    code, packages, words = imported(command, *arguments)
    assert code == 2
    assert said in words
    assert packages & {"torch", "ray", "scipy", "pandas", "matplotlib"} == set()


def test_python_imports_without_torch_and_ray() -> None:
    code = "import json, sys, distmeta; distmeta.load_config; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "ray"} & set(json.loads(done.stdout)) == set()


def test_names_are_what_their_modules_have() -> None:
    for package in (distmeta, adaptations, estimators, models, tasks):
        for name in package.__all__:
            assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        distmeta.trian  # type: ignore[attr-defined]  # noqa: B018


def test_ray_is_imported_where_it_belongs() -> None:
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if "ray" in {name.partition(".")[0] for name in imports(file)}
    }
    assert "workers/ray/actors.py" in found
    assert [file for file in sorted(found) if not file.startswith(KNOW_RAY)] == []


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
