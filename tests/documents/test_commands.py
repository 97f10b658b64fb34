"""Commands in the documents are of configurations and sweeps that are valid as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import distmeta
from distmeta.sweeps.sweep import load_sweep

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"distmeta (train|tune|plan|submit|data partition) (configs/.*)")


def commands() -> list[tuple[str, str]]:
    found = {
        match.groups()
        for page in PAGES
        for block in BLOCK.findall(page.read_text())
        for match in COMMAND.finditer(block)
    }
    return sorted(found)


@pytest.mark.parametrize(("verb", "rest"), commands())
def test_what_a_command_configures(verb: str, rest: str) -> None:
    config, *words = shlex.split(rest.rstrip('"'), comments=True)
    overrides = [word for word in words if re.match(r"[a-z][\w.]*=", word)]
    load = load_sweep if verb == "tune" else distmeta.load_config
    try:
        load(ROOT / config, overrides)
    except distmeta.DistmetaError as error:
        pytest.fail(f"distmeta {verb} {rest}: {error}")


def test_there_are_commands() -> None:
    assert len(commands()) > 15
