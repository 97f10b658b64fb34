"""Navigation as published."""

from __future__ import annotations

import torch

from distmeta.tasks.base import Episode
from distmeta.tasks.environments.navigation import Navigation
from distmeta.tasks.options.environments import NavigationOptions

EPISODE = Episode(shots=0, queries=0, seed=3)


def opened(**settings: object) -> Navigation:
    options = NavigationOptions.model_validate({"kind": "navigation", **settings})
    return Navigation(options, {"train": EPISODE, "test": EPISODE}, torch.device("cpu"))


def test_goals_of_the_square() -> None:
    goals = opened().sample("train", range(4000)).support["goal"]
    assert goals.shape == (4000, 2)
    assert goals.abs().max() <= 0.5
    assert goals.mean(0).abs().max() < 0.02
    assert torch.equal(opened().sample("train", [17]).support["goal"][0], goals[17])
    assert not torch.equal(opened().sample("test", range(4)).support["goal"], goals[:4])


def test_steps_of_the_square() -> None:
    family = opened()
    tasks = {"goal": torch.tensor([[0.1, 0.05]])}
    state = family.reset(tasks, torch.rand(1, 2, 2))
    assert torch.equal(state, torch.zeros(1, 2, 2))
    actions = torch.tensor([[[5.0, 0.055], [-0.02, 0.0]]])
    after, rewards, ended = family.step(tasks, state, actions, torch.zeros(1, 2, 0))
    torch.testing.assert_close(after, torch.tensor([[[0.1, 0.055], [-0.02, 0.0]]]))
    torch.testing.assert_close(rewards, -torch.tensor([[0.005, (0.12**2 + 0.05**2) ** 0.5]]))
    assert ended.tolist() == [[True, False]]


def test_corners_reward_progress_to_the_nearest_one() -> None:
    family = opened(goals="corners")
    goals = family.sample("train", range(400)).support["goal"]
    assert {tuple(goal) for goal in goals.tolist()} == {(-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0)}
    tasks = {"goal": torch.tensor([[2.0, 2.0]])}
    start = family.reset(tasks, torch.rand(1, 50, 2))
    assert start.abs().max() <= 0.2
    state = torch.tensor([[[0.1, 0.1], [0.5, 0.5], [-0.5, 0.5]]])
    _, rewards, ended = family.step(tasks, state, torch.full((1, 3, 2), 0.1), torch.zeros(1, 3, 0))
    # Still at the start; on the way; nearer to another corner.
    torch.testing.assert_close(rewards, torch.tensor([[0.0, 2**0.5 * 0.1, 0.0]]))
    assert not ended.any()
