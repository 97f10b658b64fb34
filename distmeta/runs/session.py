"""A session of a run: from its start or a checkpoint until it ends, however it ends."""

from __future__ import annotations

import copy
import logging
import math
import time
from contextlib import ExitStack, suppress
from typing import Any

from distmeta.config.schema import Config, dump_config, written_values
from distmeta.core.layout import Layout, Meta
from distmeta.core.plan import Plan, announce
from distmeta.core.records import FAULTS, StepRecord
from distmeta.core.requests import Start
from distmeta.errors import Interrupted, StorageError
from distmeta.outer.learner import Learner
from distmeta.programs import blueprint
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot, fitted_json
from distmeta.runs.directory import RunDirectory
from distmeta.runs.evaluate import Progress, meta_test, validate
from distmeta.runs.identity import identify, resumed
from distmeta.runs.lease import Lease
from distmeta.runs.metrics import MetricsLog, flat, load_events, shares
from distmeta.runs.report.of_run import report
from distmeta.runs.restore import check_fingerprint
from distmeta.runs.saving import Saver
from distmeta.runs.stepping import Stepped, Stepper
from distmeta.storage.manifests import FITTED
from distmeta.tasks import prepare_family
from distmeta.tasks.base import FIRST_TASK
from distmeta.workers import Check, start_transport

log = logging.getLogger(__name__)

SKIPS = "skips_in_a_row"
"""Beside the counts of faults in a checkpoint: meta-steps up to its own that were skipped one after the other."""


def _falls(every: int, step: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and after the last one, happens after this step."""
    return every > 0 and (step % every == 0 or step == steps)


class Session:
    """Drives a run's learner and workers, and keeps what they do.

    Args:
        config: the resolved configuration, with what the task family has learned.
        directory: the run's.
        snapshot: the checkpoint to go on from, if there is one.
        lease: on the directory.
        check: called often; raises when the run should end.
        settle: see :func:`~distmeta.runs.train.train`.
        accept_changes: likewise.

    Attributes:
        learner: holds the meta-parameters.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        snapshot: Snapshot | None,
        lease: Lease,
        check: Check,
        settle: bool,
        accept_changes: bool,
    ) -> None:
        self._config = config
        self._settle = settle
        self._lease = lease
        self._directory = directory = RunDirectory(directory.storage.guarded(lease.guard))
        directory.check_writable()
        self._best: dict[str, Any] | None = None
        self._counters = dict.fromkeys(FAULTS, 0)  # before this session, and what it counts itself
        self._seconds = 0.0
        self._blueprint = blueprint(config)  # first: it refuses networks, and nothing has to be started for that
        for note in self._blueprint.notes:
            log.info("%s", note)

        def checked() -> None:
            check()
            lease.check()

        def prepare() -> None:
            prepare_family(config)
            load_events()

        self._transport = start_transport(config, checked, prepare)
        try:
            self._open(snapshot, accept_changes)
        except BaseException:
            self._transport.close()
            raise

    def _open(self, snapshot: Snapshot | None, accept_changes: bool) -> None:
        """Do the driver's part while workers come, then have them open."""
        config, directory = self._config, self._directory
        self.learner = Learner(config.outer, config.run.steps, self._blueprint.initial_meta())
        self._stepper = Stepper(config, self.learner, self._transport)
        accepted: list[str] = []
        if snapshot is None:
            self._identity = identify(config)
        else:
            self._identity, accepted = resumed(config, snapshot.identity, snapshot.step, accept_changes)
            self._restore(snapshot)
        self._transport.open(Plan.from_dict(snapshot.plan) if snapshot else None)
        if snapshot is not None and not config.cluster.allow_mixed:
            before = dict(snapshot.fingerprint)
            if accepted:  # of data and code, with which tasks may change
                before.pop(FIRST_TASK, None)
            check_fingerprint(before, self._transport.fingerprint)
        if snapshot is None:
            announce(self._transport.plan)
        if config.tasks.fitted is not None:
            directory.storage.write_bytes(FITTED, fitted_json(config.tasks.fitted))
        directory.write_config(dump_config(config))
        saved = snapshot.step if snapshot else None
        self._log = MetricsLog(directory, saved)
        if snapshot is not None and accepted:
            self._log.note(snapshot.step, {"accepted_changes": accepted})
        self._saver = Saver(directory.storage, self._log, config.run.keep, saved)

    def _restore(self, snapshot: Snapshot) -> None:
        self.learner.restore(snapshot.step, snapshot.meta, snapshot.optimizer)
        self._best = snapshot.best
        self._counters.update(snapshot.counters)
        self._stepper.skips = self._counters.pop(SKIPS, 0)
        self._counters["driver_restarts"] += 1
        self._seconds = snapshot.seconds
        log.info("resuming %s at step %d", self._directory.location, snapshot.step)

    # A meta-step --------------------------------------------------------------------------------------------------

    def step(self) -> StepRecord:
        """An outer step, and what is due after it: validation, checkpoint, log line."""
        self._lease.check()
        self._saver.check()
        run = self._config.run
        # What cannot be undone otherwise; where it is not needed, it is not copied.
        before = self._before() if _falls(run.validate_every, self.learner.step + 1, run.steps) else None
        began = time.perf_counter()
        done = self._stepper.step()
        seconds = time.perf_counter() - began
        self._counters["steps_skipped"] += done.skipped
        validation = None
        if before is not None:
            try:
                validation = self._validate()
            except BaseException:
                # A step that was not validated is not done: what resumes the run takes it again.
                self._undo(before)
                raise
        self._seconds += seconds
        record = self._record(done, seconds, validation)
        self._keep(record)
        return record

    def _record(self, done: Stepped, seconds: float, validation: dict[str, float] | None) -> StepRecord:
        outcome, answer, workers = done.outcome, done.outcome.answer, self._transport.workers().count
        return StepRecord(
            step=self.learner.step,
            tasks=self.learner.step * self._config.run.meta_batch,
            metrics=answer.means(),
            gradient_norm=outcome.norm,
            learning_rate=outcome.rate,
            seconds=seconds,
            tasks_per_second=answer.tasks / seconds,
            workers=workers,
            skipped=done.skipped,
            validation=validation,
            faults=self._faults(),
            shares=shares(done.seconds, seconds * workers, done.adding / seconds),
            outer=outcome.metrics,
        )

    def _due(self, every: int) -> bool:
        return _falls(every, self.learner.step, self._config.run.steps)

    def _before(self) -> tuple[int, Meta, dict[str, Any], dict[str, int], int]:
        meta = {name: value.clone() for name, value in self.learner.meta().items()}
        state = copy.deepcopy(self.learner.outer_state())
        return self.learner.step, meta, state, dict(self._counters), self._stepper.skips

    def _undo(self, before: tuple[int, Meta, dict[str, Any], dict[str, int], int]) -> None:
        step, meta, state, self._counters, self._stepper.skips = before
        self._stepper.whole = False
        self.learner.restore(step, meta, state)
        self._stepper.whole = True

    def _validate(self) -> dict[str, float]:
        measured = validate(self._transport, self._config, self.learner.start())
        metric, value = self._blueprint.metric, measured[self._blueprint.metric]
        sign = 1 if self._blueprint.higher_is_better else -1
        if math.isfinite(value) and (self._best is None or sign * value > sign * self._best["value"]):
            self._best = {"step": self.learner.step, "metric": metric, "value": value}
        return measured

    # What is kept -------------------------------------------------------------------------------------------------

    def _faults(self) -> dict[str, int]:
        before, own = self._counters, self._transport.faults
        return {name: before.get(name, 0) + own.get(name, 0) for name in {**before, **own}}

    def _keep(self, record: StepRecord) -> None:
        """Log a step and save a checkpoint, where these are due after it."""
        if record.validation is not None or record.skipped or self._due(self._config.run.log_every):
            self._log.write(record)
            self._transport.observe(flat(record))
        improved = record.validation is not None and self._best is not None and self._best["step"] == record.step
        if improved or self._due(self._config.run.checkpoint_every) or record.step == self._config.run.steps:
            self._save()
            if self._settle:
                self._saver.wait()

    def _save(self) -> None:
        """Copy what the next steps change, and have the rest done beside them."""
        run, step = self._config.run, self.learner.step
        best, counters, seconds = self._best, {**self._faults(), SKIPS: self._stepper.skips}, self._seconds
        meta = self.learner.layout.unflatten(self.learner.vector.clone())
        optimizer = copy.deepcopy(self.learner.outer_state())

        def snapshot() -> Snapshot:
            return Snapshot(
                step=step,
                tasks=step * run.meta_batch,
                meta=meta,
                module_state=self._blueprint.module_state(meta),
                optimizer=optimizer,
                best=best,
                counters=counters,
                config=written_values(self._config),
                plan=self._transport.plan.as_dict(),
                fingerprint=self._transport.fingerprint,
                identity=self._identity,
                fitted=self._config.tasks.fitted,
                seconds=seconds,
                frozen=tuple(getattr(self._blueprint, "frozen", ())),  # a program of the user's may have less
                finished=step == run.steps,
            )

        self._saver.save(step, snapshot)

    def rescue(self, error: BaseException) -> None:
        """Keep the steps that were done, whatever ended the loop."""
        try:
            with suppress(StorageError):  # of an older checkpoint: what counts now is the newest step
                self._saver.wait()
            if self._stepper.whole and self._saver.saved != self.learner.step:
                self._save()
                self._saver.wait()
        except StorageError as second:
            if str(second) != str(error):  # the save that failed may be what ended the loop
                log.error("the last steps could not be saved: %s", second)
        if isinstance(error, Interrupted) and self._saver.saved is not None:
            error.args = (
                f"{error}; step {self._saver.saved} is saved in {self._directory.location}, go on with --resume",
            )

    def finish(self, progress: Progress | None) -> dict[str, Any]:
        """Meta-test the best-validation checkpoint, else the last, and write ``result.json``."""
        self._saver.wait()
        if self._saver.saved != self.learner.step:
            self._save()
            self._saver.wait()
        best, damaged = checkpoint.best(self._directory.storage)
        for message in damaged:
            log.warning("%s", message)
        assert best is not None
        start = Start.of(best.step, Layout.of(best.meta).flatten(best.meta))
        measured = meta_test(self._transport, self._config, start, progress)
        workers = self._transport.workers()
        tasks = self.learner.step * self._config.run.meta_batch
        result = {
            "steps": self.learner.step,
            "tasks": tasks,
            "seconds": self._seconds,
            "tasks_per_second": tasks / self._seconds if self._seconds else 0.0,
            "checkpoint": f"checkpoints/step-{best.step:08d}",
            "best_validation": self._best,
            "workers": {"count": workers.count, "shards_each": workers.shards_each},
            "faults": self._faults(),
            "meta_test": measured,
        }
        self._directory.write_result(result)
        self._report()
        return result

    def _report(self) -> None:
        """Write the run's page, without example tasks, which would take a learner."""
        try:
            report(self._directory)
        except Exception as error:  # whatever it is: the run is done, and its result is written
            log.warning("there is no report: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        """Give back threads, files and workers."""
        with ExitStack() as parts:  # the last one first, and each of them whatever another one raises
            for part in (self._transport, self._log, self._saver):
                parts.callback(part.close)
