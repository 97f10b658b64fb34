"""Every row of the algorithms' table on every kind of network: against autograd, finite differences, and a loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from numerics_cases import WAYS, Case, assert_near, draw_tasks, network
from torch import Tensor

from distmeta.adaptations import ADAPTATIONS
from distmeta.algorithms import ALGORITHMS, algorithm_options
from distmeta.core.records import TensorSpec
from distmeta.functional.kernels.build import unavailable

NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"kind": "mlp", "hidden": [6, 5], "activation": "tanh"}, (4,)),
    "mlp-relu": ({"kind": "mlp", "hidden": [6, 5]}, (4,)),
    "conv4-batch": ({"kind": "conv4", "filters": 4}, (1, 11, 11)),
    "conv4-group": ({"kind": "conv4", "filters": 9, "norm": "group"}, (1, 11, 11)),
    "conv4-layer": ({"kind": "conv4", "filters": 4, "norm": "layer"}, (1, 11, 11)),
    "conv4-none": ({"kind": "conv4", "filters": 4, "norm": "none"}, (1, 11, 11)),
    "conv4-pool-batch": ({"kind": "conv4", "filters": 4, "downsample": "pool"}, (2, 16, 16)),
    "prior-fitted": ({"kind": "prior_fitted", "width": 8, "heads": 2, "depth": 2}, (4,)),
}
LAYERS = {
    **dict.fromkeys(NETWORKS, ("general",)),
    "conv4-batch": ("general", "native", "products"),
    "conv4-pool-batch": ("general", "native"),
}
# Steps large enough to make second-order terms count, small enough not to diverge.
SETTINGS: dict[str, dict[str, Any]] = {
    "maml": {"inner_lr": 0.1, "inner_steps": 2},
    "fomaml": {"inner_lr": 0.1, "inner_steps": 2},
    "reptile": {"inner_lr": 0.01, "inner_steps": 3, "inner_batch": 8},
    "anil": {"inner_lr": 0.2, "inner_steps": 3},
    "meta_sgd": {"inner_steps": 2},
    "protonet": {},
    "boil": {"inner_lr": 0.1, "inner_steps": 2},
    "maml_plus_plus": {"inner_steps": 2},
    "meta_curvature": {"inner_lr": 0.1, "inner_steps": 2},
    "warp_grad": {"inner_lr": 0.1, "inner_steps": 2},
    "imaml": {"inner_steps": 3, "solver_steps": 60, "proximal": 100.0, "inner_lr": 0.005},
    "cavia": {"inner_lr": 0.5, "inner_steps": 2, "context": 3},
    "lora": {"inner_lr": 0.1, "inner_steps": 2, "rank": 2},
    "es_maml": {"inner_lr": 0.1, "inner_steps": 1, "directions": 2},
    "baseline": {"classes": 4},
    "baseline_plus_plus": {"classes": 4},
}
ONLY: dict[str, tuple[str, ...]] = {
    "maml_plus_plus": ("conv4-batch", "conv4-pool-batch"),
    "in_context": ("prior-fitted",),
    "logistic": ("mlp", "mlp-relu", "conv4-group", "conv4-layer"),
}
"""Rows that are for some networks alone."""

WITHOUT_REFERENCE = {"es_maml"}
"""Estimates by random directions, which tests of their own hold against their expectation."""


def variants() -> Iterator[tuple[str, str, str, str, str]]:
    """(row, differentiation, network, objective, layers) of everything that is valid and makes a difference."""
    for row, algorithm in ALGORITHMS.items():
        if algorithm.of_policies:
            continue
        adaptation = ADAPTATIONS[algorithm.adaptation]
        two_ways = algorithm.estimator == "exact" and adaptation.iterative
        for differentiation in ("reverse", "mixed") if two_ways else ("reverse",):
            for kind in ONLY.get(row, [each for each in NETWORKS if each != "prior-fitted"]):
                for objective in ("cross_entropy",) if adaptation.needs_classes else ("cross_entropy", "squared_error"):
                    for layers in LAYERS[kind] if objective == "cross_entropy" else ("general",):
                        yield row, differentiation, kind, objective, layers


def quick(row: str, differentiation: str, kind: str, objective: str, layers: str) -> bool:
    """Every row on a perceptron and on a convolutional network, and maml on every network; the rest takes long."""
    everywhere = (row, differentiation) == ("maml", "reverse") or (kind, layers) == ("conv4-batch", "general")
    return kind in ("mlp", "prior-fitted") or (everywhere and objective == "cross_entropy")


VARIANTS = [
    pytest.param(variant, id="-".join(variant), marks=() if quick(*variant) else pytest.mark.slow)
    for variant in variants()
]


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest) -> Case:
    row, differentiation, kind, objective, layers = request.param
    if layers == "native" and unavailable():
        pytest.skip(str(unavailable()))
    algorithm: dict[str, Any] = {"name": row, **SETTINGS.get(row, {})}
    settings, shape = NETWORKS[kind]
    if row == "cavia" and len(shape) > 1:
        algorithm["film"] = "body.2.1" if "batch" in kind else "body.2.0"
    outputs = WAYS if ADAPTATIONS[ALGORITHMS[row].adaptation].needs_head else None
    options: Any = algorithm_options(algorithm).model_validate(algorithm)
    entry = ADAPTATIONS[options.adaptation]
    own = getattr(entry, "module_inputs", getattr(entry, "network_inputs", None))
    inputs = own(options, TensorSpec(shape), WAYS) if own else TensorSpec(shape)
    module, tasks = network(settings, inputs, outputs), draw_tasks(shape, objective)
    return Case(algorithm, module, objective, tasks, differentiation=differentiation, layers=layers)


def test_settings_are_those_of_rows() -> None:
    assert set(SETTINGS) <= set(ALGORITHMS)


def test_gradient_is_that_of_plain_autograd(case: Case) -> None:
    if case.algorithm["name"] in WITHOUT_REFERENCE:
        return
    assert_near(case.mapped[0], case.reference(), 1e-10)


def test_mapped_is_looped(case: Case) -> None:
    looped, measured = case.run(mapped=False)
    assert_near(case.mapped[0], looped, 1e-10)
    assert measured.keys() == case.mapped[1].keys()
    for name, value in case.mapped[1].items():
        torch.testing.assert_close(value, measured[name], rtol=1e-10, atol=0)


def test_exact_gradients_alone_are_slopes_of_the_query_loss(case: Case) -> None:
    """(L(theta + h d) - L(theta - h d)) / 2h = gradient . d, for random unit directions d.

    h = 1e-6: truncation is of order h^2 = 1e-12 and rounding 1e-16 / h = 1e-10, so 1e-6 of the gradient's norm is
    generous. A ReLU or a pool that switches between theta - h d and theta + h d breaks the equality by far more; the
    seeds here are such that none does. First-order and displacement gradients are no slopes: the check can fail.
    """
    gradients, measured = case.mapped
    exact = case.options.estimator == "exact"
    if exact and "weights" not in case.tree:
        torch.testing.assert_close(case.query_losses(case.meta), measured["loss"], rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(5)
    h, errors = 1e-6, []
    for _ in range(2):
        direction = {name: torch.randn(value.shape, generator=generator).double() for name, value in case.meta.items()}
        norm = total(direction, direction) ** 0.5
        up, down = (
            case.query_losses({name: value + sign * h / norm * direction[name] for name, value in case.meta.items()})
            for sign in (1, -1)
        )
        for t in range(case.count):
            gradient = {name: value[t] for name, value in gradients.items()}
            error = (up[t] - down[t]) / (2 * h) - total(gradient, direction) / norm
            errors.append(float(abs(error) / total(gradient, gradient) ** 0.5))
    assert max(errors) <= 1e-6 if exact else max(errors) > 1e-4


def total(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """Inner product over all names."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()
