"""The program of evolution strategies on policies: perturbed policies adapt, and their returns are compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor

from distmeta.core.philox import Purpose, normal, words
from distmeta.core.plan import Plan
from distmeta.core.records import Split
from distmeta.core.requests import Answer, Request
from distmeta.estimators.evolution import Evolution
from distmeta.programs.reinforcement import ReinforcementProgram
from distmeta.tasks.base import episodes


class EvolvingProgram(ReinforcementProgram):
    """Tasks that are environments, with a meta-gradient from returns.

    The directions of a task are keyed by (seed, task, direction); both sides of one see the same random numbers. All
    perturbed policies of a shard are rolled out in one batch.
    """

    plans: ClassVar[bool] = False

    def probe(self, *, training: bool = True) -> Plan:
        """There is one way to compute, which is tried on a task."""
        self._try_requests()
        return Plan(compile="none" if self._config.engine.compile == "none" else "graph")

    def answer(self, request: Request, split: Split, ids: Sequence[int]) -> Answer:
        """``gradient``: the vector, and sums of minus the return, and of the measurements, over both sides."""
        began = time.perf_counter()
        estimator, steps = cast(Evolution, self._parts.estimator), self._steps
        assert steps is not None
        theta, count, sides = request.start.theta.to(self._device), estimator.options.directions, 2
        directions = self._directions(split, ids, count)  # (T, n, P)
        away = estimator.options.deviation * directions
        tried = torch.stack([theta + away, theta - away], 2)  # (T, n, 2, P)
        each = [task for task in ids for _ in range(sides * count)]
        sample = self._rollouts.roll_out(tried.flatten(0, 2), split, each, steps)["query"]
        lost = -sample["return"].view(len(ids), count, sides)
        found = [estimator.combined(own, both[:, 0], both[:, 1]) for own, both in zip(directions, lost, strict=True)]
        measured = {"loss": lost, **{name: sample[name] for name in self._metrics}}
        sums = {name: float(value.double().view(len(ids), -1).mean(1).sum()) for name, value in measured.items()}
        seconds = {"compute": time.perf_counter() - began, "data": 0.0}
        return Answer({"gradient": torch.stack(found).sum(0).cpu()}, sums, len(ids), None, (), seconds, 0)

    def _directions(self, split: Split, ids: Sequence[int], count: int) -> Tensor:
        """(T, n, P) standard normal numbers."""
        seed, size = episodes(self._config)[split].seed, self.layout.size
        even = size + size % 2
        drawn = [normal(words(seed, split, ids, Purpose.DIRECTIONS, even, part)) for part in range(count)]
        return torch.stack([torch.from_numpy(each[:, :size]).float() for each in drawn], 1).to(self._device)
