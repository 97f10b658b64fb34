"""Navigation in the plane to a goal that the policy does not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from distmeta.core.philox import Purpose, integers, uniform, words
from distmeta.core.records import Data, Split, TensorSpec
from distmeta.tasks.base import Episode, TaskSpec
from distmeta.tasks.environments.base import Environments
from distmeta.tasks.options.environments import NavigationOptions

if TYPE_CHECKING:
    from torch import Tensor

    from distmeta.config.sections import TaskOptions

GOALS_WITHIN = 0.5
"""Goals of the square lie between -GOALS_WITHIN and GOALS_WITHIN along each axis."""

REACHED = 0.01
"""An episode of the square ends where the point is so near to the goal along each axis."""

CORNERS = ((-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0))
LEFT = 0.5
"""Sparse rewards begin at this distance from the origin, in the 1-norm."""


class Navigation(Environments):
    """A point at (x, y) moves by the action, of which each element is clipped; it sees its position alone.

    ``goals: square`` (Finn, Abbeel, Levine, ICML 2017, section 5.3.1): goals uniform in [-0.5, 0.5]^2, start at 0,
    steps of at most 0.1 along each axis, reward minus the distance to the goal after the step; an episode ends within
    0.01 of the goal along both axes. ``goals: corners`` (Rothfuss, Lee, Clavera, Asfour, Abbeel, ICLR 2019, and its
    released code): one of (+-2, +-2), start uniform in [-0.2, 0.2]^2, steps of at most 0.2, and with ``reward: sparse``
    the progress towards the goal where it is the nearest corner and the 1-norm of the position is 0.5 or more, else 0.
    """

    Options: type[TaskOptions] = NavigationOptions
    reset_draws: int = 2

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """The position in, a step out."""
        return TaskSpec(TensorSpec((2,)), outputs=2, program="reinforcement", actions="continuous")

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """The goals (T, 2)."""
        import numpy as np

        drawn = words(episode.seed, split, ids, Purpose.PARAMETERS, 2)
        if self._own.goals == "corners":
            return {"goal": np.array(CORNERS)[integers(drawn[:, 0], len(CORNERS))]}
        return {"goal": GOALS_WITHIN * (2 * uniform(drawn) - 1)}

    def reset(self, tasks: Data, draws: Tensor) -> Tensor:
        """(T, E, 2) positions."""
        start: Tensor = 2 * draws - 1
        return (0.0 if self._own.goals == "square" else 0.2) * start

    def observe(self, tasks: Data, state: Tensor) -> Tensor:
        """The positions."""
        return state

    def step(self, tasks: Data, state: Tensor, actions: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Move, and compare with the goal."""
        square = self._own.goals == "square"
        longest = 0.1 if square else 0.2
        after = state + actions.clamp(-longest, longest)
        off = after - tasks["goal"].unsqueeze(1)
        distance = off.norm(dim=-1)
        rewards = -distance if self._own.reward == "distance" else self._progress(tasks, state, after, distance)
        ended = (off.abs() < REACHED).all(-1)
        return after, rewards, ended if square else ended.new_zeros(ended.shape)

    def places(self, tasks: Data, state: Any) -> tuple[Tensor, Tensor | None] | None:
        """Positions and goals."""
        return state, tasks["goal"]

    def _progress(self, tasks: Data, before: Tensor, after: Tensor, distance: Tensor) -> Tensor:
        """The sparse reward (T, E)."""
        progress: Tensor = (before - tasks["goal"].unsqueeze(1)).norm(dim=-1) - distance
        nearest = (after.unsqueeze(-2) - after.new_tensor(CORNERS)).norm(dim=-1).amin(-1)
        told = (distance <= nearest) & (after.abs().sum(-1) >= LEFT)
        return progress.where(told, progress.new_zeros(()))

    @property
    def _own(self) -> NavigationOptions:
        return cast(NavigationOptions, self._options)
