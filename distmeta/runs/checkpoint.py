"""Checkpoints: the whole of a run at one meta-step, written at once, trusted only when every hash agrees."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from distmeta.config.migrations import SCHEMA, newest
from distmeta.core.hashing import sha256
from distmeta.core.layout import MODEL
from distmeta.core.plan import Plan
from distmeta.errors import StorageError
from distmeta.runs import frozen
from distmeta.runs.checkpoint_checks import join_meta, read_state, read_tensors
from distmeta.runs.directory import CONFIG
from distmeta.storage.files import MANIFEST, Storage
from distmeta.storage.manifests import (
    CHECKPOINTS,
    FITTED,
    META,
    PARAMS,
    STATE,
    DamagedCheckpoint,
    checkpoint_at,
    checkpoints_of,
    damage,
    damaged,
    name_of,
    read_file,
    read_fitted,
    read_manifest,
    sealed,
    steps,
)
from distmeta.storage.migrations import MANIFEST_MIGRATIONS

_T = TypeVar("_T")


@dataclass(frozen=True)
class Snapshot:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
        step: meta-steps done.
        tasks: tasks consumed.
        meta: meta-parameters, ``model/NAME`` and other groups such as ``rates/NAME``.
        module_state: the module's state dict under its own names, parameters and buffers.
        optimizer: ``state_dict`` of the outer optimizer.
        best: ``{"step", "metric", "value"}`` of the best validation so far, if there was one.
        counters: counts of faults so far, and of the last steps that were skipped in a row.
        config: the resolved configuration, JSON values.
        plan: what ``auto`` became, JSON values.
        fingerprint: what the workers computed on, JSON values.
        seconds: training time so far.
        finished: whether this is the run's last step.
        identity: hashes of the data, the user's code and the frozen weights, see :mod:`distmeta.runs.identity`;
            empty in checkpoints of older versions.
        fitted: what the task family learned from its training split, JSON values, if it learns something.
        frozen: names in ``module_state`` that nothing changes in a run.
    """

    step: int
    tasks: int
    meta: dict[str, Tensor]
    module_state: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Any] | None
    counters: dict[str, int]
    config: dict[str, Any]
    plan: dict[str, Any]
    fingerprint: dict[str, Any]
    seconds: float
    finished: bool
    identity: dict[str, Any] = field(default_factory=dict)
    fitted: Mapping[str, Any] | None = None
    frozen: tuple[str, ...] = ()


def save(run: Storage, snapshot: Snapshot) -> str:
    """Write a checkpoint into a run directory, whole or not at all.

    Tensors of any dtype come back bit for bit (on the CPU, contiguous).

    Returns:
        The checkpoint's location.

    Raises:
        StorageError: it cannot be written; what was there before is as it was.
    """
    shared = in_module(snapshot)
    groups = {name: tensor for name, tensor in snapshot.meta.items() if not name.startswith(MODEL)}
    state = {
        "step": snapshot.step,
        "tasks": snapshot.tasks,
        "optimizer": snapshot.optimizer,
        "best": snapshot.best,
        "counters": snapshot.counters,
        "seconds": snapshot.seconds,
        "finished": snapshot.finished,
        "meta_in_params": sorted(shared),
        "meta": {n: t for n, t in snapshot.meta.items() if n not in shared and n not in groups},
    }
    buffer = io.BytesIO()
    torch.save(_detached(state), buffer)
    beside = frozen.apart(snapshot.module_state, snapshot.frozen)
    own = {name: tensor for name, tensor in snapshot.module_state.items() if name not in beside}
    files = {PARAMS: safetensors_of(own), STATE: buffer.getvalue()}
    if groups:
        files[META] = safetensors_of(groups)
    if snapshot.fitted is not None:
        files[FITTED] = fitted_json(snapshot.fitted)
    entry = frozen.write_once(checkpoints_of(run), safetensors_of(beside)) if beside else None
    manifest = json.dumps(sealed({**_manifest(snapshot, files), "frozen": entry}), indent=2).encode()
    checkpoints_of(run).publish(name_of(snapshot.step), {**files, MANIFEST: manifest})
    return checkpoint_at(run, snapshot.step).location


def load(checkpoint: Storage) -> Snapshot:
    """Read one checkpoint folder and verify the size and hash of every file, and every value.

    Raises:
        DamagedCheckpoint: naming the file that is missing or not as it was written.
        StorageError: the checkpoint cannot be read, or a newer version wrote it.
    """
    manifest, files = _read_files(checkpoint)
    with damage(checkpoint, PARAMS):
        own = read_tensors(files[PARAMS])
    beside = frozen.read(checkpoint, manifest["frozen"])
    module_state = {**own, **beside}
    with damage(checkpoint, META):
        groups = read_tensors(files[META]) if META in files else {}
    with damage(checkpoint, STATE):
        state = read_state(files[STATE], manifest)
        meta = join_meta(state, module_state, groups)
    with damage(checkpoint, FITTED):
        fitted = read_fitted(files[FITTED]) if FITTED in files else None
    with damage(checkpoint, MANIFEST):
        Plan.from_dict(manifest["plan"])
    kept = ("step", "tasks", "optimizer", "best", "counters", "seconds", "finished")
    return Snapshot(
        **{name: state[name] for name in kept},
        meta=meta,
        module_state=module_state,
        config=manifest["config"],
        plan=manifest["plan"],
        fingerprint=manifest["fingerprint"],
        identity=manifest["identity"],
        fitted=fitted,
        frozen=tuple(beside),
    )


def fitted_json(fitted: Mapping[str, Any]) -> bytes:
    """The text of ``fitted.json``; every number is read back as it was."""
    return json.dumps(fitted, indent=1, allow_nan=False).encode()


def latest(run: Storage) -> tuple[Snapshot | None, list[str]]:
    """The newest checkpoint that verifies, and one message for each damaged one that was passed over.

    A checkpoint that cannot be read now (permissions, network) is an error: passing over it would silently
    give up what it holds.
    """
    return _first_good(run, steps(run)[::-1], load)


def best(run: Storage) -> tuple[Snapshot | None, list[str]]:
    """The best-validation checkpoint, else the last one, and a message for each damaged or missing one passed over.

    Which is best stands in the newest checkpoint that verifies.
    """
    last, passed_over = latest(run)
    if last is None or last.best is None or last.best["step"] == last.step:
        return last, passed_over
    step = last.best["step"]
    if step in steps(run):
        chosen, damaged = _first_good(run, [step], load)
    else:
        chosen, damaged = None, [f"{checkpoint_at(run, step).location} is missing"]
    if chosen is None:
        damaged[-1] += (
            f" (it has the best validation, {last.best['metric']} {last.best['value']:.6g}); using the last "
            f"checkpoint, of step {last.step}, instead"
        )
    return chosen or last, passed_over + damaged


def prune(run: Storage, keep: int) -> None:
    """Remove all checkpoints but the newest ``keep``, the best one, and the newest one that verifies.

    What a killed writer left where folders cannot be renamed, a folder without a manifest, goes too.
    """
    present = steps(run)
    kept = {name_of(step) for step in present[-keep:]}
    spare = [name for name in checkpoints_of(run).list() if name.startswith("step-") and name not in kept]
    good = _first_good(run, present[::-1], _read_files)[0] if spare else None
    if good is None:
        return
    manifest, _ = good
    needed = {manifest["step"], (manifest["best"] or {}).get("step")}
    for name in spare:
        if name not in {name_of(step) for step in needed if step is not None}:
            checkpoints_of(run).delete(name)


def resolve(location: str | Path) -> tuple[Snapshot, list[str]]:
    """The checkpoint that a location means: itself, or the best one (else the last) of a run directory.

    Returns:
        The snapshot, and a message for each damaged checkpoint of the run that was passed over.

    Raises:
        StorageError: the location is neither, or no checkpoint of the run can be used.
    """
    storage = Storage.at(location)
    if storage.exists(MANIFEST) or storage.exists(PARAMS):
        return load(storage), []
    snapshot, passed_over = best(storage)
    if snapshot is not None:
        return snapshot, passed_over
    if passed_over:
        raise StorageError(f"no checkpoint of {storage.location} can be used:\n  " + "\n  ".join(passed_over))
    if storage.exists(CHECKPOINTS) or storage.exists(CONFIG):
        raise StorageError(f"the run {storage.location} has no checkpoint yet; let it reach its first one")
    raise StorageError(
        f"{storage.location} is neither a run directory nor a checkpoint: it "
        f"{'holds no checkpoints' if storage.list() else 'is missing or empty'}; check the path"
    )


def _first_good(run: Storage, candidates: Iterable[int], read: Callable[[Storage], _T]) -> tuple[_T | None, list[str]]:
    passed_over: list[str] = []
    for step in candidates:
        try:
            return read(checkpoint_at(run, step)), passed_over
        except DamagedCheckpoint as error:
            passed_over.append(str(error))
    return None, passed_over


def _manifest(snapshot: Snapshot, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        SCHEMA: newest(MANIFEST_MIGRATIONS),
        "step": snapshot.step,
        "tasks": snapshot.tasks,
        "finished": snapshot.finished,
        "best": snapshot.best,
        "files": {name: {"size": len(data), "sha256": sha256(data)} for name, data in sorted(files.items())},
        "versions": {
            "distmeta": _own_version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "config": snapshot.config,
        "plan": snapshot.plan,
        "fingerprint": snapshot.fingerprint,
        "identity": snapshot.identity,
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("distmeta")
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        return "unknown"


def _read_files(checkpoint: Storage) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and every file it names, verified."""
    manifest = read_manifest(checkpoint)
    files = {name: read_file(checkpoint, name) for name in manifest["files"]}
    for name, data in files.items():
        size = manifest["files"][name]["size"]
        if len(data) != size:
            raise damaged(checkpoint, name, f"it has {len(data)} bytes instead of {size}")
        if sha256(data) != manifest["files"][name]["sha256"]:
            raise damaged(checkpoint, name, "its content does not match its hash")
    return manifest, files


def in_module(snapshot: Snapshot) -> set[str]:
    """Meta-parameters that the module's state holds too, bit for bit, so that once is enough."""
    return {name for name in snapshot.meta if _in_module(name, snapshot)}


def _in_module(name: str, snapshot: Snapshot) -> bool:
    if not name.startswith(MODEL):
        return False
    mine, its = snapshot.meta[name], snapshot.module_state.get(name.removeprefix(MODEL))
    if its is None or mine.dtype != its.dtype or mine.shape != its.shape:
        return False
    return torch.equal(_bits(mine), _bits(its))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def safetensors_of(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file.

    Raises:
        StorageError: a tensor is of a type that such files do not hold.
    """
    import safetensors.torch

    try:
        return bytes(safetensors.torch.save(_detached(tensors), {"format": "pt"}))
    except KeyError as error:
        raise StorageError(
            f"cannot save a tensor of dtype {error.args[0]}, which safetensors files do not hold; "
            "give the module parameters and buffers of another dtype"
        ) from error


def _detached(tree: Any) -> Any:
    """A copy on the CPU in which no two tensors share memory: torch writes the whole storage of a view."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(tree, Mapping):
        return {key: _detached(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_detached(item) for item in tree)
    if type(tree) not in (bool, int, float, str, type(None)):
        # A NumPy number, say: it would be written, and refused by every load with ``weights_only=True``.
        raise TypeError(f"a checkpoint holds tensors and plain Python values, not {type(tree).__name__}")
    return tree
