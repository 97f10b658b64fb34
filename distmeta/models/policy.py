"""Policies: a network's outputs as the parameters of a distribution of actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEAST_LOG_STD = math.log(1e-6)


class GaussianPolicy(nn.Module):
    """A network's outputs as means, with a free logarithm of the standard deviation for each of them.

    (N, ...) to (N, 2 A): A means, then A logarithms of standard deviations, the same for all examples; they begin at 0,
    and none counts below log 1e-6.

    >>> GaussianPolicy(nn.Linear(3, 2), actions=2)(torch.zeros(5, 3)).shape
    torch.Size([5, 4])
    """

    def __init__(self, network: nn.Module, actions: int) -> None:
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, inputs: Tensor) -> Tensor:
        """Means and logarithms of standard deviations."""
        means = self.network(inputs)
        return torch.cat([means, self.log_std.clamp(min=LEAST_LOG_STD).expand_as(means)], -1)
