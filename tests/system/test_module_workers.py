"""Every kind of network that people bring ends with the same bits for 0, 1 and 2 workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from battery_configs import NETWORKS, configure

import distmeta
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits_for_any_number_of_workers(name: str, tmp_path: Path) -> None:
    finals = []
    for workers in range(3):
        config = configure(name, "run.steps=2", "run.validate_every=1", f"cluster.workers={workers}")
        folder = tmp_path / str(workers)
        *_, last = distmeta.train(config, folder)
        assert last.validation is not None
        meta = checkpoint.load(Storage.at(folder / "checkpoints" / "step-00000002")).meta
        measured = json.loads((folder / "result.json").read_text())["meta_test"]
        finals.append((meta, last.validation, measured))
    meta, *measured = finals[0]
    for other, *same in finals[1:]:
        assert all(torch.equal(value, other[key]) for key, value in meta.items())
        assert same == measured
