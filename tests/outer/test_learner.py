"""The outer step: mean by count, clipping, schedules, optimizers against torch.optim, what stays untouched."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distmeta.core.requests import Answer
from distmeta.errors import StorageError
from distmeta.outer.base import Ask
from distmeta.outer.gradient import schedule_factor
from distmeta.outer.learner import Learner
from distmeta.outer.options import GradientOptions
from distmeta.outer.sums import euclidean_norm

META = {
    "model/a": torch.tensor([1.0, -2.0]),
    "model/b": torch.tensor([[0.5]]),
    "rates/a": torch.tensor([0.1, 0.2]),
}


def learner(steps: int = 10, **outer: Any) -> Learner:
    return Learner(GradientOptions(**outer), steps, META)


def gradient(*values: float, tasks: int = 1, nonfinite: tuple[int, ...] = ()) -> Answer:
    return Answer({"gradient": torch.tensor(values)}, {}, tasks, nonfinite=nonfinite)


def given(answer: Answer) -> Ask:
    """Workers that answer this, whatever they are asked."""
    return lambda request: answer


def gradients(count: int) -> list[Answer]:
    generator = torch.Generator().manual_seed(0)
    return [Answer({"gradient": torch.randn(5, generator=generator)}, {}, 1) for _ in range(count)]


# One step by hand ---------------------------------------------------------------------------------------------------


def test_the_mean_is_taken_once_by_count() -> None:
    """Sum (4, 8, 0, 0, 2) over 4 tasks: mean (1, 2, 0, 0, 0.5), norm sqrt(1 + 4 + 0.25), rate 0.1."""
    one = learner(optimizer="sgd", lr=0.1)
    outcome = one.apply(given(gradient(4, 8, 0, 0, 2, tasks=4)))
    assert outcome.norm == pytest.approx(math.sqrt(5.25))
    assert (outcome.rate, outcome.nonfinite, one.step) == (0.1, (), 1)
    torch.testing.assert_close(one.vector, torch.tensor([0.9, -2.2, 0.5, 0.1, 0.15]))


def test_elements_are_clipped_before_the_norm() -> None:
    """Mean (6, -8, 1, 0, 0), elements to 4: (4, -4, 1, 0, 0) of norm sqrt(33); to norm 2: a factor of 2/sqrt(33)."""
    one = learner(optimizer="sgd", lr=1.0, clip_value=4.0, clip_norm=2.0)
    outcome = one.apply(given(gradient(12, -16, 2, 0, 0, tasks=2)))
    assert outcome.norm == pytest.approx(math.sqrt(101))  # before clipping
    f = 2 / math.sqrt(33)
    torch.testing.assert_close(one.vector, torch.tensor([1 - 4 * f, -2 + 4 * f, 0.5 - f, 0.1, 0.2]))


def test_a_norm_below_the_bound_is_left_alone() -> None:
    one = learner(optimizer="sgd", lr=1.0, clip_norm=10.0)
    one.apply(given(gradient(3, 4, 0, 0, 0)))
    torch.testing.assert_close(one.vector, torch.tensor([-2.0, -6.0, 0.5, 0.1, 0.2]))


@pytest.mark.parametrize("size", [1, 8191, 8192, 100_003, 1_000_003])
def test_the_norm_of_a_long_vector(size: int) -> None:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 1e25  # its squares overflow float32
    assert euclidean_norm(vector) == pytest.approx(float(vector.double().norm()), rel=1e-12)
    for bad in (math.nan, math.inf):
        vector[-1] = bad
        assert not math.isfinite(euclidean_norm(vector))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_number_of_threads_changes_no_bit(optimizer: str) -> None:
    """It is that of the worker in process, and that of the machine on Ray."""
    before = torch.get_num_threads()
    found = []
    generator = torch.Generator().manual_seed(0)
    start, step = (torch.randn(300_007, generator=generator) for _ in range(2))
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            options = GradientOptions(optimizer=optimizer, weight_decay=0.1, clip_norm=1.0)
            one = Learner(options, 3, {"model/w": start, "rates/w": step})
            found.append(
                [one.apply(given(Answer({"gradient": torch.cat([step, start]) * k}, {}, 3))).norm for k in (1, 2, 3)]
            )
            found[-1].append(one.vector)
    finally:
        torch.set_num_threads(before)
    assert found[0][:3] == found[1][:3] == found[2][:3]
    assert torch.equal(found[0][3], found[1][3])
    assert torch.equal(found[0][3], found[2][3])


def test_the_gradient_is_not_written_to() -> None:
    """It may lie in shared memory that is read-only."""
    one = learner(optimizer="adam", clip_value=1.0, clip_norm=0.5)
    answer = gradient(3, 4, 0, 0, 2, tasks=2)
    one.apply(given(answer))
    assert answer.vector.tolist() == [3, 4, 0, 0, 2]


def test_the_first_step_of_adam_is_the_rate_by_sign() -> None:
    """m_hat / (sqrt(v_hat) + 1e-8) = g / |g|, whatever the size of g."""
    one = learner(optimizer="adam", lr=0.01)
    one.apply(given(gradient(5, -0.1, 100, 0, 2)))
    torch.testing.assert_close(one.vector, torch.tensor([0.99, -1.99, 0.49, 0.1, 0.19]))


def test_rates_have_a_rate_of_their_own() -> None:
    """Ones: the model moves by lr = 0.1, the learned rates by lr_meta = 0.01."""
    one = learner(optimizer="sgd", lr=0.1, lr_meta=0.01)
    one.apply(given(gradient(1, 1, 1, 1, 1)))
    torch.testing.assert_close(one.vector, torch.tensor([0.9, -2.1, 0.4, 0.09, 0.19]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weight_decay_is_for_the_model_alone(optimizer: str) -> None:
    one = learner(optimizer=optimizer, lr=0.1, weight_decay=0.5)
    one.apply(given(gradient(0, 0, 0, 0, 0)))
    assert torch.equal(one.vector[3:], META["rates/a"])
    assert (one.vector[:3].abs() < torch.tensor([1.0, 2.0, 0.5])).all()
    if optimizer != "adam":  # w - 0.1 * 0.5 w
        torch.testing.assert_close(one.vector[:3], 0.95 * torch.tensor([1.0, -2.0, 0.5]))


# Schedules ----------------------------------------------------------------------------------------------------------

HALF = math.sqrt(0.5)
SCHEDULES: list[tuple[Any, list[float]]] = [
    ("constant", [1, 1, 1, 1]),
    ("linear", [1, 0.75, 0.5, 0.25]),
    ("cosine", [1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2]),
    ({"kind": "step", "every": 2, "factor": 0.1}, [1, 1, 0.1, 0.1]),
    ({"kind": "step", "every": 1, "factor": 0.5}, [1, 0.5, 0.25, 0.125]),
]


@pytest.mark.parametrize(("schedule", "factors"), SCHEDULES, ids=str)
def test_schedules_by_hand(schedule: Any, factors: list[float]) -> None:
    """Four steps; both rates are multiplied."""
    options = GradientOptions(optimizer="sgd", lr=0.2, lr_meta=0.02, schedule=schedule)
    assert [schedule_factor(options, step, 4) for step in range(4)] == pytest.approx(factors)
    one = Learner(options, 4, META)
    for factor in factors:
        before = one.vector.clone()
        assert one.apply(given(gradient(1, 1, 1, 1, 1))).rate == pytest.approx(0.2 * factor)
        moved = torch.tensor([0.2, 0.2, 0.2, 0.02, 0.02]) * factor
        torch.testing.assert_close(before - one.vector, moved, rtol=1e-4, atol=1e-6)


# Against torch.optim ------------------------------------------------------------------------------------------------

OPTIMIZERS: list[tuple[dict[str, Any], Any]] = [
    ({"optimizer": "sgd"}, lambda p, wd: torch.optim.SGD(p, lr=0.05, weight_decay=wd)),
    ({"optimizer": "sgd", "momentum": 0.9}, lambda p, wd: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=wd)),
    ({"optimizer": "adam"}, lambda p, wd: torch.optim.Adam(p, lr=0.05, weight_decay=wd)),
    ({"optimizer": "adamw"}, lambda p, wd: torch.optim.AdamW(p, lr=0.05, weight_decay=wd)),
]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("outer", "make"), OPTIMIZERS, ids=["sgd", "momentum", "adam", "adamw"])
def test_steps_are_those_of_torch_optim_on_separate_parameters(
    outer: dict[str, Any], make: Any, weight_decay: float
) -> None:
    one = learner(lr=0.05, weight_decay=weight_decay, **outer)
    parameters = {name: nn.Parameter(value.clone()) for name, value in META.items()}
    own = [value for name, value in parameters.items() if name.startswith("model/")]
    optimizers = [make(own, weight_decay), make([parameters["rates/a"]], 0.0)]
    for each in gradients(8):
        one.apply(given(each))
        for name, part in one.layout.unflatten(each.vector).items():
            parameters[name].grad = part.clone()
        for optimizer in optimizers:
            optimizer.step()
    for name, value in one.meta().items():
        torch.testing.assert_close(value, parameters[name].detach())


# What is not finite, and what is restored ---------------------------------------------------------------------------


def state_of(one: Learner) -> list[Tensor]:
    moments = [value for group in one.outer_state()["state"].values() for value in group.values()]
    return [one.vector.clone(), *(copy.deepcopy(value) for value in moments if isinstance(value, Tensor))]


BAD = [
    gradient(1, math.nan, 1, 1, 1),
    gradient(1, math.inf, 1, 1, 1),
    gradient(1, 1, 1, 1, -math.inf),
    gradient(1, 1, 1, 1, 1, nonfinite=(4, 6)),
]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_finite_changes_nothing(bad: Answer) -> None:
    one = learner(optimizer="adam")
    one.apply(given(gradients(1)[0]))
    before = state_of(one)
    outcome = one.apply(given(bad))
    assert outcome.nonfinite == bad.nonfinite
    assert bad.nonfinite or not math.isfinite(outcome.norm)
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(one), strict=True))
    assert one.step == 1
    one.skip()
    assert one.step == 2
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(one), strict=True))


@pytest.mark.parametrize("outer", [outer for outer, _ in OPTIMIZERS], ids=["sgd", "momentum", "adam", "adamw"])
def test_a_restored_learner_continues_to_the_same_bits(outer: dict[str, Any]) -> None:
    settings = {**outer, "lr": 0.05, "lr_meta": 0.01, "weight_decay": 0.1, "schedule": "cosine", "clip_norm": 1.0}
    straight, first = learner(**settings), learner(**settings)
    batches = gradients(6)
    for each in batches:
        straight.apply(given(each))
    for each in batches[:3]:
        first.apply(given(each))
    second = learner(**settings)
    meta = {name: value.clone() for name, value in first.meta().items()}
    second.restore(first.step, meta, copy.deepcopy(first.outer_state()))
    for each in batches[3:]:
        second.apply(given(each))
    assert second.step == straight.step == 6
    assert torch.equal(second.vector, straight.vector)
    assert all(torch.equal(a, b) for a, b in zip(state_of(second), state_of(straight), strict=True))


def test_the_initial_tensors_are_not_written_to() -> None:
    one = learner(optimizer="sgd", lr=1.0)
    one.apply(given(gradient(1, 1, 1, 1, 1)))
    assert META["model/a"].tolist() == [1.0, -2.0]
    assert one.start().theta is one.vector
    assert one.start().step == 1


@pytest.mark.parametrize("name", ["step", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("value", [None, torch.zeros(1, 2, 3), "x"])
def test_a_state_without_a_moment_is_refused(name: str, value: Any) -> None:
    one = learner(optimizer="adam")
    one.apply(given(gradient(1, 1, 1, 1, 1)))
    state = copy.deepcopy(one.outer_state())
    state["state"][0][name] = value
    with pytest.raises(StorageError, match=r"not that of outer\.optimizer = adam"):
        learner(optimizer="adam").restore(1, META, state)
