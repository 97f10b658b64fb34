"""One configuration of the tables on small random tasks: distmeta's own parts, put together in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from numerics_reference import (
    LOGITS,
    LOSSES,
    Inner,
    gradient_by_embedding,
    gradient_by_steps,
    gradient_in_context,
    gradient_of_classifier,
    plain,
)
from torch import Tensor, nn

from distmeta.adaptations import ADAPTATIONS, Batch, Support, Task
from distmeta.algorithms import algorithm_options
from distmeta.core.layout import MODEL
from distmeta.core.records import InputSpec, TensorSpec
from distmeta.estimators import ESTIMATORS
from distmeta.estimators.exact import Exact
from distmeta.functional.building import build
from distmeta.functional.module import FunctionalModule
from distmeta.models import model_options
from distmeta.models.insertions import contexts
from distmeta.objectives import OBJECTIVES
from distmeta.programs.engine.mapping import run_tasks

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 2, 3
SPEC = TensorSpec((1,))
Named = dict[str, Tensor]


def network(
    settings: Mapping[str, Any], inputs: InputSpec | tuple[int, ...], outputs: int | None, seed: int = 0
) -> nn.Module:
    """A row of the models' table in float64; biases, which start at 0, and norms are moved to somewhere general."""
    spec = TensorSpec(inputs) if isinstance(inputs, tuple) else inputs
    module = build(model_options(settings).model_validate(settings), spec, outputs, seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def draw_tasks(shape: tuple[int, ...], objective: str, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Support and query, each example's class in turn, or a random target in each of WAYS dimensions."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for part, examples in (("support", WAYS * SHOTS), ("query", WAYS * QUERIES)):
        y = (torch.arange(examples) % WAYS).repeat(TASKS, 1)
        x = torch.randn(TASKS, examples, *shape, generator=generator, dtype=torch.float64)
        x = x + 0.5 * y.view(TASKS, examples, *(1 for _ in shape))
        if objective == "squared_error":
            y = torch.randn(TASKS, examples, WAYS, generator=generator, dtype=torch.float64)
        drawn[part] = {"x": x, "y": y}
    return drawn


@dataclass
class Case:
    """An algorithm row with settings, on a module, with tasks.

    Attributes:
        algorithm: the ``algorithm`` section of a configuration.
        module: in float64.
        objective: row of the objectives' table.
        tasks: what :func:`draw_tasks` gives, and ``key`` (T, 2) where dropout is on.
        seed: of learned rates and minibatches.
    """

    algorithm: Mapping[str, Any]
    module: nn.Module
    objective: str
    tasks: dict[str, Any]
    seed: int = 0
    differentiation: str = "reverse"
    layers: str = "general"

    def __post_init__(self) -> None:
        self.options: Any = algorithm_options(self.algorithm).model_validate(self.algorithm)
        row = ADAPTATIONS[self.options.adaptation]
        if hasattr(row, "prepare"):
            self.module = row.prepare(self.options, copy.deepcopy(self.module), SPEC)
            if self.options.adaptation != "gradient_descent" or self.options.warp is not None:
                spread(self.module)
        example = self.tasks["support"]["x"][0]
        if self.options.adaptation == "in_context":
            targets = torch.zeros(len(example), WAYS, dtype=torch.float64)
            example = {"x": example, "support_x": example, "support_y": targets}
        self.network = FunctionalModule(self.module, example)
        self.adaptation: Any = row(self.options, self.network, OBJECTIVES[self.objective]())
        self.estimator = ESTIMATORS[self.options.estimator](self.options, self.adaptation)
        if isinstance(self.estimator, Exact):
            self.estimator.differentiation = self.differentiation
        self.network.use(None if self.layers == "general" else self.layers)
        self.steps: int | None = getattr(self.options, "inner_steps", None)
        own = {MODEL + name: value for name, value in self.network.parameters.items()}
        self.meta: Named = {**own, **self.adaptation.extras(self.seed)}
        self.tree = dict(self.tasks)
        if self.estimator.merges_query:
            pairs = (self.tree["support"], self.tree["query"])
            self.tree["support"] = {name: torch.cat([part[name] for part in pairs], 1) for name in pairs[0]}
        if self.estimator.Options.keyed:
            self.tree["key"] = torch.arange(2 * self.count).view(self.count, 2)
        weights = self.estimator.weights(0, self.steps) if hasattr(self.estimator, "weights") else None
        if weights is not None:
            self.tree["weights"] = weights.double().expand(self.count, -1)
        if self.options.adaptation == "linear_probe":
            y = self.tree["support"]["y"]
            self.tree["support"]["class_id"] = (y + torch.arange(self.count).unsqueeze(1)) % self.options.classes
        if getattr(self.options, "inner_batch", None):
            generator = torch.Generator().manual_seed(self.seed + 3)
            tasks, examples = self.tree["support"]["x"].shape[:2]
            orders = [
                torch.randperm(examples, generator=generator)[: self.options.inner_batch]
                for _ in range(tasks * self.options.inner_steps)
            ]
            self.tree["batches"] = torch.stack(orders).view(tasks, self.options.inner_steps, -1)

    @property
    def count(self) -> int:
        """Number of tasks."""
        return len(self.tree["support"]["x"])

    def task(self, tree: Mapping[str, Any]) -> Task:
        """One task as adaptations see it."""
        key = tree.get("key")
        support = Support(tree["support"], WAYS, tree.get("batches"), key)
        return Task(support, Batch(tree["query"], key, self.steps or 0, weights=tree.get("weights")))

    def run(self, *, mapped: bool) -> tuple[Named, Named]:
        """Every task's meta-gradient and measurements."""
        return run_tasks(
            lambda meta, tree: self.estimator.gradient(meta, self.task(tree), self.steps),
            self.meta,
            self.tree,
            self.count,
            running="mapped" if mapped else "looped",
        )

    @cached_property
    def mapped(self) -> tuple[Named, Named]:
        """The same as ``run(mapped=True)``, once."""
        return self.run(mapped=True)

    def query_losses(self, meta: Mapping[str, Tensor]) -> Tensor:
        """(T,) query loss after adaptation, by forward passes of distmeta alone."""

        def one_task(meta: Mapping[str, Tensor], tree: Mapping[str, Any]) -> Tensor:
            task = self.task(tree)
            if task.query.weights is not None:
                return self.weighted(meta, task)
            solution = self.adaptation.adapt(meta, task.support, self.steps)
            return self.adaptation.objective.loss(self.adaptation.predict(meta, solution, task.query), task.query.data)

        return run_tasks(one_task, meta, self.tree, self.count, running="mapped")

    def weighted(self, meta: Mapping[str, Tensor], task: Task) -> Tensor:
        """The weighted sum of the query losses after each step."""
        losses = []
        for steps in range(1, (self.steps or 0) + 1):
            solution = self.adaptation.adapt(meta, task.support, steps)
            outputs = self.adaptation.predict(meta, solution, task.query.after(steps))
            losses.append(self.adaptation.objective.loss(outputs, task.query.data))
        return (torch.stack(losses) * task.query.weights).sum()

    def reference(self) -> Named:
        """Every task's meta-gradient by plain autograd, stacked."""
        module = plain(self.module)
        gradients = []
        for t in range(self.count):
            task = {name: value[t] for name, value in self.tree["support"].items()}
            task |= {"query_" + name: value[t] for name, value in self.tree["query"].items()}
            if "batches" in self.tree:
                task["batches"] = self.tree["batches"][t]
            gradients.append(self.reference_of(module, task))
        return {name: torch.stack([gradient[name] for gradient in gradients]) for name in self.meta}

    def reference_of(self, module: nn.Module, task: Mapping[str, Tensor]) -> Named:
        o, loss = self.options, LOSSES[self.objective]
        if o.adaptation in LOGITS:
            return gradient_by_embedding(module, self.meta, task, WAYS, o.adaptation, loss)
        if o.adaptation == "in_context":
            return gradient_in_context(module, self.meta, task, WAYS, loss)
        if o.adaptation == "linear_probe":
            return gradient_of_classifier(module, self.meta, task)
        assert self.steps is not None
        inner = Inner(
            self.adaptation.names,
            self.steps,
            o.inner_lr if o.learned_rates == "none" else None,
            o.inner_optimizer,
            o.inner_momentum,
            o.inner_betas,
            o.inner_eps,
            o.preconditioner,
            self.adaptation.norms,
            o.proximal,
            o.adaptation == "context",
            self.tree["weights"][0] if "weights" in self.tree else None,
        )
        return gradient_by_steps(module, self.meta, task, inner, loss, o.estimator)


def spread(module: nn.Module) -> None:
    """Move what an adaptation has put into a network to somewhere general; contexts stay at 0."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and not contexts([name]):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    module.double()


def assert_near(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Every named gradient: largest difference of a task at most ``tolerance`` times that task's largest element.

    The scale is a task's whole gradient, since single tensors may be zero in theory (a bias before a norm).
    """
    assert actual.keys() == expected.keys()
    stacked = [
        torch.cat([named[name].reshape(len(named[name]), -1) for name in sorted(named)], 1)
        for named in (actual, expected)
    ]
    assert stacked[0].dtype == stacked[1].dtype == torch.float64
    assert stacked[1].isfinite().all()
    assert (stacked[1].abs().amax(1) > 0).all()
    scale = stacked[1].abs().amax(1)
    error = (stacked[0] - stacked[1]).abs().amax(1) / scale
    assert error.max() <= tolerance, f"relative error {error.tolist()}"
