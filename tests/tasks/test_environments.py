"""What holds for the environments of every reinforcement-learning family, and classic control beside gymnasium's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.programs import open_program
from distmeta.tasks import TASKS
from distmeta.tasks.base import Episode
from distmeta.tasks.environments.classic import CartPole, Pendulum
from distmeta.tasks.environments.tabular import Bandits, Mdps
from distmeta.tasks.options import EnvironmentOptions

APART = ("gymnasium", "metaworld")
"""They have tests of their own: test_users_environments.py, test_metaworld.py."""

KINDS = [
    kind for kind, options in TASKS.options.items() if issubclass(options, EnvironmentOptions) and kind not in APART
]
EPISODES = {
    "train": Episode(shots=0, queries=0, seed=3),
    "validation": Episode(shots=0, queries=0, seed=4),
    "test": Episode(shots=0, queries=0, seed=4),
}
CPU = torch.device("cpu")


def opened(kind: str, **settings: Any) -> Any:
    if kind.startswith("half_cheetah"):
        pytest.importorskip("mujoco")
    options = TASKS.options[kind].model_validate({"kind": kind, **settings})
    return TASKS[kind](options, EPISODES, CPU)


def some_actions(family: Any, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    spec = type(family).spec(family._options)
    if spec.actions == "discrete":
        return torch.randint(spec.outputs, shape, generator=generator)
    return torch.randn(*shape, spec.outputs, generator=generator)


def rolled(family: Any, tasks: Any, draws: Any, actions: Any, episodes: slice = slice(None)) -> list[Tensor]:
    """Observations and rewards of some steps."""
    state, found = family.reset(tasks, draws[0][:, episodes]), []
    for step, action in enumerate(actions):
        found.append(family.observe(tasks, state))
        state, rewards, ended = family.step(tasks, state, action[:, episodes], draws[1][step][:, episodes])
        assert ended.dtype == torch.bool
        assert ended.shape == rewards.shape
        found.append(rewards)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_depends_on_its_own_numbers_alone(kind: str) -> None:
    family, generator = opened(kind), torch.Generator().manual_seed(0)
    tasks = family.sample("train", range(3)).support
    draws = (
        torch.rand(3, 4, family.reset_draws, generator=generator),
        torch.rand(6, 3, 4, family.step_draws, generator=generator),
    )
    actions = [some_actions(family, (3, 4), generator) for _ in range(6)]
    together = rolled(family, tasks, draws, actions)
    spec = type(family).spec(family._options)
    assert together[0].shape == (3, 4, *spec.inputs.shape)
    assert together[0].dtype == together[1].dtype == torch.float32
    assert all(each.isfinite().all() for each in together)
    again = rolled(opened(kind), tasks, draws, actions)
    assert all(torch.equal(a, b) for a, b in zip(again, together, strict=True))
    one = tree_map(lambda value: value[1:2], tasks)
    alone = rolled(family, one, (draws[0][1:2], draws[1][:, 1:2]), [each[1:2] for each in actions], slice(2, 3))
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a[0, 0], b[1, 2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_its_id(kind: str) -> None:
    family = opened(kind)
    both = family.sample("train", [4, 2**40 + 1])
    assert both.ids.tolist() == [4, 2**40 + 1]
    alone = opened(kind).sample("train", [2**40 + 1])
    for name, value in both.support.items():
        assert torch.equal(alone.support[name][0], value[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_trains(kind: str) -> None:
    if kind.startswith("half_cheetah"):
        pytest.importorskip("mujoco")
    source = {
        "tasks": {"kind": kind, "episodes": 2, "horizon": 3},
        "model": {"kind": "mlp", "hidden": [4], "activation": "tanh"},
        "algorithm": {"name": "maml_trpo", "inner_steps": 1},
        "run": {"meta_batch": 2, "steps": 1, "device": "cpu"},
        "engine": {"compile": "none"},
    }
    program = open_program(load_config(source), CPU)
    plan = program.probe()
    assert plan.running == "mapped"
    program.close()


def test_steps_of_the_pendulum_are_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    family, generator = opened("pendulum"), torch.Generator().manual_seed(1)
    assert isinstance(family, Pendulum)
    tasks = {"mass": torch.tensor([0.8]), "length": torch.tensor([1.2]), "gravity": torch.tensor([9.0])}
    environment = gymnasium.make("Pendulum-v1", g=9.0).unwrapped
    environment.m, environment.l = 0.8, 1.2
    environment.reset(seed=0)
    state = family.reset(tasks, torch.rand(1, 1, 2, generator=generator))
    environment.state = state[0, 0].double().numpy()
    for _ in range(50):
        action = 3 * torch.randn(1, 1, 1, generator=generator)
        state, rewards, _ = family.step(tasks, state, action, torch.zeros(1, 1, 0))
        seen, reward, *_ = environment.step(action[0, 0].numpy())
        assert float(rewards[0, 0]) == pytest.approx(float(reward), rel=1e-3, abs=1e-3)
        np.testing.assert_allclose(family.observe(tasks, state)[0, 0], seen, atol=1e-3)
        environment.state = state[0, 0].double().numpy()


def test_steps_of_the_cart_are_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    family = opened("cartpole")
    assert isinstance(family, CartPole)
    environment = gymnasium.make("CartPole-v1").unwrapped
    environment.gravity, environment.masspole, environment.masscart = 9.8, 0.2, 1.5
    environment.length, environment.force_mag = 0.7, 12.0
    environment.total_mass, environment.polemass_length = 1.7, 0.14
    names = ("pole_mass", "cart_mass", "length", "force")
    tasks = {name: torch.tensor([value]) for name, value in zip(names, (0.2, 1.5, 0.7, 12.0), strict=True)}
    environment.reset(seed=0)
    state = family.reset(tasks, torch.rand(1, 1, 4, generator=torch.Generator().manual_seed(0)))
    environment.state = tuple(state[0, 0].double().tolist())
    ended, steps = torch.zeros(1, 1, dtype=torch.bool), 0
    while not ended.any():
        action = torch.tensor([[1]])
        state, rewards, ended = family.step(tasks, state, action, torch.zeros(1, 1, 0))
        seen, reward, terminated, *_ = environment.step(1)
        assert float(rewards[0, 0]) == reward == 1
        assert bool(ended[0, 0]) == terminated
        np.testing.assert_allclose(state[0, 0], seen, rtol=1e-4, atol=1e-5)
        steps += 1
    assert 3 < steps < 100


def test_bandits_pay_as_often_as_they_should() -> None:
    family = opened("bandits", arms=3)
    assert isinstance(family, Bandits)
    tasks = {"probabilities": torch.tensor([[0.0, 0.3, 1.0]])}
    draws = torch.rand(1, 30_000, 1, generator=torch.Generator().manual_seed(0))
    actions = torch.arange(3).repeat(10_000).unsqueeze(0)
    _, rewards, ended = family.step(tasks, torch.ones(1, 30_000, 1), actions, draws)
    shares = rewards.view(-1, 3).mean(0)
    assert shares[0] == 0
    assert shares[2] == 1
    assert abs(float(shares[1]) - 0.3) < 0.02
    assert not ended.any()


def test_decision_processes_move_and_pay_as_they_should() -> None:
    family = opened("mdps", states=4, choices=2)
    assert isinstance(family, Mdps)
    drawn = family.sample("train", range(500)).support
    chances = torch.diff(drawn["moves"], dim=-1, prepend=torch.zeros(500, 4, 2, 1))
    assert (chances >= 0).all()
    torch.testing.assert_close(drawn["moves"][..., -1], torch.ones(500, 4, 2))
    assert abs(float(chances.var()) - 3 / (16 * 5)) < 0.003  # of a flat Dirichlet distribution of 4
    assert abs(float(drawn["rewards"].mean()) - 1) < 0.05
    assert abs(float(drawn["rewards"].std()) - 1) < 0.05
    tasks = {name: value[:1] for name, value in drawn.items()}
    count, generator = 40_000, torch.Generator().manual_seed(0)
    state = torch.full((1, count), 2)
    draws = torch.rand(1, count, 3, generator=generator)
    after, rewards, _ = family.step(tasks, state, torch.ones(1, count, dtype=torch.int64), draws)
    shares = torch.bincount(after[0], minlength=4) / count
    assert (shares - chances[0, 2, 1]).abs().max() < 0.01
    assert abs(float(rewards.mean() - tasks["rewards"][0, 2, 1])) < 0.03
    assert abs(float(rewards.std()) - 1) < 0.02


def test_wrong_ranges() -> None:
    source = {"tasks": {"kind": "pendulum", "mass": [2, 1]}, "model": {"kind": "mlp"}, "algorithm": {"name": "promp"}}
    with pytest.raises(ConfigError, match=r"tasks.mass = \[2.0, 1.0\]"):
        load_config(source)
