"""What distmeta uses of Ray Tune that Tune does not promise to keep: all of it, each name in one method or function.

A release of Ray that takes one away makes a test of ``tests/sweeps/test_sweep_internals.py`` fail, which names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.execution import class_cache
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, PopulationBasedTraining

TUNE_LOGGER = "ray.tune.tune"
"""The logger by which Tune says, at the end, that trials have failed."""


CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""What Tune puts into its actors' runtime environment, which Ray logs and shows."""


@contextmanager
def without_credentials() -> Iterator[None]:
    """Keep Tune from doing so; they go with the trials' other arguments."""
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = before - set(CREDENTIALS)
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


class OpenHalving(ASHAScheduler):  # type: ignore[misc]
    """Successive halving whose brackets can be seen, and chosen for a trial."""

    @property
    def brackets(self) -> list[Any]:
        """All brackets."""
        return list(self._brackets)

    @staticmethod
    def rungs(bracket: Any) -> int:
        """Number of rungs of a bracket."""
        return len(bracket._rungs)

    def put(self, trial: Any, bracket: Any) -> None:
        """Put a trial that was added into another bracket."""
        self._trial_info[trial.trial_id] = bracket


class OpenMedian(MedianStoppingRule):  # type: ignore[misc]
    """The median rule, which can forget a trial."""

    def forget(self, trial: Any) -> None:
        """Forget what a trial has reported."""
        self._results.pop(trial, None)


class OpenPopulation(PopulationBasedTraining):  # type: ignore[misc]
    """Population-based training whose decisions can be replaced."""

    @property
    def interval(self) -> float:
        """Steps between two decisions about a trial."""
        return float(self._perturbation_interval)

    def state_of(self, trial: Any) -> Any:
        """What is known of a trial: ``last_score``, ``last_train_time``, ``last_perturbation_time``, ``last_result``,
        ``last_checkpoint``.
        """
        return self._trial_state[trial]

    def remember(self, trial: Any, result: dict[str, Any]) -> None:
        """Take note of a trial's result without deciding."""
        self._save_trial_state(self._trial_state[trial], result["step"], result, trial)

    def quantiles(self) -> tuple[list[Any], list[Any]]:
        """The worst and the best trials."""
        lower, upper = super()._quantiles()
        return list(lower), list(upper)

    def values_after(self, donor: Any) -> dict[str, Any]:
        """The configuration of a trial that goes on from another one."""
        raise NotImplementedError

    def _quantiles(self) -> tuple[list[Any], list[Any]]:
        return self.quantiles()

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.values_after(trial_to_clone), {}


def staging_folder(trial: Any) -> Path:
    """Where Tune writes the state of the trial's experiment, on the driver's host."""
    return Path(trial.storage.experiment_driver_staging_path)


def error_of(trial: Any) -> BaseException:
    """What a trial has failed with, as Tune has just written it down."""
    error: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return error
