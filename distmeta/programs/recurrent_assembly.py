"""The parts of a configuration whose policy remembers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distmeta.adaptations.base import module_parameters
from distmeta.config.schema import Config
from distmeta.core.records import TensorSpec
from distmeta.errors import ConfigError
from distmeta.programs.policy_assembly import PolicyAssembly
from distmeta.tasks.base import TaskSpec


class _Unrolled(nn.Module):
    """A recurrent network whose call goes on with sequences."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """See :meth:`~distmeta.models.gru.GRU.unroll`."""
        found: tuple[Tensor, Any] = self.network.unroll(inputs, memory)  # type: ignore[operator]
        return found


class RecurrentAssembly(PolicyAssembly):
    """The parts of a configuration whose policy has a memory.

    In each step it sees the observation, what it did last (one-hot where actions are numbered), the reward for that,
    and whether the episode has ended by it.

    Raises:
        ConfigError: as the other parts do; or the network has no memory.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        module = self.build()
        own = module.network if hasattr(module, "log_std") else module
        if not callable(getattr(own, "unroll", None)):
            raise ConfigError(
                f"algorithm.adaptation = recurrent adapts by the network's memory, and model.kind = "
                f"{config.model.kind} has none; use model.kind=gru, or give your network a method "
                "unroll(inputs, memory) like that of distmeta.models.GRU"
            )
        self.unrolled = _Unrolled(module)

    def _spec(self) -> TaskSpec:
        spec = super()._spec()
        size = math.prod(cast(TensorSpec, spec.inputs).shape)
        return replace(spec, inputs=TensorSpec((size + spec.outputs + 2,)))

    def seen(self, observed: Tensor, action: Tensor, reward: Tensor, ended: Tensor) -> Tensor:
        """What the network is given in a step: (N, O), (N, A), (N, 1) and (N, 1) to (N, O + A + 2)."""
        return torch.cat([observed.flatten(1), action, reward, ended.to(observed.dtype)], -1)

    def unroll(self, meta: Mapping[str, Tensor], inputs: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """(L, N, ...) steps of N sequences to their outputs (L, N, D), and the memory after them."""
        parameters = {f"network.{name}": value for name, value in module_parameters(meta).items()}
        found: tuple[Tensor, Any] = functional_call(self.unrolled, parameters, (inputs, memory))
        return found
