"""Inner SGD, momentum and Adam: exact and first-order meta-gradients against plain autograd; dead ReLUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from numerics_cases import WAYS, Case, assert_near, draw_tasks, network
from torch import Tensor, nn

from distmeta.adaptations.inner_optimizers import SGD, Adam, Momentum

RATES = {"sgd": 0.1, "momentum": 0.05, "adam": 0.02}
ESTIMATORS = {"reverse": "exact", "mixed": "exact", "first_order": "first_order", "displacement": "displacement"}
DIFFERENTIATION = {way: "mixed" if way == "mixed" else "reverse" for way in ESTIMATORS}
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"kind": "mlp", "hidden": [6], "activation": "tanh"}, (4,)),
    "conv4-batch": ({"kind": "conv4", "filters": 3}, (1, 9, 9)),
}


LEARNED = ("none", "per_tensor", "per_element")


def cases() -> Iterator[Any]:
    """All on a perceptron; on convolutions, which take longer, every two of optimizer, way and rates together."""
    for i, optimizer in enumerate(RATES):
        for j, way in enumerate(ESTIMATORS):
            for k, learned in enumerate(LEARNED if way != "displacement" else LEARNED[:1]):
                for kind in NETWORKS:
                    quick = kind == "mlp" or (i + j + k) % 3 == 0
                    yield pytest.param(optimizer, way, learned, kind, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("optimizer", "way", "learned", "kind"), cases())
def test_against_plain_autograd(optimizer: str, way: str, learned: str, kind: str) -> None:
    """Three steps, each on a minibatch of 4 of the examples; every kind of rate that the estimator takes."""
    rate = RATES[optimizer]
    algorithm = {
        "name": "maml",
        "estimator": ESTIMATORS[way],
        "inner_steps": 3,
        "inner_batch": 4,
        "inner_optimizer": optimizer,
        "inner_momentum": 0.8,
        "inner_betas": (0.7, 0.9),
        "inner_lr": rate if learned == "none" else (rate / 2, rate),
        "learned_rates": learned,
    }
    settings, shape = NETWORKS[kind]
    module, tasks = network(settings, shape, WAYS), draw_tasks(shape, "cross_entropy")
    case = Case(algorithm, module, "cross_entropy", tasks, differentiation=DIFFERENTIATION[way])
    expected = case.reference()
    assert_near(case.mapped[0], expected, 1e-9)
    if learned != "none":  # the rates' gradients have a scale of their own
        assert_near(rates_of(case.mapped[0]), rates_of(expected), 1e-9)


def rates_of(meta: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in meta.items() if name.startswith("rates/")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", list(ESTIMATORS))
def test_adam_with_dead_relus_is_finite(way: str, dtype: torch.dtype) -> None:
    """Hidden biases of -100 kill every ReLU: the body's inner gradients are exactly 0, and so is sqrt(v)."""
    module = network({"kind": "mlp", "hidden": [6]}, (4,), WAYS)
    with torch.no_grad():
        module.body[0].bias.fill_(-100.0)
    drawn = draw_tasks((4,), "cross_entropy")
    tasks = {part: {"x": data["x"].to(dtype), "y": data["y"]} for part, data in drawn.items()}
    algorithm = {
        "name": "maml",
        "estimator": ESTIMATORS[way],
        "inner_optimizer": "adam",
        "inner_steps": 3,
    }
    case = Case(algorithm, module.to(dtype), "cross_entropy", tasks, differentiation=DIFFERENTIATION[way])
    gradients, _ = case.mapped
    assert (gradients["model/body.0.weight"] == 0).all()
    assert (gradients["model/head.bias"] != 0).any()
    assert all(value.isfinite().all() for value in gradients.values())


@pytest.mark.parametrize("name", list(RATES))
def test_directions_are_those_of_torch_optim(name: str) -> None:
    """Five steps; Adam's eps stands inside our root and outside torch's: 1e-12 is nothing beside gradients of 1."""
    rate = 0.1
    ours: Any = {"sgd": SGD(), "momentum": Momentum(0.9), "adam": Adam((0.8, 0.95), 1e-12)}[name]
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(4, generator=generator, dtype=torch.float64)
    parameter = nn.Parameter(value.clone())
    theirs: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD([parameter], lr=rate),
        "momentum": lambda: torch.optim.SGD([parameter], lr=rate, momentum=0.9),
        "adam": lambda: torch.optim.Adam([parameter], lr=rate, betas=(0.8, 0.95), eps=1e-12),
    }[name]()
    state = ours.init({"w": value})
    for step in range(5):
        gradient = torch.randn(4, generator=generator, dtype=torch.float64)
        direction, state = ours.direction({"w": gradient}, state, step)
        value = value - rate * direction["w"]
        parameter.grad = gradient
        theirs.step()
        torch.testing.assert_close(value, parameter.detach(), rtol=1e-10, atol=1e-10)
