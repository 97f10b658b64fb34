"""Classic control with hidden physical parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import Data, Split, TensorSpec
from distmeta.tasks.base import Episode, TaskSpec
from distmeta.tasks.environments.base import Environments
from distmeta.tasks.options.environments import CartPoleOptions, PendulumOptions

if TYPE_CHECKING:
    from torch import Tensor

    from distmeta.config.sections import TaskOptions


class Hidden(Environments):
    """Environments whose tasks are physical parameters, uniform in ranges of the settings.

    Attributes:
        hidden: the settings, in the order in which they are drawn.
    """

    hidden: ClassVar[tuple[str, ...]]

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """One number a task of each of them."""
        drawn = uniform(words(episode.seed, split, ids, Purpose.PARAMETERS, len(self.hidden)))
        ranges = [getattr(self._options, name) for name in self.hidden]
        return {
            name: low + (high - low) * drawn[:, place]
            for place, (name, (low, high)) in enumerate(zip(self.hidden, ranges, strict=True))
        }


class Pendulum(Hidden):
    """Swing a pendulum up and keep it there: gymnasium's ``Pendulum-v1`` with hidden mass, length and gravity.

    Observations (3) are cosine and sine of the angle (0 is upright) and the angular velocity; the action is a torque in
    [-2, 2] N m; the reward is ``-(angle^2 + 0.1 velocity^2 + 0.001 torque^2)``.
    """

    Options: type[TaskOptions] = PendulumOptions
    hidden = ("mass", "length", "gravity")
    reset_draws: int = 2

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """Three numbers in, a torque out."""
        return TaskSpec(TensorSpec((3,)), outputs=1, program="reinforcement", actions="continuous")

    def reset(self, tasks: Data, draws: Tensor) -> Tensor:
        """(T, E, 2) any angle, and a velocity in [-1, 1]."""
        return (2 * draws - 1) * draws.new_tensor([math.pi, 1.0])

    def observe(self, tasks: Data, state: Tensor) -> Tensor:
        """Cosine, sine, velocity."""
        import torch

        angle, velocity = state.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), velocity], -1)

    def step(self, tasks: Data, state: Tensor, actions: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A twentieth of a second."""
        import torch

        mass, length, gravity = (tasks[name].unsqueeze(1) for name in self.hidden)
        (angle, velocity), torque = state.unbind(-1), actions.squeeze(-1).clamp(-2, 2)
        off = (angle + math.pi).remainder(2 * math.pi) - math.pi
        rewards = -(off.square() + 0.1 * velocity.square() + 0.001 * torque.square())
        faster = 1.5 * gravity / length * angle.sin() + 3 / (mass * length.square()) * torque
        velocity = (velocity + 0.05 * faster).clamp(-8, 8)
        after = torch.stack([angle + 0.05 * velocity, velocity], -1)
        return after, rewards, torch.zeros_like(rewards, dtype=torch.bool)


class CartPole(Hidden):
    """Keep a pole upright: gymnasium's ``CartPole-v1`` with hidden masses, length and force.

    Observations (4) are the cart's position and velocity, the pole's angle and angular velocity; actions push to the
    left (0) or right (1); each step is worth 1, and an episode ends where the pole is 12 degrees off or the cart 2.4 m.
    """

    Options: type[TaskOptions] = CartPoleOptions
    hidden = ("pole_mass", "cart_mass", "length", "force")
    reset_draws: int = 4

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """Four numbers in, one of two actions out."""
        return TaskSpec(TensorSpec((4,)), outputs=2, program="reinforcement", actions="discrete")

    def reset(self, tasks: Data, draws: Tensor) -> Tensor:
        """(T, E, 4) in [-0.05, 0.05]."""
        return 0.1 * draws - 0.05

    def observe(self, tasks: Data, state: Tensor) -> Tensor:
        """The state."""
        return state

    def step(self, tasks: Data, state: Tensor, actions: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A fiftieth of a second."""
        import torch

        pole, cart, length, force = (tasks[name].unsqueeze(1) for name in self.hidden)
        place, speed, angle, turning = state.unbind(-1)
        push, total = force * (2 * actions - 1), pole + cart
        common = (push + pole * length * turning.square() * angle.sin()) / total
        falling = (9.8 * angle.sin() - angle.cos() * common) / (length * (4 / 3 - pole * angle.cos().square() / total))
        faster = common - pole * length * falling * angle.cos() / total
        after = state + 0.02 * torch.stack([speed, faster, turning, falling], -1)
        # A pole that has fallen turns on and on; what comes is not looked at, and has to be finite.
        after = after.clamp(-100, 100)
        ended = (after[..., 0].abs() > 2.4) | (after[..., 2].abs() > 12 * math.pi / 180)
        return after, torch.ones_like(place), ended
