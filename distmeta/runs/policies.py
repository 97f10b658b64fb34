"""A trained policy for use: adapt it to a task of your own by a few episodes, then act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from distmeta.adaptations.base import Batch, Iterative, inner_gradient
from distmeta.config.schema import Config
from distmeta.core.plan import Running
from distmeta.core.records import TensorSpec
from distmeta.errors import ConfigError
from distmeta.objectives.distributions import draw, likeliest, log_probability
from distmeta.programs.advantages import Transitions
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.policy_assembly import PolicyAssembly
from distmeta.runs.inference import MetaLearner
from distmeta.tasks.options.environments import EnvironmentOptions

OwnEpisode = Mapping[str, Any]
"""``observations`` (H, O), ``actions`` (H, A) or (H,), and ``rewards`` (H,) of one episode, arrays or tensors."""

Collect = Callable[["AdaptedPolicy"], Sequence[OwnEpisode]]
"""Acts with a policy in the task's environment for some episodes, and tells what happened."""


class AdaptedPolicy:
    """The policy of one task.

    Several threads may act with it at once.
    """

    def __init__(self, learner: PolicyLearner, params: Mapping[str, Tensor]) -> None:
        self._learner = learner
        self._params = params

    def act(self, observation: Any, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Actions for observations.

        Args:
            observation: (O,) of one, or (N, O) of several.
            mean: the most likely actions instead of drawn ones.
            generator: to draw from; torch's own by default.

        Returns:
            (A,) or (N, A) numbers, to be clipped where the environment does so; or indices, () or (N,).

        Raises:
            ConfigError: observations of another shape than in training, or numbers that are not finite.
        """
        seen = self._learner.observations(observation, "observation")
        actions = self._learner.chosen(self.outputs(seen if seen.dim() > 1 else seen.unsqueeze(0)), mean, generator)
        return actions if seen.dim() > 1 else actions[0]

    def outputs(self, observations: Tensor) -> Tensor:
        """The network's outputs for observations (N, O): means and logarithms of deviations, or logits; then values."""
        with self._learner.computing() as parts:
            return parts.adaptation.predict(self._learner.meta, self._params, Batch({"x": observations}))


class PolicyLearner(MetaLearner):
    """A :class:`~distmeta.runs.inference.MetaLearner` of reinforcement-learning tasks."""

    def __init__(
        self,
        config: Config,
        meta: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
        running: Running = "mapped",
    ) -> None:
        super().__init__(config, meta, device, running)
        self.continuous = self.parts.spec.actions == "continuous"

    @staticmethod
    def _assembly(config: Config) -> Assembly:
        return PolicyAssembly(config)

    def adapt(self, collect: Collect, steps: int | None = None) -> AdaptedPolicy:  # type: ignore[override]
        """Adapt to one task.

        Args:
            collect: called before each inner step with the policy as it is by then; gives the episodes that the step
                learns from, of any lengths.
            steps: inner steps, 0 or more; as in the run's evaluation by default.

        Raises:
            ConfigError: episodes that do not fit the policy, or a wrong number of steps.

        Example::

            def collect(policy):
                observation, _ = environment.reset()
                ...
                return [{"observations": observations, "actions": actions, "rewards": rewards}]

            policy = distmeta.load("runs/navigation_maml_trpo").adapt(collect)
            action = policy.act(observation)
        """
        count = self.steps_of(steps)
        assert count is not None
        with self.computing() as parts:
            adaptation = cast(Iterative, parts.adaptation)
            params, state = adaptation.init(self.meta)
            for step in range(count):
                policy = AdaptedPolicy(self, params)
                data = self._data(policy, _given(collect(policy)))
                found = inner_gradient(adaptation, params, self.meta, Batch(data, None, step))
                params, state = adaptation.update(params, state, found, self.meta, step)
        return AdaptedPolicy(self, params)

    def adapt_batch(self, *_: Any, **__: Any) -> Any:
        """Refused: a policy adapts by what it does."""
        raise ConfigError("a policy adapts by acting in its task; call adapt(collect) for each task")

    def observations(self, values: Any, name: str) -> Tensor:
        """Observations (O,) or (N, O) as the policy takes them.

        Raises:
            ConfigError: another shape, or numbers that are not finite.
        """
        return self._of_shape(values, name, cast(TensorSpec, self.parts.spec.inputs).shape)

    def _of_shape(self, values: Any, name: str, shape: tuple[int, ...]) -> Tensor:
        seen = numbers_of(values, name, torch.float32).to(self._device)
        if seen.shape not in (shape, (*seen.shape[:1], *shape)):
            raise ConfigError(f"{name}: expected the shape {shape} or (N, {shape[0]}), got {tuple(seen.shape)}")
        if not seen.isfinite().all():
            raise ConfigError(f"{name}: expected finite numbers")
        return cast(PolicyAssembly, self.parts).normalised(seen)

    def of_actions(self, outputs: Tensor) -> Tensor:
        """The outputs that are a distribution of actions."""
        return outputs[..., :-1] if cast(EnvironmentOptions, self.config.tasks).baseline == "network" else outputs

    def chosen(self, outputs: Tensor, mean: bool, generator: torch.Generator | None) -> Tensor:
        """Actions (N, A) or (N,) of a network's outputs (N, ...)."""
        policy = self.of_actions(outputs)
        if mean:
            return likeliest(policy, self.continuous)
        size = (len(policy), policy.shape[-1] // 2 if self.continuous else 1)
        fill = torch.randn if self.continuous else torch.rand
        return draw(policy, fill(size, generator=generator).to(policy.device), self.continuous)

    def _episode(self, number: int, episode: OwnEpisode) -> tuple[Tensor, Tensor, Tensor]:
        """Observations, actions and rewards of one episode."""
        of = f"of episode {number}"
        seen = self.observations(episode["observations"], f"observations {of}")
        given = numbers_of(episode["actions"], f"actions {of}", torch.float64).to(self._device)
        rewards = numbers_of(episode["rewards"], f"rewards {of}", torch.float32).to(self._device)
        wanted = (len(seen), self.parts.spec.outputs) if self.continuous else (len(seen),)
        if seen.dim() != 2 or given.shape != wanted or rewards.shape != (len(seen),) or len(seen) == 0:
            raise ConfigError(
                f"episode {number}: expected observations, actions and rewards of as many steps, actions of the "
                f"shape {wanted}; got {tuple(seen.shape)}, {tuple(given.shape)} and {tuple(rewards.shape)}"
            )
        for name, values in (("actions", given), ("rewards", rewards)):
            if not values.isfinite().all():
                raise ConfigError(f"{name} {of}: expected finite numbers")
        if self.continuous:
            return seen, given.float(), rewards
        count = self.parts.spec.outputs
        wrong = (given != given.round()) | (given < 0) | (given >= count)
        if wrong.any():
            raise ConfigError(f"actions {of}: expected whole numbers from 0 to {count - 1}, got {given[wrong][0]:g}")
        return seen, given.long(), rewards

    def _data(self, policy: AdaptedPolicy, episodes: Sequence[OwnEpisode]) -> dict[str, Tensor]:
        """Episodes as data of transitions, filled up to the length of the longest."""
        objective = getattr(self.parts.adaptation, "inner_objective", None)
        least = getattr(objective, "least_episodes", 1)
        if len(episodes) < least:
            few = f"collect gave {len(episodes) or 'no'} episode{'s' * (len(episodes) != 1)}"
            raise ConfigError(f"{few}; the inner loss learns from {least} or more")
        options = cast(EnvironmentOptions, self.config.tasks)
        parts = [self._episode(number, episode) for number, episode in enumerate(episodes)]
        longest = max(len(seen) for seen, _, _ in parts)
        filled = [torch.stack([_filled(part[place], longest) for part in parts]) for place in range(3)]
        lengths = torch.tensor([len(seen) for seen, _, _ in parts], device=self._device)
        real = (torch.arange(longest, device=self._device) < lengths.unsqueeze(1)).float()
        outputs = policy.outputs(filled[0].flatten(0, 1))
        logs = log_probability(self.of_actions(outputs), filled[1].flatten(0, 1)).view(len(parts), longest)
        observed, actions, rewards = (each.unsqueeze(0) for each in filled)
        acted = outputs.view(1, len(parts), longest, -1)
        trial = Transitions(observed, actions, logs.unsqueeze(0), acted, rewards, real.unsqueeze(0))
        data = trial.judged(options, max(longest, options.horizon))
        return {name: value[0] for name, value in data.items() if name != "return"}


def _given(episodes: Any) -> Sequence[OwnEpisode]:
    """What ``collect`` has given, or a ``ConfigError``."""
    wanted = "a list of episodes, each a dict with observations, actions and rewards"
    if isinstance(episodes, Mapping) or not isinstance(episodes, Sequence):
        raise ConfigError(f"collect should return {wanted}; it returned a {type(episodes).__name__}")
    for number, episode in enumerate(episodes):
        if not isinstance(episode, Mapping):
            raise ConfigError(f"collect should return {wanted}; episode {number} is a {type(episode).__name__}")
        missing = [name for name in ("observations", "actions", "rewards") if name not in episode]
        if missing:
            raise ConfigError(f"collect should return {wanted}; episode {number} has no {', '.join(missing)}")
    return episodes


def numbers_of(values: Any, name: str, kind: torch.dtype) -> Tensor:
    """An array, a list or a number as a tensor of this type.

    Raises:
        ConfigError: it holds something else than numbers, or rows of different lengths.
    """
    try:
        if isinstance(values, Sequence) and any(isinstance(each, Tensor) for each in values):
            values = [each.tolist() if isinstance(each, Tensor) else each for each in values]
        found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
        return found.detach().to(kind)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"{name}: expected numbers, in rows of one length, got {type(values).__name__} {str(values)[:60]}"
        ) from None


def _filled(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros((length - len(values), *values.shape[1:]))])
