"""Every pair of an adaptation and an estimator that is not refused, on small tasks: against autograd, and in a loop.

And what single estimators are between: truncated between first order and exact, hybrid one and then the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from numerics_cases import WAYS, Case, assert_near, draw_tasks, network

from distmeta.adaptations import ADAPTATIONS
from distmeta.algorithms import algorithm_options
from distmeta.compatibility import refuse_pair
from distmeta.core.records import TensorSpec
from distmeta.estimators import ESTIMATORS
from distmeta.estimators.evolution import normal_numbers
from distmeta.estimators.exact import multi_step_weights

SHAPE = (4,)
OWN: dict[str, dict[str, Any]] = {
    "gradient_descent": {"inner_lr": 0.1, "inner_steps": 2},
    "context": {"inner_lr": 0.5, "inner_steps": 2, "context": 3},
    "adapters": {"inner_lr": 0.1, "inner_steps": 2, "rank": 2},
    "linear_probe": {"classes": 4},
}
BESIDE: dict[str, dict[str, Any]] = {
    "hybrid": {"first_order_steps": 3},
    "truncated": {"differentiated": 1},
    "implicit": {"proximal": 5.0, "solver_steps": 200},
    "evolution": {"directions": 2},
}
WITH_REFERENCE = ("exact", "first_order", "hybrid", "displacement", "implicit", "joint")


def algorithm(adaptation: str, estimator: str, **more: Any) -> dict[str, Any]:
    own = {**OWN.get(adaptation, {}), **BESIDE.get(estimator, {}), **more}
    return {"name": "maml", "adaptation": adaptation, "estimator": estimator, **own}


def pairs() -> Iterator[tuple[str, str]]:
    for adaptation in ADAPTATIONS:
        for estimator, entry in ESTIMATORS.options.items():
            if adaptation == "recurrent" or entry.of_policies:
                continue
            yield adaptation, estimator


def accepted(adaptation: str, estimator: str) -> bool:
    values = algorithm(adaptation, estimator)
    kind = algorithm_options(values)
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    return refuse_pair(kind.model_validate(known)) is None


PAIRS = [pair for pair in pairs() if accepted(*pair)]


def opened(values: dict[str, Any], objective: str = "cross_entropy") -> Case:
    kind = algorithm_options(values)
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    entry, options = ADAPTATIONS[values["adaptation"]], kind.model_validate(known)
    own = getattr(entry, "module_inputs", getattr(entry, "network_inputs", None))
    inputs = own(options, TensorSpec(SHAPE), WAYS) if own else TensorSpec(SHAPE)
    settings: dict[str, Any] = {"kind": "mlp", "hidden": [5], "activation": "tanh"}
    if values["adaptation"] == "in_context":
        settings = {"kind": "prior_fitted", "width": 4, "heads": 2, "depth": 1}
    module = network(settings, inputs, WAYS if entry.needs_head else None)
    return Case(known, module, objective, draw_tasks(SHAPE, objective))


def test_which_pairs_there_are() -> None:
    assert len(PAIRS) == 35
    refused = sorted(set(pairs()) - set(PAIRS))
    assert ("prototypes", "first_order") in refused
    assert ("linear_probe", "exact") in refused
    assert ("ridge", "joint") in refused
    assert ("context", "displacement") in refused


@pytest.mark.parametrize(("adaptation", "estimator"), sorted(set(pairs()) - set(PAIRS)))
def test_the_others_are_refused_with_the_reason(adaptation: str, estimator: str) -> None:
    values = algorithm(adaptation, estimator)
    kind = algorithm_options(values)
    reason = refuse_pair(kind.model_validate({k: v for k, v in values.items() if k in kind.model_fields}))
    assert reason is not None
    assert "algorithm." in reason
    assert "use " in reason or "leave it out" in reason


@pytest.mark.parametrize(("adaptation", "estimator"), PAIRS)
def test_a_pair(adaptation: str, estimator: str) -> None:
    case = opened(algorithm(adaptation, estimator))
    looped, measured = case.run(mapped=False)
    assert_near(case.mapped[0], looped, 1e-12 if estimator != "implicit" else 1e-9)
    for name, value in case.mapped[1].items():
        torch.testing.assert_close(value, measured[name], rtol=1e-10, atol=0)
    if estimator == "hybrid":
        case.estimator = case.estimator.at(10)  # type: ignore[attr-defined]
    if estimator in WITH_REFERENCE:
        assert_near(case.run(mapped=True)[0], _expected(case), 1e-8)


def _expected(case: Case) -> dict[str, torch.Tensor]:
    if case.options.estimator == "hybrid":
        case.options = case.options.model_copy(update={"estimator": "exact"})
    return case.reference()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_truncated_lies_between_first_order_and_exact(steps: int) -> None:
    """All steps: exact. None of 4 would be first order; the distance to exact shrinks with each that is added."""
    whole = opened(algorithm("gradient_descent", "exact", inner_steps=4)).mapped[0]
    found = opened(algorithm("gradient_descent", "truncated", inner_steps=4, differentiated=steps)).mapped[0]
    if steps == 4:
        assert_near(found, whole, 1e-12)
        return
    more = opened(algorithm("gradient_descent", "truncated", inner_steps=4, differentiated=steps + 1)).mapped[0]
    first = opened(algorithm("gradient_descent", "first_order", inner_steps=4)).mapped[0]
    apart = [_distance(each, whole) for each in (first, found, more)]
    assert apart[0] > apart[1] > apart[2]


def _distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum().sqrt())


def test_hybrid_is_of_first_order_and_then_exact() -> None:
    hybrid = opened(algorithm("gradient_descent", "hybrid"))
    first = opened(algorithm("gradient_descent", "first_order")).mapped[0]
    whole = opened(algorithm("gradient_descent", "exact")).mapped[0]
    own: Any = hybrid.estimator
    for step, expected in ((0, first), (2, first), (3, whole), (100, whole)):
        hybrid.estimator = own.at(step)
        assert_near(hybrid.run(mapped=True)[0], expected, 1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_multi_step_losses_in_both_ways_through_the_steps(steps: int) -> None:
    values = algorithm("gradient_descent", "exact", inner_steps=steps, multi_step=100)
    reverse = opened(values)
    assert_near(reverse.mapped[0], reverse.reference(), 1e-10)
    mixed = opened(values)
    mixed.estimator.differentiation = "mixed"  # type: ignore[attr-defined]
    assert_near(mixed.run(mapped=True)[0], reverse.mapped[0], 1e-10)


def test_weights_of_inner_steps_go_to_the_last() -> None:
    for progress in (0.0, 0.3, 0.99):
        weights = multi_step_weights(progress, 5)
        assert float(weights.sum()) == pytest.approx(1.0)
        assert bool((weights[:-1] >= 0.03 / 5 - 1e-7).all())
        assert float(weights[-1]) >= 0.2 - 1e-6
    case = opened(algorithm("gradient_descent", "exact", multi_step=100))
    own: Any = case.estimator
    assert own.weights(99, 2) is not None
    assert own.weights(100, 2) is None


def test_a_neumann_series_comes_to_the_same_solution() -> None:
    values = algorithm("gradient_descent", "implicit", proximal=20.0)
    by_cg = opened(values).mapped[0]
    by_series = opened({**values, "solver": "neumann"}).mapped[0]
    assert_near(by_series, by_cg, 1e-8)


def test_an_implicit_gradient_at_a_minimum_is_the_exact_one() -> None:
    """With enough inner steps the solution is a minimum, and both differentiate the same function."""
    common = {"inner_steps": 400, "inner_lr": 0.05, "proximal": 5.0}
    implicit = opened(algorithm("gradient_descent", "implicit", **{**common, "solver_steps": 200})).mapped[0]
    exact = opened(algorithm("gradient_descent", "exact", **common)).mapped[0]
    assert_near(implicit, exact, 1e-6)


def test_evolution_is_what_its_directions_say() -> None:
    case = opened(algorithm("ridge", "evolution", directions=3, deviation=0.2))
    found, _ = case.mapped
    names, count = sorted(case.meta), case.count
    sizes = [case.meta[name].numel() for name in names]
    theta = torch.cat([case.meta[name].flatten() for name in names])

    def losses(vector: torch.Tensor) -> torch.Tensor:
        parts = [part.view(case.meta[name].shape) for part, name in zip(vector.split(sizes), names, strict=True)]
        return case.query_losses(dict(zip(names, parts, strict=True)))

    for task in range(count):
        total = torch.zeros_like(theta)
        for number in range(3):
            direction = normal_numbers(case.tree["key"][task], number, len(theta))
            total += (losses(theta + 0.2 * direction) - losses(theta - 0.2 * direction))[task] * direction
        own = torch.cat([found[name][task].flatten() for name in names])
        torch.testing.assert_close(own, total / (2 * 3 * 0.2), rtol=1e-9, atol=1e-12)


def test_directions_are_normal_and_apart() -> None:
    key = torch.tensor([3, 4])
    several = torch.stack([normal_numbers(key, number, 10_001) for number in range(20)])
    count = several.numel()
    assert abs(float(several.mean())) < 4 / count**0.5
    assert float(several.var()) == pytest.approx(1.0, abs=4 * (2 / count) ** 0.5)
    assert float((several**4).mean()) == pytest.approx(3.0, abs=4 * (96 / count) ** 0.5)
    correlations = torch.corrcoef(several) - torch.eye(20)
    assert float(correlations.abs().max()) < 5 / 10_001**0.5
    assert torch.equal(normal_numbers(key, 2, 10_001), several[2])
