"""What the environments of a reinforcement-learning family are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from distmeta.core.philox import Purpose, fractions, integers, normal, words
from distmeta.core.records import Data, Split, TaskBatch
from distmeta.tasks.base import Episode, TaskFamily, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from distmeta.config.sections import TaskOptions
    from distmeta.tasks.options.environments import EnvironmentOptions


FITTED_TASKS = 20
"""Training tasks whose episodes of random actions say how observations are normalised."""


def normal_of(radii: Tensor, angles: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones in [0, 1), two for each (Box and Muller 1958)."""
    return (-2 * (-radii).log1p()).sqrt() * (2 * math.pi * angles).cos()


class Environments(TaskFamily):
    """A distribution of Markov decision processes, simulated for E episodes of T tasks at once.

    A task is a set of hidden parameters, which :meth:`sample` gives under ``support``. All that is random comes as
    uniform numbers that the caller draws by task, episode and time, so that an episode depends on nothing beside it.
    States are tensors or trees of tensors (T, E, ...) of the family's own; they and everything else are computed for
    each episode by itself. Episodes go on to be simulated when they have ended, and what comes then is not looked at,
    but it has to be finite.

    Attributes:
        reset_draws: uniform numbers in [0, 1) that an episode's beginning takes.
        step_draws: uniform numbers that a step takes; 0 where what follows is certain.
    """

    reset_draws: int = 0
    step_draws: int = 0

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        self._options = options
        self._episodes = dict(episodes)
        self._device = device

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> Mapping[str, Any] | None:
        """Means and deviations of what is seen in episodes of random actions, where the settings ask for them."""
        own = cast("EnvironmentOptions", options)
        if not own.normalise_observations:
            return None
        import torch

        cls.prepare(options, episodes)
        family = cls(options, episodes, torch.device("cpu"))
        try:
            seen = family._seen_by_chance(cls.spec(options), episodes["train"].seed).double()
        finally:
            family.close()
        deviation = seen.std(0, correction=0)
        kept = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))  # a constant stays one
        return {"observations": {"means": seen.mean(0).tolist(), "deviations": kept.tolist()}}

    def _seen_by_chance(self, spec: TaskSpec, seed: int) -> Tensor:
        """(N, O) observations of random actions: normal numbers, or each of them as likely."""
        import torch

        own, ids, part = cast("EnvironmentOptions", self._options), range(FITTED_TASKS), 2**16 - 1
        size = own.episodes * own.horizon * (spec.outputs if spec.actions == "continuous" else 1)
        drawn = words(seed, "train", ids, Purpose.ACTIONS, size + size % 2, part)
        shape = (len(ids), own.episodes, own.horizon, -1)
        if spec.actions == "continuous":
            actions = torch.from_numpy(normal(drawn)[:, :size]).float().view(shape)
        else:
            actions = torch.from_numpy(integers(drawn[:, :size], spec.outputs)).view(shape).squeeze(-1)
        resets = fractions(words(seed, "train", ids, Purpose.RESETS, own.episodes * self.reset_draws, part))
        moves = own.episodes * own.horizon * self.step_draws
        steps = torch.from_numpy(fractions(words(seed, "train", ids, Purpose.TRANSITIONS, moves, part)))
        steps = steps.view(len(ids), own.episodes, own.horizon, self.step_draws)
        tasks = self.sample("train", ids).support
        state = self.reset(tasks, torch.from_numpy(resets).view(len(ids), own.episodes, self.reset_draws))
        alive, seen = torch.ones(len(ids), own.episodes, dtype=torch.bool), []
        for time in range(own.horizon):
            seen.append(self.observe(tasks, state)[alive].flatten(1))
            state, _, ended = self.step(tasks, state, actions[:, :, time], steps[:, :, time])
            alive &= ~ended
        return torch.cat(seen)

    def parameters(self, episode: Episode, split: Split, ids: Sequence[int]) -> Mapping[str, Any]:
        """Arrays (T, ...) of these tasks' hidden parameters; each task's depend on its id alone."""
        raise NotImplementedError

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks' hidden parameters, under ``support``; there are no examples."""
        import torch

        found = self.parameters(self._episodes[split], split, ids)
        data = {name: torch.as_tensor(value).to(self._device, torch.float32) for name, value in found.items()}
        return TaskBatch(torch.tensor(list(ids), dtype=torch.int64), data, {})

    def reset(self, tasks: Data, draws: Tensor) -> Any:
        """The state in which episodes begin.

        Args:
            tasks: hidden parameters, (T, ...) each.
            draws: (T, E, reset_draws) uniform numbers.
        """
        raise NotImplementedError

    def observe(self, tasks: Data, state: Any) -> Tensor:
        """(T, E, O) what the policy sees of a state."""
        raise NotImplementedError

    def step(self, tasks: Data, state: Any, actions: Tensor, draws: Tensor) -> tuple[Any, Tensor, Tensor]:
        """The next state, the rewards (T, E), and which episodes have ended with this step, (T, E) bool.

        Args:
            tasks: hidden parameters, (T, ...) each.
            state: before the step.
            actions: (T, E, A) of any size, or (T, E) numbers of actions.
            draws: (T, E, step_draws) uniform numbers.
        """
        raise NotImplementedError

    def succeeded(self, tasks: Data, state: Any) -> Tensor:
        """(T, E) which episodes have reached their goal in this state; of families with ``TaskSpec.successes``."""
        raise NotImplementedError

    def places(self, tasks: Data, state: Any) -> tuple[Tensor, Tensor | None] | None:
        """Where episodes are in a plane (T, E, 2), and where their goals are (T, 2), if anywhere; for pictures."""
        return None

    def draw(self, state: Any, task: int, episode: int, height: int, width: int) -> NDArray[np.uint8] | None:
        """A picture (height, width, 3) of one episode; ``None`` where there is none to make.

        Raises:
            ConfigError: nothing can be drawn on this machine.
        """
        return None
