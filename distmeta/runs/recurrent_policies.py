"""A trained policy with a memory for use: it adapts to a task of your own as it acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from distmeta.config.schema import Config
from distmeta.core.plan import Running
from distmeta.errors import ConfigError
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.recurrent_assembly import RecurrentAssembly
from distmeta.runs.policies import PolicyLearner, numbers_of
from distmeta.tasks.options.environments import EnvironmentOptions


class RecurrentPolicy:
    """The policy in one task, or in N of them side by side, from the beginning of a trial on.

    It remembers what it has seen, so that it belongs to one thread.
    """

    def __init__(self, learner: RecurrentLearner) -> None:
        self._learner = learner
        self._memory: Any = None
        self._before: tuple[Tensor, Tensor, Tensor] | None = None  # action, reward, whether the episode has ended
        self._waiting: Tensor | None = None  # the action whose reward is not known yet
        self._steps = 0  # of this episode

    def act(self, observation: Any, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Actions for observations; tell what they have led to by :meth:`feedback` before the next ones.

        Args:
            observation: (O,) of one task, or (N, O) of several.
            mean: the most likely actions instead of drawn ones.
            generator: to draw from; torch's own by default.

        Returns:
            (A,) or (N, A) numbers, to be clipped where the environment does so; or indices, () or (N,).

        Raises:
            ConfigError: observations of another shape or number than before, or numbers that are not finite; or the
                last reward was not told.
        """
        if self._waiting is not None:
            raise ConfigError("act: tell the last action's reward first, by feedback(reward, ended)")
        seen = self._learner.own_observations(observation)
        several = seen if seen.dim() > 1 else seen.unsqueeze(0)
        outputs = self._outputs(several)
        actions = self._learner.chosen(outputs, mean, generator)
        self._waiting = actions
        return actions if seen.dim() > 1 else actions[0]

    def feedback(self, reward: Any, ended: Any = False) -> None:
        """What the last actions have led to.

        Where an episode ends before ``tasks.horizon``, the policy idles up to it, as it did in training.

        Args:
            reward: a number, or (N,) of them.
            ended: whether the episode has ended by it; likewise, and alike for all N.

        Raises:
            ConfigError: nothing was done before, the rewards are not one of each task and finite, or some of several
                tasks' episodes have ended and others have not.
        """
        if self._waiting is None:
            raise ConfigError("feedback: there is no action that it could be about; call act first")
        count = len(self._waiting)
        rewards = numbers_of(reward, "reward", torch.float32).reshape(-1, 1)
        over = numbers_of(ended, "ended", torch.bool).reshape(-1, 1)
        if len(rewards) != count or not rewards.isfinite().all():
            raise ConfigError(f"reward: expected {count} finite numbers, got {reward!r}")
        if len(over) not in (1, count):
            raise ConfigError(f"ended: expected one for all, or {count} of them, got {ended!r}")
        if over.any() and not over.all():
            raise ConfigError(
                "ended: some of these tasks' episodes have ended and others have not; adapt a policy for each task"
            )
        self._before = (self._learner.told(self._waiting), rewards, over.expand_as(rewards))
        self._waiting = None
        self._steps += 1
        if over.all():
            self._idle(cast(EnvironmentOptions, self._learner.config.tasks).horizon - self._steps)
            self._steps = 0

    def _idle(self, count: int) -> None:
        """Steps between an episode's end and the horizon: nothing is seen in them but that it has ended."""
        for _ in range(count):
            assert self._before is not None
            action, reward, over = self._before
            self._outputs(torch.zeros(len(action), self._learner.size))
            self._before = (torch.zeros_like(action), torch.zeros_like(reward), over)

    def _outputs(self, observed: Tensor) -> Tensor:
        count = len(observed)
        if self._before is None:
            nothing = torch.zeros(count, 1)
            width = self._learner.parts.spec.outputs
            self._before = (torch.zeros(count, width), nothing, nothing.bool())
        if len(self._before[0]) != count:
            raise ConfigError(f"observation: the trial is of {len(self._before[0])} tasks, and these are {count}")
        with self._learner.computing() as parts:
            own = cast(RecurrentAssembly, parts)
            given = (each.to(observed.device) for each in self._before)
            seen = own.seen(observed, *given).unsqueeze(0)
            outputs, self._memory = own.unroll(self._learner.meta, seen, self._memory)
        return outputs[0]


class RecurrentLearner(PolicyLearner):
    """A :class:`~distmeta.runs.policies.PolicyLearner` whose policies adapt by their memory."""

    def __init__(
        self,
        config: Config,
        meta: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
        running: Running = "mapped",
    ) -> None:
        super().__init__(config, meta, device, running)
        cast(RecurrentAssembly, self.parts).unrolled.to(self._device)

    @staticmethod
    def _assembly(config: Config) -> Assembly:
        return RecurrentAssembly(config)

    def adapt(  # type: ignore[override]
        self, collect: Callable[[RecurrentPolicy], Any] | None = None
    ) -> RecurrentPolicy:
        """The policy at the beginning of a trial in a new task.

        Args:
            collect: called once with the policy, to act for some episodes that it then remembers.

        Example::

            policy = distmeta.load("runs/bandits_rl2").adapt()
            for _ in range(100):
                arm = int(policy.act([1.0]))
                policy.feedback(pull(arm))
        """
        policy = RecurrentPolicy(self)
        if collect is not None:
            collect(policy)
        return policy

    def own_observations(self, values: Any) -> Tensor:
        """Observations (O,) or (N, O) of the environment, without what the policy sees beside them."""
        return self._of_shape(values, "observation", (self.size,))

    def told(self, actions: Tensor) -> Tensor:
        """Actions as the policy sees them in the next step."""
        return actions if self.continuous else one_hot(actions, self.parts.spec.outputs).float()

    @property
    def size(self) -> int:
        """Of an observation of the environment."""
        (seen,) = self.parts.spec.inputs.shape  # type: ignore[union-attr]
        return int(seen - self.parts.spec.outputs - 2)
