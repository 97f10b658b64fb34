"""The program of policies that remember: trials, and the gradient through each of them as one sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.records import Data, Split, TaskMetrics
from distmeta.core.requests import Start
from distmeta.estimators.base import Estimator
from distmeta.objectives import PolicyGradient
from distmeta.outer.options import ClippedOptions
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.mapping import chunks
from distmeta.programs.measuring import summed_names, sums
from distmeta.programs.recurrent_assembly import RecurrentAssembly
from distmeta.programs.rollouts import See
from distmeta.programs.samples import Sampling
from distmeta.programs.task_program import TaskProgram, Vectors, with_bad
from distmeta.programs.trials import Trials
from distmeta.tasks import open_family
from distmeta.tasks.base import episodes
from distmeta.tasks.environments.base import Environments


class RecurrentProgram(TaskProgram):
    """Tasks that are environments, in which a policy acts for several episodes without forgetting.

    Nothing is adapted but the policy's memory, so that the gradient of a shard is that of one batch of sequences.
    Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, arXiv 1611.02779 (RL^2).
    """

    plans: ClassVar[bool] = False

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        cast(RecurrentAssembly, self._parts).unrolled.to(device)
        self._answers["clipped"] = (("gradient",), summed_names(self._metrics))

    @classmethod
    def blueprint(cls, config: Config) -> Assembly:
        """The configuration's parts, without environments or device."""
        return RecurrentAssembly(config)

    def probe(self, *, training: bool = True) -> Plan:
        """There is one way to compute sequences, which is tried on a task."""
        self._try_requests()
        chunk = self._config.engine.chunk
        return Plan(chunk=None if chunk == "auto" else chunk)

    @property
    def environments(self) -> Environments:
        """The tasks' own."""
        return self._trials.environments

    def _sampling(self) -> Sampling:
        family = cast(Environments, open_family(self._config, self._device))
        self._trials = Trials(
            self._config, self._parts, family, episodes(self._config), self.layout, self.initial_vector()
        )
        return self._trials

    def _example(self, name: str, theta: Tensor) -> dict[str, Tensor]:
        if name == "clipped":
            return {"candidate": theta, "penalties": torch.zeros(1)}
        return super()._example(name, theta)

    def _chunks(self, tasks: Any, count: int) -> Iterator[Any]:
        return chunks(tasks, count, self.plan.chunk)

    def _gradient_sums(
        self, ways: int | None, vectors: Vectors, tasks: Any, estimator: Estimator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums over a chunk of the loss's gradients, and of measurements."""
        return self._summed(vectors[0], tasks["query"], self._parts.objective.loss)

    def _clipped_sums(self, ways: int | None, vectors: Vectors, tasks: Any) -> tuple[Tensor, Tensor]:
        """Likewise of the clipped surrogate at a candidate."""
        clip = cast(ClippedOptions, self._config.outer).clip
        policy = cast(PolicyGradient, self._parts.objective)
        return self._summed(vectors[1], tasks["query"], partial(policy.clipped, clip=clip))

    def _summed(self, vector: Tensor, data: Data, judge: Callable[[Tensor, Data], Tensor]) -> tuple[Tensor, Tensor]:
        parts = cast(RecurrentAssembly, self._parts)

        def one(outputs: Tensor, data: Data) -> Mapping[str, Tensor]:
            loss = judge(outputs, data)
            return {"loss": loss, **parts.objective.measure(outputs, data)}

        with torch.enable_grad():
            theta = vector.detach().requires_grad_()
            outputs, _ = parts.unroll(self.layout.unflatten(theta), data["x"].transpose(0, 1))
            measured = torch.func.vmap(one)(outputs.transpose(0, 1), data)
            (gradient,) = torch.autograd.grad(measured["loss"].sum(), theta)
        measured = {name: value.detach() for name, value in measured.items()}
        finite = torch.isfinite(gradient).all() & torch.isfinite(measured["loss"]).all()
        return gradient, with_bad(sums(self._metrics, measured), finite)

    def evaluate(self, start: Start, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Mean returns of each trial's episodes, and the first one's; ``details``: of every episode."""
        theta, mean = start.theta.to(self._device), self._config.evaluation.mean_actions
        sample = self._trials.roll_out(theta, split, ids, 0, mean=mean)
        values = {name: sample["query"][name].double().cpu() for name in self._metrics}
        by_episode = sample["returns"].double().cpu() if details else None
        return TaskMetrics(torch.tensor(ids, dtype=torch.int64), values, by_episode)

    def watch(self, start: Start, split: Split, ids: Sequence[int], see: See) -> None:
        """Let somebody look on at trials."""
        mean = self._config.evaluation.mean_actions
        self._trials.roll_out(start.theta.to(self._device), split, ids, 0, mean=mean, see=see)
