"""The only training loop: a generator that yields a record a meta-step."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any

from distmeta.config.schema import Config
from distmeta.core.records import StepRecord
from distmeta.runs.callbacks import Callbacks
from distmeta.runs.directory import RunDirectory
from distmeta.runs.evaluate import Progress
from distmeta.runs.lease import Lease, acquire
from distmeta.runs.restore import find_snapshot, finished
from distmeta.runs.session import Session
from distmeta.storage.files import below
from distmeta.tasks import fit_family, with_fitted
from distmeta.workers import Check

log = logging.getLogger(__name__)


def train(
    config: Config,
    run_dir: str | Path | None = None,
    *,
    resume: bool = False,
    check: Check = lambda: None,
    progress: Progress | None = None,
    settle: bool = False,
    accept_changes: bool = False,
    patience: float = 0.0,
) -> Generator[StepRecord, None, dict[str, Any]]:
    """Meta-train, and meta-test at the end.

    Args:
        config: from :func:`~distmeta.loading.load_config`.
        run_dir: where the run's files go, a path or a URI; ``run.dir``/``name`` by default.
        resume: continue the run that lies there; without a checkpoint it starts at 0, finished it does nothing.
        check: called often; raises when the run should end, which checkpoints it first.
        progress: called as the meta-test at the end advances.
        settle: yield a step only once its checkpoint, where one is due, can be read; it is written beside the next
            steps otherwise.
        accept_changes: resume though the data, the user's code or frozen weights are not those that the run was
            computed with; what has changed is recorded in ``metrics.jsonl`` and in the checkpoints.
        patience: seconds to wait for another driver of this run to end, or to be known as dead.

    Yields:
        One :class:`~distmeta.core.records.StepRecord` a meta-step.

    Returns:
        The content of ``result.json`` (the value of ``StopIteration``, or of ``yield from``).

    Raises:
        DistmetaError: see its subclasses; whatever ends the loop, the steps that were done are checkpointed.

    >>> import tempfile
    >>> from distmeta.loading import load_config
    >>> config = load_config({"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}},
    ...                      ["run.steps=2", "evaluation.tasks=4"])
    >>> [record.step for record in train(config, tempfile.mkdtemp())]
    [1, 2]
    """
    directory = RunDirectory(run_dir if run_dir is not None else below(config.run.dir, config.name))
    if resume and (result := finished(directory, config, accept_changes)) is not None:
        return result
    lease = acquire(directory.storage, patience, check)
    try:
        return (yield from _train(config, directory, resume, check, progress, settle, accept_changes, lease))
    finally:
        lease.release()


def _train(
    config: Config,
    directory: RunDirectory,
    resume: bool,
    check: Check,
    progress: Progress | None,
    settle: bool,
    accept_changes: bool,
    lease: Lease,
) -> Generator[StepRecord, None, dict[str, Any]]:
    """What :func:`train` does while it holds the run directory."""
    if not resume:
        directory.check_free()
    snapshot = find_snapshot(directory, config, accept_changes) if directory.holds_run else None
    if resume and snapshot is None:
        log.info("no checkpoint in %s: starting at step 0", directory.location)
    # A run that goes on has what its family learned as it began, whatever lies in the data by now.
    config = with_fitted(config, snapshot.fitted) if snapshot else fit_family(config)
    callbacks = Callbacks(config, directory.location)
    result: dict[str, Any] | None = None
    try:
        session = Session(config, directory, snapshot, lease, check, settle, accept_changes)
        try:
            while session.learner.step < config.run.steps:
                record = session.step()
                callbacks.step(record)
                yield record
            result = session.finish(progress)
            return result
        except BaseException as error:
            session.rescue(error)
            raise
        finally:
            session.close()
    finally:
        callbacks.end(result)
