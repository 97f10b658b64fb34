"""Tune's schedulers of a sweep, and what they know of the trials of an earlier sitting."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from distmeta.sweep_config import Sweep, perturb
from distmeta.sweep_sections import Asha, Hyperband, Median, Pbt, SweepOptions

History = Callable[[str, int], Iterable[dict[str, float]]]
"""What a trial, by name, has reported up to a step: ``step`` and ``score``, in order."""


def scheduler(sweep: Sweep, history: History) -> TrialScheduler:
    """The scheduler that a sweep names, with metric and mode left to Tune.

    Tune does not save its schedulers. ASHA, the median rule and a population are told again what the trials of an
    earlier sitting have reported; HyperBand's brackets begin anew.
    """
    options, run = sweep.options.scheduler, sweep.config.run
    grace = (options.grace if isinstance(options, (Asha, Median)) else None) or max(run.validate_every, run.steps // 9)
    if isinstance(options, Asha):
        return InformedAsha(
            history, time_attr="step", max_t=run.steps, grace_period=grace, reduction_factor=options.reduction
        )
    if isinstance(options, Hyperband):  # its brackets count validations
        validations = -(-run.steps // run.validate_every)
        return HyperBandScheduler(time_attr="training_iteration", max_t=validations, reduction_factor=options.reduction)
    if isinstance(options, Median):
        return InformedMedian(history, time_attr="step", grace_period=grace)
    if isinstance(options, Pbt):
        return InformedPopulation(
            history,
            time_attr="step",
            perturbation_interval=options.interval,
            quantile_fraction=options.quantile,
            custom_explore_fn=functools.partial(_explore, sweep.options, random.Random(sweep.options.seed)),
            log_config=False,
        )
    return FIFOScheduler()


class InformedAsha(ASHAScheduler):  # type: ignore[misc]
    """Compares with trials of an earlier sitting too."""

    def __init__(self, history: History, **settings: Any) -> None:
        super().__init__(**settings)
        self._history = history

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial, new or restored; its decisions up to its last report have been taken and carried out."""
        super().on_trial_add(tune_controller, trial)
        for result in self._history(trial.trial_id, _told(trial)):
            self.on_trial_result(tune_controller, trial, result)


class InformedMedian(MedianStoppingRule):  # type: ignore[misc]
    """Compares with trials of an earlier sitting too."""

    def __init__(self, history: History, **settings: Any) -> None:
        super().__init__(**settings)
        self._history = history

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial, new or restored."""
        super().on_trial_add(tune_controller, trial)
        self._results.pop(trial, None)  # of one that is added again, since it has failed
        for result in self._history(trial.trial_id, _told(trial)):
            self.on_trial_complete(tune_controller, trial, result)  # which takes note without deciding


class InformedPopulation(PopulationBasedTraining):  # type: ignore[misc]
    """Compares with what trials reached in an earlier sitting too."""

    def __init__(self, history: History, **settings: Any) -> None:
        super().__init__(**settings)
        self._history = history

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial, new or restored; others may go on from the checkpoint that it was restored with."""
        super().on_trial_add(tune_controller, trial)
        state = self._trial_state[trial]
        for result in self._history(trial.trial_id, _told(trial)):
            if result["step"] - state.last_perturbation_time >= self._perturbation_interval:
                self._save_trial_state(state, result["step"], result, trial)
                state.last_perturbation_time = result["step"]
        state.last_checkpoint, state.last_result = trial.checkpoint, trial.last_result


def _told(trial: Any) -> int:
    """Meta-steps up to a trial's last report; what it measured since then it reports again."""
    return int(trial.last_result.get("step", 0))


def _explore(options: SweepOptions, chance: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    return {"values": perturb(config["values"], options, chance)}
