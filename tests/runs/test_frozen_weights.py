"""A network whose trunk is frozen: what is learned and sent is small, and the trunk lies beside checkpoints once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from integration_helpers import EVALUATION, RUN, assert_same, parameters, train

import distmeta
from distmeta.errors import StorageError
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage
from distmeta.storage.migrations import frozen_weights_apart

WIDTH = 600  # 600 x 600 float32 are 1.4 MB
LORA: dict[str, Any] = {
    "name": "lora",
    "tasks": {"kind": "sinusoid"},
    "model": {"kind": "mlp", "hidden": [WIDTH, WIDTH]},
    "algorithm": {"name": "lora", "rank": 2},
    "run": {**RUN, "steps": 6, "checkpoint_every": 2, "keep": 3},
    "evaluation": EVALUATION,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    train(folder, LORA)
    return folder


def test_meta_parameters_are_the_adapters_and_the_head() -> None:
    parts = Assembly(load_config(LORA))
    names = {name.removeprefix("model/"): value.numel() for name, value in parts.initial_meta().items()}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in names} == {"down", "up", "head"}
    assert sum(names.values()) == 2 * (1 + WIDTH) + 2 * (WIDTH + WIDTH) + WIDTH + 1
    assert sum(parts.network.state_dict(parts.network.parameters)[name].numel() for name in parts.frozen) > WIDTH**2


def test_the_trunk_is_there_once(run: Path) -> None:
    checkpoints = run / "checkpoints"
    steps = sorted(each.name for each in checkpoints.glob("step-*"))
    assert len(steps) == 3
    (beside,) = checkpoints.glob("frozen-*.safetensors")
    assert beside.stat().st_size > 4 * WIDTH**2
    assert all((checkpoints / step / "params.safetensors").stat().st_size < 100_000 for step in steps)


def test_it_is_loaded_evaluated_and_resumed(run: Path, tmp_path: Path) -> None:
    snapshot, _ = checkpoint.latest(Storage.at(run))
    assert snapshot is not None
    module = Assembly(load_config(LORA)).build()
    module.load_state_dict(snapshot.module_state)
    fresh = Assembly(load_config(LORA)).build().state_dict()
    assert torch.equal(module.state_dict()["body.2.layer.weight"], fresh["body.2.layer.weight"])
    assert distmeta.evaluate(run)["mse"]["tasks"] == 10
    x = torch.linspace(-5, 5, 10).unsqueeze(1)
    assert distmeta.load(run).adapt(x, x.sin()).predict(x).isfinite().all()
    train(tmp_path / "again", LORA, "run.steps=4")
    train(tmp_path / "again", LORA, resume=True)
    assert_same(parameters(tmp_path / "again", 6), parameters(run, 6))


def test_a_checkpoint_without_it_says_what_it_needs(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (beside,) = (copied / "checkpoints").glob("frozen-*")
    data = beside.read_bytes()
    step = copied / "checkpoints" / "step-00000006"
    beside.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StorageError, match=r"frozen-\w+\.safetensors is damaged: its content does not match"):
        distmeta.load(step)
    beside.unlink()
    with pytest.raises(StorageError, match=r"it is missing, and .*step-00000006 needs it: move both together"):
        distmeta.load(step)


def test_manifests_of_before_have_none() -> None:
    assert frozen_weights_apart({"step": 1}) == {"step": 1, "frozen": None}
