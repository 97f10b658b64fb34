"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import distmeta

SKIPPED = {"distmeta.workers.ray.actors"}  # its examples would start Ray
PACKAGE = Path(distmeta.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("distmeta", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
    if ">>> " in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", [name for name in WITH_EXAMPLES if name not in SKIPPED])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distmeta_cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTMETA_CACHE", str(distmeta_cache))  # put back, should an example set its own
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert len(WITH_EXAMPLES) > 100
