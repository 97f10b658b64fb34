"""What rewards say of actions: returns, a baseline fitted to each task's episodes, advantages.

Shapes: T tasks, E episodes, H steps. All in float64. ``real`` (T, E, H) is 1 for transitions, and 0 for what comes
after an episode's end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distmeta.tasks.options.environments import EnvironmentOptions

RIDGE = 1e-5
"""Of the baseline's normal equations; ten times as much where they are not finite, up to ``RIDGES_TRIED`` times."""

RIDGES_TRIED = 5

CLIPPED = 10.0
"""Observations beyond are cut off for the baseline."""


def returns_to_go(rewards: Tensor, real: Tensor, discount: float) -> Tensor:
    """The discounted sum of the rewards from each step on, along the last dimension; steps that are not real are left
    out, and have 0 themselves.

    >>> ones = torch.ones(1, 1, 3, dtype=torch.float64)
    >>> returns_to_go(ones, ones, 0.5).flatten().tolist()
    [1.75, 1.5, 1.0]
    """
    return advantages(rewards, torch.zeros_like(rewards), real, discount, 1.0)


def features(observations: Tensor) -> Tensor:
    """(T, E, H, 2 O + 4) what the baseline is linear in: ``o, o^2, t/100, (t/100)^2, (t/100)^3, 1``.

    Duan et al., ICML 2016 (rllab's linear feature baseline).

    Args:
        observations: (T, E, H, O).
    """
    seen = observations.double().clamp(-CLIPPED, CLIPPED)
    time = torch.arange(seen.shape[-2], dtype=torch.float64, device=seen.device).div(100).unsqueeze(-1)
    times = torch.cat([time, time**2, time**3, torch.ones_like(time)], -1)
    return torch.cat([seen, seen.square(), times.expand(*seen.shape[:-1], 4)], -1)


def baseline(observations: Tensor, real: Tensor, targets: Tensor) -> Tensor:
    """(T, E, H) the linear fit of the targets in each task by :func:`features`, ridge regression.

    ``w = (Phi^T Phi + 1e-5 I)^-1 Phi^T R`` over the task's transitions.
    """
    phi = features(observations)
    rows = (phi * real.unsqueeze(-1)).flatten(1, 2)  # (T, N, F)
    squares, products = rows.mT @ rows, rows.mT @ targets.flatten(1, 2).unsqueeze(-1)
    unit = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    weights, found = torch.zeros_like(products), torch.zeros(len(rows), 1, 1, dtype=torch.bool, device=rows.device)
    for tried in range(RIDGES_TRIED):
        solved, _ = torch.linalg.solve_ex(squares + RIDGE * 10**tried * unit, products)
        finite = solved.isfinite().all(1, keepdim=True)
        weights = torch.where(finite & ~found, solved, weights)
        found |= finite
    return (phi @ weights.unsqueeze(1)).squeeze(-1) * real


def advantages(rewards: Tensor, values: Tensor, real: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates along the last dimension, before they are normalised.

    ``A_t = sum_l (discount lambda)^l delta_{t + l}``, ``delta_t = r_t + discount V_{t+1} - V_t``, V = 0 after the last
    step. Steps that are not real are left out, and have 0 themselves. Schulman, Moritz, Levine, Jordan, Abbeel, ICLR
    2016, equations 11 to 16.

    >>> ones = torch.ones(1, 1, 2, dtype=torch.float64)
    >>> advantages(ones, 0.5 * ones, ones, 0.5, 1.0).flatten().tolist()  # 1 + .5 - .5, 1 - .5
    [1.0, 0.5]
    """
    found = torch.zeros_like(rewards)
    following, after = torch.zeros_like(rewards[..., 0]), torch.zeros_like(rewards[..., 0])
    for step in reversed(range(rewards.shape[-1])):
        here = real[..., step] > 0
        surplus = rewards[..., step] + discount * after - values[..., step]
        following = torch.where(here, surplus + discount * gae_lambda * following, following)
        after = torch.where(here, values[..., step], after)
        found[..., step] = following * here
    return found


def normalised(values: Tensor, real: Tensor) -> Tensor:
    """The values (T, E, H) with mean 0 and variance 1 over each task's transitions."""
    count = real.sum((1, 2), keepdim=True).clamp(min=1)
    off = (values - (values * real).sum((1, 2), keepdim=True) / count) * real
    deviation = (off.square().sum((1, 2), keepdim=True) / count).sqrt()
    return off / (deviation + 1e-8)


def gains(rewards: Tensor, real: Tensor, discount: float) -> Tensor:
    """(T, E, H) each step's discounted reward less its mean over the task's episodes at that time; for DiCE."""
    horizon = rewards.shape[-1]
    factors = discount ** torch.arange(horizon, dtype=rewards.dtype, device=rewards.device)
    discounted = rewards * factors * real
    return (discounted - discounted.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)) * real


def credits_of(returns: Tensor) -> Tensor:
    """(T,) each task's return less the mean of the others', over the deviation of all; 0 of a single one.

    >>> credits_of(torch.tensor([1.0, 3.0]))
    tensor([-1.4142,  1.4142])
    """
    if len(returns) < 2:
        return torch.zeros_like(returns)
    others = (returns.sum() - returns) / (len(returns) - 1)
    return (returns - others) / (returns.std() + 1e-8)


def value_scale(discount: float, horizon: int) -> float:
    """The discounted sum of ``horizon`` rewards of 1: a network's values are told in this unit.

    >>> value_scale(0.5, 2), value_scale(1.0, 3)
    (1.5, 3.0)
    """
    return float(horizon) if discount == 1 else (1 - discount**horizon) / (1 - discount)


FIGURES = ("return", "success")
"""What :meth:`Transitions.figures` tells."""


class Transitions(NamedTuple):
    """Episodes of T tasks, as they were rolled out.

    Attributes:
        observations: (T, E, H, O).
        actions: (T, E, H, A) numbers, or (T, E, H) indices.
        log_probs: (T, E, H) of the actions, when they were drawn.
        outputs: (T, E, H, ...) of the network, with which they were drawn.
        rewards: (T, E, H).
        real: (T, E, H) float32, 1 for transitions and 0 for what comes after an episode's end.
        reached: (T, E) which episodes have succeeded, where the environments tell.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    outputs: Tensor
    rewards: Tensor
    real: Tensor
    reached: Tensor | None = None

    def figures(self) -> dict[str, Tensor]:
        """(T,) the mean undiscounted ``return`` of each task's episodes, and what part of them is a ``success``."""
        returns = (self.rewards.double() * self.real.double()).sum(-1).mean(-1).float()
        return {"return": returns, **({} if self.reached is None else {"success": self.reached.float().mean(-1)})}

    def judged(self, options: EnvironmentOptions, longest: int | None = None) -> dict[str, Tensor]:
        """What surrogate losses take, see :class:`~distmeta.objectives.policy_gradient.PolicyGradient`, with a leading
        dimension of tasks; and the :meth:`figures`.

        Args:
            options: of the tasks.
            longest: steps that an episode may have, which decide the unit of values; H by default.
        """
        rewards, mask, discount = self.rewards.double(), self.real.double(), options.discount
        unit = value_scale(discount, longest or rewards.shape[-1])
        if options.baseline == "network":
            values = self.outputs[..., -1].double() * unit
        else:
            values = baseline(self.observations, mask, returns_to_go(rewards, mask, discount))
        estimates = advantages(rewards, values, mask, discount, options.gae_lambda)
        judged = normalised(estimates, mask) if options.normalise == "task" else estimates
        data = {
            "x": self.observations.flatten(1, 2),
            "y": self.actions.flatten(1, 2),
            "weight": self.real.flatten(1, 2),
            "log_probs": self.log_probs.flatten(1, 2),
            "outputs": self.outputs.flatten(1, 2),
            "advantages": judged.float(),
            "gains": gains(rewards, mask, discount).float(),
            **self.figures(),
        }
        if options.baseline == "network":
            data["targets"] = ((estimates + values) / unit).flatten(1, 2).float()
        return data
