"""What importing costs, and where Ray is known."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import distmeta

PACKAGE = Path(distmeta.__file__).parent
RAY_MODULES = ("actors", "cluster", "crew", "internals", "metrics", "private", "worker")
KNOW_RAY = {f"transports/ray_{name}.py" for name in RAY_MODULES} | {
    "sweep.py",
    "sweep_internals.py",
    "sweep_schedulers.py",
    "sweep_watch.py",
    "submit.py",
}

MEASURE = """
import json, sys, time
import torch
began = time.process_time()
import distmeta
print(json.dumps([time.process_time() - began, sorted(sys.modules)]))
"""


def test_import_is_quick_and_without_ray() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    assert [name for name in modules if name.partition(".")[0] == "ray"] == []
    assert seconds < 1


def test_ray_is_imported_where_it_belongs() -> None:
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if "ray" in {name.partition(".")[0] for name in imports(file)}
    }
    assert "transports/ray_actors.py" in found
    assert found <= KNOW_RAY


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
