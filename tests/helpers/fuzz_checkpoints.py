"""Checkpoints of a small real run, and such with other values whose hashes are right again."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import distmeta
from distmeta.config.schema import Config
from distmeta.loading import load_config
from distmeta.runs import checkpoint
from distmeta.storage.files import Storage

SMALL = {
    "name": "small",
    "tasks": {"kind": "sinusoid", "shots": 2, "queries": 2},
    "model": {"kind": "mlp", "hidden": [3]},
    "algorithm": {"name": "meta_sgd", "inner_lr": 0.01},
    "run": {"steps": 2, "meta_batch": 2, "validate_every": 1, "checkpoint_every": 1, "log_every": 1},
    "evaluation": {"tasks": 2, "validation_tasks": 2},
}


def small_config(*overrides: str) -> Config:
    return load_config(SMALL, overrides)


@functools.cache
def small_run() -> dict[str, bytes]:
    """The files of a run of two steps, by path below its folder."""
    with tempfile.TemporaryDirectory() as folder:
        list(distmeta.train(small_config(), folder))
        return files_of(Path(folder))


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, except what differs from run to run of itself."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


@functools.cache
def small_checkpoint() -> dict[str, bytes]:
    """The files of its last checkpoint."""
    prefix = "checkpoints/step-00000002/"
    return {name.removeprefix(prefix): data for name, data in small_run().items() if name.startswith(prefix)}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def manifest_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(files["manifest.json"])
    manifest.pop("sha256")
    return manifest


def sealed(files: Mapping[str, bytes], manifest: Any = None) -> dict[str, bytes]:
    """These files with sizes and hashes that are right for them, as anybody can compute them."""
    manifest = manifest_of(files) if manifest is None else manifest
    if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
        for name, data in files.items():
            if isinstance(manifest["files"].get(name), dict):
                manifest["files"][name].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    text = json.dumps(manifest, sort_keys=True)
    if isinstance(manifest, dict):
        plain = json.loads(text)
        text = json.dumps({**plain, "sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()})
    return {**files, "manifest.json": text.encode()}


def state_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(files["state.pt"]), weights_only=True)
    return state


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load(files: Mapping[str, bytes]) -> checkpoint.Snapshot:
    with tempfile.TemporaryDirectory() as folder:
        return checkpoint.load(Storage.at(write(Path(folder), files)))
