"""What a resumed run goes on from, and whether it may."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import yaml

from distmeta import checkpoint
from distmeta.checkpoint import Snapshot
from distmeta.config import Config
from distmeta.errors import ClusterError, ConfigError, StorageError
from distmeta.rundir import RunDirectory, check_resume

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
    old = snapshot.config if snapshot else yaml.safe_load(directory.read_config())
    # Where data lies says nothing about what it is, once its hash is known.
    known = accept_changes or snapshot is None or bool(snapshot.identity.get("data"))
    check_resume(old, config.model_dump(mode="json"), data_is_known=known)
    if snapshot is not None:
        if snapshot.step > config.run.steps:
            raise ConfigError(
                f"run.steps = {config.run.steps}, but {directory.location} has already done {snapshot.step} steps; "
                "resume with at least as many"
            )
        if damaged:
            log.warning("using the checkpoint of step %d instead", snapshot.step)
    return snapshot


def check_fingerprint(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with workers that round otherwise than those before."""
    changed = [f"{key} was {was}, is {now.get(key)}" for key, was in before.items() if was != now.get(key)]
    if changed:
        raise ClusterError(
            f"this run was computed on other hardware or software ({'; '.join(changed)}), so it would not "
            "continue to the same bits; resume where it began, or set cluster.allow_mixed=true to give that up"
        )
