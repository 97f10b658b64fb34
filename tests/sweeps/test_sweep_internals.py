"""Names of Ray Tune that it does not promise to keep: each is there, as it is used."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, PopulationBasedTraining

from distmeta.sweeps.tune import internals as sweep_internals
from distmeta.sweeps.tune.internals import OpenHalving, OpenMedian, OpenPopulation

METRIC = {"metric": "score", "mode": "max"}


def gone(name: str) -> str:
    return f"Ray {ray.__version__} has no {name} any more: change distmeta.sweeps.tune.internals"


class Controller:
    """What schedulers ask of Tune's."""

    search_alg = None


@pytest.fixture
def trial() -> Trial:
    return Trial("unused", trial_id="first", stub=True)


def test_halving(trial: Trial) -> None:
    scheduler = OpenHalving(time_attr="step", max_t=27, grace_period=1, reduction_factor=3, brackets=2)
    scheduler.set_search_properties(**METRIC)
    for name in ("_brackets", "_trial_info"):
        assert hasattr(ASHAScheduler(), name), gone(f"ASHAScheduler.{name}")
    assert hasattr(scheduler.brackets[0], "_rungs"), gone("_Bracket._rungs")
    first, second = scheduler.brackets
    assert (scheduler.rungs(first), scheduler.rungs(second)) == (4, 3)
    scheduler.on_trial_add(Controller(), trial)
    for bracket in (first, second):
        scheduler.put(trial, bracket)
        scheduler.on_trial_result(Controller(), trial, {"step": 9, "score": 1.0})
        recorded = [trial.trial_id in results for _, results in bracket._rungs]
        assert any(recorded), gone("ASHAScheduler._trial_info, or not as it was,")


def test_median(trial: Trial) -> None:
    assert hasattr(MedianStoppingRule(), "_results"), gone("MedianStoppingRule._results")
    scheduler = OpenMedian(time_attr="step", grace_period=0)
    scheduler.set_search_properties(**METRIC)
    scheduler.on_trial_complete(Controller(), trial, {"step": 1, "score": 1.0})
    assert trial in scheduler._results
    scheduler.forget(trial)
    scheduler.forget(trial)
    assert trial not in scheduler._results


class Chosen(OpenPopulation):
    def values_after(self, donor: Any) -> dict[str, Any]:
        return {"from": donor.trial_id}


def test_population(trial: Trial) -> None:
    expected = {
        "_quantiles": ["self"],
        "_get_new_config": ["self", "trial", "trial_to_clone"],
        "_save_trial_state": ["self", "state", "time", "result", "trial"],
    }
    for name, parameters in expected.items():
        method = getattr(PopulationBasedTraining, name, None)
        assert method is not None, gone(f"PopulationBasedTraining.{name}")
        assert list(inspect.signature(method).parameters) == parameters, gone(f"{name}{parameters}")
    scheduler = Chosen(time_attr="step", perturbation_interval=5, custom_explore_fn=dict)
    scheduler.set_search_properties(**METRIC)
    for name in ("_trial_state", "_perturbation_interval"):
        assert hasattr(scheduler, name), gone(f"PopulationBasedTraining.{name}")
    assert scheduler.interval == 5
    trials = [trial, Trial("unused", trial_id="second", stub=True)]
    for each in trials:
        scheduler.on_trial_add(Controller(), each)
    for each, score in zip(trials, (1.0, 2.0), strict=True):
        scheduler.remember(each, {"step": 4, "score": score})
        state = scheduler.state_of(each)
        assert (state.last_score, state.last_train_time) == (score, 4)
        for name in ("last_perturbation_time", "last_result", "last_checkpoint"):
            assert hasattr(state, name), gone(f"a trial's {name}")
    assert scheduler.quantiles() == ([trials[0]], [trials[1]])
    assert scheduler._get_new_config(*trials)[0] == {"from": "second"}


def test_what_a_trial_has() -> None:
    assert hasattr(StorageContext, "experiment_driver_staging_path"), gone("experiment_driver_staging_path")
    assert isinstance(getattr(Trial, "pickled_error_file", None), property), gone("Trial.pickled_error_file")


@pytest.mark.usefixtures("ray_cluster")
def test_what_a_trial_knows(tmp_path: Path) -> None:
    storage = StorageContext(storage_path=str(tmp_path), experiment_dir_name="here", trial_dir_name="first")
    stored = Trial("unused", trial_id="stored", stub=True, storage=storage)
    assert sweep_internals.staging_folder(stored).parts[-2:] == ("here", "driver_artifacts")
    stored.init_local_path()
    stored.handle_error(RayTaskError("step", "traceback", ValueError("why")))
    assert isinstance(sweep_internals.error_of(stored).cause, ValueError)


def test_the_logger_of_failed_trials() -> None:
    module = Path(ray.__file__).parent.parent / f"{sweep_internals.TUNE_LOGGER.replace('.', '/')}.py"
    assert "getLogger(__name__)" in module.read_text(), gone(f"logger {sweep_internals.TUNE_LOGGER}")


def test_tune_tells_no_credentials() -> None:
    """Its list has what is taken out of it, and no more of that kind."""
    from ray.tune.execution import class_cache

    def listed() -> set[str]:
        return {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}

    assert listed() == set(sweep_internals.CREDENTIALS)
    with sweep_internals.without_credentials():
        assert listed() == set()
    assert listed() == set(sweep_internals.CREDENTIALS)
