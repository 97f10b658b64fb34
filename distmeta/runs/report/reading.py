"""What a run directory tells of its run, also of one that has not ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, ValidationError

from distmeta.config.text import parse_json, parse_yaml, plain
from distmeta.core.quoting import shown
from distmeta.errors import ConfigError, StorageError
from distmeta.objectives.metrics import LISTS
from distmeta.runs.directory import CONFIG, RESULT, RunDirectory
from distmeta.runs.lease import is_driven
from distmeta.runs.metrics import METRICS
from distmeta.storage.files import Storage
from distmeta.storage.json_files import JsonValues, problem_of
from distmeta.storage.manifests import DamagedCheckpoint, checkpoint_at, read_manifest, steps

STATES = ("finished", "running", "stopped")


SECTIONS = ("tasks", "model", "algorithm")
"""Of every run's configuration."""


class _Measured(JsonValues):
    """A line of measurements; ``null`` is what is not finite."""

    __pydantic_extra__: dict[str, float | bool | None] = Field(init=False)
    step: NonNegativeInt
    workers: int
    seconds: float | None
    tasks_per_second: float | None


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
    config = _config(directory) if written else manifest.get("config", {})
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


def _config(directory: RunDirectory) -> dict[str, Any]:
    """The settings of ``config.yaml``, if they are a run's as far as reports need them."""
    place = directory.config_location
    try:
        values = plain(parse_yaml(directory.read_config(), place))
        problem = _foreign(values)
    except ConfigError as error:
        problem = str(error)
    else:
        if problem is None:
            return values
    reason = problem if place in problem else f"{place} holds no run's settings: {problem}"
    raise StorageError(f"{reason}; if this is a run, restore it from config in a checkpoint's manifest.json")


def _foreign(values: Mapping[str, Any]) -> str | None:
    """What settings have that those of no run have."""
    for name in SECTIONS:
        if not isinstance(values.get(name), dict):
            got = f"got {shown(values[name])}" if name in values else "there is none"
            return f"{name}: expected a section, {got}"
    run = values.get("run", {})
    if not isinstance(run, dict):
        return f"run: expected a section, got {shown(run)}"
    steps = run.get("steps")
    if steps is not None and type(steps) is not int:
        return f"run.steps: expected a whole number, got {shown(steps)}"
    return None


def _metrics(storage: Storage) -> list[Mapping[str, Any]]:
    if not storage.exists(METRICS):
        return []
    lines: list[Mapping[str, Any]] = []
    for number, line in enumerate(storage.read_bytes(METRICS).splitlines(), 1):
        try:
            values = parse_json(line)
        except ValueError:  # the last one, of a run that is writing it or was killed
            continue
        if not isinstance(values, dict) or "train/loss" not in values or "seconds" not in values:
            continue
        try:
            _Measured.model_validate(values)
        except ValidationError as error:
            place = storage.child(METRICS).location
            raise StorageError(
                f"{place} is damaged: line {number}: {problem_of(error)}; mend the line or delete it"
            ) from None
        lines.append(values)
    return lines
