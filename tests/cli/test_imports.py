"""What importing costs, and where Ray is known."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

import distmeta
from distmeta import adaptations, estimators, models, tasks

PACKAGE = Path(distmeta.__file__).parent
KNOW_RAY = ("workers/ray/", "sweeps/tune/", "jobs/", "serving/")
"""Folders that may import Ray."""

SLOW = {"torch", "ray", "pyarrow", "numpy", "scipy", "pandas", "matplotlib"}
"""Packages that take long to import."""

COMMANDS = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from distmeta.cli.main import app
for arguments in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        code = app(arguments, standalone_mode=False)
    print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules}), said.getvalue()]))
"""

HELP = [
    [],
    *([name] for name in ("train", "evaluate", "plan", "list", "submit", "jobs", "logs", "stop", "tune", "data")),
    ["data", "build"],
]
CONFIG = "tasks: {kind: glyphs}\nmodel: {kind: conv4}\nalgorithm: {name: maml}\n"


REGISTRIES = ("tasks", "models", "algorithms")
REFUSING = ("train", "plan", "submit", "tune")
REFUSED = {
    "unknown key": ("run.stepps=1", "there is no such setting"),
    "wrong value": ("model.filters=none", "model.filters"),
    "wrong together": ("algorithm={name: reptile, adapt: head}", "displacement"),
    "missing file": ("", "missing.yaml"),
}

Known = Callable[..., tuple[int, set[str], str]]


def imported(commands: Iterable[Sequence[str]]) -> Known:
    """For each command, run in one process one after the other: its exit code, all packages by then, what it says."""
    commands = [tuple(command) for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    found = dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))

    def known(*command: str) -> tuple[int, set[str], str]:
        code, packages, said = found[command]
        return code or 0, set(packages), said

    return known


@pytest.fixture(scope="module")
def told() -> Known:
    return imported([*([*command, "--help"] for command in HELP), *(["list", name] for name in REGISTRIES)])


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_imports_nothing_slow(command: list[str], told: Known) -> None:
    code, packages, _ = told(*command, "--help")
    assert (code, packages & SLOW) == (0, set())


@pytest.mark.parametrize("registry", REGISTRIES)
def test_lists_import_nothing_slow(registry: str, told: Known) -> None:
    code, packages, _ = told("list", registry)
    assert (code, packages & SLOW) == (0, set())


def arguments(folder: Path, command: str, override: str) -> list[str]:
    file = folder / ("sweep.yaml" if command == "tune" else "config.yaml")
    return [command, str(file), override] if override else [command, str(folder / "missing.yaml")]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Known]:
    """The folder of the configurations, and what became of each command."""
    folder = tmp_path_factory.mktemp("refused")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    (folder / "sweep.yaml").write_text(
        f"name: a\nbase: {config}\nsettings: {{run.validate_every: 9}}\nspace: {{outer.lr: {{choice: [0.1, 0.2]}}}}\n"
    )
    each = (arguments(folder, command, override) for command in REFUSING for override, _ in REFUSED.values())
    return folder, imported(each)


@pytest.mark.parametrize("command", REFUSING)
@pytest.mark.parametrize(("override", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals_import_nothing_slow(command: str, override: str, said: str, refused: tuple[Path, Known]) -> None:
    folder, known = refused
    code, packages, words = known(*arguments(folder, command, override))
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
