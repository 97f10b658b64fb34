"""What the programs of all kinds of task share: what one task needs, mapped over shards of sampled tasks."""

from __future__ import annotations

import gc
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from distmeta.adaptations import ADAPTATIONS
from distmeta.adaptations.base import Task
from distmeta.adaptations.gradients import curvature_product
from distmeta.config.schema import Config
from distmeta.core.layout import Layout, Meta
from distmeta.core.plan import Compile, Plan
from distmeta.core.records import Split, TaskMetrics
from distmeta.core.requests import Answer, Request, Start
from distmeta.estimators.base import Estimator, OfOutputs
from distmeta.functional.kernels.build import unavailable
from distmeta.objectives.base import Curved
from distmeta.programs.comparable import Comparable
from distmeta.programs.cuda import allow_tf32
from distmeta.programs.deciding import Facts, decide, uses_compiler
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.compiling import is_recorded, recorded_by, specialise
from distmeta.programs.engine.kept import host, kept, origin
from distmeta.programs.engine.mapping import OneTask, chunks, run_tasks
from distmeta.programs.engine.reference import Reference, one_task
from distmeta.programs.engine.settling import choose, require
from distmeta.programs.measuring import measure, summed_names, sums
from distmeta.programs.samples import Sampling, Use

RECORD_AFTER = 3
"""Chunks of one shape after which measurements are recorded; fewer do not repay it."""

Vectors = tuple[Tensor, ...]
"""The meta-parameters, and the vectors of a request."""


class TaskProgram(Comparable):
    """Composes tasks, objective, adaptation and estimator, and maps them over shards; what tasks are, subclasses say.

    In training the query set's loss sees batch statistics of the query set itself, and dropout is on; in evaluation
    dropout is off.

    Attributes:
        plans: whether there are several ways to compute, of which a plan says one.
    """

    plans: ClassVar[bool] = True

    def __init__(self, config: Config, device: torch.device) -> None:
        self.plan = Plan()
        if device.type == "cuda":
            allow_tf32(False)
        self._config = config
        self._device = device
        self._parts = self.blueprint(config)
        self._origin = origin(config)
        self._parts.network.to(device)
        self._metrics = self._parts.objective.metrics
        self.layout = Layout.of(self._parts.initial_meta())
        self._steps: int | None = getattr(config.algorithm, "inner_steps", None)
        self._evaluation_steps = config.evaluation.inner_steps
        merged, batch = self._parts.estimator.merges_query, getattr(config.algorithm, "inner_batch", None)
        keyed = self._parts.network.uses_dropout or self._parts.estimator.Options.keyed
        self._use = Use(self._steps, merged, batch, keyed, ADAPTATIONS.options[config.algorithm.adaptation].joint_alone)
        self._samples = self._sampling()
        self._answers = {
            "gradient": (("gradient",), summed_names(self._metrics)),
            "curvature": (("product",), ()),
            "compare": ((), ("loss", "divergence")),
        }
        self._references: dict[torch.dtype, Reference] = {}
        self._functions: dict[Hashable, Callable[..., Any]] = {}
        self._seen: Counter[Hashable] = Counter()

    # What depends on the kind of task -----------------------------------------------------------------------------

    def _sampling(self) -> Sampling:
        """Where tasks come from."""
        raise NotImplementedError

    def _check(self, tasks: Mapping[str, Any]) -> None:
        """Refuse tasks that are not what the other parts take."""
        raise NotImplementedError

    def _examples(self, tasks: Mapping[str, Any]) -> tuple[int, int]:
        """How many examples a pass over the support set sees, and one over the query set."""
        raise NotImplementedError

    def evaluate(self, start: Start, split: Split, ids: Sequence[int], *, details: bool) -> TaskMetrics:
        """Each task's measurements after adaptation."""
        raise NotImplementedError

    # What does not ------------------------------------------------------------------------------------------------

    @classmethod
    def blueprint(cls, config: Config) -> Assembly:
        """The configuration's parts, without data or device."""
        return Assembly(config)

    def probe(self, *, training: bool = True) -> Plan:
        """What :func:`~distmeta.programs.deciding.decide` says, as far as it works for all that the run asks for."""
        tasks, _ = self._tasks("train", self._samples.alike(range(2))[0], self._steps, dropout=True)
        self._check(tasks)
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

    def _example(self, name: str, theta: Tensor) -> dict[str, Tensor]:
        """Vectors of a request's own, to try it with."""
        own = {"curvature": "direction", "compare": "candidate"}.get(name)
        return {own: theta} if own else {}

    @property
    def _curved(self) -> OfOutputs:
        return cast(OfOutputs, self._parts.estimator)

    def prefetch(self, split: Split, shards: Sequence[Sequence[int]]) -> None:
        """Begin to sample the tasks of these shards in the background."""
        self._samples.prefetch(split, shards)

    def answer(self, request: Request, split: Split, ids: Sequence[int]) -> Answer:
        """Sums over these tasks.

        ``gradient``: the vector ``gradient``, sums ``loss`` and the metric. ``curvature``: of the request's
        ``direction`` the vector ``product``. ``compare``: for its ``candidate`` sums ``loss`` and ``divergence`` from
        the start.
        """
        began = time.perf_counter()
        tasks, found = self._samples.keep(request.start, split, ids, self._use)
        ways, step = self._samples.ways(split, ids), request.start.step
        if request.name == "gradient":
            tasks = self._weighted(tasks, len(ids), step)
        sampled = time.perf_counter()
        given = (request.start.theta, *request.vectors.values())
        vectors = tuple(vector.to(self._device) for vector in given)
        results = []
        for part in self._chunks(tasks, len(ids)):
            results.append(self._call(request.name, ways, True, vectors, part, step))
            if self.plan.compile == "none" and self.plan.differentiation == "mixed":
                # torch.func makes a class for each call of a task-batched layer, and classes are cycles that keep
                # activations until Python looks for them: on its own it would after gigabytes.
                gc.collect()
        *totals, sums = results[0]
        for more in results[1:]:
            *summed, measured = more
            totals, sums = [a + b for a, b in zip(totals, summed, strict=True)], sums + measured
        *metrics, bad = sums.tolist()
        if len(results) > 1:
            bad += float(not all(torch.isfinite(total).all() for total in totals))
        nonfinite = self._nonfinite(request.name, vectors, tasks, ways, ids) if bad else ()
        names, measurements = self._answers[request.name]
        by_name = {name: total.cpu() for name, total in zip(names, totals, strict=True)}
        seconds = {"compute": time.perf_counter() - sampled, "data": sampled - began}
        measured = dict(zip(measurements, metrics, strict=True))
        return Answer(by_name, measured, len(ids), None, nonfinite, seconds, int(found))

    def close(self) -> None:
        """End what samples."""
        self._samples.close()

    def initial_vector(self) -> Tensor:
        """The initial meta-parameters (P,), on the program's device."""
        return self.layout.flatten(self._parts.initial_meta()).to(self._device)

    def _facts(self, tasks: Mapping[str, Any]) -> Facts:
        support, query = self._examples(tasks)
        shapes, growth = self._samples.sizes()
        passes = self._steps or 1  # over the support set; one over the query set follows
        examples = (passes * support + query) // (passes + 1)
        task_layers = self._parts.network.has_task_layers
        return Facts(
            device=self._device.type,
            task_layers=task_layers,
            iterative=self._parts.adaptation.iterative,
            activations=math.ceil(4 * examples * self._parts.network.activations * growth),
            no_compiler=unavailable() if uses_compiler(self._config, task_layers) else None,
            shapes=min(shapes, max(1, self._config.run.steps)),
        )

    def _chunks(self, tasks: Any, count: int) -> Iterator[Any]:
        return chunks(tasks, count, self.plan.chunk if self.plan.running == "mapped" else 1)

    def _call(self, name: str, ways: int | None, training: bool, vectors: Vectors, tasks: Any, step: int = 0) -> Any:
        """One of the functions of a chunk, recorded or compiled for these shapes as the plan says.

        What is recorded has the bits of what is not, so measurements are recorded once their shapes come again.
        """
        estimator = self._at(step) if name == "gradient" else self._parts.estimator
        variant = name if estimator is self._parts.estimator else f"{name} by {type(estimator).__name__}"
        key = (variant, ways, *((leaf.shape, leaf.dtype) for leaf in tree_leaves(tasks)))
        with torch.no_grad():
            if key not in self._functions:
                if name == "gradient":
                    function: Callable[..., Any] = partial(self._gradient_sums, ways, estimator=estimator)
                elif training:
                    function = partial(getattr(self, f"_{name}_sums"), ways)
                else:
                    function = partial(self._measurements, ways, name == "details")
                self._seen[key] += 1
                source = None if self._origin is None else [self._origin, _of_operations(self.plan), variant, ways]
                seen = self._seen[key] >= RECORD_AFTER
                if not training and not seen and not is_recorded(source, (vectors, tasks)):
                    return function(vectors, tasks)
                how: Compile = self.plan.compile if training or self.plan.compile == "none" else "graph"
                sparing = self.plan.differentiation == "mixed"
                self._functions[key] = specialise(function, (vectors, tasks), how, source, sparing=sparing)
            return self._functions[key](vectors, tasks)

    def _gradient_sums(
        self, ways: int | None, vectors: Vectors, tasks: Any, estimator: Estimator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum of a chunk's meta-gradients (P,), and float64 sums: each measurement's, and 1 if one is not finite.

        Everything that is read of a chunk is computed with it, since tiny networks cost no more than a few calls.
        """
        own, steps = estimator or self._parts.estimator, self._steps
        gradients, measured = self._per_task(
            lambda m, t: own.gradient(m, one_task(t, ways, steps), steps), vectors[0], tasks
        )
        total = self.layout.flatten({name: value.sum(0) for name, value in gradients.items()})
        finite = torch.isfinite(total).all() & torch.isfinite(measured["loss"]).all()
        return total, with_bad(sums(self._metrics, measured), finite)

    def _curvature_sums(self, ways: int | None, vectors: Vectors, tasks: Any) -> tuple[Tensor, Tensor]:
        """Sum of a chunk's products (P,) of the outputs' curvature with a direction."""
        theta, direction = vectors
        along = self.layout.unflatten(direction)

        def product(meta: Meta, tree: Mapping[str, Any]) -> Meta:
            task = one_task(tree, ways, self._steps)
            outputs = self._curved.outputs(task, self._steps, meta)
            return curvature_product(outputs, meta, along, partial(self._curvature, task))

        with self._parts.network.as_written():
            products = self._per_task(product, theta, tasks)
        total = self.layout.flatten({name: value.sum(0) for name, value in products.items()})
        return total, with_bad([], torch.isfinite(total).all())

    def _compare_sums(self, ways: int | None, vectors: Vectors, tasks: Any) -> tuple[Tensor]:
        """A candidate's loss on a chunk's query sets, and how far its outputs are from those at the start."""
        theta, candidate = vectors
        objective, adaptation = self._parts.objective, self._parts.adaptation
        new = self.layout.unflatten(candidate)

        def compare(meta: Meta, tree: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
            task = one_task(tree, ways, self._steps)
            support, query = task
            before, after = (
                adaptation.predict(each, adaptation.adapt(each, support, self._steps), query) for each in (meta, new)
            )
            divergence = cast(Curved, objective).divergence(before, after, query.data)
            loss, more = objective.loss(after, query.data), self._curved.beside(new, task)
            return loss if more is None else loss + more, divergence

        found = self._per_task(compare, theta, tasks)
        return (with_bad([each.double().sum() for each in found], torch.isfinite(torch.stack(found)).all()),)

    def _curvature(self, task: Task, outputs: Tensor, tangent: Tensor) -> Tensor:
        return cast(Curved, self._parts.objective).curvature(outputs, task.query.data, tangent)

    def _measurements(self, ways: int | None, details: bool, vectors: Vectors, tasks: Any) -> dict[str, Tensor]:
        def measured(meta: Meta, tree: Mapping[str, Any]) -> dict[str, Tensor]:
            task = one_task(tree, ways, self._evaluation_steps)
            return measure(self._parts, meta, task, self._evaluation_steps, details)

        return cast("dict[str, Tensor]", self._per_task(measured, vectors[0], tasks))

    def _per_task(self, function: OneTask, vector: Tensor, tasks: Any) -> Any:
        meta: Meta = self.layout.unflatten(vector)
        if self.plan.layers != "general":
            meta = self._parts.network.arrange(meta)
        return run_tasks(function, meta, tasks, len(tree_leaves(tasks)[0]), running=self.plan.running)

    def _nonfinite(
        self, name: str, vectors: Vectors, tasks: Any, ways: int | None, ids: Sequence[int]
    ) -> tuple[int, ...]:
        """The tasks whose result is not finite, one by one.

        A sum of finite gradients may overflow too; then every task has a share in it.
        """
        sums_of = getattr(self, f"_{name}_sums")
        parts = zip(chunks(tasks, len(ids), 1), ids, strict=True)
        return tuple(task for part, task in parts if sums_of(ways, vectors, part)[-1][-1]) or tuple(ids)

    def _tasks(
        self, split: Split, ids: Sequence[int], steps: int | None, *, dropout: bool
    ) -> tuple[dict[str, Any], int | None]:
        """The tasks as a tree of tensors with a leading task dimension, and their number of ways."""
        use = self._use if dropout else Use(steps, split == "train" and self._use.merged, self._use.batch)
        return self._samples.tasks(split, ids, use), self._samples.ways(split, ids)


def with_bad(summed: Sequence[Tensor], finite: Tensor) -> Tensor:
    """Float64 sums, and at their end 1 where something was not finite."""
    return torch.stack([*summed, 1.0 - finite.double()])


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
