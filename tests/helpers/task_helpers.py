from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from distmeta.core.records import SPLITS, TaskBatch
from distmeta.tasks.base import Episode


def table_file() -> str:
    """A small table of 60 tasks, a line each, 24 rows of it."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rows = [f"{task},{row / 7},{task * row / 7 + 1}" for task in range(60) for row in range(24)]
    path = Path(folder) / "lines.csv"
    path.write_text("\n".join(["task,x,y", *rows]))
    return str(path)


NEEDED: dict[str, dict[str, Any]] = {
    "text": {"root": "texts.csv"},
    "images": {"root": "/data/some", "size": 32},
    "table": {"path": table_file(), "task": "task", "target": "y"},
    "gymnasium": {"environment": "module:users_environments.Line"},
    "unlabelled": {"source": {"kind": "glyphs"}, "augment": {"rotation": 20, "shift": 3}},
}
"""Settings that a family cannot do without, by its kind."""

ARCHIVES = ("images_background.zip", "images_evaluation.zip")


def episodes(ways: int | None = 5, shots: int = 1, queries: int = 15, seed: int = 0, held_out: int = 0):
    train = Episode(shots, queries, seed, ways)
    other = Episode(shots, queries, held_out, ways)
    return {split: train if split == "train" else other for split in SPLITS}


def flat(batch: TaskBatch) -> torch.Tensor:
    """Everything in a batch, a row a task."""
    parts = [batch.support["x"], batch.support["y"], batch.query["x"], batch.query["y"]]
    return torch.cat([part.flatten(1).to(torch.float64) for part in parts], dim=1)
