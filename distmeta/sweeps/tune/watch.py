"""What a sweep's driver sees of Tune's trials: shown as they go, failures told, Ctrl-C heard, Tune's state kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any, ClassVar

from ray import tune

from distmeta.config.modules import code_of
from distmeta.errors import ChangedError, DistmetaError, Interrupted
from distmeta.storage.files import Storage
from distmeta.sweeps.points import Values
from distmeta.sweeps.results import TRIALS_FOLDER, read_trial
from distmeta.sweeps.state import StateKeeper
from distmeta.sweeps.sweep import Sweep
from distmeta.sweeps.trial import FAILURE, WORST_SCORE, finite, read_parts
from distmeta.sweeps.tune.internals import error_of, staging_folder
from distmeta.sweeps.view import TrialStatus, View
from distmeta.workers import Check

log = logging.getLogger(__name__)


class Watch(tune.Callback):  # type: ignore[misc]
    """Shows Tune's trials as they go, and lets Ctrl-C end them.

    Tune keeps its callbacks in a file of the sweep; the one that comes back from there is this process's.
    """

    current: ClassVar[Watch | None] = None

    def __init__(self, sweep: Sweep, home: Storage, view: View | None, check: Check) -> None:
        self._sweep, self._trials, self._view, self._check = sweep, home.child(TRIALS_FOLDER), view, check
        self._keeper = StateKeeper(home)
        self._code = self._find_code()
        self._problem: ChangedError | None = None
        Watch.current = self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_watch, ())

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called after everything that Tune does.

        Raises:
            Interrupted: the sweep should end.
            ChangedError: the user's code has changed since the sweep began.
        """
        if self._problem is not None:
            raise self._problem
        try:
            self._check()
        except Interrupted as error:  # told now: where the signal reached Ray too, Tune's own end takes a minute
            log.info("%s: ending the trials, which --resume goes on with", error)
            raise
        if trials:
            self._keeper.keep(staging_folder(trials[0]))
        if self._view is not None:
            self._view.show([self._row(trial) for trial in trials])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial has a process, which imports the user's code: all of a sweep's have the same.

        Where it has changed, the end of this step ends the sweep: what is raised here, Tune may turn into a traceback.
        """
        now = self._find_code()
        changed = [name for name, digest in self._code.items() if now.get(name) != digest]
        if changed:
            self._problem = ChangedError(
                f"{', '.join(changed)} changed after the sweep began, and trials that start now would compute "
                f"something else. They are saved in {self._trials.location}; restore what has changed and go on with "
                "--resume, or go on as it is with --resume --accept-changes"
            )

    def _find_code(self) -> dict[str, str]:
        space = {key: list(domain.values) for key, domain in self._sweep.options.space.items()}
        return code_of([self._sweep.base, space])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial has failed that is tried again."""
        log.warning("trial %s: %s; it starts again from its checkpoint", trial.trial_id, why(error_of(trial)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial has failed for good."""
        place = self._trials.child(trial.trial_id)
        traceback = f"; its traceback is in {place.child(FAILURE).location}" if place.exists(FAILURE) else ""
        log.warning("trial %s has failed: %s%s", trial.trial_id, why(error_of(trial)), traceback)

    def reported(self, name: str, last: int) -> Iterator[dict[str, float]]:
        """What a trial has reported up to a step, from its folder."""
        found = read_trial(self._sweep, self._trials, name, "")
        for step, point in sorted(found.points.items()):
            if step <= last:
                yield {"step": step, "score": finite(point.metrics[self._sweep.metric], self._sweep.mode)}
        if found.status == "diverged" and found.steps < last:
            yield {"step": last, "score": finite(math.nan, self._sweep.mode)}

    def values(self, name: str) -> Values:
        """The values that a trial has now, from its folder."""
        return read_parts(self._trials.child(name))[-1].values

    def _row(self, trial: Any) -> TrialStatus:
        best = trial.metric_analysis.get("score", {}).get(self._sweep.mode)
        known = best is not None and abs(best) < WORST_SCORE
        values = trial.config.get("values", {})
        return TrialStatus(
            trial.trial_id, values, trial.status, trial.last_result.get("step", 0), best if known else None
        )


def _watch() -> Watch | None:
    return Watch.current


def reported(name: str, last: int) -> Iterator[dict[str, float]]:
    """For the scheduler, which Tune keeps in a file too."""
    return Watch.current.reported(name, last) if Watch.current else iter(())


def current_values(name: str) -> Values:
    """Likewise."""
    return Watch.current.values(name) if Watch.current else {}


def why(error: BaseException) -> str:
    """What ended a trial, for people: its own words, or the line of a traceback that says what was raised."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, DistmetaError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0 if cause is None else -1]
