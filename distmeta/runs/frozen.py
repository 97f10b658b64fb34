"""Frozen weights of a run, which lie beside its checkpoints once, and not in each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from distmeta.core.hashing import sha256
from distmeta.runs.checkpoint_checks import read_tensors
from distmeta.storage.files import Storage
from distmeta.storage.manifests import damage, damaged, read_file

WORTH_A_FILE = 2**20
"""Bytes of frozen weights that are worth a file of their own."""


def apart(state: Mapping[str, Tensor], frozen: Iterable[str]) -> dict[str, Tensor]:
    """What of a module's state lies beside the checkpoints: its frozen weights, where there are many of them."""
    found = {name: state[name] for name in frozen if name in state}
    size = sum(value.numel() * value.element_size() for value in found.values())
    return found if size >= WORTH_A_FILE else {}


def write_once(checkpoints: Storage, data: bytes) -> dict[str, Any]:
    """Write frozen weights among a run's checkpoints, unless they are there; what a manifest says of them."""
    digest = sha256(data)
    name = f"frozen-{digest[:16]}.safetensors"
    if not checkpoints.exists(name):
        checkpoints.write_bytes(name, data)
    return {"name": name, "size": len(data), "sha256": digest}


def read(checkpoint: Storage, entry: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """The frozen weights that a checkpoint's manifest names; none where it names none.

    Raises:
        DamagedCheckpoint: they are not beside the checkpoint, or not as they were written.
    """
    if entry is None:
        return {}
    checkpoints, name = checkpoint.parent, entry["name"]
    if not checkpoints.exists(name):
        raise damaged(checkpoints, name, f"it is missing, and {checkpoint.location} needs it: move both together")
    data = read_file(checkpoints, name)
    if len(data) != entry["size"] or sha256(data) != entry["sha256"]:
        raise damaged(checkpoints, name, "its content does not match its hash")
    with damage(checkpoints, name):
        return read_tensors(data)
