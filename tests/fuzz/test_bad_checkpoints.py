"""Checkpoints whose hashes are right and whose values are not: one test for each kind that was found."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_checkpoints import (
    load,
    manifest_of,
    saved,
    sealed,
    small_checkpoint,
    small_config,
    small_run,
    state_of,
    write,
)

import distmeta
from distmeta.errors import StorageError
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage

STEP = "checkpoints/step-00000002/"
HUGE = torch.zeros(1).expand(10**12)
LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step: input should be greater than or equal to 0, got -1"),
        ({"step": 2**70}, "step: "),
        ({"step": "2"}, "step: input should be a valid integer, got '2'"),
        ({"step": 1}, "state.pt is damaged: step is 2, but 1 in manifest.json"),
        ({"schema": "x"}, "schema: expected the number of a version, from 1 to 3, got 'x'"),
        ({"schema": None}, "schema: expected the number of a version"),
        ({"schema": True}, "schema: expected the number of a version"),
        ({"schema": 0}, "schema: expected the number of a version"),
        (
            {"schema": 1, "plan": {"mapped": True, "running": "mapped"}},
            r"plan.mapped: this setting is called",
        ),
        ({"schema": 1, "plan": {"mapped": "x"}}, r"plan.running: "),
        ({"plan": {"mapped": True}}, r"plan.mapped: there is no such value"),
        ({"identity": None}, r"identity: input should be"),
        ({"files": []}, "files: input should be a valid dictionary"),
        ({"files": {}}, r"files: expected params.safetensors, state.pt"),
        ({"best": {"step": 1}}, r"best.metric: field required"),
        ({"best": [1]}, "best: input should be"),
        ({"config": None}, "config: input should be a valid dictionary"),
        ({"config": {"schema": "x"}}, "damaged: config.schema: expected the number of a version"),
        ({"config": {"schema": 99}}, r"newer format \(config.schema 99, and this version .* reads up to \d\)"),
        ({"plan": {"chunk": 0}}, r"plan.chunk: Input should be greater than 0"),
        ({"plan": {"chunk": "many"}}, r"plan.chunk: "),
        ({"plan": {"layers": "fast"}}, r"plan.layers: Input should be 'native', 'products' or 'general'"),
        ({"plan": {"speed": 1}}, r"plan.speed: there is no such value"),
        ({"fingerprint": 7}, "fingerprint: input should be a valid dictionary"),
    ],
)
def test_wrong_values_in_the_manifest(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StorageError, match=message):
        load(sealed(small_checkpoint(), {**manifest_of(small_checkpoint()), **change}))


def test_a_file_elsewhere(tmp_path: Path) -> None:
    """Names in the manifest lead nowhere but to the checkpoint's own files."""
    manifest = manifest_of(small_checkpoint())
    manifest["files"]["../../secret"] = {"size": 6, "sha256": "0" * 64}
    (tmp_path / "secret").write_text("secret")
    place = write(tmp_path / "checkpoints" / "step-00000002", sealed(small_checkpoint(), manifest))
    with pytest.raises(StorageError, match=r"files: expected params\.safetensors"):
        checkpoint.load(Storage.at(place))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"sha256": ' * 50_000, "[]", "null", '{"sha256": 1e999}', "\ufeff{}"])
def test_manifests_that_are_none(text: str) -> None:
    with pytest.raises(StorageError, match=r"manifest\.json is damaged"):
        load({**small_checkpoint(), "manifest.json": text.encode()})


def test_a_newer_format_of_another_shape() -> None:
    with pytest.raises(StorageError, match=r"newer format \(schema 99, .* up to 3\); .* by distmeta unknown: "):
        load(sealed(small_checkpoint(), {"schema": 99}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"model/x": HUGE}}, "a tensor that is not written out in full"),
        ({"meta": {"model/x": torch.zeros(3, device="meta")}}, "something else than tensors and plain values"),
        ({"meta": {"model/x": torch.zeros(3).to_sparse()}}, "something else than tensors and plain values"),
        ({"meta": {"model/x": torch.nn.Parameter(torch.ones(1))}}, "something else than tensors and plain values"),
        ({"meta": {"model/body.0.weight": torch.zeros(2)}}, "meta-parameters stand in several files"),
        ({"meta_in_params": ["model/nowhere"]}, r"'model/nowhere' is missing in params\.safetensors"),
        ({"meta_in_params": ["../x"]}, r"'\.\./x' is missing"),
        ({"meta_in_params": [], "meta": {}}, None),
        ({"optimizer": OrderedDict()}, "something else than tensors and plain values"),
        ({"optimizer": bytearray(2**20)}, "it names 'builtins bytearray'|it names '__builtin__ bytearray'"),
        ({"optimizer": {"state": LOOP}}, "nested more than 64 deep"),
        ({"seconds": float("nan")}, "seconds: input should be a finite number"),
        ({"seconds": -1.0}, "seconds: input should be greater than or equal to 0"),
        ({"counters": {"steps_skipped": "1"}}, r"counters.steps_skipped: input should be a valid integer"),
        ({"tasks": 2**80}, "tasks: "),
        ({"finished": 1}, "finished: input should be a valid boolean"),
    ],
)
def test_wrong_values_in_the_state(change: dict[str, Any], message: str | None) -> None:
    files = sealed({**small_checkpoint(), "state.pt": saved({**state_of(small_checkpoint()), **change})})
    if message is None:  # the rates alone: a checkpoint, but of another model
        assert set(load(files).meta) == {name for name in load(small_checkpoint()).meta if name.startswith("rates/")}
        return
    with pytest.raises(StorageError, match=message) as caught:
        load(files)
    assert "state.pt is damaged" in str(caught.value)


def test_a_state_that_is_compressed() -> None:
    """It could unpack to anything."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(small_checkpoint()["state.pt"])) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(StorageError, match=r"state\.pt is damaged: .* \(it is compressed\)"):
        load(sealed({**small_checkpoint(), "state.pt": packed.getvalue()}))


@pytest.mark.parametrize("dtype", ["F4", "X", "", 7, None])
def test_tensors_of_no_type(dtype: Any) -> None:
    data = small_checkpoint()["params.safetensors"]
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header["head.bias"]["dtype"] = dtype
    text = json.dumps(header).encode()
    changed = struct.pack("<Q", len(text)) + text + data[8 + size :]
    with pytest.raises(StorageError, match=r"params\.safetensors is damaged: it is no safetensors file"):
        load(sealed({**small_checkpoint(), "params.safetensors": changed}))


# What does not fit the run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {}}, "optimizer state is not that of outer.optimizer = adam"),
        ({"optimizer": {"state": {0: {}}, "param_groups": []}}, "optimizer state is not that of"),
        ({"optimizer": {"state": {7: {}}, "param_groups": []}}, "optimizer state is not that of"),
        ({"meta_in_params": []}, r"meta-parameter model/body\.0\.bias is absent, but should be of shape \[3\]"),
    ],
)
def test_what_does_not_fit_the_run(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    files = sealed({**small_checkpoint(), "state.pt": saved({**state_of(small_checkpoint()), **change})})
    run = write(tmp_path, {**small_run(), **{STEP + name: data for name, data in files.items()}})
    with pytest.raises(StorageError, match=message):
        list(distmeta.train(small_config("run.steps=3"), run, resume=True))
    assert checkpoint.steps(Storage.at(run)) == [1, 2]


def test_moments_of_another_shape(tmp_path: Path) -> None:
    state = state_of(small_checkpoint())
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    files = sealed({**small_checkpoint(), "state.pt": saved(state)})
    run = write(tmp_path, {**small_run(), **{STEP + name: data for name, data in files.items()}})
    with pytest.raises(StorageError, match="optimizer state is not that of"):
        list(distmeta.train(small_config("run.steps=3"), run, resume=True))


def test_settings_of_the_optimizer_are_the_run_s_own(tmp_path: Path) -> None:
    """Those in a checkpoint are not used, so that none can break or change the run."""
    state = state_of(small_checkpoint())
    state["optimizer"]["param_groups"] = [{"params": [0], "lr": "x", "betas": None, "capturable": True}]
    files = sealed({**small_checkpoint(), "state.pt": saved(state)})
    results = []
    for name, checkpoint_files in (("changed", files), ("original", small_checkpoint())):
        run = write(tmp_path / name, {**small_run(), **{STEP + n: data for n, data in checkpoint_files.items()}})
        list(distmeta.train(small_config("run.steps=3"), run, resume=True))
        results.append(checkpoint.load(Storage.at(run / "checkpoints" / "step-00000003")).meta)
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
