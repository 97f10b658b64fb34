"""How a program is held against plain autograd: samples of what it computes, and what they are in theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.layout import Layout
from distmeta.core.plan import Plan
from distmeta.core.records import Split, TaskMetrics
from distmeta.core.requests import Answer, Request, Start
from distmeta.estimators.base import Estimator
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.mapping import run_tasks
from distmeta.programs.engine.reference import Reference, one_task
from distmeta.programs.samples import Sampling


class Comparable:
    """What :class:`~distmeta.programs.task_program.TaskProgram` is besides: something that can be checked."""

    layout: Layout
    plan: Plan
    _config: Config
    _device: torch.device
    _parts: Assembly
    _steps: int | None
    _evaluation_steps: int | None
    _samples: Sampling
    _references: dict[torch.dtype, Reference]

    def answer(self, request: Request, split: Split, ids: Sequence[int]) -> Answer:
        """See the program."""
        raise NotImplementedError

    def evaluate(self, start: Start, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """See the program."""
        raise NotImplementedError

    def initial_vector(self) -> Tensor:
        """See the program."""
        raise NotImplementedError

    def _tasks(
        self, split: Split, ids: Sequence[int], steps: int | None, *, dropout: bool
    ) -> tuple[dict[str, Any], int | None]:
        raise NotImplementedError

    def sample_gradient(self, count: int, first: int = 0) -> Tensor:
        """Meta-gradient (P,) of some training tasks at the initial parameters: what plans are compared by."""
        start = Start.of(self._compared_at, self.initial_vector().cpu())
        request, parts = Request("gradient", start), self._samples.alike(range(first, first + count))
        return torch.stack([self.answer(request, "train", part).vector for part in parts]).sum(0)

    def repeated_gradient(self, task: int, count: int) -> Tensor:
        """Meta-gradient (P,) of one training task, from a chunk that holds it ``count`` times."""
        request = Request("gradient", Start.of(self._compared_at, self.initial_vector().cpu()))
        return self.answer(request, "train", [task] * count).vector / count

    def sample_losses(self, count: int) -> Tensor:
        """(count,) losses of meta-test tasks, measured in all details, after all else that a run asks for."""
        self._try_requests()
        return self.evaluate(self._initial(), "test", range(count), details=True).values["loss"]

    def _try_requests(self) -> None:
        """Answer everything that a run may ask for, once."""
        initial = self._initial()
        for name in self._config.outer.requests:
            self.answer(Request(name, initial, self._example(name, initial.theta)), "train", range(1))
        self.evaluate(self._initial(), "validation", range(1), details=False)

    def reference_gradient(
        self, count: int, first: int = 0, dtype: torch.dtype = torch.float64, nudge: int = 0
    ) -> Tensor:
        """What :meth:`sample_gradient` is in theory: plain autograd on the user's own module, one task at a time.

        Args:
            count: tasks.
            first: of them.
            dtype: of the whole computation.
            nudge: 0 for the initial parameters; other numbers move each of them by a last bit of float32, up or down,
                every number in its own way.
        """
        meta = self.layout.unflatten(_nudged(self.initial_vector(), nudge))
        found = []
        for part in self._samples.alike(range(first, first + count)):
            tasks, ways = self._tasks("train", part, self._steps, dropout=True)
            tasks = self._weighted(tasks, len(part), self._compared_at)
            found.append(self._reference(dtype).gradient(meta, tasks, len(part), ways, self._steps).cpu())
        return torch.stack(found).sum(0)

    def reference_losses(self, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """What :meth:`sample_losses` is in theory."""
        tasks, ways = self._tasks("test", range(count), self._evaluation_steps, dropout=False)
        meta = self.layout.unflatten(self.initial_vector())
        return self._reference(dtype).losses(meta, tasks, count, ways, self._evaluation_steps).cpu()

    def differentiates_once(self) -> bool:
        """Whether the exact meta-gradient through inner steps is asked for, and all but that works."""
        if not self._through_steps():
            return False
        tasks, ways = self._tasks("train", range(1), self._steps, dropout=True)
        estimator = self._parts.on(self._parts.network, "first_order").estimator
        meta = self.layout.unflatten(self.initial_vector())
        try:
            with torch.no_grad():
                run_tasks(
                    lambda m, t: estimator.gradient(m, one_task(t, ways, self._steps), self._steps),
                    meta,
                    tasks,
                    1,
                    running="plain",
                )
            self.sample_losses(1)
        except Exception:  # whatever a user's module raises
            return False
        return True

    def hides_curvature(self) -> str:
        """Custom functions that lose the second derivatives which the meta-gradient needs; empty where none does."""
        if not self._through_steps():
            return ""
        tasks, ways = self._tasks("train", range(1), self._steps, dropout=True)
        meta = self.layout.unflatten(self.initial_vector())
        return self._reference(torch.float32).hides_curvature(meta, tasks, ways, self._steps)

    def _through_steps(self) -> bool:
        """Whether the meta-gradient goes through inner steps."""
        return self._parts.estimator.Options.curved and self._parts.adaptation.iterative

    @property
    def _compared_at(self) -> int:
        """The meta-step that plans are compared in."""
        return int(getattr(self._parts.estimator, "compared_at", 0))

    def _at(self, step: int) -> Estimator:
        """What computes meta-gradients in a meta-step."""
        own = self._parts.estimator
        found: Estimator = own.at(step) if hasattr(own, "at") else own
        return found

    def _weighted(self, tasks: dict[str, Any], count: int, step: int) -> dict[str, Any]:
        """Tasks with what the query loss after each inner step counts in a meta-step, where all of them count."""
        estimator = self._at(step)
        weights = estimator.weights(step, self._steps) if hasattr(estimator, "weights") else None
        return tasks if weights is None else {**tasks, "weights": weights.to(self._device).expand(count, -1)}

    def _initial(self) -> Start:
        return Start.of(0, self.initial_vector().cpu())

    def _reference(self, dtype: torch.dtype) -> Reference:
        if dtype not in self._references:
            self._references[dtype] = Reference(self._parts, self._device, dtype)
        return self._references[dtype]

    def _example(self, name: str, theta: Tensor) -> Mapping[str, Tensor]:
        raise NotImplementedError


def _nudged(vector: Tensor, number: int) -> Tensor:
    if number == 0:
        return vector
    ways = torch.randint(0, 2, vector.shape, generator=torch.Generator().manual_seed(number)).to(vector)
    return vector * (1 + (2 * ways - 1) * torch.finfo(torch.float32).eps)
