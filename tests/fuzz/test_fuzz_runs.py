"""Runs whose files were changed: evaluating, loading and resuming them works or is refused, and loses nothing."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from fuzz_checkpoints import (
    files_of,
    manifest_of,
    saved,
    sealed,
    small_checkpoint,
    small_config,
    small_run,
    state_of,
    write,
)
from fuzz_helpers import fuzz, mutated, plain_values, refusal
from hypothesis import strategies as st

import distmeta
from distmeta import checkpoint
from distmeta.storage import Storage

STEP = "checkpoints/step-00000002/"


def states() -> st.SearchStrategy[Any]:
    moments = st.sampled_from([torch.zeros(3), torch.zeros(2).double(), torch.tensor(1), torch.zeros(10)])
    return st.deferred(lambda: mutated([state_of(small_checkpoint())], plain_values() | moments, most=2))


def manifests() -> st.SearchStrategy[Any]:
    return st.deferred(lambda: mutated([manifest_of(small_checkpoint())], plain_values(), most=2))


@st.composite
def changed_checkpoints(draw: st.DrawFn) -> dict[str, bytes]:
    """A checkpoint with other values and the right hashes."""
    files = dict(small_checkpoint())
    if draw(st.booleans()):
        files["state.pt"] = saved(draw(states()))
        return sealed(files)
    try:
        return sealed(files, draw(manifests()))
    except TypeError:  # keys that cannot be sorted: no manifest
        return files


def is_whole(run: Path) -> None:
    """No file is half-written, and what is a checkpoint can be read."""
    assert not [path for path in run.rglob("*") if ".partial-" in path.name or path.suffix == ".tmp"]
    for line in (run / "metrics.jsonl").read_bytes().splitlines():
        json.loads(line)


@fuzz(20, 300, files=changed_checkpoints())
def test_changed_checkpoints_are_evaluated_or_refused(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = write(Path(folder), files)
        refusal(lambda: distmeta.evaluate(place))
        refusal(lambda: distmeta.load(place).adapt(torch.zeros(2, 1), torch.zeros(2, 1)).predict(torch.zeros(3, 1)))
        assert files_of(place) == files


@fuzz(20, 300, files=changed_checkpoints())
def test_changed_checkpoints_are_resumed_or_refused(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder), {**small_run(), **{STEP + name: data for name, data in files.items()}})
        error = refusal(lambda: list(distmeta.train(small_config("run.steps=3"), run, resume=True)))
        if error is None:
            assert checkpoint.load(Storage.at(run / "checkpoints" / "step-00000003")).step == 3
            assert json.loads((run / "result.json").read_bytes())["steps"] == 3
        is_whole(run)
