"""HalfCheetah beside gymnasium's own environment."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from distmeta.errors import ConfigError
from distmeta.tasks.base import Episode
from distmeta.tasks.environments import locomotion
from distmeta.tasks.environments.locomotion import HalfCheetahDir, HalfCheetahVel

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")

EPISODE = Episode(shots=0, queries=0, seed=3)
CPU = torch.device("cpu")


def opened(kind: Any, **settings: object) -> Any:
    options = kind.Options.model_validate({**settings})
    return kind(options, {"train": EPISODE, "test": EPISODE}, CPU)


def test_steps_are_gymnasiums() -> None:
    """Its own solver goes on from the last step; ours begins anew, which makes little difference."""
    family, generator = opened(HalfCheetahDir), torch.Generator().manual_seed(0)
    tasks = {"direction": torch.tensor([1.0, -1.0])}
    state = family.reset(tasks, torch.rand(2, 1, family.reset_draws, generator=generator))
    environments = [gymnasium.make("HalfCheetah-v5", ctrl_cost_weight=0.05).unwrapped for _ in range(2)]
    for number, environment in enumerate(environments):
        environment.reset(seed=0)
        environment.set_state(state[number, 0, 1:10], state[number, 0, 10:])
    for _ in range(20):
        actions = 15 * torch.randn(2, 1, 6, generator=generator)
        state, rewards, ended = family.step(tasks, state, actions, torch.zeros(2, 1, 0))
        assert not ended.any()
        observed = family.observe(tasks, state)
        assert observed.shape == (2, 1, 17)
        for number, environment in enumerate(environments):
            control = np.clip(actions[number, 0].double().numpy() / 10, -1, 1)
            seen, _, terminated, _, info = environment.step(control)
            assert not terminated
            direction = float(tasks["direction"][number])
            wanted = direction * info["x_velocity"] + info["reward_ctrl"]
            assert float(rewards[number, 0]) == pytest.approx(wanted, abs=1e-4)
            np.testing.assert_allclose(observed[number, 0], seen, atol=1e-4)


def test_a_used_family_has_the_bits_of_a_fresh_one() -> None:
    family = opened(HalfCheetahDir)

    def end(given: Any) -> np.ndarray[Any, Any]:
        generator = torch.Generator().manual_seed(1)
        tasks = given.sample("train", range(3)).support
        state: np.ndarray[Any, Any] = given.reset(tasks, torch.rand(3, 4, given.reset_draws, generator=generator))
        for _ in range(10):
            actions = 5 * torch.randn(3, 4, 6, generator=generator)
            state, *_ = given.step(tasks, state, actions, torch.zeros(3, 4, 0))
        return state

    first = end(family)
    assert np.array_equal(end(family), first)
    assert np.array_equal(end(opened(HalfCheetahDir)), first)


def test_an_episode_does_not_depend_on_its_company() -> None:
    family, generator = opened(HalfCheetahDir), torch.Generator().manual_seed(2)
    tasks, draws = {"direction": torch.ones(4)}, torch.rand(4, 3, family.reset_draws, generator=generator)
    actions = torch.randn(4, 3, 6, generator=generator)
    whole, *_ = family.step(tasks, family.reset(tasks, draws), actions, torch.zeros(4, 3, 0))
    one = {"direction": torch.ones(1)}
    alone, *_ = family.step(one, family.reset(one, draws[2:3]), actions[2:3], torch.zeros(1, 3, 0))
    assert np.array_equal(alone[0], whole[2])


def test_tasks() -> None:
    directions = opened(HalfCheetahDir).sample("train", range(2000)).support["direction"]
    assert set(directions.tolist()) == {1.0, -1.0}
    assert abs(float(directions.mean())) < 0.1
    assert opened(HalfCheetahDir).sample("test", range(4)).support["direction"].tolist() == [1.0, -1.0, 1.0, -1.0]
    velocities = opened(HalfCheetahVel, fastest=3.0).sample("train", range(2000)).support["velocity"]
    assert 0 <= float(velocities.min()) < 0.1
    assert 2.9 < float(velocities.max()) <= 3.0


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match=r"pip install distmeta\[rl\]"):
        locomotion.versions()
