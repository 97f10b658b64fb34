"""Losses against torch's own and against plain formulas, with padding, and their curvature."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distmeta.config.sections import ObjectiveOptions
from distmeta.errors import ConfigError
from distmeta.objectives import OBJECTIVES, PolicyGradient, Scored, open_objective

WEIGHTS = [0.5, 2.0, 1.0]
SETTINGS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "cross_entropy, smoothed": {"label_smoothing": 0.2},
    "cross_entropy, weighted": {"class_weights": WEIGHTS},
    "cross_entropy, both": {"class_weights": WEIGHTS, "label_smoothing": 0.2},
    **{name: {} for name in OBJECTIVES if name != "cross_entropy" and issubclass(OBJECTIVES[name], Scored)},
    "huber, delta": {"delta": 0.3},
    "gaussian, floor": {"min_variance": 0.1},
}


def opened(name: str) -> Any:
    entry = name.partition(",")[0]
    return open_objective(OBJECTIVES.options[entry].model_validate({"name": entry, **SETTINGS[name]}))


def drawn(objective: Any, examples: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs and targets of three classes or dimensions, in float64."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(examples, objective.outputs(3), generator=generator, dtype=torch.float64)
    if objective.kind == "classes":
        return outputs, torch.randint(3, (examples,), generator=generator)
    if objective.kind == "values" and objective.bounds[0] is None:
        return outputs, torch.randn(examples, 3, generator=generator, dtype=torch.float64)
    most = 2 if objective.kind == "labels" else 4
    return outputs, torch.randint(most, (examples, 3), generator=generator).double()


def expected_loss(name: str, objective: Any, outputs: Tensor, y: Tensor) -> Tensor:
    """By torch's own function of it, or written out."""
    settings = dict(SETTINGS[name])
    entry = name.partition(",")[0]
    if entry == "cross_entropy":
        weights = settings.pop("class_weights", None)
        own = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        return F.cross_entropy(outputs, y, weight=own, **settings)
    if entry == "gaussian":
        variances = torch.log(1 + outputs[:, 3:].exp()) + settings.get("min_variance", 1e-6)
        return -torch.distributions.Normal(outputs[:, :3], variances.sqrt()).log_prob(y).mean()
    if entry == "pairwise_logistic":
        losses = [
            math.log(1 + math.exp(float(outputs[j, d] - outputs[i, d])))
            for i, j, d in itertools.product(range(len(y)), range(len(y)), range(3))
            if y[i, d] > y[j, d]
        ]
        return torch.tensor(sum(losses) / len(losses), dtype=torch.float64)
    if entry == "poisson":
        return -torch.distributions.Poisson(outputs.exp()).log_prob(y).mean()
    functions: dict[str, Any] = {
        "squared_error": F.mse_loss,
        "huber": F.huber_loss,
        "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    }
    return torch.as_tensor(functions[entry](outputs, y, **settings))


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_what_they_say(name: str) -> None:
    objective = opened(name)
    outputs, y = drawn(objective)
    torch.testing.assert_close(objective.loss(outputs, {"y": y}), expected_loss(name, objective, outputs, y))


@pytest.mark.parametrize("name", SETTINGS)
def test_padding_changes_nothing(name: str) -> None:
    """Loss, gradient, metrics, curvature and divergence of a padded task are those of the task alone."""
    objective = opened(name)
    objective.metrics = objective.fitting()
    outputs, y = drawn(objective)
    more, other = drawn(objective, 3, seed=1)
    weight = torch.tensor([1.0] * 7 + [0.0] * 3)
    padded = torch.cat([outputs, more])
    alone, beside = {"y": y}, {"y": torch.cat([y, other]), "weight": weight}

    for wanted, given in zip(
        torch.func.grad_and_value(objective.loss)(outputs, alone),
        torch.func.grad_and_value(objective.loss)(padded, beside),
        strict=True,
    ):
        torch.testing.assert_close(given[:7] if given.dim() else given, wanted)
        assert not given.dim() or not given[7:].any()
    torch.testing.assert_close(objective.measure(padded, beside), objective.measure(outputs, alone))
    if hasattr(objective, "curvature"):
        tangent = torch.randn_like(padded)
        product = objective.curvature(padded, beside, tangent)
        torch.testing.assert_close(product[:7], objective.curvature(outputs, alone, tangent[:7]))
        assert not product[7:].any()
        after = padded + 0.1 * tangent
        torch.testing.assert_close(
            objective.divergence(padded, after, beside), objective.divergence(outputs, after[:7], alone)
        )


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_differentiate_twice_over_tasks(name: str) -> None:
    """The second derivative by vmap over reverse over reverse is that of finite differences of the first."""
    objective = opened(name)
    outputs, y = drawn(objective)
    direction = torch.randn_like(outputs)

    def slope(o: Tensor) -> Tensor:
        return (torch.func.grad(objective.loss)(o, {"y": y}) * direction).sum()

    found = torch.vmap(torch.func.grad(slope))(torch.stack([outputs, outputs]))[1]
    small = 1e-5
    ahead, behind = (torch.func.grad(objective.loss)(outputs + sign * small * direction, {"y": y}) for sign in (1, -1))
    torch.testing.assert_close(found, (ahead - behind) / (2 * small), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in SETTINGS if hasattr(opened(name), "curvature")])
def test_curvature_is_the_second_derivative_of_the_divergence(name: str) -> None:
    objective = opened(name)
    outputs, y = drawn(objective, 4)
    tangent, other = torch.randn_like(outputs), outputs + 0.3 * torch.randn_like(outputs)
    for data in ({"y": y}, {"y": y, "weight": torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=torch.float64)}):
        matrix = torch.autograd.functional.hessian(
            lambda after, data=data: objective.divergence(outputs, after, data), outputs
        )
        product = torch.einsum("ijkl,kl->ij", matrix, tangent)
        torch.testing.assert_close(objective.curvature(outputs, data, tangent), product)
        assert float(objective.divergence(outputs, outputs, data)) == pytest.approx(0, abs=1e-12)
        assert float(objective.divergence(outputs, other, data)) > 0


@pytest.mark.parametrize("name", [name for name in SETTINGS if "nll" in opened(name).fitting()])
def test_likelihoods_know_neither_weights_nor_smoothing(name: str) -> None:
    objective = opened(name)
    outputs, y = drawn(objective)
    plain = name.partition(",")[0] if "gaussian" not in name else name
    expected = expected_loss(plain, objective, outputs, y)
    torch.testing.assert_close(objective.nll(outputs, {"y": y}), expected)


def test_losses_stay_finite_at_large_outputs() -> None:
    for name in SETTINGS:
        objective = opened(name)
        outputs, y = drawn(objective)
        large = outputs * (20 if name == "poisson" else 1e3)
        gradient, loss = torch.func.grad_and_value(objective.loss)(large, {"y": y})
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_a_ranking_without_pairs_costs_nothing() -> None:
    objective = opened("pairwise_logistic")
    gradient, loss = torch.func.grad_and_value(objective.loss)(torch.randn(3, 1), {"y": torch.ones(3, 1)})
    assert float(loss) == 0
    assert not gradient.any()


def test_a_weight_for_each_class() -> None:
    with pytest.raises(ConfigError, match="has 3 weights, and tasks have 5 ways"):
        opened("cross_entropy, weighted").outputs(5)


def test_the_table_has_every_file() -> None:
    for name in OBJECTIVES:
        objective = open_objective(name)
        assert isinstance(objective, Scored | PolicyGradient)
        if isinstance(objective, Scored):
            assert set(objective.metrics) <= set(objective.fitting())
        assert issubclass(OBJECTIVES.options[name], ObjectiveOptions)
