"""Checkpoints: the whole of a run at one meta-step, written at once, trusted only when every hash agrees."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from distmeta.config.text import parse_json, shown
from distmeta.core.layout import MODEL
from distmeta.core.plan import Plan
from distmeta.errors import StorageError
from distmeta.runs.checkpoint_checks import META, PARAMS, STATE, check_manifest, join_meta, read_state, read_tensors
from distmeta.runs.directory import CHECKPOINTS, CONFIG
from distmeta.storage.files import MANIFEST, Storage

SCHEMA = 1
_T = TypeVar("_T")


class DamagedCheckpoint(StorageError):
    """A checkpoint's files are not what was written."""


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
        identity: hashes of the data, the user's code and the frozen weights, see :mod:`distmeta.runs.identity`; empty in
            checkpoints of older versions.
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


def save(run: Storage, snapshot: Snapshot) -> str:
    """Write a checkpoint into a run directory, whole or not at all.

    Tensors of any dtype come back bit for bit (on the CPU, contiguous).

    Returns:
        The checkpoint's location.

    Raises:
        StorageError: it cannot be written; what was there before is as it was.
    """
    shared = {name for name in snapshot.meta if _in_module(name, snapshot)}
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
    files = {PARAMS: _safetensors(snapshot.module_state), STATE: buffer.getvalue()}
    if groups:
        files[META] = _safetensors(groups)
    manifest = json.dumps(_sealed(_manifest(snapshot, files)), indent=2).encode()
    _checkpoints(run).publish(_name(snapshot.step), {**files, MANIFEST: manifest})
    return _at(run, snapshot.step).location


def load(checkpoint: Storage) -> Snapshot:
    """Read one checkpoint folder and verify the size and hash of every file, and every value.

    Raises:
        DamagedCheckpoint: naming the file that is missing or not as it was written.
        StorageError: the checkpoint cannot be read, or a newer version wrote it.
    """
    manifest, files = _read_files(checkpoint)
    with _damage(checkpoint, PARAMS):
        module_state = read_tensors(files[PARAMS])
    with _damage(checkpoint, META):
        groups = read_tensors(files[META]) if META in files else {}
    with _damage(checkpoint, STATE):
        state = read_state(files[STATE], manifest)
        meta = join_meta(state, module_state, groups)
    with _damage(checkpoint, MANIFEST):
        Plan.from_dict(manifest["plan"])
    kept = ("step", "tasks", "optimizer", "best", "counters", "seconds", "finished")
    return Snapshot(
        **{name: state[name] for name in kept},
        meta=meta,
        module_state=module_state,
        config=manifest["config"],
        plan=manifest["plan"],
        fingerprint=manifest["fingerprint"],
        identity=manifest.get("identity", {}),
    )


def read_identity(checkpoint: Storage) -> dict[str, Any]:
    """``identity`` of one checkpoint, from its manifest alone; empty where it has none, or is damaged."""
    try:
        return dict(_read_manifest(checkpoint).get("identity", {}))
    except DamagedCheckpoint:
        return {}


def newest_identity(run: Storage) -> dict[str, Any]:
    """The same, of a run's newest checkpoint."""
    found = steps(run)
    return read_identity(_at(run, found[-1])) if found else {}


def steps(run: Storage) -> list[int]:
    """The steps, ascending, of the checkpoints of a run that look whole: those that have a manifest."""
    names = _checkpoints(run).list()
    found = (int(name.removeprefix("step-")) for name in names if re.fullmatch(r"step-\d{8,}", name))
    return sorted(step for step in found if _at(run, step).exists(MANIFEST))


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
        chosen, damaged = None, [f"{_at(run, step).location} is missing"]
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
    kept = {_name(step) for step in present[-keep:]}
    spare = [name for name in _checkpoints(run).list() if name.startswith("step-") and name not in kept]
    good = _first_good(run, present[::-1], _read_files)[0] if spare else None
    if good is None:
        return
    manifest, _ = good
    needed = {manifest["step"], (manifest["best"] or {}).get("step")}
    for name in spare:
        if name not in {_name(step) for step in needed if step is not None}:
            _checkpoints(run).delete(name)


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


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _checkpoints(run: Storage) -> Storage:
    return run.child(CHECKPOINTS)


def _at(run: Storage, step: int) -> Storage:
    return run.child(CHECKPOINTS, _name(step))


def _first_good(run: Storage, candidates: Iterable[int], read: Callable[[Storage], _T]) -> tuple[_T | None, list[str]]:
    passed_over: list[str] = []
    for step in candidates:
        try:
            return read(_at(run, step)), passed_over
        except DamagedCheckpoint as error:
            passed_over.append(str(error))
    return None, passed_over


def _manifest(snapshot: Snapshot, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "step": snapshot.step,
        "tasks": snapshot.tasks,
        "finished": snapshot.finished,
        "best": snapshot.best,
        "files": {name: {"size": len(data), "sha256": _hash(data)} for name, data in sorted(files.items())},
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


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """With a hash of itself, since the configuration stands nowhere else in the checkpoint."""
    plain = json.loads(json.dumps(manifest))  # keys become text, as they are when it is read back
    return {**plain, "sha256": _hash(json.dumps(plain, sort_keys=True).encode())}


def _read_manifest(checkpoint: Storage) -> dict[str, Any]:
    data = _read(checkpoint, MANIFEST)
    try:
        manifest: dict[str, Any] = parse_json(data)
        seal = manifest.pop("sha256")
        sealed = _sealed(manifest)["sha256"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _damaged(checkpoint, MANIFEST, "it is not what was written") from None
    if sealed != seal:
        raise _damaged(checkpoint, MANIFEST, "its content does not match its hash")
    schema = manifest.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise StorageError(
            f"{checkpoint.location} was written in a newer format ({shown(schema)}, this version reads {SCHEMA}) by "
            f"distmeta {_version(manifest)}; install that version"
        )
    with _damage(checkpoint, MANIFEST):
        check_manifest(manifest)
    return manifest


def _version(manifest: Mapping[str, Any]) -> str:
    versions = manifest.get("versions")
    return shown(versions.get("distmeta"))[1:-1] if isinstance(versions, dict) else "unknown"


def _read_files(checkpoint: Storage) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and every file it names, verified."""
    manifest = _read_manifest(checkpoint)
    files = {name: _read(checkpoint, name) for name in manifest["files"]}
    for name, data in files.items():
        size = manifest["files"][name]["size"]
        if len(data) != size:
            raise _damaged(checkpoint, name, f"it has {len(data)} bytes instead of {size}")
        if _hash(data) != manifest["files"][name]["sha256"]:
            raise _damaged(checkpoint, name, "its content does not match its hash")
    return manifest, files


def _read(checkpoint: Storage, name: str) -> bytes:
    if not checkpoint.exists(name):
        raise _damaged(checkpoint, name, "it is missing")
    return checkpoint.read_bytes(name)


@contextmanager
def _damage(checkpoint: Storage, name: str) -> Iterator[None]:
    """Say in which file there is a wrong value."""
    try:
        yield
    except ValueError as error:
        raise _damaged(checkpoint, name, str(error)) from None


def _damaged(checkpoint: Storage, name: str, what: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"{checkpoint.child(name).location} is damaged: {what}; use another checkpoint or delete this one"
    )


def _in_module(name: str, snapshot: Snapshot) -> bool:
    """Whether the module's state holds exactly this meta-parameter, bit for bit, so that once is enough."""
    if not name.startswith(MODEL):
        return False
    mine, its = snapshot.meta[name], snapshot.module_state.get(name.removeprefix(MODEL))
    if its is None or mine.dtype != its.dtype or mine.shape != its.shape:
        return False
    return torch.equal(_bits(mine), _bits(its))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
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


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
