"""Storage of every kind, and what may be kept there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from storage_helpers import remote

from distmeta.config.migrations import CONFIG_MIGRATIONS, newest
from distmeta.runs.checkpoint import Snapshot
from distmeta.storage.files import Storage


@pytest.fixture
def make_snapshot() -> Callable[..., Snapshot]:
    return snapshot_of


def snapshot_of(step: int, best: int | None = None, size: int = 1000, **changes: object) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(size, generator=generator)
    values = {
        "step": step,
        "tasks": step * 4,
        "meta": {"model/weight": weight, "rates/weight": torch.rand(3, generator=generator)},
        "module_state": {"weight": weight, "running": torch.rand(2, generator=generator)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight * 2}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "params": [0]}],
        },
        "best": None if best is None else {"step": best, "metric": "accuracy", "value": 0.1 + 0.2},
        "counters": {"workers_lost": 1},
        "config": {"schema": newest(CONFIG_MIGRATIONS), "seed": 3, "outer": {"lr": 1e-3}},
        "plan": {"chunk": 4, "notes": ["a note"]},
        "fingerprint": {"device": "cpu"},
        "seconds": 1.1 * step,
        "finished": False,
    }
    return Snapshot(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["local", "file-uri", "mock", "fsspec-memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage.at(tmp_path / "run")
    if request.param == "file-uri":
        return Storage.at(f"file://{tmp_path}/run")
    return remote(request.param)


@pytest.fixture(params=["mock", "fsspec-memory"])
def remote_storage(request: pytest.FixtureRequest) -> Storage:
    return remote(request.param)
