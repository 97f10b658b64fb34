"""Runs of a network of the user's own, and the folder in which the user works, for the tests of trust and identity."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from distmeta.runs import checkpoint
from distmeta.storage.files import Storage

NET = """
import functools, os
from torch import nn
from own_helper import width

partial_system = functools.partial(os.system)

def make(input_shape, outputs):
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, outputs))
"""
HELPER = "width = 3\n"
OWN = "module:own_net.make"

SMALL: dict[str, Any] = {
    "name": "small",
    "tasks": {"kind": "sinusoid", "shots": 3, "queries": 3},
    "model": {"kind": "mlp", "hidden": [3]},
    "algorithm": {"name": "maml"},
    "run": {"steps": 4, "meta_batch": 2, "checkpoint_every": 2, "log_every": 1},
    "evaluation": {"tasks": 2},
}
OWN_SMALL = {**SMALL, "model": {"kind": OWN}}


def write_own(folder: Path) -> None:
    """The user's code, in a folder."""
    (folder / "own_net.py").write_text(NET)
    (folder / "own_helper.py").write_text(HELPER)


def forget() -> None:
    """As a new process that has imported none of the user's code."""
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("own_")]:
        del sys.modules[name]


@contextmanager
def new_process() -> Iterator[None]:
    """Whatever is imported of the user's code is imported anew, and forgotten afterwards."""
    forget()
    try:
        yield
    finally:
        forget()


def forge(run: Path, model: dict[str, Any], code: dict[str, str]) -> Path:
    """Make a run's checkpoints name other code, as whoever sends them can: with hashes that are right."""
    storage = Storage.at(run)
    for step in checkpoint.steps(storage):
        found = checkpoint.load(storage.child("checkpoints", f"step-{step:08d}"))
        config = {**found.config, "model": model}
        checkpoint.save(storage, replace(found, config=config, identity={"data": {}, "code": code, "frozen": {}}))
    return run


def manifest(run: Path) -> dict[str, Any]:
    """Of the newest checkpoint."""
    newest = max((run / "checkpoints").iterdir())
    content: dict[str, Any] = json.loads((newest / "manifest.json").read_text())
    return content
