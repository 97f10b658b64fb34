"""What a run directory tells of its run, also of one that has not ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmeta.config.text import parse_yaml
from distmeta.errors import StorageError
from distmeta.objectives.metrics import LISTS
from distmeta.runs.directory import CONFIG, RESULT, RunDirectory
from distmeta.runs.lease import is_driven
from distmeta.runs.metrics import METRICS
from distmeta.storage.files import Storage
from distmeta.storage.manifests import DamagedCheckpoint, checkpoint_at, read_manifest, steps

STATES = ("finished", "running", "stopped")


@dataclass(frozen=True)
class RunFacts:
    """A run as its files tell it.

    Attributes:
        location: for people.
        name: its own.
        state: one of :data:`STATES`.
        config: JSON values.
        metrics: the lines of ``metrics.jsonl`` that are measurements.
        result: of ``result.json``; ``None`` where the run has not ended.
        manifest: of the newest checkpoint; empty where there is none.
        changed: when something was written last, in seconds since 1970; ``None`` where that is not known.
    """

    location: str
    name: str
    state: str
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    manifest: Mapping[str, Any]
    changed: float | None

    @property
    def figure(self) -> tuple[str, Mapping[str, Any]] | None:
        """The main figure of the meta-test, with its name."""
        measured = (self.result or {}).get("meta_test", {})
        names = [name for name in measured if name not in ("loss", "before_adaptation", *LISTS)]
        name = next(iter(names), "loss" if "loss" in measured else None)
        return None if name is None else (name, measured[name])

    @property
    def steps(self) -> int:
        """Meta-steps done."""
        if self.result is not None:
            return int(self.result["steps"])
        return int(self.metrics[-1]["step"]) if self.metrics else int(self.manifest.get("step", 0))


def read_run(location: str | Path | Storage) -> RunFacts:
    """The facts of a run.

    Raises:
        StorageError: there is no run, or a file of it is damaged.
    """
    storage = location if isinstance(location, Storage) else Storage.at(location)
    directory = RunDirectory(storage)
    if not directory.holds_run:
        raise StorageError(f"{storage.location} holds no run and no sweep: it has no {CONFIG}; check the path")
    found = steps(storage)
    manifest: Mapping[str, Any] = {}
    if found:
        try:
            manifest = read_manifest(checkpoint_at(storage, found[-1]))
        except DamagedCheckpoint:
            manifest = {}
    written = storage.exists(CONFIG)
    config = parse_yaml(directory.read_config(), directory.config_location) if written else manifest.get("config", {})
    result = directory.read_result() if storage.exists(RESULT) else None
    changed = max(filter(None, (storage.modified(name) for name in (METRICS, RESULT, CONFIG))), default=None)
    return RunFacts(
        location=storage.location,
        name=str(config.get("name", "run")),
        state="finished" if result is not None else _state(storage),
        config=config,
        metrics=_metrics(storage),
        result=result,
        manifest=manifest,
        changed=changed,
    )


def _state(storage: Storage) -> str:
    return "running" if is_driven(storage) else "stopped"


def _metrics(storage: Storage) -> list[Mapping[str, Any]]:
    if not storage.exists(METRICS):
        return []
    lines: list[Mapping[str, Any]] = []
    for line in storage.read_bytes(METRICS).splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # the last one, of a run that is writing it or was killed
            continue
        if isinstance(values, dict) and "train/loss" in values and "seconds" in values:
            lines.append(values)
    return lines
