"""A checkpoint's manifest: what its files are, by hash, and what the run is that wrote it; sealed by a hash of its own.

Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from distmeta.config.migrations import CONFIG_MIGRATIONS, NewerSchema, migrated
from distmeta.config.text import parse_json, plain
from distmeta.core.hashing import sha256
from distmeta.core.quoting import shown
from distmeta.errors import ConfigError, StorageError
from distmeta.storage.files import MANIFEST, Storage
from distmeta.storage.json_files import problem_of
from distmeta.storage.migrations import MANIFEST_MIGRATIONS

CHECKPOINTS = "checkpoints"
PARAMS = "params.safetensors"
META = "meta.safetensors"
STATE = "state.pt"
FITTED = "fitted.json"
"""What the task family learned from its training split; missing where it learns nothing."""

Step = Annotated[int, Field(ge=0, le=2**40)]


class DamagedCheckpoint(StorageError):
    """A checkpoint's files are not what was written."""


class ExactValues(BaseModel):
    """Types are exact: nothing is converted. What a later version adds is left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True, frozen=True)


class Best(ExactValues):
    """The best validation so far."""

    step: Step
    metric: str
    value: Annotated[float, Field(allow_inf_nan=False)]


class _File(ExactValues):
    size: NonNegativeInt
    sha256: str


class _Frozen(_File):
    name: Annotated[str, Field(pattern=r"^frozen-[0-9a-f]{16}\.safetensors$")]


class _Accepted(ExactValues):
    step: Step
    changes: list[str]


class _Identity(ExactValues):
    data: dict[str, str] = Field(default_factory=dict)
    code: dict[str, str] = Field(default_factory=dict)
    frozen: dict[str, str] = Field(default_factory=dict)
    accepted: list[_Accepted] = Field(default_factory=list)


class _Manifest(ExactValues):
    step: Step
    tasks: NonNegativeInt
    finished: bool
    best: Best | None
    files: dict[str, _File]
    config: dict[str, Any]
    plan: dict[str, Any]
    fingerprint: dict[str, Any]
    identity: _Identity
    frozen: _Frozen | None


def read_identity(checkpoint: Storage) -> dict[str, Any]:
    """``identity`` of one checkpoint, from its manifest alone; empty where it has none, or is damaged."""
    try:
        return dict(read_manifest(checkpoint)["identity"])
    except DamagedCheckpoint:
        return {}


def newest_identity(run: Storage) -> dict[str, Any]:
    """The same, of a run's newest checkpoint."""
    found = steps(run)
    return read_identity(checkpoint_at(run, found[-1])) if found else {}


def newest_fitted(run: Storage) -> dict[str, Any] | None:
    """``fitted.json`` of a run's newest checkpoint; ``None`` where it has none, or is damaged."""
    found = steps(run)
    try:
        checkpoint = checkpoint_at(run, found[-1]) if found else None
        if checkpoint is None or FITTED not in read_manifest(checkpoint)["files"]:
            return None
        with damage(checkpoint, FITTED):
            return read_fitted(read_file(checkpoint, FITTED))
    except DamagedCheckpoint:
        return None


def steps(run: Storage) -> list[int]:
    """The steps, ascending, of the checkpoints of a run that look whole: those that have a manifest."""
    names = checkpoints_of(run).list()
    found = (int(name.removeprefix("step-")) for name in names if re.fullmatch(r"step-\d{8,}", name))
    return sorted(step for step in found if checkpoint_at(run, step).exists(MANIFEST))


def name_of(step: int) -> str:
    """The folder of a checkpoint, among those of its run."""
    return f"step-{step:08d}"


def checkpoints_of(run: Storage) -> Storage:
    """The folder of a run's checkpoints."""
    return run.child(CHECKPOINTS)


def checkpoint_at(run: Storage, step: int) -> Storage:
    """The checkpoint of a run at a step."""
    return run.child(CHECKPOINTS, name_of(step))


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with a hash of itself, since the configuration stands nowhere else in the checkpoint."""
    plain = json.loads(json.dumps(manifest))  # keys become text, as they are when it is read back
    return {**plain, "sha256": sha256(json.dumps(plain, sort_keys=True).encode())}


def read_manifest(checkpoint: Storage) -> dict[str, Any]:
    """The values of ``manifest.json``, checked; those of an older version, and of its configuration, in the newest.

    Raises:
        DamagedCheckpoint: it is missing, or not what was written.
        StorageError: a newer version of distmeta wrote it.
    """
    data = read_file(checkpoint, MANIFEST)
    try:
        manifest: dict[str, Any] = parse_json(data)
        seal = manifest.pop("sha256")
        expected = sealed(manifest)["sha256"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise damaged(checkpoint, MANIFEST, "it is not what was written") from None
    if expected != seal:
        raise damaged(checkpoint, MANIFEST, "its content does not match its hash")
    try:
        with damage(checkpoint, MANIFEST):
            current = migrated(manifest, MANIFEST_MIGRATIONS)
            check_manifest(current)
            return {**current, "config": _current_config(current["config"])}
    except NewerSchema as error:
        raise StorageError(
            f"{checkpoint.location} is of a newer format ({error}); it was written by distmeta {_version(manifest)}: "
            "install that version"
        ) from None


def _current_config(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return migrated(values, CONFIG_MIGRATIONS)
    except NewerSchema as error:
        raise NewerSchema(f"config.{error}") from None
    except ValueError as error:
        raise ValueError(f"config.{error}") from None


def _version(manifest: Mapping[str, Any]) -> str:
    versions = manifest.get("versions")
    return shown(versions.get("distmeta"))[1:-1] if isinstance(versions, dict) else "unknown"


def read_file(checkpoint: Storage, name: str) -> bytes:
    """The bytes of one of a checkpoint's files."""
    if not checkpoint.exists(name):
        raise damaged(checkpoint, name, "it is missing")
    return checkpoint.read_bytes(name)


@contextmanager
def damage(checkpoint: Storage, name: str) -> Iterator[None]:
    """Say in which file there is a wrong value."""
    try:
        yield
    except ValueError as error:
        raise damaged(checkpoint, name, str(error)) from None


def damaged(checkpoint: Storage, name: str, what: str) -> DamagedCheckpoint:
    """The error for a file of a checkpoint that is not what was written."""
    return DamagedCheckpoint(
        f"{checkpoint.child(name).location} is damaged: {what}; use another checkpoint or delete this one"
    )


def check_values(model: type[BaseModel], values: Any) -> None:
    """Check values; a ``ValueError`` names the first that is wrong."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise ValueError(problem_of(error)) from None


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check the values of ``manifest.json``.

    Raises:
        ValueError: naming what is wrong.
    """
    check_values(_Manifest, manifest)
    try:
        plain(manifest["config"])
    except ConfigError as error:
        raise ValueError(f"config: {error}") from None
    files = set(manifest["files"])
    if not {PARAMS, STATE} <= files <= {PARAMS, STATE, META, FITTED}:
        raise ValueError(f"files: expected {PARAMS}, {STATE} and perhaps {META}, {FITTED}, got {shown(sorted(files))}")


def read_fitted(data: bytes) -> dict[str, Any]:
    """The values of ``fitted.json``; what they mean is the family's to check.

    Raises:
        ValueError: it is no mapping in JSON.
    """
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError(f"expected a mapping, got {shown(values)}")
    return values
