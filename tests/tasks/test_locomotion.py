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
from distmeta.tasks.environments.bodies import AntDir, AntGoal, WalkerParams
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
        environment.set_state(state.values[number, 0, 1:10], state.values[number, 0, 10:])
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
        state = given.reset(tasks, torch.rand(3, 4, given.reset_draws, generator=generator))
        for _ in range(10):
            actions = 5 * torch.randn(3, 4, 6, generator=generator)
            state, *_ = given.step(tasks, state, actions, torch.zeros(3, 4, 0))
        found: np.ndarray[Any, Any] = state.values
        return found

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
    assert np.array_equal(alone.values[0], whole.values[2])


def test_tasks() -> None:
    directions = opened(HalfCheetahDir).sample("train", range(2000)).support["direction"]
    assert set(directions.tolist()) == {1.0, -1.0}
    assert not directions.view(-1, 2).sum(1).any()  # one of each in every two
    assert abs(float(directions[::2].mean())) < 0.1
    assert opened(HalfCheetahDir).sample("test", range(4)).support["direction"].tolist() == [1.0, -1.0, 1.0, -1.0]
    velocities = opened(HalfCheetahVel, fastest=3.0).sample("train", range(2000)).support["velocity"]
    assert 0 <= float(velocities.min()) < 0.1
    assert 2.9 < float(velocities.max()) <= 3.0


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        (AntDir, "Ant-v5", {"include_cfrc_ext_in_observation": False}),
        (WalkerParams, "Walker2d-v5", {}),
    ],
    ids=["ant", "walker"],
)
def test_other_bodies_are_gymnasiums(kind: Any, name: str, settings: dict[str, Any]) -> None:
    family, generator = (
        opened(kind, **({"limit": 0.0} if kind is WalkerParams else {})),
        torch.Generator().manual_seed(0),
    )
    tasks = family.sample("test", range(2)).support
    state = family.reset(tasks, torch.rand(2, 1, family.reset_draws, generator=generator))
    environments = [gymnasium.make(name, **settings).unwrapped for _ in range(2)]
    positions, _, width = family.sizes
    for number, environment in enumerate(environments):
        environment.reset(seed=0)
        environment.set_state(state.values[number, 0, 1 : 1 + positions], state.values[number, 0, 1 + positions :])
    assert kind.spec(family._options).inputs.shape == environments[0].observation_space.shape
    for _ in range(5):
        actions = 2 * torch.randn(2, 1, width, generator=generator)
        before = state
        state, rewards, _ = family.step(tasks, state, actions, torch.zeros(2, 1, 0))
        observed = family.observe(tasks, state)
        for number, environment in enumerate(environments):
            control = np.clip(actions[number, 0].double().numpy(), -1, 1)
            seen, *_ = environment.step(control)
            np.testing.assert_allclose(observed[number, 0], seen, atol=1e-3)
            moved = (state.values[number, 0, 1] - before.values[number, 0, 1]) / environment.dt
            ahead = float(tasks["direction"][number, 0]) if kind is AntDir else 1.0
            wanted = ahead * moved + (kind is WalkerParams) - family.cost * float(np.square(control).sum())
            assert float(rewards[number, 0]) == pytest.approx(wanted, abs=1e-4)


def test_walkers_are_made_of_what_their_tasks_say() -> None:
    family = opened(WalkerParams)
    tasks, draws = family.sample("train", range(2)).support, torch.full((2, 3, family.reset_draws), 0.5)
    state = family.reset(tasks, draws)
    assert len(state.models) == 6
    assert state.models[0] is state.models[2]
    mass = family._model.body_mass
    for task in range(2):
        factors = state.models[3 * task].body_mass[1:] / mass[1:]
        assert float(factors.min()) >= 1.5**-3
        assert float(factors.max()) <= 1.5**3
        np.testing.assert_allclose(factors, tasks["factors"][task, 1 : len(mass)].numpy(), rtol=1e-6)
    ended = torch.zeros(2, 3, dtype=torch.bool)
    for _ in range(300):
        state, rewards, over = family.step(tasks, state, torch.ones(2, 3, 6), torch.zeros(2, 3, 0))
        ended |= over
    assert torch.isfinite(rewards).all()
    assert ended.all()  # nobody stands with all its joints bent
    assert not torch.equal(rewards[0], rewards[1])


def test_places_and_directions_of_ants() -> None:
    goals = opened(AntGoal, radius=2.0).sample("train", range(2000)).support["goal"]
    assert float(goals.norm(dim=1).max()) <= 2
    assert float(goals.norm(dim=1).mean()) == pytest.approx(4 / 3, abs=0.05)  # uniform in the disc
    circle = opened(AntDir, directions="circle").sample("train", range(2000)).support["direction"]
    torch.testing.assert_close(circle.norm(dim=1), torch.ones(2000))
    assert float(circle.mean(0).norm()) < 0.1
    assert opened(AntDir).sample("test", range(2)).support["direction"].tolist() == [[1.0, 0.0], [-1.0, 0.0]]
    family = opened(AntGoal)
    tasks = {"goal": torch.tensor([[1.0, -2.0]])}
    before = torch.zeros(1, 1, 29, dtype=torch.float64)
    assert float(family.reward(tasks, before, before)) == pytest.approx(-3)
    assert AntDir.groups(AntDir.Options(), "test", range(2)) == ["forwards", "backwards"]
    assert AntDir.groups(AntDir.Options(directions="circle"), "test", range(2)) is None


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match=r"pip install distmeta\[rl\]"):
        locomotion.versions()
