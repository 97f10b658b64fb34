"""Losses and metrics by hand, and what every row of the table must do."""

from __future__ import annotations

import math

import pytest
import torch

from distmeta.objectives import OBJECTIVES, CrossEntropy, Scored, SquaredError, open_objective, outputs_of
from distmeta.tasks import TASKS


def test_cross_entropy_by_hand() -> None:
    """Logits (ln 3, 0): probabilities 3/4 and 1/4. Labels 0, 1: the mean of -ln 3/4 and -ln 1/4; one of two right."""
    outputs = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    data = {"y": torch.tensor([0, 1])}
    assert float(CrossEntropy().loss(outputs, data)) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert CrossEntropy().measure(outputs, data) == {"accuracy": 0.5}


def test_cross_entropy_of_large_logits_is_finite() -> None:
    outputs = torch.tensor([[1e4, 0.0]])
    assert float(CrossEntropy().loss(outputs, {"y": torch.tensor([1])})) == 1e4


def test_squared_error_by_hand() -> None:
    """Errors 1, 2 and 0, -2 in two dimensions: (1 + 4 + 0 + 4) / 4."""
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    data = {"y": torch.tensor([[0.0, 0.0], [3.0, 6.0]])}
    assert float(SquaredError().loss(outputs, data)) == 9 / 4
    assert SquaredError().measure(outputs, data) == {"mse": 9 / 4}


def perfect(name: str, y: torch.Tensor) -> torch.Tensor:
    """Outputs that predict the targets."""
    if name == "cross_entropy":
        return torch.nn.functional.one_hot(y, 3).float() * 50
    if name == "gaussian":
        return torch.cat([y, -5 * torch.ones_like(y)], -1)
    return {"binary_cross_entropy": 100 * y - 50, "poisson": (y + 1e-6).log()}.get(name, y)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if issubclass(OBJECTIVES[name], Scored)])
def test_every_row_maps_over_tasks_and_tells_what_is_better(name: str) -> None:
    objective = open_objective(name)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 6, outputs_of(objective, 3), generator=generator)
    y = torch.randint(3, (4, 6) if objective.classes else (4, 6, 3), generator=generator)
    y = y if objective.classes else y.clamp(max=1).float()
    first = objective.metrics[0]
    for function in (objective.loss, lambda o, data: objective.measure(o, data)[first]):
        mapped = torch.vmap(lambda o, t, f=function: f(o, {"y": t}))(outputs, y)
        torch.testing.assert_close(mapped, torch.stack([function(outputs[t], {"y": y[t]}) for t in range(4)]))
    best, usual = (float(objective.measure(o[0], {"y": y[0]})[first]) for o in (perfect(name, y), outputs))
    assert best > usual if objective.higher_is_better else best < usual


def test_every_family_names_an_objective() -> None:
    assert {options.model_fields["objective"].default for options in TASKS.options.values()} <= set(OBJECTIVES)
