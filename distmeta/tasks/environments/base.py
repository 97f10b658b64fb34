"""What the environments of a reinforcement-learning family are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distmeta.core.records import Data, Split, TaskBatch
from distmeta.tasks.base import Episode, TaskFamily

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from distmeta.config.sections import TaskOptions


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
