"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import distmeta

SKIPPED = {"distmeta.workers.ray.actors"}  # its examples would start Ray
MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(distmeta.__path__, "distmeta.")
    if name not in SKIPPED and not name.endswith("__main__")
)


@pytest.mark.parametrize("name", ["distmeta", *MODULES])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distmeta_cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTMETA_CACHE", str(distmeta_cache))  # put back, should an example set its own
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 15
