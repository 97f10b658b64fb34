"""Where settings come from: the user's own files, or a run, a checkpoint, a sweep that anybody may have made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BESIDE = {
    "config.yaml": ("metrics.jsonl", "checkpoints", "result.json", "tensorboard"),
    "sweep.yaml": ("trials", "tune", "results.json", "best.yaml", "schedule.yaml"),
    "best.yaml": ("",),
    "schedule.yaml": ("",),
}
"""What tells that distmeta wrote a file of this name: one of these lies beside it, or nothing is needed."""

_OURS = ("params.safetensors", "metrics.jsonl")  # names that nothing but a checkpoint or a run has


@dataclass(frozen=True)
class Origin:
    """Where a configuration comes from that the user did not write.

    Attributes:
        location: for people.
        records: what the runs there have recorded of their code, each ``{path: sha256}``.
        folder: where it is on this host, if it is; code that lies in it, or beside it in a folder below the working
            directory, came with it.
    """

    location: str
    records: Sequence[Mapping[str, str]] = ()
    folder: Path | None = None


def of_run(location: str | Path, identity: Mapping[str, Any]) -> Origin:
    """The origin of a checkpoint's settings, from what it has recorded."""
    from distmeta.storage.files import Storage

    storage = Storage.at(location)
    return _origin(storage.location, [identity.get("code", {})], storage.local)


def origin_of(file: str | Path) -> Origin | None:
    """The run, checkpoint or sweep in whose folder a settings file lies; ``None`` where it lies in none."""
    folder = home_of(file)
    return None if folder is None else _origin(str(folder), _records(folder), folder)


def home_of(file: str | Path) -> Path | None:
    """The folder of a run, a checkpoint or a sweep in which a settings file lies.

    The working directory is the user's own, and so is what lies above it: there it takes a name that distmeta writes.
    """
    place, here = _place(file), Path.cwd().resolve()
    for folder in place.parents:
        if here.is_relative_to(folder) and not (folder == place.parent and place.name in _BESIDE):
            return None
        if _is_artefact(folder) or (folder == place.parent and _is_written(place)):
            return folder
    return None


def _place(file: str | Path) -> Path:
    return Path(file).expanduser().resolve()


def _origin(location: str, records: Iterable[Mapping[str, str]], folder: Path | None) -> Origin:
    return Origin(location, [record for record in records if record], folder)


def _is_written(file: Path) -> bool:
    """Whether distmeta may have written a file into a folder of which parts are missing."""
    return any((file.parent / name).exists() for name in _BESIDE.get(file.name, ()))


def _is_artefact(folder: Path) -> bool:
    """Whether distmeta wrote this folder, or it looks as if: a run's, a checkpoint's, a sweep's."""
    if any((folder / name).is_file() for name in _OURS):
        return True
    if (folder / "sweep.yaml").is_file() and (folder / "trials").is_dir():
        return True
    checkpoints = folder / "checkpoints"
    if checkpoints.is_dir() and any(re.fullmatch(r"step-\d{8,}", path.name) for path in checkpoints.iterdir()):
        return True
    return any(folder.glob("trials/*/seed-*"))


def _records(folder: Path) -> Iterator[Mapping[str, str]]:
    """What the checkpoint, the run or a sweep's runs have recorded of their code; of each run the newest."""
    from distmeta.storage import manifests
    from distmeta.storage.files import Storage

    if (folder / "manifest.json").is_file():
        yield manifests.read_identity(Storage.at(folder)).get("code", {})
        return
    runs = [folder] if (folder / "checkpoints").is_dir() else sorted(folder.glob("trials/*/seed-*"))
    for run in runs:
        yield manifests.newest_identity(Storage.at(run)).get("code", {})
