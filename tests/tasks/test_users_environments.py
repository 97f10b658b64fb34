"""Environments of the user's own with gymnasium's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import distmeta
from distmeta.errors import ConfigError, DataError
from distmeta.loading import load_config
from distmeta.tasks import TASKS, prepare_family
from distmeta.tasks.base import Episode

pytest.importorskip("gymnasium")

EPISODES = {"train": Episode(shots=0, queries=0, seed=3), "test": Episode(shots=0, queries=0, seed=4)}
LINE = "module:users_environments.Line"


def settings(**own: Any) -> dict[str, Any]:
    return {
        "tasks": {"kind": "gymnasium", "environment": LINE, "episodes": 2, "horizon": 5, **own},
        "model": {"kind": "mlp", "hidden": [4], "activation": "tanh"},
        "algorithm": {"name": "promp", "inner_steps": 1},
        "run": {"meta_batch": 2, "tasks_per_shard": 1, "steps": 2, "device": "cpu", "validate_every": 1},
        "evaluation": {"tasks": 2, "validation_tasks": 2},
        "cluster": {"workers": 0},
    }


def opened(**own: Any) -> Any:
    options = TASKS.options["gymnasium"].model_validate({"kind": "gymnasium", "environment": LINE, **own})
    return TASKS["gymnasium"](options, EPISODES, torch.device("cpu"))


def test_episodes_of_a_used_family_are_those_of_a_fresh_one() -> None:
    def rolled(family: Any) -> list[torch.Tensor]:
        tasks, generator = family.sample("train", [3, 8]).support, torch.Generator().manual_seed(0)
        state, found = family.reset(tasks, torch.rand(2, 3, 1, generator=generator)), []
        for _ in range(30):
            found.append(family.observe(tasks, state))
            state, rewards, ended = family.step(
                tasks, state, 2 * torch.randn(2, 3, 1, generator=generator), torch.zeros(2, 3, 0)
            )
            found += [rewards, ended]
        return found

    family = opened()
    first = rolled(family)
    assert all(torch.equal(a, b) for a, b in zip(rolled(family), first, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(rolled(opened()), first, strict=True))
    assert first[-1].any()
    family.close()


def test_bounds_and_scale() -> None:
    for scale, action, moved in ((None, 7.0, 0.1), (10.0, 7.0, 0.07), (10.0, 70.0, 0.1)):
        family = opened(action_scale=scale)
        tasks = family.sample("test", [0]).support
        state = family.reset(tasks, torch.zeros(1, 1, 1))
        before = family.observe(tasks, state)
        state, *_ = family.step(tasks, state, torch.full((1, 1, 1), action), torch.zeros(1, 1, 0))
        assert float(family.observe(tasks, state) - before) == pytest.approx(moved, abs=1e-6)


@pytest.mark.parametrize("discrete", [False, True])
def test_a_run(discrete: bool, tmp_path: Path) -> None:
    config = load_config(settings(arguments={"discrete": discrete}))
    records = list(distmeta.train(config, tmp_path / "run"))
    assert len(records) == 2
    assert set(records[-1].metrics) >= {"return", "return_before", "divergence_0"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"tried before the run.*the motor is broken"),
        ("nan", "reward is not finite"),
        ("grows", r"had the shape \(1,\), and now there is one of \(2,\)"),
        ("remembers", "not what a new one is"),
        ("leaks", "not what a new one is"),
        ("exits", "tried before the run.*SystemExit"),
        ("vector", r"tried before the run\): the reward should be one number, and is of shape \(1,\)"),
        ("old reset", r"reset should return \(observation, info\)"),
        ("old step", r"step should return .* a tuple of 4"),
        ("whole", "floating-point numbers, and are .*int64"),
        ("image", "Box of one dimension"),
    ],
)
def test_faults_are_found_before_the_run(fault: str, message: str) -> None:
    config = load_config(settings(arguments={"fault": fault}))
    with pytest.raises((ConfigError, DataError), match=message):
        prepare_family(config)


def test_actions_stay_within_bounds_of_every_type() -> None:
    """The nearest float32 to a bound of float64 may lie beyond it."""
    family = opened(arguments={"fault": "double"})
    tasks = family.sample("test", [0]).support
    state = family.reset(tasks, torch.zeros(1, 1, 1))
    for action in (7.0, -7.0):
        state, *_ = family.step(tasks, state, torch.full((1, 1, 1), action), torch.zeros(1, 1, 0))


def test_a_fault_later_names_task_seed_and_step() -> None:
    family = opened(arguments={"fault": "raises"})
    tasks = family.sample("train", [16, 17]).support
    state = family.reset(tasks, torch.full((2, 1, 1), 0.5))
    for _ in range(2):
        state, *_ = family.step(tasks, state, torch.zeros(2, 1, 1), torch.zeros(2, 1, 0))
    assert not state.ended.all()
    with pytest.raises(DataError, match=r"train task 1[67], seed 8388608, step 2\).*the motor is broken"):
        family.step(tasks, state, torch.zeros(2, 1, 1), torch.zeros(2, 1, 0))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("module:users_environments.Bare", "no sample_task, set_task"),
        ("module:users_environments.Nothing", "Nothing"),
        ("CartPole-v1", "tasks.environment"),
    ],
)
def test_what_is_no_environment(environment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare_family(load_config(settings(environment=environment)))
