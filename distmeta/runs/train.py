"""The only training loop: a generator that yields a record a meta-step."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

from distmeta.config.schema import Config, dump_config, written_values
from distmeta.core.layout import Layout, Meta
from distmeta.core.plan import Plan, announce
from distmeta.core.records import FAULTS, MetaGradient, MetaState, Shard, StepRecord
from distmeta.core.tree import Sum, add
from distmeta.errors import Interrupted, NonFiniteError, StorageError
from distmeta.outer.learner import Learner, Outcome
from distmeta.programs import blueprint
from distmeta.runs import checkpoint
from distmeta.runs.checkpoint import Snapshot
from distmeta.runs.directory import RunDirectory
from distmeta.runs.evaluate import Progress, cut, meta_test, validate
from distmeta.runs.identity import identify, resumed
from distmeta.runs.lease import Lease, acquire
from distmeta.runs.metrics import MetricsLog, flat, shares
from distmeta.runs.restore import check_fingerprint, find_snapshot, finished
from distmeta.runs.saving import Saver
from distmeta.storage.files import below
from distmeta.tasks import prepare_family
from distmeta.workers import Check, start_transport

log = logging.getLogger(__name__)

SKIPS = "skips_in_a_row"
"""Beside the counts of faults in a checkpoint: meta-steps up to its own that were skipped one after the other."""


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
    session = _Session(config, directory, snapshot, lease, check, settle, accept_changes)
    try:
        while session.learner.step < config.run.steps:
            yield session.step()
        return session.finish(progress)
    except BaseException as error:
        session.rescue(error)
        raise
    finally:
        session.close()


def _falls(every: int, step: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and after the last one, happens after this step."""
    return every > 0 and (step % every == 0 or step == steps)


class _Session:
    """One session of a run: from its start or a checkpoint until it ends, however it ends."""

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
        self._skips = 0  # in a row, up to now
        self._seconds = 0.0
        self._settled = True
        self._blueprint = blueprint(config)  # first: it refuses networks, and nothing has to be started for that
        for note in self._blueprint.notes:
            log.info("%s", note)

        def checked() -> None:
            check()
            lease.check()

        self._transport = start_transport(config, checked, lambda: prepare_family(config))
        try:
            self._open(snapshot, accept_changes)
        except BaseException:
            self._transport.close()
            raise

    def _open(self, snapshot: Snapshot | None, accept_changes: bool) -> None:
        """Do the driver's part while workers come, then have them open."""
        config, directory = self._config, self._directory
        self.learner = Learner(config.outer, config.run.steps, self._blueprint.initial_meta())
        accepted: list[str] = []
        if snapshot is None:
            self._identity = identify(config)
        else:
            self._identity, accepted = resumed(config, snapshot.identity, snapshot.step, accept_changes)
            self._restore(snapshot)
        self._transport.open(Plan.from_dict(snapshot.plan) if snapshot else None)
        if snapshot is not None and not config.cluster.allow_mixed:
            check_fingerprint(snapshot.fingerprint, self._transport.fingerprint)
        if snapshot is None:
            announce(self._transport.plan)
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
        self._skips = self._counters.pop(SKIPS, 0)
        self._counters["driver_restarts"] += 1
        self._seconds = snapshot.seconds
        log.info("resuming %s at step %d", self._directory.location, snapshot.step)

    # A meta-step --------------------------------------------------------------------------------------------------

    def step(self) -> StepRecord:
        """Gradient, outer step, and what is due after it: validation, checkpoint, log line."""
        self._lease.check()
        self._saver.check()
        began = time.perf_counter()
        run, step = self._config.run, self.learner.step
        with self._transport.beside_workers():
            gradient, adding = self._gradient(step)
        before = self._before() if _falls(run.validate_every, step + 1, run.steps) else None
        applying = time.perf_counter()
        with self._transport.beside_workers():
            outcome, skipped = self._apply(gradient)
        ended = time.perf_counter()
        seconds = ended - began
        validation = None
        if before is not None:
            try:
                validation = self._validate()
            except BaseException:
                # A step that was not validated is not done: what resumes the run takes it again.
                self._undo(before)
                raise
        self._seconds += seconds
        workers = self._transport.workers().count
        record = StepRecord(
            step=self.learner.step,
            tasks=self.learner.step * run.meta_batch,
            metrics={name: total / gradient.tasks for name, total in gradient.metrics.items()},
            gradient_norm=outcome.norm,
            learning_rate=outcome.rate,
            seconds=seconds,
            tasks_per_second=gradient.tasks / seconds,
            workers=workers,
            skipped=skipped,
            validation=validation,
            faults=self._faults(),
            shares=shares(gradient, seconds * workers, (adding + ended - applying) / seconds),
        )
        self._keep(record)
        return record

    def _gradient(self, step: int) -> tuple[MetaGradient, float]:
        """The sum over a meta-batch, and the seconds that adding it up took."""
        shards, adding = self._shards(step), 0.0
        if step + 1 < self._config.run.steps:
            self._transport.prefetch(self._shards(step + 1))
        total = Sum[MetaGradient](len(shards), add)
        for node, part in self._transport.run("gradient", self.learner.state(), shards):
            began = time.perf_counter()
            total.add(node, cast(MetaGradient, part))  # while the workers compute the next ones
            adding += time.perf_counter() - began
        return total.result(), adding

    def _shards(self, step: int) -> list[Shard]:
        run = self._config.run
        return cut("train", step * run.meta_batch, run.meta_batch, run.shard)

    def _due(self, every: int) -> bool:
        return _falls(every, self.learner.step, self._config.run.steps)

    def _before(self) -> tuple[int, Meta, dict[str, Any], dict[str, int], int]:
        meta = {name: value.clone() for name, value in self.learner.meta().items()}
        optimizer = copy.deepcopy(self.learner.optimizer_state())
        return self.learner.step, meta, optimizer, dict(self._counters), self._skips

    def _undo(self, before: tuple[int, Meta, dict[str, Any], dict[str, int], int]) -> None:
        step, meta, optimizer, self._counters, self._skips = before
        self._settled = False
        self.learner.restore(step, meta, optimizer)
        self._settled = True

    def _apply(self, gradient: MetaGradient) -> tuple[Outcome, bool]:
        self._settled = False
        outcome = self.learner.apply(gradient)
        self._settled = True
        if not outcome.nonfinite and math.isfinite(outcome.norm):
            self._skips = 0
            return outcome, False
        bound = self._config.outer.max_skips if self._config.outer.on_nonfinite == "skip" else 0
        if self._skips >= bound:
            raise self._nonfinite(outcome.nonfinite, gradient.tasks)
        self.learner.skip()
        self._skips += 1
        self._counters["steps_skipped"] += 1
        log.warning("meta-step %d skipped: its loss or meta-gradient is not finite", self.learner.step)
        return outcome, True

    def _nonfinite(self, bad: Sequence[int], tasks: int) -> NonFiniteError:
        """What ends a run at a meta-step; ``bad`` are the tasks that were not finite, where they are known."""
        step, skips, outer = self.learner.step, self._skips, self._config.outer
        ids = bad or range(step * self._config.run.meta_batch, step * self._config.run.meta_batch + tasks)
        named = ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        what = f"the loss or meta-gradient of meta-step {step + 1} is not finite (training tasks {named})"
        advice = "Try a lower algorithm.inner_lr or outer.lr, or outer.clip_norm=10"
        if outer.on_nonfinite == "stop":
            return NonFiniteError(
                f"{what}. Nothing was changed by it. {advice}, or outer.on_nonfinite=skip to leave such steps out"
            )
        return NonFiniteError(
            f"{what}, and the {skips} before it were skipped for the same reason, as many in a row as "
            f"outer.max_skips = {outer.max_skips} allows. Nothing was changed by them. {advice}, in a new run; with a "
            "larger outer.max_skips this one goes on (--resume)"
        )

    def _validate(self) -> dict[str, float]:
        measured = validate(self._transport, self._config, self.learner.state())
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
        best, counters, seconds = self._best, {**self._faults(), SKIPS: self._skips}, self._seconds
        meta = self.learner.layout.unflatten(self.learner.vector.clone())
        optimizer = copy.deepcopy(self.learner.optimizer_state())

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
                seconds=seconds,
                finished=step == run.steps,
            )

        self._saver.save(step, snapshot)

    def rescue(self, error: BaseException) -> None:
        """Keep the steps that were done, whatever ended the loop."""
        try:
            with suppress(StorageError):  # of an older checkpoint: what counts now is the newest step
                self._saver.wait()
            if self._settled and self._saver.saved != self.learner.step:
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
        state = MetaState(best.step, Layout.of(best.meta).flatten(best.meta))
        measured = meta_test(self._transport, self._config, state, progress)
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
        return result

    def close(self) -> None:
        """Give back threads, files and workers."""
        with ExitStack() as parts:  # the last one first, and each of them whatever another one raises
            for part in (self._transport, self._log, self._saver):
                parts.callback(part.close)
