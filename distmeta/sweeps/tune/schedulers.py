"""Tune's schedulers of a sweep, and what they know of the trials of an earlier session."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from distmeta.sweeps.points import Values, perturb
from distmeta.sweeps.sections import Asha, Hyperband, Median, Pbt, SweepOptions
from distmeta.sweeps.sweep import Sweep
from distmeta.sweeps.trial import WORST_SCORE
from distmeta.sweeps.tune.internals import OpenHalving, OpenMedian, OpenPopulation

History = Callable[[str, int], Iterable[dict[str, float]]]
"""What a trial, by name, has reported up to a step: ``step`` and ``score``, in order."""


CurrentValues = Callable[[str], Values]
"""The values that a trial, by name, has now."""


def scheduler(sweep: Sweep, history: History, values: CurrentValues) -> TrialScheduler:
    """The scheduler that a sweep names, with metric and mode left to Tune.

    Tune does not save its schedulers; ours are told again what the trials of an earlier session have reported.
    """
    options, run = sweep.options.scheduler, sweep.config.run
    grace = (options.grace if isinstance(options, (Asha, Median)) else None) or max(run.validate_every, run.steps // 9)
    if isinstance(options, Asha):
        return Halving(history, max_t=run.steps, grace_period=grace, reduction_factor=options.reduction)
    if isinstance(options, Hyperband):
        shortest, ratio = run.validate_every, options.reduction
        brackets = int(math.log(run.steps / shortest) / math.log(ratio)) + 1
        return Halving(history, max_t=run.steps, grace_period=shortest, reduction_factor=ratio, brackets=brackets)
    if isinstance(options, Median):
        return InformedMedian(history, time_attr="step", grace_period=grace)
    if isinstance(options, Pbt):
        return Population(history, values, sweep.options, options)
    return FIFOScheduler()


class Halving(OpenHalving):
    """Asynchronous successive halving, in one bracket or several, that compares with trials of an earlier session too.

    Several brackets are HyperBand without synchronous rounds (Li et al., MLSys 2020). Tune's HyperBand has such rounds,
    and waits in them forever for trials that died or that an earlier session has ended.
    """

    def __init__(self, history: History, **settings: Any) -> None:
        super().__init__(time_attr="step", **settings)
        self._history = history

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial, new or restored; its decisions up to its last report have been taken and carried out."""
        super().on_trial_add(tune_controller, trial)
        # By its name, so that a restored one is where it was; brackets with more rungs get more trials, as Tune has it.
        sizes = [math.exp(self.rungs(bracket)) for bracket in self.brackets]
        (bracket,) = random.Random(trial.trial_id).choices(self.brackets, sizes)
        self.put(trial, bracket)
        for result in self._history(trial.trial_id, _told(trial)):
            self.on_trial_result(tune_controller, trial, result)


class InformedMedian(OpenMedian):
    """Compares with trials of an earlier session too."""

    def __init__(self, history: History, **settings: Any) -> None:
        super().__init__(**settings)
        self._history = history

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial, new or restored."""
        super().on_trial_add(tune_controller, trial)
        self.forget(trial)  # of one that is added again, since it has failed
        for result in self._history(trial.trial_id, _told(trial)):
            self.on_trial_complete(tune_controller, trial, result)  # which takes note without deciding


class Population(OpenPopulation):
    """Compares with what trials reached in an earlier session too, and knows of trials that have diverged.

    Nobody goes on from a trial that has diverged. It waits, at the next validation, until it can go on from another
    one.
    """

    def __init__(self, history: History, values: CurrentValues, sweep: SweepOptions, options: Pbt) -> None:
        super().__init__(
            time_attr="step",
            perturbation_interval=options.interval,
            quantile_fraction=options.quantile,
            custom_explore_fn=dict,  # see values_after
            log_config=False,
        )
        self._history, self._values, self._sweep = history, values, sweep
        self._chance = random.Random(sweep.seed)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial, new or restored; others may go on from the checkpoint that it was restored with."""
        super().on_trial_add(tune_controller, trial)
        state = self.state_of(trial)
        for result in self._history(trial.trial_id, _told(trial)):
            if result["step"] - state.last_perturbation_time >= self.interval:
                self.remember(trial, result)
                state.last_perturbation_time = result["step"]
        state.last_checkpoint, state.last_result = trial.checkpoint, trial.last_result

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, go on from another trial, or wait."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        return TrialScheduler.PAUSE if decision != TrialScheduler.NOOP and _diverged(result["score"]) else decision

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The one that is the farthest behind; one that has diverged only where there is another to go on from.

        Where all that are left have diverged, they come to their ends.
        """
        waiting = [trial for trial in tune_controller.get_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)]
        running = any(trial.status == Trial.RUNNING for trial in tune_controller.get_trials())
        ready = [trial for trial in waiting if not self._lost(trial) or self._donors()]
        return min(ready or ([] if running else waiting), key=self._progress, default=None)

    def values_after(self, donor: Any) -> dict[str, Any]:
        """Rates near those of the other one, by its folder: what Tune knows may be older, after a kill."""
        return {"values": perturb(self._values(donor.trial_id), self._sweep, self._chance)}

    def quantiles(self) -> tuple[list[Any], list[Any]]:
        """The worst trials and the best ones, where any of these has not diverged."""
        lower, upper = super().quantiles()
        donors = [trial for trial in upper if not self._lost(trial)]
        return (lower, donors) if donors else ([], [])

    def _donors(self) -> list[Any]:
        return [trial for trial in self.quantiles()[1] if self.state_of(trial).last_checkpoint]

    def _lost(self, trial: Any) -> bool:
        score = self.state_of(trial).last_score
        return score is not None and _diverged(score)

    def _progress(self, trial: Any) -> int:
        return int(self.state_of(trial).last_train_time)


def _diverged(score: float) -> bool:
    return abs(score) >= WORST_SCORE


def _told(trial: Any) -> int:
    """Meta-steps up to a trial's last report; what it measured since then it reports again."""
    return int(trial.last_result.get("step", 0))
