"""Artefacts: a trained learner that needs no run directory; data that is verified before anything of it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt
from torch import Tensor

from distmeta.config.migrations import CONFIG_MIGRATIONS, SCHEMA, NewerSchema, migrated, newest
from distmeta.config.text import parse_json
from distmeta.core.hashing import sha256
from distmeta.core.plan import Plan
from distmeta.core.quoting import shown
from distmeta.errors import ConfigError, StorageError
from distmeta.runs.checkpoint import Snapshot
from distmeta.runs.checkpoint_checks import read_tensors
from distmeta.storage.files import Storage
from distmeta.storage.manifests import FITTED, META, PARAMS, ExactValues, Step, check_values, read_fitted, sealed
from distmeta.storage.migrations import ARTEFACT_MIGRATIONS

ARTEFACT = "artefact.json"
CODE = "code"
"""Folder of the user's modules."""

HUB = "hf://"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DamagedArtefact(StorageError):
    """An artefact's files are not what was exported."""


class _File(ExactValues):
    size: NonNegativeInt
    sha256: Digest


class _Artefact(ExactValues):
    step: Step
    tasks: NonNegativeInt
    config: dict[str, Any]
    plan: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, _File]
    code: list[str]
    frozen: dict[str, str]
    in_module: list[str]
    meta_test: dict[str, Any] | None


def is_artefact(storage: Storage) -> bool:
    """Whether a folder is an artefact."""
    return storage.exists(ARTEFACT)


def fetched(location: str | Path) -> str | Path:
    """The local folder of an artefact on the Hugging Face hub, ``hf://owner/name`` or ``hf://owner/name@revision``.

    Any other location is itself. What was fetched before is taken from the hub's own cache.

    Raises:
        ConfigError: the address is none, or the extra is missing.
        StorageError: the hub cannot be reached, or has no such artefact.
    """
    text = str(location)
    if not text.startswith(HUB):
        return location
    name, _, revision = text.removeprefix(HUB).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ConfigError(f"{text}: expected hf://owner/name, or hf://owner/name@revision")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError("artefacts of the hub need an extra package: pip install distmeta[hub]") from None
    try:
        return snapshot_download(name, revision=revision or None)
    except Exception as error:  # of the network, of the hub, of the disk: no class of errors has all of them
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StorageError(f"cannot fetch {text}: {reason}; check the name, the network, and HF_TOKEN") from None


def read_description(folder: Storage) -> dict[str, Any]:
    """The values of ``artefact.json``, checked; those of an older version in the newest.

    Raises:
        DamagedArtefact: it is not what was exported.
        StorageError: a newer version of distmeta exported it.
    """
    with _damage(folder, ARTEFACT):
        values = parse_json(folder.read_bytes(ARTEFACT))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        seal = values.pop("sha256", None)
        if sealed(values)["sha256"] != seal:
            raise ValueError("its content does not match its hash")
        try:
            found = migrated(values, ARTEFACT_MIGRATIONS)
            check_values(_Artefact, found)
            found["config"] = migrated(found["config"], CONFIG_MIGRATIONS)
        except NewerSchema as error:
            raise StorageError(f"{folder.location} is of a newer format ({error}); install a newer distmeta") from None
        for name in (*found["files"], *found["code"]):
            _check_name(name)
        return found


def read(folder: Storage) -> tuple[Snapshot, dict[str, bytes]]:
    """An artefact as a snapshot of the run, and its modules' sources; everything is verified, and nothing is run.

    Raises:
        DamagedArtefact: naming the file that is missing or not as it was exported.
        StorageError: it cannot be read, or is of a newer version.
    """
    found = read_description(folder)
    files = {name: _file(folder, name, entry) for name, entry in found["files"].items()}
    with _damage(folder, PARAMS):
        if PARAMS not in files:
            raise ValueError("it is missing")
        module_state = read_tensors(files[PARAMS])
    with _damage(folder, META):
        own = read_tensors(files[META]) if META in files else {}
    with _damage(folder, FITTED):
        fitted = read_fitted(files[FITTED]) if FITTED in files else None
    with _damage(folder, ARTEFACT):
        plan = Plan.from_dict(found["plan"])
        shared = {name: module_state.get(name.removeprefix("model/")) for name in found["in_module"]}
        if missing := [name for name, value in shared.items() if value is None]:
            raise ValueError(f"in_module: {shown(missing[0])} is not in {PARAMS}")
    modules = {name: files[f"{CODE}/{name}"] for name in found["code"] if f"{CODE}/{name}" in files}
    meta: dict[str, Tensor] = {**{name: value for name, value in shared.items() if value is not None}, **own}
    snapshot = Snapshot(
        step=found["step"],
        tasks=found["tasks"],
        meta={name: meta[name] for name in sorted(meta)},
        module_state=module_state,
        optimizer={},
        best=None,
        counters={},
        config=found["config"],
        plan=plan.as_dict(),
        fingerprint={},
        seconds=0.0,
        finished=True,
        identity={
            "code": {name: sha256(content) for name, content in modules.items()},
            "frozen": found["frozen"],
        },
        fitted=fitted,
    )
    return snapshot, modules


def description(values: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The text of ``artefact.json`` for these values and files."""
    entries = {name: {"size": len(data), "sha256": sha256(data)} for name, data in sorted(files.items())}
    found = {SCHEMA: newest(ARTEFACT_MIGRATIONS), **values, "files": entries}
    return (json.dumps(sealed(found), indent=2) + "\n").encode()


def _file(folder: Storage, name: str, entry: Mapping[str, Any]) -> bytes:
    with _damage(folder, name):
        if not folder.exists(name):
            raise ValueError("it is missing")
        data = folder.read_bytes(name)
        if len(data) != entry["size"]:
            raise ValueError(f"it has {len(data)} bytes instead of {entry['size']}")
        if sha256(data) != entry["sha256"]:
            raise ValueError("its content does not match its hash")
        return data


def _check_name(name: str) -> None:
    """Refuse names that lead out of the artefact."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
        raise ValueError(f"{shown(name)} is no name of a file in it")


@contextmanager
def _damage(folder: Storage, name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise DamagedArtefact(
            f"{folder.child(name).location} is damaged: {error}; export the run again, or fetch it anew"
        ) from None
