"""The step-by-step adjoint equals reverse mode, also where it keeps only the states of every sqrt(K)-th step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from numerics_cases import TASKS, WAYS, Case, assert_near, draw_tasks, network
from torch import nn

from distmeta.estimators.adjoint import KEEP_ALL

RATES = {"sgd": 0.1, "momentum": 0.05, "adam": 0.02}
MLP: dict[str, Any] = {"kind": "mlp", "hidden": [5, 4], "activation": "tanh"}


def compare(algorithm: dict[str, Any], module: nn.Module, tasks: dict[str, Any], objective: str) -> None:
    """Mixed and reverse mode, gradients and measurements, to 1e-10."""
    reverse, mixed = (
        Case(algorithm, module, objective, tasks, differentiation=way).mapped for way in ("reverse", "mixed")
    )
    assert_near(mixed[0], reverse[0], 1e-10)
    for name, value in reverse[1].items():
        torch.testing.assert_close(mixed[1][name], value, rtol=1e-10, atol=0)


ADAPTED: dict[str, Any] = {"all": "all", "head": "head", "pattern": ["body.0.*", "head.bias"]}
LEARNED = ("none", "per_tensor", "per_element")
STEPS = {"10-whole": (10, None), "11-minibatches": (11, 4)}


def inner_loops() -> Iterator[Any]:
    """All of them; those that are not slow have every two of optimizer, rates and adapted parameters together."""
    for n, steps in enumerate(STEPS):
        for i, optimizer in enumerate(RATES):
            for j, learned in enumerate(LEARNED):
                for k, adapt in enumerate(ADAPTED):
                    marks = () if (i + j + k + n) % 3 == 0 else pytest.mark.slow
                    yield pytest.param(
                        optimizer, learned, adapt, steps, id=f"{steps}-{optimizer}-{learned}-{adapt}", marks=marks
                    )


@pytest.mark.parametrize(("optimizer", "learned", "adapted", "loop"), inner_loops())
def test_every_inner_loop(optimizer: str, learned: str, adapted: str, loop: str) -> None:
    rate, (steps, batch) = RATES[optimizer], STEPS[loop]
    algorithm = {
        "name": "maml",
        "inner_steps": steps,
        "inner_batch": batch,
        "inner_optimizer": optimizer,
        "inner_lr": rate if learned == "none" else (rate / 2, rate),
        "learned_rates": learned,
        "adapt": ADAPTED[adapted],
    }
    compare(algorithm, network(MLP, (3,), WAYS), draw_tasks((3,), "squared_error"), "squared_error")


@pytest.mark.parametrize("steps", [1, 2, KEEP_ALL, KEEP_ALL + 1, 16, 17])
def test_every_number_of_steps(steps: int) -> None:
    """Up to KEEP_ALL = 8 all are kept; 9 = 3 x 3 and 16 = 4 x 4 divide evenly, 17 = 5 + 5 + 5 + 2 does not."""
    algorithm = {"name": "maml", "inner_steps": steps, "inner_lr": 0.1, "inner_optimizer": "momentum"}
    compare(algorithm, network(MLP, (3,), WAYS), draw_tasks((3,), "cross_entropy"), "cross_entropy")


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_convolutions_with_norms_over_ten_steps(norm: str) -> None:
    algorithm = {"name": "meta_sgd", "inner_steps": 10, "inner_lr": (0.01, 0.05)}
    module = network({"kind": "conv4", "filters": 3, "norm": norm}, (1, 9, 9), WAYS)
    compare(algorithm, module, draw_tasks((1, 9, 9), "cross_entropy"), "cross_entropy")


class Dropping(nn.Module):
    """A user's network with dropout after the input and after the hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(8, WAYS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize("kind", ["user", "resnet12"])
def test_dropout(kind: str) -> None:
    """Recomputed steps see the masks of the first pass; another key gives other masks."""
    if kind == "user":
        torch.manual_seed(0)
        shape, module, steps = (3,), Dropping().double(), 10
    else:
        settings = {"kind": "resnet12", "widths": [2, 3, 2, 3], "dropout": 0.3}
        shape, steps = (1, 16, 16), 3
        module = network(settings, shape, WAYS)
    tasks: dict[str, Any] = draw_tasks(shape, "cross_entropy")
    algorithm = {"name": "maml", "inner_steps": steps, "inner_lr": 0.1}
    tasks["key"] = torch.arange(2 * TASKS).view(TASKS, 2)
    compare(algorithm, module, tasks, "cross_entropy")

    keyed = Case(algorithm, module, "cross_entropy", tasks)
    assert keyed.network.uses_dropout
    assert_near(keyed.mapped[0], keyed.run(mapped=False)[0], 1e-10)
    other = Case(algorithm, module, "cross_entropy", {**tasks, "key": tasks["key"] + 1})
    assert (keyed.mapped[1]["loss"] != other.mapped[1]["loss"]).all()
    assert math.isfinite(float(other.mapped[1]["loss"].sum()))
