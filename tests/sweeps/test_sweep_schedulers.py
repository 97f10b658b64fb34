"""Schedulers of a resumed sweep decide as if it had never stopped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from sweep_helpers import sweep

from distmeta.sweeps.tune.schedulers import scheduler

EVERY, STEPS, TRIALS = 4, 36, 12
RATES = {"algorithm.inner_lr": 0.01, "outer.lr": 0.001}
REPORTS = range(EVERY, STEPS, EVERY)


class Controller:
    """What schedulers ask of Tune's: here no trial waits for room."""

    search_alg = None

    def get_live_trials(self) -> set[Trial]:
        return set()

    def get_trials(self) -> list[Trial]:
        return []

    def pause_trial(self, one: Trial, should_checkpoint: bool) -> None:
        one.set_status(Trial.PAUSED)


CONTROLLER = Controller()


def made(kind: str, past: dict[str, list[dict[str, Any]]]) -> TrialScheduler:
    """A scheduler of a sweep whose trials have reported this before."""

    def history(name: str, last: int) -> Iterator[dict[str, Any]]:
        return (result for result in past.get(name, []) if result["step"] <= last)

    options = {"kind": kind, **({"interval": 2 * EVERY} if kind == "pbt" else {})}
    chosen = sweep(f"run.steps={STEPS}", f"run.validate_every={EVERY}", scheduler=options, trials=TRIALS)
    found = scheduler(chosen, history, lambda name: RATES)
    assert found.set_search_properties("score", chosen.mode)
    return found


def trial(number: int, told: list[dict[str, Any]]) -> Trial:
    """Tune's record of a trial that is new, or as a resumed sweep has it."""
    found = Trial("trial", trial_id=f"{number:08d}", stub=True)
    found.run_metadata.last_result = dict(told[-1]) if told else {}
    return found


def goes_on(chosen: TrialScheduler, one: Trial, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a trial comes to report, up to where it is stopped."""
    for number, result in enumerate(results):
        if chosen.on_trial_result(CONTROLLER, one, dict(result)) == TrialScheduler.STOP:
            chosen.on_trial_complete(CONTROLLER, one, dict(result))
            return results[: number + 1]
    return results


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_a_scheduler_knows_earlier_trials(kind: str) -> None:
    chance = random.Random(0)
    levels = [chance.random() for _ in range(TRIALS)]
    curves = [[{"step": step, "score": level + 1 / step} for step in REPORTS] for level in levels]

    def session(chosen: TrialScheduler, numbers: range) -> dict[str, list[dict[str, Any]]]:
        told = {}
        for number in numbers:
            one = trial(number, [])
            chosen.on_trial_add(CONTROLLER, one)
            told[one.trial_id] = goes_on(chosen, one, curves[number])
        return told

    whole = session(made(kind, {}), range(TRIALS))
    half = TRIALS // 2
    past = dict(list(whole.items())[:half])
    resumed = made(kind, past)
    for number, told in enumerate(past.values()):
        resumed.on_trial_add(CONTROLLER, trial(number, told))
    anew = session(made(kind, {}), range(half, TRIALS))

    later = dict(list(whole.items())[half:])
    assert session(resumed, range(half, TRIALS)) == later
    assert anew != later  # it matters


def test_what_is_told_again_is_decided_anew() -> None:
    """A trial that measured a step and died before its report is judged by that step when it reports it."""
    past = {f"{number:08d}": [{"step": step, "score": number} for step in (EVERY, 2 * EVERY)] for number in range(4)}
    resumed = made("asha", past)
    *others, worst = (trial(number, told if number < 3 else []) for number, told in enumerate(past.values()))
    for one in (*others, worst):
        resumed.on_trial_add(CONTROLLER, one)
    assert resumed.on_trial_result(CONTROLLER, worst, {"step": EVERY, "score": 3}) == TrialScheduler.STOP


def test_a_population_knows_earlier_trials() -> None:
    """The first trial to report in a new session goes on from the best one's checkpoint, which reports later."""
    levels = [3.0, 1.0, 2.0, 4.0]
    past = {
        f"{number:08d}": [{"step": step, "score": level} for step in range(EVERY, 4 * EVERY, EVERY)]
        for number, level in enumerate(levels)
    }

    def session(known: dict[str, list[dict[str, Any]]]) -> tuple[list[Trial], str]:
        chosen, trials = made("pbt", known), []
        for number, told in enumerate(past.values()):
            one = trial(number, told)
            one.set_config({"values": RATES})
            one.set_status(Trial.RUNNING)
            kept = _TrainingResult(Checkpoint(f"/{one.trial_id}"), told[-1])
            one.run_metadata.checkpoint_manager.register_checkpoint(kept)
            chosen.on_trial_add(CONTROLLER, one)
            trials.append(one)
        # It last changed at two validations, and has told of a third one since.
        return trials, chosen.on_trial_result(CONTROLLER, trials[3], {"step": 4 * EVERY, "score": 4.0})

    trials, decision = session(past)
    assert decision == TrialScheduler.NOOP
    assert trials[3].checkpoint.path == f"/{trials[1].trial_id}"
    assert trials[3].config["values"] != RATES
    trials, decision = session({})
    assert decision == TrialScheduler.CONTINUE
    assert trials[3].config["values"] == RATES
