"""What a resumed run goes on from, and whether it may."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from distmeta.config.migrations import CONFIG_MIGRATIONS, current
from distmeta.config.schema import Config, written_values
from distmeta.config.sections import Section
from distmeta.config.text import parse_yaml
from distmeta.errors import ClusterError, ConfigError, StorageError
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.runs.directory import RESULT, RunDirectory, check_resume

log = logging.getLogger(__name__)


def find_snapshot(directory: RunDirectory, config: Config, accept_changes: bool) -> Snapshot | None:
    """The newest good checkpoint, if the configuration may continue it."""
    snapshot, damaged = checkpoint.latest(directory.storage)
    for message in damaged:
        log.warning("%s", message)
    if snapshot is None and damaged:
        raise StorageError(
            f"every checkpoint of {directory.location} is damaged; restore one, or start over in another --run-dir"
        )
    file = directory.config_location
    old = snapshot.config if snapshot else current(parse_yaml(directory.read_config(), file), CONFIG_MIGRATIONS, file)
    # Where data lies says nothing about what it is, once its hash is known.
    known = accept_changes or snapshot is None or bool(snapshot.identity.get("data"))
    now = written_values(config)
    check_resume(_with_later_settings(old, config, now), now, data_is_known=known)
    if snapshot is not None:
        if snapshot.step > config.run.steps:
            raise ConfigError(
                f"run.steps = {config.run.steps}, but {directory.location} has already done {snapshot.step} steps; "
                "resume with at least as many"
            )
        if damaged:
            log.warning("using the checkpoint of step %d instead", snapshot.step)
    return snapshot


def _with_later_settings(old: Mapping[str, Any], section: Section, now: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings, and the defaults of those that there were not when it began: they mean what was then.

    Args:
        old: a section as the run has it.
        section: the same of the configuration to go on with.
        now: the latter as it is written.
    """
    filled = dict(old)
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if name not in old:
            # A section may write less than it has, where a setting stands elsewhere too.
            if name in now and not field.is_required() and value == field.get_default(call_default_factory=True):
                filled[name] = now[name]
        elif isinstance(value, Section) and isinstance(old[name], Mapping):
            filled[name] = _with_later_settings(old[name], value, now[name])
    return filled


def find_result(directory: RunDirectory, snapshot: Snapshot | None, config: Config) -> dict[str, Any] | None:
    """The content of ``result.json`` where the run has ended; ``None`` where there is something left to do."""
    if snapshot is None or snapshot.step != config.run.steps or not directory.storage.exists(RESULT):
        return None
    try:
        result = directory.read_result()
    except StorageError as error:
        log.warning("%s; it is written anew", str(error).rpartition(";")[0])
        return None
    return result if result["steps"] == snapshot.step else None  # else it is of a shorter run, which this one goes on


def check_fingerprint(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with workers that round otherwise than those before."""
    changed = [f"{key} was {was}, is {now.get(key)}" for key, was in before.items() if was != now.get(key)]
    if changed:
        raise ClusterError(
            f"this run was computed on other hardware or software ({'; '.join(changed)}), so it would not "
            "continue to the same bits; resume where it began, or set cluster.allow_mixed=true to give that up"
        )


def finished(directory: RunDirectory, config: Config, accept_changes: bool) -> dict[str, Any] | None:
    """The result of a run that has done all its steps, found without holding the directory."""
    if not directory.holds_run or not directory.storage.exists(RESULT):
        return None
    result = find_result(directory, find_snapshot(directory, config, accept_changes), config)
    if result is not None:
        log.info("%s is finished: nothing to do", directory.location)
    return result
