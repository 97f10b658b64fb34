"""Closed-form adaptations against other people's solvers, finite differences, and the same tasks without padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numerics_reference import oracle_coefficients
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from distmeta.adaptations import ADAPTATIONS, Batch, Support
from distmeta.adaptations.support_vectors import crammer_singer
from distmeta.algorithms import algorithm_options
from distmeta.core.layout import MODEL
from distmeta.errors import ConfigError
from distmeta.functional.module import FunctionalModule
from distmeta.objectives import CrossEntropy, SquaredError, open_objective

WAYS = 4
CLOSED = ["ridge", "logistic", "svm", "matching", "prototypes"]


def embedding(size: int) -> nn.Module:
    """f(x) = x."""
    module = nn.Linear(size, size, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(size))
    return module


def opened(kind: str, size: int, objective: Any = None, **settings: Any) -> tuple[Any, dict[str, Tensor]]:
    """An adaptation on the embedding f(x) = x, and its first meta-parameters."""
    entry, network = ADAPTATIONS[kind], FunctionalModule(embedding(size))
    options: Any = ADAPTATIONS.options[kind].model_validate(settings)
    parts: Any = entry(options, network, objective or CrossEntropy())
    meta = {MODEL + name: value for name, value in network.parameters.items()}
    return parts, {**meta, **parts.extras(0)}


def points(shots: int, size: int, seed: int = 0, ways: int = WAYS, apart: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat_interleave(shots)
    means = torch.randn(ways, size, generator=generator, dtype=torch.float64)
    return torch.randn(len(y), size, generator=generator, dtype=torch.float64) + apart * means[y], y


def gram(x: Tensor) -> Tensor:
    return x @ x.T + torch.eye(len(x), dtype=x.dtype)


def primal(a: Tensor, g: Tensor, labels: Tensor) -> float:
    """The dual's value, which the machine minimises."""
    return float((a * (g @ a)).sum() / 2 - (a * labels).sum())


@pytest.mark.parametrize(("shots", "size"), [(1, 30), (3, 5), (20, 6)])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 50.0])
def test_ridge_is_least_squares_with_rows_for_the_penalty(shots: int, size: int, penalty: float) -> None:
    parts, meta = opened("ridge", size, regularisation=penalty, scale=3.0)
    x, y = points(shots, size)
    found = parts.adapt(meta, Support({"x": x, "y": y}, WAYS), None)
    wide = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1) / len(x) ** 0.5
    rows = np.concatenate([wide, penalty**0.5 * np.eye(size + 1)])
    targets = np.concatenate([np.eye(WAYS)[y.numpy()] / len(x) ** 0.5, np.zeros((size + 1, WAYS))])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-9)
    logits = parts.predict(meta, found, Batch({"x": x[:2]}))
    torch.testing.assert_close(logits, 3 * (x[:2] @ found[:-1] + found[-1]))


def test_ridge_predicts_numbers() -> None:
    parts, meta = opened("ridge", 2, SquaredError(), regularisation=1e-12)
    x, _ = points(5, 2)
    y = torch.stack([3 * x[:, 0] - x[:, 1] + 2, x[:, 1]], 1)
    solved = parts.adapt(meta, Support({"x": x[:10], "y": y[:10]}), None)
    torch.testing.assert_close(parts.predict(meta, solved, Batch({"x": x[10:]})), y[10:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", ["gaussian", "poisson", "binary_cross_entropy"])
def test_ridge_is_refused_where_outputs_are_no_targets(objective: str) -> None:
    with pytest.raises(ConfigError, match="use squared_error, huber, or gradient_descent"):
        _refused(objective)


def _refused(objective: str) -> None:
    options: Any = algorithm_options({"name": "r2d2"}).model_validate({"name": "r2d2"})
    ADAPTATIONS["ridge"](options, FunctionalModule(embedding(2)), open_objective(objective))


@pytest.mark.parametrize(("shots", "size"), [(2, 20), (6, 3)])
@pytest.mark.parametrize("penalty", [0.3, 10.0])
def test_logistic_is_scikit_learns_one_against_the_rest(shots: int, size: int, penalty: float) -> None:
    parts, meta = opened("logistic", size, regularisation=penalty)
    x, y = points(shots, size)
    found = parts.adapt(meta, Support({"x": x, "y": y}, WAYS), None)
    wide = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    for way in range(WAYS):
        machine = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
        machine.fit(wide, (y == way).numpy())
        np.testing.assert_allclose(found[:, way].numpy(), machine.coef_[0], rtol=1e-6, atol=1e-8)


def test_logistic_of_examples_that_are_far_apart_is_finite() -> None:
    parts, meta = opened("logistic", 3, regularisation=1e-6)
    x, y = points(3, 3)
    found = parts.adapt(meta, Support({"x": 1e3 * x, "y": y}, WAYS), None)
    assert found.isfinite().all()


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize(
    ("ways", "shots", "noise"),
    [(5, 1, 1.0), (5, 5, 1.0), (5, 5, 0.01), pytest.param(20, 5, 1.0, marks=pytest.mark.slow), (3, 20, 0.3)],
)
def test_the_machine_is_scikit_learns(ways: int, shots: int, noise: float, scale: float) -> None:
    x, y = points(shots, 16, ways=ways, apart=0.0)
    means, _ = points(1, 16, seed=1, ways=ways, apart=0.0)
    x = scale * (noise * x + means[y])
    labels = torch.eye(ways).double()[y]
    found = crammer_singer(gram(x), labels, 0.1)
    expected = oracle_coefficients(x @ x.T, x, y, ways, 0.1)
    best = primal(expected, gram(x), labels)
    # the oracle stops at a tolerance of its own, which for large kernels is the larger error
    assert primal(found, gram(x), labels) - best <= 1e-6 * max(1.0, abs(best))
    assert float(found.sum(1).abs().max()) < 1e-10
    assert bool((found <= 0.1 * labels + 1e-10).all())


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 5), (20, 5)])
def test_the_machine_inside_a_network_of_float32(ways: int, shots: int) -> None:
    x, y = points(shots, 64, ways=ways)
    labels = torch.eye(ways).double()[y]
    parts, meta = opened("svm", 64)
    network = FunctionalModule(embedding(64).float())
    parts.network = network
    narrow = {name: value.float() for name, value in meta.items()}
    found = parts.adapt(narrow, Support({"x": x.float(), "y": y}, ways), None)["coefficients"]
    assert found.dtype == torch.float32
    best = primal(crammer_singer(gram(x), labels, 0.1), gram(x), labels)
    bound = 1e-5 * max(1.0, float((x @ x.T).abs().max()) / 100)
    assert abs(primal(found.double(), gram(x), labels) - best) <= bound


@pytest.mark.parametrize("ways", [2, 5])
def test_derivatives_of_the_machine_are_slopes(ways: int) -> None:
    """First and second, by central differences, at points where no coefficient changes between free and held."""
    x, y = points(3, 7, seed=3, ways=ways)
    labels = torch.eye(ways).double()[y]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(len(y), ways, generator=generator, dtype=torch.float64)
    along = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        return (crammer_singer(gram(x), labels, 0.1) * weight).sum()

    def slope(x: Tensor) -> Tensor:
        return (torch.func.grad(value)(x) * along).sum()

    h = 1e-6
    first = (value(x + h * along) - value(x - h * along)) / (2 * h)
    torch.testing.assert_close(slope(x), first, rtol=1e-6, atol=1e-9)
    second = (slope(x + h * along) - slope(x - h * along)) / (2 * h)
    torch.testing.assert_close((torch.func.grad(slope)(x) * along).sum(), second, rtol=1e-5, atol=1e-8)


def test_mapped_machines_are_single_ones() -> None:
    several = torch.stack([points(2, 9, seed=seed)[0] for seed in range(4)])
    labels = torch.eye(WAYS).double()[points(2, 9)[1]]
    mapped = torch.func.vmap(lambda x: crammer_singer(gram(x), labels, 0.1))(several)
    single = torch.stack([crammer_singer(gram(x), labels, 0.1) for x in several])
    torch.testing.assert_close(mapped, single, rtol=1e-12, atol=1e-12)


def test_a_radial_kernel() -> None:
    parts, meta = opened("svm", 4, kernel="rbf", width=2.0)
    x, y = points(3, 4)
    adapted = parts.adapt(meta, Support({"x": x, "y": y}, WAYS), None)
    kernel = torch.exp(-2.0 * torch.cdist(x, x).square() / 4)
    labels = torch.eye(WAYS).double()[y]
    expected = crammer_singer(kernel + torch.eye(len(x)).double(), labels, 0.1)
    torch.testing.assert_close(adapted["coefficients"], expected, rtol=1e-8, atol=1e-10)
    logits = parts.predict(meta, adapted, Batch({"x": x[:3]}))
    torch.testing.assert_close(logits, kernel[:3] @ expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["ridge", "logistic", "matching", "prototypes"])
def test_padding_is_nothing(kind: str) -> None:
    """A support set with rows of weight 0 has the solution of that without them; weights of 2 that of doubled rows."""
    parts, meta = opened(kind, 5)
    x, y = points(3, 5)
    query = Batch({"x": points(2, 5, seed=9)[0]})

    def logits(data: dict[str, Tensor]) -> Tensor:
        return parts.predict(meta, parts.adapt(meta, Support(data, WAYS), None), query)

    plain = logits({"x": x, "y": y})
    more = torch.cat([x, 100 + x[:3]]), torch.cat([y, y[:3]])
    weight = torch.cat([torch.ones(len(x)), torch.zeros(3)])
    torch.testing.assert_close(logits({"x": more[0], "y": more[1], "weight": weight}), plain, rtol=1e-9, atol=1e-9)
    twice = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    weight = torch.ones(len(x)).index_fill(0, torch.tensor([0]), 2.0)
    torch.testing.assert_close(logits({"x": x, "y": y, "weight": weight}), logits({"x": twice[0], "y": twice[1]}))


@pytest.mark.parametrize("kind", CLOSED)
def test_renaming_classes_renames_the_logits(kind: str) -> None:
    parts, meta = opened(kind, 6)
    x, y = points(2, 6)
    query, order = Batch({"x": points(2, 6, seed=4)[0]}), torch.tensor([2, 0, 3, 1])
    old, new = (
        parts.predict(meta, parts.adapt(meta, Support({"x": x, "y": each}, WAYS), None), query)
        for each in (y, order[y])
    )
    torch.testing.assert_close(new[:, order], old, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", CLOSED)
def test_embeddings_that_are_not_finite_give_logits_that_are_not(kind: str) -> None:
    """Nothing raises inside a mapped computation: the outer step tells of the task."""
    parts, meta = opened(kind, 6)
    x, y = points(2, 6)
    x[3, 2] = float("nan")
    logits = parts.predict(meta, parts.adapt(meta, Support({"x": x, "y": y}, WAYS), None), Batch({"x": x[:2]}))
    assert not logits.isfinite().all()
