"""The program of tasks with a support and a query set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distmeta.core.records import Split, TaskMetrics
from distmeta.core.requests import Start
from distmeta.errors import ConfigError
from distmeta.programs.samples import Samples, Sampling
from distmeta.programs.targets import check_targets, check_weights
from distmeta.programs.task_program import TaskProgram
from distmeta.tasks import open_family
from distmeta.tasks.base import episodes


class SupervisedProgram(TaskProgram):
    """Tasks with a support set to adapt to and a query set to judge by."""

    def _sampling(self) -> Sampling:
        family = open_family(self._config, self._device)
        samples = Samples(family, episodes(self._config), self._device)
        if self._use.classes:
            self._check_classes(samples.classes())
        return samples

    def _check_classes(self, found: int | None) -> None:
        """Refuse a classifier of other classes than those of the training split."""
        name, asked = self._config.algorithm.adaptation, getattr(self._config.algorithm, "classes", None)
        if found is None:
            raise ConfigError(
                f"algorithm.adaptation = {name} needs classes that are the same in all tasks, and tasks.kind = "
                f"{self._config.tasks.kind} does not tell them; use images or texts, or gradient_descent with "
                "algorithm.estimator=joint"
            )
        if found != asked:
            raise ConfigError(
                f"algorithm.classes = {asked}, and the training split of tasks.kind = {self._config.tasks.kind} has "
                f"{found} classes (rotations count as classes of their own); set algorithm.classes={found}"
            )

    def _check(self, tasks: Mapping[str, Any]) -> None:
        for part in ("support", "query"):
            check_targets(self._config, self._parts.objective, tasks[part]["y"], self._parts.spec.outputs)
            check_weights(self._config, tasks[part], self._parts.spec.weighted)

    def _examples(self, tasks: Mapping[str, Any]) -> tuple[int, int]:
        support, query = (next(iter(tasks[part].values())).shape[1] for part in ("support", "query"))
        return support, query

    def evaluate(self, start: Start, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Loss and metrics of each task, see :func:`~distmeta.programs.measuring.measure`."""
        tasks, ways = self._tasks(split, ids, self._evaluation_steps, dropout=False)
        vectors = (start.theta.to(self._device),)
        parts = [
            self._call("details" if details else "measure", ways, False, vectors, part)
            for part in self._chunks(tasks, len(ids))
        ]
        values = {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}
        by_step = values.pop("by_step", None)
        return TaskMetrics(torch.tensor(ids, dtype=torch.int64), values, by_step)
