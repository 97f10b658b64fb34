"""MAML-TRPO as PyTorch users write it: a loop over tasks in one process, over gymnasium's own environments."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from distmeta.config.schema import Config

SCALE = 10.0
"""The policy acts in [-SCALE, SCALE]."""

DISCOUNT, RIDGE, RADIUS, DAMPING = 0.99, 1e-5, 0.01, 1e-5
CG_STEPS, CANDIDATES, BACKTRACK = 10, 15, 0.8

Parameters = dict[str, Tensor]
Distribution: Any = torch.distributions.Independent


class Batch(NamedTuple):
    """Transitions of a task: (N, ...)."""

    observations: Tensor
    actions: Tensor
    advantages: Tensor
    log_probs: Tensor


class Policy(nn.Module):
    """A diagonal Gaussian over two layers of 64 tanh units."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Sequential(nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 6))
        self.log_std = nn.Parameter(torch.zeros(6))
        for layer in self.means:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, observations: Tensor) -> Any:
        """The distribution of actions."""
        normal = torch.distributions.Normal(self.means(observations), self.log_std.exp())
        return Distribution(normal, 1)


class Peer:
    """Meta-steps of one process.

    Args:
        config: tasks a meta-step, episodes a task and their horizon.
        vectors: ``sync`` steps environments one after the other, ``async`` has a process for each.
    """

    def __init__(self, config: Config, vectors: str) -> None:
        own: Any = config.tasks
        self._tasks, self._episodes, self._horizon = config.run.meta_batch, own.episodes, own.horizon
        self._rate = float(config.algorithm.inner_lr)  # type: ignore[attr-defined]
        self._environments = gymnasium.make_vec(
            "HalfCheetah-v5",
            num_envs=self._episodes,
            vectorization_mode=vectors,
            max_episode_steps=self._horizon,
            ctrl_cost_weight=0.05,
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED},
        )
        torch.manual_seed(0)
        self._policy = Policy()
        self._generator = np.random.default_rng(0)

    def step(self) -> None:
        """Sample, adapt, sample again, and a step of the trust region."""
        theta = {name: value.detach().requires_grad_() for name, value in self._policy.named_parameters()}
        samples = []
        for direction in self._generator.choice([-1.0, 1.0], self._tasks):
            before = self._sample(theta, direction)
            adapted = self._adapt(theta, before, create_graph=False)
            samples.append((before, self._sample(adapted, direction)))
        loss, _, old = self._surrogate(theta, samples, None)
        gradient = _flat(torch.autograd.grad(loss, list(theta.values()))).detach()
        direction_ = self._conjugate_gradients(theta, samples, -gradient)
        curvature = float(direction_ @ self._product(theta, samples, direction_))
        full = direction_ * (2 * RADIUS / (curvature + 1e-8)) ** 0.5
        for tried in range(CANDIDATES):
            candidate = self._moved(theta, BACKTRACK**tried * full)
            after, apart, _ = self._surrogate(candidate, samples, old)
            if float(after) < float(loss) and float(apart) <= RADIUS:
                for name, value in self._policy.named_parameters():
                    value.data.copy_(candidate[name].detach())
                break

    def close(self) -> None:
        """End the environments."""
        self._environments.close()

    def _call(self, parameters: Parameters, observations: Tensor) -> Any:
        found: Any = functional_call(self._policy, parameters, (observations,))
        return found

    @torch.no_grad()
    def _sample(self, parameters: Parameters, direction: float) -> Batch:
        seen, _ = self._environments.reset(seed=int(self._generator.integers(2**31)))
        history: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(self._horizon):
            observations = torch.from_numpy(seen).float()
            policy = self._call(parameters, observations)
            actions = policy.sample()
            seen, _, _, _, info = self._environments.step((actions.numpy() / SCALE).clip(-1, 1))
            rewards = torch.from_numpy(direction * info["x_velocity"] + info["reward_ctrl"])
            history.append((observations, actions, rewards, policy.log_prob(actions)))
        observed, acted, paid, logs = (torch.stack(each, 1) for each in zip(*history, strict=True))
        judged = _judged(observed, paid)
        return Batch(observed.flatten(0, 1), acted.flatten(0, 1), judged.flatten(), logs.flatten())

    def _adapt(self, theta: Parameters, batch: Batch, create_graph: bool) -> Parameters:
        ratio = (self._call(theta, batch.observations).log_prob(batch.actions) - batch.log_probs).exp()
        loss = -(ratio * batch.advantages).mean()
        found = torch.autograd.grad(loss, list(theta.values()), create_graph=create_graph)
        return {name: value - self._rate * own for (name, value), own in zip(theta.items(), found, strict=True)}

    def _surrogate(
        self, theta: Parameters, samples: list[tuple[Batch, Batch]], old: list[Any] | None
    ) -> tuple[Tensor, Tensor, list[Any]]:
        """Mean loss after adaptation, mean divergence from the old adapted policies, and these."""
        losses, apart, policies = [], [], []
        for number, (before, after) in enumerate(samples):
            policy = self._call(self._adapt(theta, before, create_graph=True), after.observations)
            detached = _detached(policy) if old is None else old[number]
            ratio = (policy.log_prob(after.actions) - after.log_probs).exp()
            losses.append(-(ratio * after.advantages).mean())
            apart.append(torch.distributions.kl_divergence(detached, policy).mean())
            policies.append(detached)
        return torch.stack(losses).mean(), torch.stack(apart).mean(), policies

    def _product(self, theta: Parameters, samples: list[tuple[Batch, Batch]], vector: Tensor) -> Tensor:
        _, apart, _ = self._surrogate(theta, samples, None)
        first = _flat(torch.autograd.grad(apart, list(theta.values()), create_graph=True))
        second = torch.autograd.grad(first @ vector, list(theta.values()))
        return _flat(second).detach() + DAMPING * vector

    def _conjugate_gradients(self, theta: Parameters, samples: list[tuple[Batch, Batch]], right: Tensor) -> Tensor:
        found, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
        squared = residual @ residual
        for _ in range(CG_STEPS):
            image = self._product(theta, samples, direction)
            rate = squared / (direction @ image)
            found, residual = found + rate * direction, residual - rate * image
            before, squared = squared, residual @ residual
            direction = residual + squared / before * direction
        return found

    def _moved(self, theta: Parameters, by: Tensor) -> Parameters:
        moved, first = {}, 0
        for name, value in theta.items():
            moved[name] = (value.detach() + by[first : first + value.numel()].view_as(value)).requires_grad_()
            first += value.numel()
        return moved


def _judged(observations: Tensor, rewards: Tensor) -> Tensor:
    """Advantages (E, H) over a linear baseline, normalised."""
    episodes, horizon = rewards.shape
    sums, following = torch.zeros_like(rewards), torch.zeros(episodes, dtype=rewards.dtype)
    for step in reversed(range(horizon)):
        following = rewards[:, step] + DISCOUNT * following
        sums[:, step] = following
    seen = observations.double().clamp(-10, 10)
    time = (torch.arange(horizon, dtype=torch.float64) / 100).view(1, horizon, 1).expand(episodes, horizon, 1)
    phi = torch.cat([seen, seen**2, time, time**2, time**3, torch.ones_like(time)], -1).flatten(0, 1)
    squares = phi.T @ phi + RIDGE * torch.eye(phi.shape[1], dtype=torch.float64)
    values = (phi @ torch.linalg.solve(squares, phi.T @ sums.flatten())).view(episodes, horizon)
    advantages: Tensor = sums - values
    judged: Tensor = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return judged.float()


def _detached(policy: Any) -> Any:
    base: Any = policy.base_dist
    return Distribution(torch.distributions.Normal(base.loc.detach(), base.scale.detach()), 1)


def _flat(gradients: Any) -> Tensor:
    flat: Tensor = torch.cat([each.reshape(-1) for each in gradients])
    return flat
