"""The clipped step against Adam written out, and ProMP's loss against differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.adaptations.gradients import transforms
from distmeta.core.layout import Layout
from distmeta.core.requests import Answer, Request, Start
from distmeta.errors import ConfigError, StorageError
from distmeta.loading import load_config
from distmeta.outer.clipped import ClippedStep
from distmeta.outer.options import ClippedOptions
from distmeta.programs.engine.reference import one_task
from distmeta.programs.reinforcement import ReinforcementProgram

PROMP: dict[str, Any] = {
    "tasks": {"kind": "navigation", "episodes": 3, "horizon": 6},
    "model": {"kind": "mlp", "hidden": [5], "activation": "tanh", "weights": "xavier"},
    "algorithm": {"name": "promp", "inner_lr": 0.3, "inner_steps": 2},
    "run": {"meta_batch": 4, "tasks_per_shard": 2, "steps": 2, "device": "cpu"},
}
LAYOUT = Layout.of({"model/w": torch.zeros(3)})


def quadratic(request: Request) -> Answer:
    """Of two tasks whose mean loss is |candidate - 1|^2 / 2."""
    candidate = request.vectors["candidate"]
    sums = {"loss": 0.0, "divergence_0": 2 * float(candidate.abs().sum())}
    return Answer({"gradient": 2 * (candidate - 1)}, sums, 2)


def test_epochs_of_adam() -> None:
    theta, own = torch.zeros(3), torch.nn.Parameter(torch.zeros(3))
    step = ClippedStep(ClippedOptions(lr=0.1, epochs=4), 10, LAYOUT, theta)
    adam = torch.optim.Adam([own], lr=0.1)
    for _ in range(3):
        outcome = step.step(Start.of(0, theta), quadratic)
        assert outcome.accepted
        assert outcome.metrics["epochs"] == 4
        for _ in range(4):
            own.grad = own.detach() - 1
            adam.step()
    torch.testing.assert_close(theta, own.detach())


def test_the_rate_follows_the_schedule() -> None:
    theta, own = torch.zeros(3), torch.nn.Parameter(torch.zeros(3))
    step = ClippedStep(ClippedOptions(lr=0.1, epochs=1, schedule="linear"), 4, LAYOUT, theta)
    adam = torch.optim.Adam([own], lr=0.1)
    for number in range(4):
        outcome = step.step(Start.of(number, theta), quadratic)
        adam.param_groups[0]["lr"] = outcome.rate
        assert outcome.rate == pytest.approx(0.1 * (1 - number / 4))
        own.grad = own.detach() - 1
        adam.step()
    torch.testing.assert_close(theta, own.detach())


def test_the_start_is_left_alone_until_all_is_asked() -> None:
    theta, seen = torch.zeros(3), []

    def ask(request: Request) -> Answer:
        seen.append((request.start.theta.clone(), request.vectors["candidate"].clone()))
        return quadratic(request)

    ClippedStep(ClippedOptions(epochs=3), 10, LAYOUT, theta).step(Start.of(0, theta), ask)
    assert all(torch.equal(start, torch.zeros(3)) for start, _ in seen)
    assert len({tuple(candidate.tolist()) for _, candidate in seen}) == 3


def test_what_is_interrupted_between_its_requests_is_done_again_as_if_it_had_not_been() -> None:
    def twice(interrupted: bool) -> Tensor:
        theta = torch.zeros(3)
        step = ClippedStep(ClippedOptions(lr=0.1, epochs=3), 10, LAYOUT, theta)
        step.step(Start.of(0, theta), quadratic)
        if interrupted:
            asked, before = 0, str(step.state())

            def ask(request: Request) -> Answer:
                nonlocal asked
                asked += 1
                if asked == 3:
                    raise KeyboardInterrupt
                return quadratic(request)

            with pytest.raises(KeyboardInterrupt):
                step.step(Start.of(1, theta), ask)
            assert str(step.state()) == before
        step.step(Start.of(1, theta), quadratic)
        return theta

    assert torch.equal(twice(True), twice(False))


@pytest.mark.parametrize("good", [0, 2])
def test_what_is_not_finite_ends_it(good: int) -> None:
    theta, answered = torch.zeros(3), 0

    def ask(request: Request) -> Answer:
        nonlocal answered
        answered += 1
        found = quadratic(request)
        return found if answered <= good else Answer(found.vectors, found.sums, 2, nonfinite=(7,))

    outcome = ClippedStep(ClippedOptions(lr=0.1), 10, LAYOUT, theta).step(Start.of(0, theta), ask)
    assert answered == good + 1
    assert outcome.accepted == bool(good)
    assert outcome.failed == (not good)
    assert bool(theta.any()) == bool(good)
    if good:
        assert outcome.metrics["epochs"] == good


def test_penalties_follow_the_divergence() -> None:
    theta = torch.zeros(3)
    step = ClippedStep(ClippedOptions(lr=0.1, epochs=2, penalty=1.0, divergence=1e-3), 10, LAYOUT, theta)
    outcome = step.step(Start.of(0, theta), quadratic)
    assert outcome.metrics["penalty_0"] == 2.0
    other = ClippedStep(ClippedOptions(lr=0.1, epochs=2, penalty=1.0, divergence=1e3), 10, LAYOUT, torch.zeros(3))
    other.restore(step.state())
    assert other.state()["penalties"] == [2.0]
    assert other.step(Start.of(1, theta.clone()), quadratic).metrics["penalty_0"] == 1.0
    with pytest.raises(StorageError, match=r"outer.name = clipped"):
        other.restore({"state": {0: {}}})


def test_the_gradient_of_promps_loss_is_its_slope() -> None:
    """In float64 for one task, at a candidate beside the start."""
    program = ReinforcementProgram(load_config(PROMP), torch.device("cpu"))
    example = program._example("clipped", program.initial_vector())
    answer = program.answer(Request("clipped", Start.of(0, program.initial_vector()), example), "train", range(2))
    assert answer.sums["divergence_0"] == pytest.approx(0, abs=1e-6)

    tasks, _ = program._tasks("train", range(1), 2, dropout=True)
    double = {
        name: {key: value[0].double() if value.is_floating_point() else value[0] for key, value in tasks[name].items()}
        for name in ("episodes", "query")
    }
    task, weights = one_task(double, None, 2), torch.tensor([0.7, 0.2], dtype=torch.float64)
    program._parts.network.to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    theta = program.initial_vector().double()
    at = theta + 0.05 * torch.randn(len(theta), generator=generator, dtype=torch.float64)

    def loss(vector: Tensor) -> Tensor:
        with transforms(False):
            value, _ = program._clipped(program.layout.unflatten(vector), task, weights)
        return value

    at = at.requires_grad_()
    (found,) = torch.autograd.grad(loss(at), at)
    direction = torch.randn(len(at), generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    ends = [float(loss((at + sign * 1e-6 * direction).detach().requires_grad_())) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(found @ direction), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks={kind: sinusoid}", "algorithm.name=maml"], "has no actions"),
        (["algorithm.estimator=first_order"], "differentiates inner steps"),
    ],
)
def test_refused_pairs(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({**PROMP, "outer": {"name": "clipped"}}, overrides)
