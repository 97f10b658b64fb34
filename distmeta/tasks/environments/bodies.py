"""Ants and walkers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import Data, Split
from distmeta.tasks.base import Episode
from distmeta.tasks.environments.locomotion import Bodies, Locomotion, groups_of_ways, two_ways
from distmeta.tasks.options.environments import AntDirOptions, AntGoalOptions, WalkerParamsOptions

if TYPE_CHECKING:
    from torch import Tensor

    from distmeta.config.sections import TaskOptions


class Ant(Locomotion):
    """Gymnasium's ``Ant-v5`` without contact forces, whose controls cost 0.005 times their squares.

    27 numbers are seen. Episodes never end, a fallen ant's neither, and nothing is paid for staying upright.
    """

    body = "ant"
    hidden = 2
    sizes: ClassVar[tuple[int, int, int]] = (15, 14, 8)
    cost = 0.005

    def places(self, tasks: Data, state: Any) -> tuple[Tensor, Tensor | None] | None:
        """Positions of the torso, and the task's place where it has one."""
        import torch

        return torch.from_numpy(state.values[..., 1:3]), tasks.get("goal")


class AntDir(Ant):
    """Run in a direction: the velocity in it.

    ``directions: two`` are forwards and backwards (Finn, Abbeel, Levine, ICML 2017, section 5.3.2), ``circle`` are all
    in the plane (Rothfuss, Lee, Clavera, Asfour, Abbeel, ICLR 2019).
    """

    Options: type[TaskOptions] = AntDirOptions

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Directions (T, 2) of length 1."""
        if cast(AntDirOptions, self._options).directions == "two":
            ways = two_ways(episode, split, ids)
            return {"direction": np.stack([ways, np.zeros_like(ways)], -1)}
        angles = 2 * np.pi * uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, 1)[:, 0])
        return {"direction": np.stack([np.cos(angles), np.sin(angles)], -1)}

    @classmethod
    def groups(cls, options: TaskOptions, split: Split, ids: Sequence[int]) -> Sequence[str] | None:
        """The two tasks, of evaluation, where there are two."""
        return groups_of_ways(split, ids) if cast(AntDirOptions, options).directions == "two" else None

    def reward(self, tasks: Data, before: Tensor, after: Tensor) -> Tensor:
        """The velocity in the task's direction."""
        along: Tensor = self.velocity(before, after, 2) * tasks["direction"].double().unsqueeze(1)
        return along.sum(-1)


class AntGoal(Ant):
    """Run to a place: minus the distance to it, the sum of those along both axes.

    Places are uniform in a disc around the start. Finn, Abbeel, Levine, ICML 2017 (released code), less its constant.
    """

    Options: type[TaskOptions] = AntGoalOptions

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Places (T, 2)."""
        drawn = uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, 2))
        away, angles = cast(AntGoalOptions, self._options).radius * np.sqrt(drawn[:, 0]), 2 * np.pi * drawn[:, 1]
        return {"goal": np.stack([away * np.cos(angles), away * np.sin(angles)], -1)}

    def reward(self, tasks: Data, before: Tensor, after: Tensor) -> Tensor:
        """Minus the distance to the task's place."""
        away: Tensor = (after[..., :2] - tasks["goal"].double().unsqueeze(1)).abs()
        return -away.sum(-1)


_DAMPING = 1.3
_OTHERS = 1.5
"""Factors are these to the power of a number that is uniform between minus and plus ``limit``."""


class WalkerParams(Locomotion):
    """Gymnasium's ``Walker2d-v5`` with masses, inertias, damping and friction of its own in every task.

    Each of them is the body's own times 1.5^u (damping 1.3^u), u uniform between plus and minus ``limit`` (the released
    code of Rothfuss, Lee, Clavera, Asfour, Abbeel, ICLR 2019). The reward is the velocity forwards, and 1 for each
    step; controls cost 0.001 times their squares. An episode ends when the walker falls.
    """

    Options: type[TaskOptions] = WalkerParamsOptions
    body = "walker2d_v5"
    noise = 0.005
    frames = 4
    cost = 0.001

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """(T, M) factors of everything that differs."""
        limit, sizes = cast(WalkerParamsOptions, self._options).limit, self._sizes()
        powers = limit * (2 * uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, sum(sizes.values()))) - 1)
        bases = np.repeat([_DAMPING if name == "dof_damping" else _OTHERS for name in sizes], list(sizes.values()))
        return {"factors": bases**powers}

    def models(self, tasks: Data, episodes: int) -> Sequence[Any]:
        """A model for each task, as often as it has episodes."""
        import mujoco

        sizes, found = self._sizes(), []
        for factors in tasks["factors"].double().cpu().numpy():
            model, parts = copy.copy(self._model), np.split(factors, np.cumsum(list(sizes.values()))[:-1])
            for name, own in zip(sizes, parts, strict=True):
                value = getattr(model, name)
                value *= own.reshape(value.shape)
            mujoco.mj_setConst(model, mujoco.MjData(model))  # what follows from masses and inertias
            found += [model] * episodes
        return found

    def observe(self, tasks: Data, state: Bodies) -> Tensor:
        """As gymnasium's own, which cuts velocities off at 10."""
        seen, positions = super().observe(tasks, state), self.sizes[0] - self.hidden
        seen[..., positions:].clamp_(-10, 10)
        return seen

    def reward(self, tasks: Data, before: Tensor, after: Tensor) -> Tensor:
        """The velocity forwards, and 1."""
        return self.velocity(before, after).squeeze(-1) + 1

    def ended(self, after: Tensor) -> Tensor:
        """Whether height or angle say that it has fallen."""
        height, angle = after[..., 1], after[..., 2]
        return ~((height > 0.8) & (height < 2) & (angle.abs() < 1))

    def _sizes(self) -> dict[str, int]:
        """How many numbers of the model differ, by name."""
        names = ("body_mass", "body_inertia", "dof_damping", "geom_friction")
        return {name: int(getattr(self._model, name).size) for name in names}
