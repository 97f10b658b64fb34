"""The directory of a run: who may create one, what may change when it is resumed, and its small files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from distmeta.config.anchors import data_places
from distmeta.config.schema import CALLBACKS
from distmeta.core.secrets import without_secrets
from distmeta.errors import ConfigError, StorageError
from distmeta.storage.files import Storage
from distmeta.storage.json_files import JsonValues, MetaTest, read_json
from distmeta.storage.manifests import CHECKPOINTS

CONFIG = "config.yaml"
RESULT = "result.json"

_PROBE = ".probe"
_PROBE_BYTES = 64 * 1024  # more than a full disk lends from a block that is already taken
_MAY_CHANGE = frozenset(
    [
        *(f"run.{key}" for key in ("steps", "keep", "validate_every", "checkpoint_every", "log_every", "dir")),
        "outer.max_skips",
        CALLBACKS,
    ]
)
_NEED_STEPS = ("linear", "cosine")
_ABSENT = object()

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Workers(JsonValues):
    count: int
    shards_each: list[int]


class _Result(JsonValues):
    steps: NonNegativeInt
    tasks: NonNegativeInt
    seconds: Seconds
    tasks_per_second: Seconds
    checkpoint: str
    workers: _Workers
    faults: dict[str, int]
    meta_test: MetaTest


class RunDirectory:
    """The files of one run, in a folder or at a URI.

    Args:
        location: the run's own directory; it need not exist yet.

    >>> import tempfile
    >>> run = RunDirectory(tempfile.mkdtemp() + "/first")
    >>> run.write_config("seed: 1")
    >>> run.holds_run, run.read_config()
    (True, 'seed: 1')
    """

    def __init__(self, location: str | Path | Storage) -> None:
        self.storage = location if isinstance(location, Storage) else Storage.at(location)

    @property
    def location(self) -> str:
        """Path or URI, for people."""
        return self.storage.location

    @property
    def config_location(self) -> str:
        """Path or URI of ``config.yaml``, for people."""
        return self.storage.child(CONFIG).location

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun here."""
        return self.storage.exists(CONFIG) or self.storage.exists(CHECKPOINTS)

    def check_free(self) -> None:
        """Refuse a directory that holds a run already.

        Raises:
            StorageError: it does.
        """
        if self.holds_run:
            raise StorageError(
                f"{self.location} already holds a run; continue it with --resume (resume=True in Python) or name "
                "another --run-dir"
            )

    def write_config(self, config_yaml: str) -> None:
        """Write ``config.yaml``, which makes this a run's directory."""
        self.storage.write_bytes(CONFIG, config_yaml.encode())

    def check_writable(self) -> None:
        """Write and remove a file, so that a directory that takes none is known before any work."""
        try:
            self.storage.write_bytes(_PROBE, bytes(_PROBE_BYTES))
        finally:
            self.storage.delete(_PROBE)

    def read_config(self) -> str:
        """The text of ``config.yaml``.

        Raises:
            StorageError: there is no run here, or the file cannot be read.
        """
        if not self.storage.exists(CONFIG):
            raise StorageError(f"{self.location} holds no run: it has no {CONFIG}; check the path or drop --resume")
        data = self.storage.read_bytes(CONFIG)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise StorageError(
                f"{self.storage.child(CONFIG).location} is damaged: it is not a text file; restore it from a "
                "checkpoint's manifest.json, which holds the same configuration"
            ) from error

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``; numbers that are not finite become ``null``."""
        self.storage.write_bytes(RESULT, (to_json(result, indent=2) + "\n").encode())

    def read_result(self) -> dict[str, Any]:
        """What :meth:`write_result` wrote.

        Raises:
            StorageError: the run has not ended, or the file is damaged.
        """
        if not self.storage.exists(RESULT):
            location = self.storage.child(RESULT).location
            raise StorageError(f"there is no {location}: the run has not ended; finish it with --resume")
        return read_json(self.storage, RESULT, _Result, "write it anew with --resume")


def check_resume(old: Mapping[str, Any], new: Mapping[str, Any], data_is_known: bool = False) -> None:
    """Refuse to resume a run with settings that would make it another run.

    ``cluster.*``, ``run.{steps, keep, dir}``, ``run.*_every`` and ``outer.max_skips`` and ``callbacks`` may
    change; ``run.steps`` may not
    where ``outer.schedule`` depends on it.

    Args:
        old: the run's resolved configuration, as ``config.model_dump(mode="json")``.
        new: the one to continue with.
        data_is_known: whether the data is compared by its hash; then where it lies may change too.

    Raises:
        ConfigError: naming every setting that differs, with both values.

    >>> check_resume({"seed": 1, "run": {"steps": 5}}, {"seed": 1, "run": {"steps": 9}})
    >>> check_resume({"seed": 1}, {"seed": 2})
    Traceback (most recent call last):
    distmeta.errors.ConfigError: a resumed run must keep its settings, but these differ:
      seed: was 1, is 2
    start a new run in another --run-dir, or leave these as they were
    """
    schedule = dict(flattened(old)).get("outer.schedule")
    fixed = {"run.steps"} if schedule in _NEED_STEPS else set()
    places = {key for each in (old, new) for key in data_places(each.get("tasks", {}))} if data_is_known else set()
    free = (_MAY_CHANGE | places) - fixed
    problems = []
    for key, change in differences(old, new).items():
        if not key.startswith("cluster.") and key not in free:
            problems.append(change + (f" (outer.schedule = {schedule} depends on it)" if key in fixed else ""))
    if problems:
        raise ConfigError(
            "a resumed run must keep its settings, but these differ:\n  "
            + "\n  ".join(problems)
            + "\nstart a new run in another --run-dir, or leave these as they were"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The dotted keys of settings that differ, each with both values in words; credentials in URIs are none.

    >>> differences({"run": {"steps": 5}}, {"run": {"steps": 9}})
    {'run.steps': 'run.steps: was 5, is 9'}
    """
    before, after = dict(flattened(without_secrets(old))), dict(flattened(without_secrets(new)))
    return {
        key: f"{key}: was {_show(was)}, is {_show(now)}"
        for key in [*before, *(key for key in after if key not in before)]
        if (was := before.get(key, _ABSENT)) != (now := after.get(key, _ABSENT))
    }


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON text: a number that is not finite becomes ``null``, which every reader takes.

    >>> to_json({"loss": float("nan"), "steps": (1, 2)})
    '{"loss": null, "steps": [1, 2]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _show(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)
