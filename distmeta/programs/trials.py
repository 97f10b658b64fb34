"""Trials: the episodes of a task one after the other, with a policy that remembers what it has seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from distmeta.core.records import Split
from distmeta.objectives.distributions import likeliest
from distmeta.programs.advantages import Transitions
from distmeta.programs.recurrent_assembly import RecurrentAssembly
from distmeta.programs.rollouts import Rollouts, Scene, See


class Trials(Rollouts):
    """One trial of each task: its episodes are one sequence, through which the policy's memory is kept.

    It is a function of the seed, the split, the tasks' ids and the meta-parameters alone. After an episode's end there
    are idle steps up to the horizon, which the policy sees as zeros and the flag of an end, and which have no weight.
    """

    @torch.no_grad()
    def roll_out(
        self,
        theta: Tensor,
        split: Split,
        ids: Sequence[int],
        steps: int,
        *,
        mean: bool = False,
        see: See | None = None,
    ) -> dict[str, Any]:
        """Trials, with drawn actions or the most likely ones, and what they say, as a tree of tensors.

        Returns:
            ``query``: (T, ...) data of transitions, with the mean ``return`` of the trial's episodes, and as
            ``return_before`` the first one's; ``returns``: (T, E) all of them.
        """
        trial, reached = self._trial(theta, split, ids, mean, see)
        data = trial.judged(self._options)
        own = data["x"].shape[-1] - self._parts.spec.outputs - 2  # beside it are the policy's own actions and rewards
        self._check({**data, "x": data["x"][..., :own]}, ids, 0)
        episodes, horizon = self._options.episodes, self._options.horizon
        returns = (trial.rewards * trial.real).view(len(ids), episodes, horizon).double().sum(-1)
        told = {"return": returns.mean(-1).float(), "return_before": returns[:, 0].float()}
        if self._parts.spec.successes:
            told |= {"success": reached.mean(-1), "success_before": reached[:, 0]}
        return {"query": {**data, **told}, "returns": returns}

    def _trial(
        self, theta: Tensor, split: Split, ids: Sequence[int], mean: bool, see: See | None
    ) -> tuple[Transitions, Tensor]:
        """Trials as one long episode of each task, and which of its episodes (T, E) have succeeded."""
        noise, resets, moves = self._draws(split, ids, 0)
        tasks = self.environments.sample(split, ids).support
        parts, meta = cast(RecurrentAssembly, self._parts), self._layout.unflatten(theta)
        count, device = len(ids), resets.device
        before = torch.zeros(count, parts.spec.outputs, device=device)  # what was done last
        reward, ended = torch.zeros(count, 1, device=device), torch.zeros(count, 1, dtype=torch.bool, device=device)
        memory, history, reached = None, [], torch.zeros(count, self._options.episodes, device=device)
        for episode in range(self._options.episodes):
            state = self.environments.reset(tasks, resets[:, episode : episode + 1])
            alive = torch.ones(count, 1, dtype=torch.bool, device=device)
            for time in range(self._options.horizon):
                observed = parts.normalised(self.environments.observe(tasks, state)[:, 0]) * alive
                seen = parts.seen(observed, before, reward, ended)
                outputs, memory = parts.unroll(meta, seen.unsqueeze(0), memory)
                actions, logs = self._drawn(outputs[0], noise[:, episode, time])
                if mean:
                    actions = likeliest(self._of_actions(outputs[0]), self._continuous)
                state, rewards, over = self._advance(
                    tasks,
                    state,
                    actions.unsqueeze(1),
                    outputs[0].unsqueeze(1),
                    alive,
                    moves[:, episode : episode + 1, time],
                )
                reward = rewards * alive
                history.append((seen, actions, logs, outputs[0], reward.squeeze(1), alive.squeeze(1).float()))
                before = (actions if self._continuous else one_hot(actions, parts.spec.outputs).float()) * alive
                if see:
                    see(episode, Scene(tasks, state, rewards, alive))
                if parts.spec.successes:
                    won = alive & self.environments.succeeded(tasks, state)
                    reached[:, episode : episode + 1] = reached[:, episode : episode + 1].maximum(won.float())
                alive = alive & ~over
                ended = ~alive if time + 1 < self._options.horizon else torch.ones_like(alive)
        trial = Transitions(*(torch.stack(each, 1).unsqueeze(1) for each in zip(*history, strict=True)))
        return trial, reached
