"""The program of reinforcement-learning tasks: roll out, adapt, roll out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import Split, TaskMetrics
from distmeta.core.requests import Start
from distmeta.errors import ConfigError
from distmeta.functional.building import build
from distmeta.models.policy import GaussianPolicy
from distmeta.objectives import Objective, PolicyGradient
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.mapping import run_tasks
from distmeta.programs.engine.reference import one_task
from distmeta.programs.rollouts import Rollouts
from distmeta.programs.task_program import Sampling, TaskProgram
from distmeta.tasks import open_family
from distmeta.tasks.base import episodes
from distmeta.tasks.environments.base import Environments


class PolicyAssembly(Assembly):
    """The parts of a configuration whose network is a policy.

    Raises:
        ConfigError: as the other parts do; or actions for one observation would depend on others.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
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
        network = build(self.config.model, self.spec.inputs, self.spec.outputs, self.config.seed)
        return GaussianPolicy(network, self.spec.outputs) if self.spec.actions == "continuous" else network

    def _numbers(self, objective: Objective) -> int:
        """Means and deviations, or a logit for each action."""
        return (2 if self.spec.actions == "continuous" else 1) * self.spec.outputs


class ReinforcementProgram(TaskProgram):
    """Tasks that are environments: K + 1 batches of episodes, the inner steps between them.

    The meta-gradient is that of the surrogate loss of the last batch by the parameters before adaptation, with all
    episodes as they were drawn: the exact one differentiates the inner steps, whose loss is a surrogate as well.
    """

    @classmethod
    def blueprint(cls, config: Config) -> Assembly:
        """The configuration's parts, without environments or device."""
        return PolicyAssembly(config)

    def _sampling(self) -> Sampling:
        family = cast(Environments, open_family(self._config, self._device))
        self._rollouts = Rollouts(
            self._config, self._parts, family, episodes(self._config), self.layout, self.initial_vector()
        )
        return self._rollouts

    def _check(self, tasks: Mapping[str, Any]) -> None:
        """Rollouts are checked as they are made."""

    def _examples(self, tasks: Mapping[str, Any]) -> tuple[int, int]:
        transitions = tasks["query"]["x"].shape[1]
        return transitions, transitions

    def follow(self, plan: Plan) -> None:
        """Compute by this plan from now on."""
        super().follow(plan)
        self._rollouts.follow(plan)

    def evaluate(self, start: Start, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Mean returns of each task's episodes, after adaptation and before it; ``details``: after every step."""
        assert self._evaluation_steps is not None
        sample = self._rollouts.roll_out(start.theta.to(self._device), split, ids, self._evaluation_steps)
        returns = sample["returns"].double().cpu()
        known = {"return": returns[:, -1], "return_before": returns[:, 0]}
        values = {name: known[name] for name in self._metrics}
        return TaskMetrics(torch.tensor(ids, dtype=torch.int64), values, returns if details else None)

    def sample_losses(self, count: int) -> Tensor:
        """(count,) negative log-likelihoods of meta-test actions, after all else that a run asks for."""
        self._try_requests()
        self.evaluate(self._initial(), "test", range(count), details=True)
        tasks, _ = self._tasks("test", range(count), self._evaluation_steps, dropout=False)
        policy = cast(PolicyGradient, self._parts.objective)

        def nll(meta: Any, tree: Any) -> Tensor:
            support, query = one_task(tree, None, self._evaluation_steps)
            adapted = self._parts.adaptation.adapt(meta, support, self._evaluation_steps)
            return policy.nll(self._parts.adaptation.predict(meta, adapted, query), query.data)

        meta = self.layout.unflatten(self.initial_vector())
        with torch.no_grad():
            found: Tensor = run_tasks(nll, meta, tasks, count, running=self.plan.running)
        return found.double().cpu()

    def reference_losses(self, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """What :meth:`sample_losses` is in theory."""
        tasks, ways = self._tasks("test", range(count), self._evaluation_steps, dropout=False)
        meta = self.layout.unflatten(self.initial_vector())
        policy, steps = cast(PolicyGradient, self._parts.objective), self._evaluation_steps
        return self._reference(dtype).losses(meta, tasks, count, ways, steps, policy.nll).cpu()
