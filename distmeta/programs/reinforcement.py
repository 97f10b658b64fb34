"""The program of reinforcement-learning tasks: roll out, adapt, roll out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from distmeta.adaptations.base import Iterative, Task
from distmeta.adaptations.gradients import gradient
from distmeta.config.schema import Config
from distmeta.core.layout import Meta
from distmeta.core.plan import Plan
from distmeta.core.records import Split, TaskMetrics
from distmeta.core.requests import Start
from distmeta.objectives import PolicyGradient
from distmeta.outer.clipped import DIVERGENCE
from distmeta.outer.options import ClippedOptions
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.mapping import run_tasks
from distmeta.programs.engine.reference import one_task
from distmeta.programs.measuring import summed_names, sums
from distmeta.programs.policy_assembly import PolicyAssembly
from distmeta.programs.rollouts import Rollouts, See
from distmeta.programs.samples import Sampling
from distmeta.programs.task_program import TaskProgram, with_bad
from distmeta.tasks import open_family
from distmeta.tasks.base import episodes
from distmeta.tasks.environments.base import Environments


class ReinforcementProgram(TaskProgram):
    """Tasks that are environments: K + 1 batches of episodes, the inner steps between them.

    The meta-gradient is that of the surrogate loss of the last batch by the parameters before adaptation, with all
    episodes as they were drawn: the exact one differentiates the inner steps, whose loss is a surrogate as well.
    """

    @classmethod
    def blueprint(cls, config: Config) -> Assembly:
        """The configuration's parts, without environments or device."""
        return PolicyAssembly(config)

    @property
    def environments(self) -> Environments:
        """The tasks' own."""
        return self._rollouts.environments

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

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        apart = tuple(f"{DIVERGENCE}{step}" for step in range(self._steps or 0))
        self._answers["clipped"] = (("gradient",), (*summed_names(self._metrics), *apart))

    def _example(self, name: str, theta: Tensor) -> dict[str, Tensor]:
        if name == "clipped":
            return {"candidate": theta, "penalties": torch.ones(1)}
        return super()._example(name, theta)

    def _clipped_sums(self, ways: int | None, vectors: tuple[Tensor, ...], tasks: Any) -> tuple[Tensor, Tensor]:
        """Sums over a chunk of the gradients by a candidate of ProMP's loss, and of its measurements."""
        _, candidate, penalties = vectors
        steps = self._steps or 0
        weights = penalties.expand(steps)

        def one(meta: Meta, tree: Mapping[str, Any]) -> tuple[Meta, Mapping[str, Tensor]]:
            found, (_, measured) = gradient(self._clipped, meta, one_task(tree, ways, steps), weights)
            return found, measured

        gradients, measured = self._per_task(one, candidate, tasks)
        total = self.layout.flatten({name: value.sum(0) for name, value in gradients.items()})
        finite = torch.isfinite(total).all() & torch.isfinite(measured["loss"]).all()
        apart = [measured[f"{DIVERGENCE}{step}"].double().sum() for step in range(steps)]
        return total, with_bad([*sums(self._metrics, measured), *apart], finite)

    def _clipped(self, meta: Meta, task: Task, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """ProMP's loss of one task, and measurements."""
        adaptation, policy = cast(Iterative, self._parts.adaptation), cast(PolicyGradient, self._parts.objective)
        params, state = adaptation.init(meta)
        apart = []
        for step in range(len(weights)):
            batch = task.support.step(step)
            found, (_, outputs) = gradient(adaptation.loss, params, meta, batch)
            apart.append(policy.divergence(batch.data["outputs"], outputs, batch.data))
            params, state = adaptation.update(params, state, found, meta, step)
        outputs, data = adaptation.predict(meta, params, task.query), task.query.data
        surrogate = policy.clipped(outputs, data, cast(ClippedOptions, self._config.outer).clip)
        loss = surrogate + (torch.stack(apart) * weights).sum()
        told = {f"{DIVERGENCE}{step}": value for step, value in enumerate(apart)}
        return loss, {"loss": loss, **policy.measure(outputs, data), **told}

    def follow(self, plan: Plan) -> None:
        """Compute by this plan from now on."""
        super().follow(plan)
        self._rollouts.follow(plan)

    def evaluate(self, start: Start, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Mean returns of each task's episodes, after adaptation and before it; ``details``: after every step."""
        assert self._evaluation_steps is not None
        theta, mean = start.theta.to(self._device), self._config.evaluation.mean_actions
        sample = self._rollouts.roll_out(theta, split, ids, self._evaluation_steps, mean=mean)
        returns = sample["returns"].double().cpu()
        values = {name: sample["query"][name].double().cpu() for name in self._metrics}
        return TaskMetrics(torch.tensor(ids, dtype=torch.int64), values, returns if details else None)

    def watch(self, start: Start, split: Split, ids: Sequence[int], see: See) -> None:
        """Let somebody look on at the episodes that :meth:`evaluate` rolls out for adaptation."""
        assert self._evaluation_steps is not None
        self._rollouts.roll_out(start.theta.to(self._device), split, ids, self._evaluation_steps, see=see)

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
