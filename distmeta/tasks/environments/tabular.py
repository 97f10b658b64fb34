"""Bandits and tabular decision processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from distmeta.core.philox import Purpose, normal, uniform, words
from distmeta.core.records import Data, Split, TensorSpec
from distmeta.tasks.base import Episode, TaskSpec
from distmeta.tasks.environments.base import Environments, normal_of
from distmeta.tasks.options.environments import BanditOptions, MdpOptions

if TYPE_CHECKING:
    from torch import Tensor

    from distmeta.config.sections import TaskOptions


class Bandits(Environments):
    """Arms that pay 1 with a hidden probability, uniform in [0, 1].

    Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, arXiv 1611.02779, section 3.1.
    """

    Options: type[TaskOptions] = BanditOptions
    step_draws: int = 1

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """A 1 in, one of the arms out."""
        return TaskSpec(TensorSpec((1,)), cast(BanditOptions, options).arms, "reinforcement", "discrete")

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Probabilities (T, arms)."""
        arms = cast(BanditOptions, self._options).arms
        return {"probabilities": uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, arms))}

    def reset(self, tasks: Data, draws: Tensor) -> Tensor:
        """There is no state: (T, E, 1) ones."""
        return draws.new_ones((*draws.shape[:2], 1))

    def observe(self, tasks: Data, state: Tensor) -> Tensor:
        """Ones."""
        return state

    def step(self, tasks: Data, state: Tensor, actions: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pull."""
        paid = draws.squeeze(-1) < tasks["probabilities"].gather(1, actions)
        return state, paid.to(state.dtype), paid.new_zeros(paid.shape)


class Mdps(Environments):
    """Tabular decision processes with hidden transitions and rewards.

    Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, arXiv 1611.02779, section 3.2.
    """

    Options: type[TaskOptions] = MdpOptions
    step_draws: int = 3

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """The state in, one-hot; one of the choices out."""
        own = cast(MdpOptions, options)
        return TaskSpec(TensorSpec((own.states,)), own.choices, "reinforcement", "discrete")

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Cumulative probabilities of the next states (T, states, choices, states), and mean rewards."""
        import numpy as np

        own = cast(MdpOptions, self._options)
        pairs, count = own.states * own.choices, len(ids)
        drawn = words(episode.seed, split, ids, Purpose.PARAMETERS, pairs * own.states)
        shares = -np.log1p(-uniform(drawn)).reshape(count, own.states, own.choices, own.states)
        chances = shares / shares.sum(-1, keepdims=True)
        # Two words a number, of which half is used.
        means = normal(words(episode.seed, split, ids, Purpose.INPUTS, 2 * pairs))[:, :pairs]
        return {"moves": chances.cumsum(-1), "rewards": 1 + means.reshape(count, own.states, own.choices)}

    def reset(self, tasks: Data, draws: Tensor) -> Tensor:
        """(T, E) states: 0."""
        import torch

        return torch.zeros(draws.shape[:2], dtype=torch.int64, device=draws.device)

    def observe(self, tasks: Data, state: Tensor) -> Tensor:
        """One-hot (T, E, states)."""
        from torch.nn.functional import one_hot

        return one_hot(state, cast(MdpOptions, self._options).states).float()

    def step(self, tasks: Data, state: Tensor, actions: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose."""
        import torch

        task = torch.arange(len(state), device=state.device).unsqueeze(1)
        chances = tasks["moves"][task, state, actions]
        after = (chances <= draws[..., :1]).sum(-1).clamp(max=chances.shape[-1] - 1)
        rewards = tasks["rewards"][task, state, actions] + normal_of(draws[..., 1], draws[..., 2])
        return after, rewards, torch.zeros_like(rewards, dtype=torch.bool)
