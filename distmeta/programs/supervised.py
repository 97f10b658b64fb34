"""The program of tasks with a support and a query set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor

from distmeta.adaptations import Batch, Iterative, Support, Task
from distmeta.adaptations.base import trajectory
from distmeta.config import Config
from distmeta.layout import Layout, Meta
from distmeta.plan import Plan
from distmeta.programs.assembly import Assembly
from distmeta.programs.engine import run_tasks, unmappable
from distmeta.records import MetaGradient, MetaState, Split, TaskBatch, TaskMetrics
from distmeta.tasks import open_family
from distmeta.tasks.base import Episode, episodes
from distmeta.tasks.philox import Purpose, keys, minibatches

PREFETCHED = 8
"""Shards that may lie ready; more were asked for in vain and are dropped, oldest first."""


class SupervisedProgram:
    """Composes tasks, objective, adaptation and estimator, and maps them over shards.

    In training the query set's loss sees batch statistics of the query set itself, and dropout is on; in evaluation
    dropout is off.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.plan = Plan()
        self._device = device
        self._parts = Assembly(config)
        self._parts.network.to(device)
        self.layout = Layout.of(self._parts.initial_meta())
        self._family = open_family(config, device)
        self._episodes: dict[Split, Episode] = episodes(config)
        self._steps: int | None = getattr(config.algorithm, "inner_steps", None)
        self._evaluation_steps = config.evaluation.inner_steps
        self._inner_batch: int | None = getattr(config.algorithm, "inner_batch", None)
        self._sampler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sample")
        self._ahead: dict[tuple[Split, tuple[int, ...]], Future[TaskBatch]] = {}

    def probe(self) -> Plan:
        """Map two tasks through training and evaluation; where that fails and a loop works, tasks are looped."""
        meta = self.layout.unflatten(self.layout.flatten(self._parts.initial_meta()).to(self._device))
        tasks, ways = self._tasks("train", range(2), self._steps, dropout=True)
        reason = unmappable(lambda m, t: self._gradient(m, t, ways), meta, tasks, 2)
        if reason is None:
            tasks, ways = self._tasks("validation", range(2), self._evaluation_steps, dropout=False)
            reason = unmappable(lambda m, t: self._measure(m, t, ways, True), meta, tasks, 2)
        return Plan(mapped=reason is None, reason=reason or "")

    def prefetch(self, split: Split, ids: Sequence[int]) -> None:
        """Sample these tasks in the background."""
        key = (split, tuple(ids))
        if key not in self._ahead:
            self._ahead[key] = self._sampler.submit(self._family.sample, split, ids)
        while len(self._ahead) > PREFETCHED:
            self._ahead.pop(next(iter(self._ahead))).cancel()

    def gradient(self, state: MetaState, split: Split, ids: Sequence[int]) -> MetaGradient:
        """Sum of these tasks' meta-gradients, with sums of ``loss`` and the metric."""
        meta = self._meta(state)
        tasks, ways = self._tasks(split, ids, self._steps, dropout=True)
        gradients, measured = run_tasks(
            lambda m, t: self._gradient(m, t, ways), meta, tasks, len(ids), mapped=self.plan.mapped
        )
        vector = self.layout.flatten({name: value.sum(0) for name, value in gradients.items()})
        nonfinite: tuple[int, ...] = ()
        if not (torch.isfinite(vector).all() and torch.isfinite(measured["loss"]).all()):
            finite = torch.isfinite(measured["loss"])
            for value in gradients.values():
                finite &= torch.isfinite(value).reshape(len(ids), -1).all(1)
            # A sum of finite gradients may overflow too; then every task has a share in it.
            nonfinite = tuple(i for i, good in zip(ids, finite.tolist(), strict=True) if not good) or tuple(ids)
        metrics = {name: float(value.double().sum()) for name, value in measured.items()}
        return MetaGradient(vector.cpu(), len(ids), metrics, nonfinite)

    def evaluate(self, state: MetaState, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Loss and metric of each task after adaptation; ``details``: see :meth:`_measure`."""
        meta = self._meta(state)
        tasks, ways = self._tasks(split, ids, self._evaluation_steps, dropout=False)
        measured = run_tasks(
            lambda m, t: self._measure(m, t, ways, details), meta, tasks, len(ids), mapped=self.plan.mapped
        )
        values = {name: value.double().cpu() for name, value in measured.items()}
        by_step = values.pop("by_step", None)
        return TaskMetrics(torch.tensor(ids, dtype=torch.int64), values, by_step)

    def _meta(self, state: MetaState) -> Meta:
        return self.layout.unflatten(state.vector.to(self._device))

    def _tasks(
        self, split: Split, ids: Sequence[int], steps: int | None, *, dropout: bool
    ) -> tuple[dict[str, Any], int | None]:
        """The tasks as a tree of tensors with a leading task dimension, and their number of ways."""
        ahead = self._ahead.pop((split, tuple(ids)), None)
        batch = ahead.result() if ahead else self._family.sample(split, ids)
        episode = self._episodes[split]
        support, query = batch.support, batch.query
        if split == "train" and self._parts.estimator.merges_query:
            support = {name: torch.cat([value, query[name]], 1) for name, value in support.items()}
        tree: dict[str, Any] = {"support": dict(support), "query": dict(query)}
        examples = support["x"].shape[1]
        if self._inner_batch is not None and self._inner_batch < examples and steps:
            chosen = minibatches(episode.seed, split, ids, examples, steps, self._inner_batch)
            tree["batches"] = torch.from_numpy(chosen).to(self._device)
        if dropout and self._parts.network.uses_dropout:
            words = keys(episode.seed, split, ids, Purpose.DROPOUT)
            tree["key"] = torch.from_numpy(words).to(self._device)
        return tree, episode.ways

    def _gradient(self, meta: Meta, tree: Mapping[str, Any], ways: int | None) -> tuple[Meta, Mapping[str, Tensor]]:
        return self._parts.estimator.gradient(meta, _task(tree, ways, self._steps), self._steps)

    def _measure(self, meta: Meta, tree: Mapping[str, Any], ways: int | None, details: bool) -> dict[str, Tensor]:
        """One task's ``loss`` and metric after adaptation.

        ``details`` adds ``by_step`` (K + 1,), the metric after every inner step where there are any, and for networks
        with batch statistics ``METRIC_inductive``, where the support set's statistics normalise the query.
        """
        adaptation, objective = self._parts.adaptation, self._parts.objective
        steps = self._evaluation_steps
        support, query = _task(tree, ways, steps)
        by_step = []
        if details and adaptation.iterative:
            assert steps is not None
            for adapted in trajectory(cast(Iterative, adaptation), meta, support, steps):
                outputs = adaptation.predict(meta, adapted, query)
                by_step.append(objective.measure(outputs, query.data))
        else:
            adapted = adaptation.adapt(meta, support, steps)
            outputs = adaptation.predict(meta, adapted, query)
        values = {"loss": objective.loss(outputs, query.data)}
        values[objective.metric] = objective.measure(outputs, query.data)
        if by_step:
            values["by_step"] = torch.stack(by_step)
        if details and self._parts.network.uses_batch_statistics:
            outputs = adaptation.predict_inductive(meta, adapted, support, query)
            values[f"{objective.metric}_inductive"] = objective.measure(outputs, query.data)
        return values


def _task(tree: Mapping[str, Any], ways: int | None, steps: int | None) -> Task:
    key = tree.get("key")
    # The draw after those of the support set, whose masks the query set must not share.
    after = 1 if steps is None else steps
    support = Support(tree["support"], ways, tree.get("batches"), key)
    return Task(support, Batch(tree["query"], key, after))
