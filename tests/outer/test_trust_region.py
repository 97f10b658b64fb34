"""The trust-region step against dense algebra in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.adaptations.gradients import curvature_product, transforms
from distmeta.core.layout import Layout
from distmeta.core.requests import Answer, Request, Start
from distmeta.errors import ConfigError
from distmeta.loading import load_config
from distmeta.objectives import OBJECTIVES
from distmeta.outer.base import Ask
from distmeta.outer.options import TrustRegionOptions
from distmeta.outer.trust_region import TrustRegion, conjugate_gradients
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.mapping import run_tasks
from distmeta.programs.engine.reference import one_task
from distmeta.tasks import open_family

SINUSOID = {
    "tasks": {"kind": "sinusoid", "shots": 4, "queries": 3},
    "model": {"kind": "mlp", "hidden": [3], "activation": "tanh"},
    "algorithm": {"name": "maml", "inner_lr": 0.05, "inner_steps": 2},
}
GLYPHS = {
    "tasks": {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 2},
    "model": {"kind": "conv4", "filters": 2},
    "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 1},
}
TASKS = 3


class Case:
    """A few tasks of a configuration in float64, whose answers are computed here."""

    def __init__(self, source: dict[str, Any], *overrides: str) -> None:
        self.config = load_config(source, ["outer.name=trust_region", *overrides])
        self.parts = Assembly(self.config)
        self.parts.network.to(dtype=torch.float64)
        self.steps = self.config.algorithm.inner_steps
        meta = {name: value.double() for name, value in self.parts.initial_meta().items()}
        self.layout = Layout.of(meta)
        self.theta = self.layout.flatten(meta)
        batch = open_family(self.config, torch.device("cpu")).sample("train", range(TASKS))
        self.tree = {
            part: {name: value.double() if value.is_floating_point() else value for name, value in data.items()}
            for part, data in (("support", batch.support), ("query", batch.query))
        }
        self.ways = getattr(self.config.tasks, "ways", None)

    def outputs(self, task: int, theta: Tensor, start: Tensor | None = None) -> Tensor:
        """The estimator's outputs of one task, as plain PyTorch computes them, flat."""
        tree = {part: {name: value[task] for name, value in data.items()} for part, data in self.tree.items()}
        around = self.layout.unflatten(theta if start is None else start)
        with transforms(False):
            function = self.parts.estimator.outputs(one_task(tree, self.ways, self.steps), self.steps, around)
            return function(self.layout.unflatten(theta)).flatten()

    def jacobian(self, task: int) -> Tensor:
        start = self.theta.clone()
        return torch.autograd.functional.jacobian(lambda theta: self.outputs(task, theta, start), start)

    def of_outputs(self, task: int) -> Tensor:
        """The curvature of one task's outputs, as a matrix: the second derivative of the divergence."""
        objective, data = self.parts.objective, {name: value[task] for name, value in self.tree["query"].items()}
        outputs = self.outputs(task, self.theta)
        shape = (len(data["y"]), -1)

        def divergence(after: Tensor) -> Tensor:
            return objective.divergence(outputs.view(shape), after.view(shape), data)

        return torch.autograd.functional.hessian(divergence, outputs)

    def dense(self) -> Tensor:
        """The mean curvature (P, P)."""
        jacobians = [self.jacobian(task) for task in range(TASKS)]
        products = [jacobian.T @ self.of_outputs(task) @ jacobian for task, jacobian in enumerate(jacobians)]
        return torch.stack(products).mean(0)

    def ask(self, request: Request) -> Answer:
        """Curvature products as the engine computes them, mapped over the tasks."""
        assert request.name == "curvature"
        direction = self.layout.unflatten(request.vectors["direction"])

        def product(meta: Any, tree: Any) -> Any:
            task = one_task(tree, self.ways, self.steps)
            curvature = partial(self.curvature, task.query.data)
            return curvature_product(self.parts.estimator.outputs(task, self.steps, meta), meta, direction, curvature)

        found = run_tasks(product, self.layout.unflatten(self.theta), self.tree, TASKS, running="mapped")
        total = self.layout.flatten({name: value.sum(0) for name, value in found.items()})
        return Answer({"product": total}, {}, TASKS)

    def curvature(self, data: Any, outputs: Tensor, tangent: Tensor) -> Tensor:
        return self.parts.objective.curvature(outputs, data, tangent)


@pytest.mark.parametrize("estimator", ["exact", "first_order"])
@pytest.mark.parametrize("source", [SINUSOID, GLYPHS], ids=["sinusoid", "glyphs"])
def test_the_direction_is_that_of_a_dense_solve(source: dict[str, Any], estimator: str) -> None:
    case = Case(source, f"algorithm.estimator={estimator}")
    gradient = torch.randn(case.theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = TrustRegionOptions(damping=0.05, cg_steps=1000, cg_tolerance=1e-13)
    step = TrustRegion(options, 1, case.layout, case.theta)
    solved = step.solve(gradient, Start.of(0, case.theta), case.ask)
    matrix = case.dense() + 0.05 * torch.eye(len(case.theta), dtype=torch.float64)
    expected = torch.linalg.solve(matrix, -gradient)
    assert float((solved.direction - expected).norm() / expected.norm()) < 1e-8
    assert solved.curvature == pytest.approx(float(expected @ matrix @ expected), rel=1e-8)


@pytest.mark.parametrize("name", ["cross_entropy", "squared_error"])
def test_curvature_is_the_second_derivative_of_the_divergence(name: str) -> None:
    objective: Any = OBJECTIVES[name]()
    generator = torch.Generator().manual_seed(0)
    outputs, tangent, other = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    data = {"y": torch.tensor([0, 1, 2, 1]) if objective.classes else other}
    matrix = torch.autograd.functional.hessian(lambda after: objective.divergence(outputs, after, data), outputs)
    expected = (matrix.reshape(12, 12) @ tangent.flatten()).view(4, 3)
    torch.testing.assert_close(objective.curvature(outputs, data, tangent), expected)
    assert float(objective.divergence(outputs, outputs, data)) == 0
    assert float(objective.divergence(outputs, other, data)) > 0


# Conjugate gradients ------------------------------------------------------------------------------------------------


def positive(size: int) -> Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_curvature_of_what_was_found_needs_no_other_product(steps: int) -> None:
    matrix, right = positive(10), torch.ones(10, dtype=torch.float64)
    solved = conjugate_gradients(lambda v: matrix @ v, right, steps, 1e-12)
    assert solved.curvature == pytest.approx(float(solved.direction @ matrix @ solved.direction), rel=1e-9)
    assert solved.steps <= min(steps, 13)


def test_it_ends_where_curvature_is_not_positive() -> None:
    matrix = torch.diag(torch.tensor([1.0, -5.0]))
    solved = conjugate_gradients(lambda v: matrix @ v, torch.tensor([1.0, 0.1]), 10)
    assert torch.isfinite(solved.direction).all()
    assert solved.steps <= 2
    assert conjugate_gradients(lambda v: v * math.nan, torch.ones(2), 10).direction.tolist() == [0, 0]
    assert conjugate_gradients(lambda v: v, torch.zeros(2), 10).steps == 0


# Candidates ---------------------------------------------------------------------------------------------------------


def quadratic(losses: Callable[[Tensor], float], asked: list[Request]) -> Ask:
    """Workers of one task with the gradient (1, 0) and the curvature 1."""

    def ask(request: Request) -> Answer:
        asked.append(request)
        if request.name == "gradient":
            return Answer({"gradient": torch.tensor([1.0, 0.0])}, {"loss": losses(request.start.theta)}, 1)
        if request.name == "curvature":
            return Answer({"product": request.vectors["direction"].clone()}, {}, 1)
        candidate = request.vectors["candidate"]
        divergence = float((candidate - request.start.theta).square().sum()) / 2
        return Answer({}, {"loss": losses(candidate), "divergence": divergence}, 1)

    return ask


def step_with(losses: Callable[[Tensor], float], **options: Any) -> tuple[Tensor, Any, list[Request]]:
    theta = torch.zeros(2)
    chosen = TrustRegionOptions(**{"radius": 0.5, "damping": 1e-6, **options})
    asked: list[Request] = []
    outer = TrustRegion(chosen, 1, Layout.of({"model/w": theta}), theta)
    outcome = outer.step(Start.of(0, theta), quadratic(losses, asked))
    return theta, outcome, asked


def test_the_full_step_has_the_radius() -> None:
    """Curvature 1: a step of length 1 has the divergence 1/2."""
    theta, outcome, asked = step_with(lambda w: float(w[0]))
    torch.testing.assert_close(theta, torch.tensor([-1.0, 0.0]), atol=1e-5, rtol=0)
    assert (outcome.accepted, outcome.rate, outcome.norm) == (True, 1.0, 1.0)
    assert [request.name for request in asked] == ["gradient", "curvature", "compare"]


def test_what_is_not_finite_or_not_better_is_passed_over() -> None:
    theta, outcome, _ = step_with(lambda w: math.nan if w[0] < -0.4 else 1.0 if w[0] < -0.2 else float(w[0]))
    assert theta[0] == pytest.approx(-0.125, abs=1e-4)
    assert (outcome.accepted, outcome.rate, outcome.metrics["candidates"]) == (True, 0.125, 4)


def test_without_a_good_candidate_nothing_changes() -> None:
    theta, outcome, _ = step_with(lambda w: 0.0 if not w.any() else 1.0, candidates=3)
    assert theta.tolist() == [0, 0]
    assert (outcome.accepted, outcome.failed, outcome.metrics["candidates"]) == (False, False, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.name=reptile"], "outer.name = trust_region .* algorithm.estimator = displacement"),
        (["outer.lr=0.1"], "outer.lr: there is no such setting"),
        (["outer.radius=0"], "outer.radius: input should be greater than 0"),
    ],
)
def test_settings_that_are_refused(overrides: list[str], message: str) -> None:
    source = {**SINUSOID, "algorithm": {"name": "maml"}}
    with pytest.raises(ConfigError, match=message):
        load_config(source, ["outer.name=trust_region", *overrides])


def test_an_unknown_outer_step() -> None:
    with pytest.raises(ConfigError, match=r"outer.name: expected one of gradient, clipped, trust_region, got 'trust'"):
        load_config(SINUSOID, ["outer.name=trust"])
