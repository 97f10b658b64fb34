"""The parts of a configuration whose network is a policy."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from distmeta.config.schema import Config
from distmeta.errors import ConfigError
from distmeta.models.policy import GaussianPolicy
from distmeta.objectives import Objective
from distmeta.programs.engine.assembly import Assembly, build_network
from distmeta.tasks.options.environments import EnvironmentOptions


class PolicyAssembly(Assembly):
    """The parts of a configuration whose network is a policy.

    Raises:
        ConfigError: as the other parts do; or actions for one observation would depend on others.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if self.spec.successes and config.tasks.metrics is None:
            self.objective.metrics += ("success", "success_before")
        if not self.spec.successes and any(name.startswith("success") for name in self.objective.metrics):
            raise ConfigError(
                f"tasks.metrics = {list(self.objective.metrics)}: tasks.kind = {config.tasks.kind} does not tell which "
                "episodes succeed; leave success out, or set tasks.success=true where environments of your own tell"
            )
        fitted = (config.tasks.fitted or {}).get("observations")
        self._seen = None if fitted is None else tuple(torch.tensor(fitted[name]) for name in ("means", "deviations"))
        if self.network.uses_batch_statistics:
            raise ConfigError(
                f"model.kind = {config.model.kind} normalises by the statistics of a batch, and a policy sees one "
                "observation at a time; use a network without batch norm"
            )
        if self.network.uses_dropout:
            raise ConfigError(
                f"model.kind = {config.model.kind} has dropout, with which the policy that learns is not the one that "
                "acts; use a network without dropout"
            )

    def build(self) -> nn.Module:
        """The configured module as a policy."""
        outputs = self.spec.outputs + self._values
        network = build_network(self.config, self.spec, outputs)
        return GaussianPolicy(network, self.spec.outputs) if self.spec.actions == "continuous" else network

    def _numbers(self, objective: Objective) -> int:
        """Means and deviations, or a logit for each action; and a value, where the network has to give one."""
        return (2 if self.spec.actions == "continuous" else 1) * self.spec.outputs + self._values

    @property
    def _values(self) -> int:
        return int(cast(EnvironmentOptions, self.config.tasks).baseline == "network")

    def normalised(self, observed: Tensor) -> Tensor:
        """Observations (..., O) as the policy sees them."""
        if self._seen is None:
            return observed
        means, deviations = (each.to(observed.device) for each in self._seen)
        return (observed - means) / deviations
