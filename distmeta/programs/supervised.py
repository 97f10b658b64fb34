"""The program of tasks with a support and a query set."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from distmeta.adaptations import Iterative
from distmeta.adaptations.base import trajectory
from distmeta.config.schema import Config
from distmeta.core.layout import Layout, Meta
from distmeta.core.philox import Purpose, keys, minibatches
from distmeta.core.plan import Compile, Plan
from distmeta.core.records import Data, MetaGradient, MetaState, Split, TaskBatch, TaskMetrics
from distmeta.functional.kernels.build import unavailable
from distmeta.programs.cuda import allow_tf32
from distmeta.programs.deciding import Facts, decide
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.compiling import is_recorded, recorded_by, specialise
from distmeta.programs.engine.kept import host, kept, origin
from distmeta.programs.engine.mapping import OneTask, chunks, run_tasks
from distmeta.programs.engine.reference import Reference, one_task
from distmeta.programs.engine.settling import choose, require
from distmeta.tasks import open_family
from distmeta.tasks.base import Episode, episodes

RECORD_AFTER = 3
"""Chunks of one shape after which measurements are recorded; fewer do not repay it."""

AHEAD = 8
"""Shards that are sampled at once at most."""

PREFETCHED = 3 * AHEAD
"""Shards that may lie ready; more were asked for in vain and are dropped, oldest first."""


class SupervisedProgram:
    """Composes tasks, objective, adaptation and estimator, and maps them over shards.

    In training the query set's loss sees batch statistics of the query set itself, and dropout is on; in evaluation
    dropout is off.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.plan = Plan()
        if device.type == "cuda":
            allow_tf32(False)
        self._config = config
        self._device = device
        self._parts = Assembly(config)
        self._origin = origin(config)
        self._parts.network.to(device)
        self._names = ("loss", self._parts.metric)
        self.layout = Layout.of(self._parts.initial_meta())
        self._family = open_family(config, device)
        self._episodes: dict[Split, Episode] = episodes(config)
        self._steps: int | None = getattr(config.algorithm, "inner_steps", None)
        self._evaluation_steps = config.evaluation.inner_steps
        self._inner_batch: int | None = getattr(config.algorithm, "inner_batch", None)
        self._sampler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sample")
        self._references: dict[torch.dtype, Reference] = {}
        self._functions: dict[Hashable, Callable[..., Any]] = {}
        self._seen: Counter[Hashable] = Counter()
        self._ahead: dict[tuple[Split, tuple[int, ...]], tuple[Future[TaskBatch], int]] = {}
        self._sampling = threading.Lock()  # of what is ahead: another thread than that which computes may ask for it

    def probe(self, *, training: bool = True) -> Plan:
        """What :func:`~distmeta.programs.deciding.decide` says, as far as it works for all that the run asks for."""
        tasks, _ = self._tasks("train", range(2), self._steps, dropout=True)
        plan = decide(self._config, self._facts(tasks), training=training)
        if self._origin is None:
            return choose(self, plan, self._config.engine)
        parts = [self._origin, plan.as_dict(), self._config.engine.model_dump(), recorded_by(None, tasks), host()]
        tried: Callable[[], Plan] = partial(choose, self, plan, self._config.engine)
        chosen: Plan = kept("plan", parts, tried, partial(_dump, plan), _load)
        return chosen

    def follow(self, plan: Plan) -> None:
        """Compute by this plan from now on."""
        if plan == self.plan:
            return
        require(plan)
        if self._device.type == "cuda":
            allow_tf32(plan.precision == "tf32")
        self.plan = plan
        self._parts.follow(plan)
        self._functions.clear()

    def sample_gradient(self, count: int, first: int = 0) -> Tensor:
        """Meta-gradient (P,) of some training tasks at the initial parameters: what plans are compared by."""
        return self.gradient(self._initial(), "train", range(first, first + count)).vector

    def sample_losses(self, count: int) -> Tensor:
        """(count,) losses of meta-test tasks, measured in all details, after a validation task."""
        self.evaluate(self._initial(), "validation", range(1), details=False)
        return self.evaluate(self._initial(), "test", range(count), details=True).values["loss"]

    def reference_gradient(self, count: int, first: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """What :meth:`sample_gradient` is in theory: plain autograd on the user's own module, one task at a time."""
        tasks, ways = self._tasks("train", range(first, first + count), self._steps, dropout=True)
        meta = self.layout.unflatten(self.initial_vector())
        return self._reference(dtype).gradient(meta, tasks, count, ways, self._steps).cpu()

    def reference_losses(self, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """What :meth:`sample_losses` is in theory."""
        tasks, ways = self._tasks("test", range(count), self._evaluation_steps, dropout=False)
        meta = self.layout.unflatten(self.initial_vector())
        return self._reference(dtype).losses(meta, tasks, count, ways, self._evaluation_steps).cpu()

    def differentiates_once(self) -> bool:
        """Whether the exact meta-gradient through inner steps is asked for, and all but that works."""
        if self._config.algorithm.estimator != "exact" or not self._parts.adaptation.iterative:
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
        exact = self._config.algorithm.estimator == "exact" and self._parts.adaptation.iterative
        if not exact:
            return ""
        tasks, ways = self._tasks("train", range(1), self._steps, dropout=True)
        meta = self.layout.unflatten(self.initial_vector())
        return self._reference(torch.float32).hides_curvature(meta, tasks, ways, self._steps)

    def _initial(self) -> MetaState:
        return MetaState(0, self.initial_vector().cpu())

    def _reference(self, dtype: torch.dtype) -> Reference:
        if dtype not in self._references:
            self._references[dtype] = Reference(self._parts, self._device, dtype)
        return self._references[dtype]

    def prefetch(self, split: Split, shards: Sequence[Sequence[int]]) -> None:
        """Sample the tasks of these shards in the background, all at once, which costs little more than one of them."""
        with self._sampling:
            wanted = [tuple(ids) for ids in shards[:AHEAD] if (split, tuple(ids)) not in self._ahead]
            if wanted:
                job = self._sampler.submit(self._family.sample, split, [task for ids in wanted for task in ids])
                firsts = accumulate(map(len, wanted), initial=0)
                self._ahead |= {(split, ids): (job, first) for ids, first in zip(wanted, firsts, strict=False)}
            while len(self._ahead) > PREFETCHED:
                self._ahead.pop(next(iter(self._ahead)))

    def gradient(self, state: MetaState, split: Split, ids: Sequence[int]) -> MetaGradient:
        """Sum of these tasks' meta-gradients, with sums of ``loss`` and the metric."""
        began = time.perf_counter()
        tasks, ways = self._tasks(split, ids, self._steps, dropout=True)
        sampled = time.perf_counter()
        vector = state.vector.to(self._device)
        results = []
        for part in self._chunks(tasks, len(ids)):
            results.append(self._call("gradient", ways, True, vector, part))
            if self.plan.compile == "none" and self.plan.differentiation == "mixed":
                # torch.func makes a class for each call of a task-batched layer, and classes are cycles that keep
                # activations until Python looks for them: on its own it would after gigabytes.
                gc.collect()
        total, sums = results[0]
        for summed, measured in results[1:]:
            total, sums = total + summed, sums + measured
        *metrics, bad = sums.tolist()
        if len(results) > 1:
            bad += float(not torch.isfinite(total).all())
        nonfinite = self._nonfinite(vector, tasks, ways, ids) if bad else ()
        total = total.cpu()
        seconds = {"compute": time.perf_counter() - sampled, "data": sampled - began}
        return MetaGradient(total, len(ids), dict(zip(self._names, metrics, strict=True)), nonfinite, seconds)

    def evaluate(self, state: MetaState, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Loss and metric of each task after adaptation; ``details``: see :meth:`_measure`."""
        tasks, ways = self._tasks(split, ids, self._evaluation_steps, dropout=False)
        vector = state.vector.to(self._device)
        parts = [
            self._call("details" if details else "measure", ways, False, vector, part)
            for part in self._chunks(tasks, len(ids))
        ]
        values = {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}
        by_step = values.pop("by_step", None)
        return TaskMetrics(torch.tensor(ids, dtype=torch.int64), values, by_step)

    def initial_vector(self) -> Tensor:
        """The initial meta-parameters (P,), on the program's device."""
        return self.layout.flatten(self._parts.initial_meta()).to(self._device)

    def _facts(self, tasks: Mapping[str, Any]) -> Facts:
        support, query = (tasks[part]["x"].shape[1] for part in ("support", "query"))
        passes = self._steps or 1  # over the support set; one over the query set follows
        examples = (passes * support + query) // (passes + 1)
        return Facts(
            device=self._device.type,
            task_layers=self._parts.network.has_task_layers,
            iterative=self._parts.adaptation.iterative,
            activations=4 * examples * self._parts.network.activations,
            no_compiler=unavailable(),
        )

    def _chunks(self, tasks: Any, count: int) -> Iterator[Any]:
        return chunks(tasks, count, self.plan.chunk if self.plan.running == "mapped" else 1)

    def _call(self, name: str, ways: int | None, training: bool, vector: Tensor, tasks: Any) -> Any:
        """One of the functions of a chunk, recorded or compiled for these shapes as the plan says.

        What is recorded has the bits of what is not, so measurements are recorded once their shapes come again.
        """
        key = (name, ways, *((leaf.shape, leaf.dtype) for leaf in tree_leaves(tasks)))
        with torch.no_grad():
            if key not in self._functions:
                function = partial(self._gradients if training else self._measurements, ways, name == "details")
                self._seen[key] += 1
                source = None if self._origin is None else [self._origin, _of_operations(self.plan), name, ways]
                seen = self._seen[key] >= RECORD_AFTER
                if not training and not seen and not is_recorded(source, (vector, tasks)):
                    return function(vector, tasks)
                how: Compile = self.plan.compile if training or self.plan.compile == "none" else "graph"
                self._functions[key] = specialise(function, (vector, tasks), how, source)
            return self._functions[key](vector, tasks)

    def _gradients(self, ways: int | None, _: bool, vector: Tensor, tasks: Any) -> tuple[Tensor, Tensor]:
        """Sum of a chunk's meta-gradients (P,), and float64 sums: each measurement's, and 1 if one is not finite.

        Everything that is read of a chunk is computed with it, since tiny networks cost no more than a few calls.
        """
        gradients, measured = self._per_task(lambda m, t: self._gradient(m, t, ways), vector, tasks)
        total = self.layout.flatten({name: value.sum(0) for name, value in gradients.items()})
        finite = torch.isfinite(total).all() & torch.isfinite(measured["loss"]).all()
        sums = [measured[name].double().sum() for name in self._names]
        return total, torch.stack([*sums, 1.0 - finite.double()])

    def _measurements(self, ways: int | None, details: bool, vector: Tensor, tasks: Any) -> dict[str, Tensor]:
        measured = self._per_task(lambda m, t: self._measure(m, t, ways, details), vector, tasks)
        return cast("dict[str, Tensor]", measured)

    def _per_task(self, function: OneTask, vector: Tensor, tasks: Any) -> Any:
        meta: Meta = self.layout.unflatten(vector)
        if self.plan.layers != "general":
            meta = self._parts.network.arrange(meta)
        return run_tasks(function, meta, tasks, len(tree_leaves(tasks)[0]), running=self.plan.running)

    def _nonfinite(self, vector: Tensor, tasks: Any, ways: int | None, ids: Sequence[int]) -> tuple[int, ...]:
        """The tasks whose loss or meta-gradient is not finite, one by one.

        A sum of finite gradients may overflow too; then every task has a share in it.
        """
        bad = []
        for part, task in zip(chunks(tasks, len(ids), 1), ids, strict=True):
            _, sums = self._gradients(ways, False, vector, part)
            if sums[-1]:
                bad.append(task)
        return tuple(bad) or tuple(ids)

    def _tasks(
        self, split: Split, ids: Sequence[int], steps: int | None, *, dropout: bool
    ) -> tuple[dict[str, Any], int | None]:
        """The tasks as a tree of tensors with a leading task dimension, and their number of ways."""
        support, query = self._sample(split, ids)
        episode = self._episodes[split]
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

    def _sample(self, split: Split, ids: Sequence[int]) -> tuple[Data, Data]:
        """Support and query sets of these tasks, from what lies ready if it does."""
        with self._sampling:
            job, first = self._ahead.pop((split, tuple(ids)), (None, 0))
        batch = job.result() if job else self._family.sample(split, ids)
        support, query = (
            {name: value[first : first + len(ids)] for name, value in part.items()}
            for part in (batch.support, batch.query)
        )
        return support, query

    def _gradient(self, meta: Meta, tree: Mapping[str, Any], ways: int | None) -> tuple[Meta, Mapping[str, Tensor]]:
        return self._parts.estimator.gradient(meta, one_task(tree, ways, self._steps), self._steps)

    def _measure(self, meta: Meta, tree: Mapping[str, Any], ways: int | None, details: bool) -> dict[str, Tensor]:
        """One task's ``loss`` and metric after adaptation.

        ``details`` adds ``by_step`` (K + 1,), the metric after every inner step where there are any, and for networks
        with batch statistics ``METRIC_inductive``, where the support set's statistics normalise the query.
        """
        adaptation, objective = self._parts.adaptation, self._parts.objective
        steps = self._evaluation_steps
        support, query = one_task(tree, ways, steps)
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


def _of_operations(plan: Plan) -> dict[str, Any]:
    """What of a plan decides the operations."""
    return {name: value for name, value in plan.settings().items() if name != "compile"}


def _dump(decided: Plan, chosen: Plan) -> bytes:
    """A plan that works as it was decided; the reason of another one may pass."""
    if chosen.running != "mapped" or chosen.settings() != decided.settings():
        raise ValueError("the plan is another one than was decided")
    return json.dumps(chosen.as_dict()).encode()


def _load(content: bytes) -> Plan:
    return Plan.from_dict(json.loads(content))
