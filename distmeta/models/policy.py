"""Policies: a network's outputs as the parameters of a distribution of actions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

LEAST_LOG_STD = math.log(1e-6)


class GaussianPolicy(nn.Module):
    """A network's first A outputs as means, with a free logarithm of the standard deviation for each of them.

    (N, ...) to (N, 2 A), or (N, 2 A + 1): A means, then A logarithms of standard deviations, the same for all examples,
    which begin at 0 and none of which counts below log 1e-6, then whatever the network gives beyond the means.

    >>> GaussianPolicy(nn.Linear(3, 2), actions=2)(torch.zeros(5, 3)).shape
    torch.Size([5, 4])
    """

    def __init__(self, network: nn.Module, actions: int) -> None:
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, inputs: Tensor) -> Tensor:
        """Means and logarithms of standard deviations."""
        return self._with_deviations(self.network(inputs))

    def unroll(self, inputs: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """Likewise of a recurrent network, see :meth:`~distmeta.models.gru.GRU.unroll`."""
        outputs, after = self.network.unroll(inputs, memory)  # type: ignore[operator]
        return self._with_deviations(outputs), after

    def _with_deviations(self, outputs: Tensor) -> Tensor:
        means, more = outputs[..., : len(self.log_std)], outputs[..., len(self.log_std) :]
        return torch.cat([means, self.log_std.clamp(min=LEAST_LOG_STD).expand_as(means), more], -1)
