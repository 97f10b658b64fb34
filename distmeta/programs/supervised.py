"""The program of tasks with a support and a query set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distmeta.programs.samples import Samples
from distmeta.programs.targets import check_targets, check_weights
from distmeta.programs.task_program import Sampling, TaskProgram
from distmeta.tasks import open_family
from distmeta.tasks.base import episodes


class SupervisedProgram(TaskProgram):
    """Tasks with a support set to adapt to and a query set to judge by."""

    def _sampling(self) -> Sampling:
        family = open_family(self._config, self._device)
        return Samples(family, episodes(self._config), self._device)

    def _check(self, tasks: Mapping[str, Any]) -> None:
        for part in ("support", "query"):
            check_targets(self._config, self._parts.objective, tasks[part]["y"], self._parts.spec.outputs)
            check_weights(self._config, tasks[part], self._parts.spec.weighted)

    def _examples(self, tasks: Mapping[str, Any]) -> tuple[int, int]:
        support, query = (next(iter(tasks[part].values())).shape[1] for part in ("support", "query"))
        return support, query
