"""Metrics against scikit-learn and SciPy, mapped over tasks, with padding left out by its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as sklearn
from torch import Tensor

from distmeta.objectives import OBJECTIVES, Scored, open_objective
from distmeta.objectives.metrics import KNOWN_METRICS, Kind

TASKS, EXAMPLES, WIDTH = 5, 24, 3
Oracle = Callable[[Any, Any], float]


def softmax(outputs: Any) -> Any:
    return np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)


def dimensions(function: Oracle) -> Oracle:
    """The mean over the columns."""
    return lambda outputs, y: float(np.mean([function(a, b) for a, b in zip(outputs.T, y.T, strict=True)]))


ORACLES: dict[tuple[Kind, str], Oracle] = {
    ("classes", "accuracy"): lambda o, y: sklearn.accuracy_score(y, o.argmax(-1)),
    ("classes", "balanced_accuracy"): lambda o, y: sklearn.balanced_accuracy_score(y, o.argmax(-1)),
    ("classes", "f1"): lambda o, y: sklearn.f1_score(y, o.argmax(-1), average="macro"),
    ("classes", "auroc"): lambda o, y: sklearn.roc_auc_score(y, softmax(o), multi_class="ovr", average="macro"),
    ("labels", "accuracy"): lambda o, y: 1 - sklearn.hamming_loss(y, o > 0),
    ("labels", "f1"): lambda o, y: sklearn.f1_score(y, o > 0, average="macro"),
    ("labels", "auroc"): lambda o, y: sklearn.roc_auc_score(y, o, average="macro"),
    ("values", "mse"): lambda o, y: sklearn.mean_squared_error(y, o),
    ("values", "rmse"): lambda o, y: float(np.sqrt(sklearn.mean_squared_error(y, o))),
    ("values", "mae"): lambda o, y: sklearn.mean_absolute_error(y, o),
    ("values", "r2"): lambda o, y: sklearn.r2_score(y, o),
    ("values", "spearman"): dimensions(lambda o, y: spearmanr(o, y).statistic),
    ("ranks", "spearman"): dimensions(lambda o, y: spearmanr(o, y).statistic),
    ("ranks", "ndcg"): dimensions(lambda o, y: sklearn.ndcg_score([y], [o])),
}


def drawn(kind: Kind, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs with some equal ones, and targets, of several tasks."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(TASKS, EXAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    outputs = outputs if kind == "classes" else (2 * outputs).round() / 2 + 0.25
    shape = (TASKS, EXAMPLES) if kind == "classes" else (TASKS, EXAMPLES, WIDTH)
    y = torch.randint({"labels": 2}.get(kind, 3), shape, generator=generator)
    return outputs, y if kind == "classes" else y.double()


def of_kind(kind: Kind) -> Any:
    return next(entry for entry in map(open_objective, OBJECTIVES) if isinstance(entry, Scored) and entry.kind == kind)


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLES) == {(kind, name) for name, metric in KNOWN_METRICS.items() for kind in metric.places}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "name"), ORACLES)
def test_metrics_are_those_of_other_libraries(kind: Kind, name: str, weighted: bool) -> None:
    objective = of_kind(kind)
    objective.metrics = (name,)
    outputs, y = drawn(kind)
    keep = torch.ones(TASKS, EXAMPLES)
    if weighted:
        keep = (torch.rand(TASKS, EXAMPLES, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    extra = {"weight": keep} if weighted else {}
    found = torch.vmap(lambda o, data: objective.measure(o, data)[name])(outputs, {"y": y, **extra})
    for task in range(TASKS):
        real = keep[task] > 0
        expected = ORACLES[kind, name](outputs[task][real].numpy(), y[task][real].numpy())
        assert float(found[task]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "auroc"])
def test_examples_may_weigh_anything(name: str) -> None:
    outputs, y = (each[0] for each in drawn("classes"))
    weight = torch.rand(EXAMPLES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    objective = of_kind("classes")
    objective.metrics = (name,)
    given = {"sample_weight": weight.numpy()}
    predicted = outputs.argmax(-1)
    expected = {
        "accuracy": lambda: sklearn.accuracy_score(y, predicted, **given),
        "balanced_accuracy": lambda: sklearn.balanced_accuracy_score(y, predicted, **given),
        "f1": lambda: sklearn.f1_score(y, predicted, average="macro", **given),
        "auroc": lambda: sklearn.roc_auc_score(y, softmax(outputs.numpy()), multi_class="ovr", **given),
    }[name]()
    assert float(objective.measure(outputs, {"y": y, "weight": weight})[name]) == pytest.approx(expected, abs=1e-12)


UNDEFINED: dict[tuple[Kind, str], tuple[Tensor, Tensor]] = {
    ("classes", "auroc"): (torch.randn(4, 3), torch.ones(4, dtype=torch.int64)),
    ("labels", "auroc"): (torch.randn(4, 2), torch.ones(4, 2)),
    ("labels", "f1"): (-torch.ones(4, 2), torch.zeros(4, 2)),
    ("values", "r2"): (torch.randn(4, 1), torch.full((4, 1), 0.1)),
    ("values", "spearman"): (torch.ones(4, 1), torch.randn(4, 1)),
    ("ranks", "spearman"): (torch.randn(4, 1), torch.ones(4, 1)),
    ("ranks", "ndcg"): (torch.randn(4, 1), torch.zeros(4, 1)),
}


def test_all_that_may_be_undefined_is_tried() -> None:
    known = {(kind, name) for name, metric in KNOWN_METRICS.items() if metric.undefined for kind in metric.places}
    assert set(UNDEFINED) == known - {("classes", "f1")}  # always defined there


@pytest.mark.parametrize(("kind", "name"), UNDEFINED)
def test_what_is_not_defined_is_nan(kind: Kind, name: str) -> None:
    objective = of_kind(kind)
    objective.metrics = (name,)
    outputs, y = UNDEFINED[kind, name]
    assert objective.measure(outputs, {"y": y})[name].isnan()
    # An example of no weight does not make it defined.
    other = torch.cat([outputs, 1 - outputs[:1]]), torch.cat([y, 2 - 2 * y[:1]])
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    assert objective.measure(other[0], {"y": other[1], "weight": weight})[name].isnan()


def test_classes_and_dimensions_without_a_figure_are_left_out() -> None:
    """Of three classes one has no example: the mean over the other two, for AUROC as well."""
    outputs, y = (each[0] for each in drawn("classes"))
    y = y.clamp(max=1)
    objective = of_kind("classes")
    objective.metrics = ("auroc", "balanced_accuracy")
    found = objective.measure(outputs, {"y": y})
    scores = softmax(outputs.numpy())
    areas = [sklearn.roc_auc_score(y == each, scores[:, each]) for each in (0, 1)]
    assert float(found["auroc"]) == pytest.approx(np.mean(areas))
    recalls = [float((outputs[y == each].argmax(-1) == each).double().mean()) for each in (0, 1)]
    assert float(found["balanced_accuracy"]) == pytest.approx(np.mean(recalls))


def test_figures_are_in_the_users_unit() -> None:
    """Targets were divided by 2 and 10: errors are told in the user's numbers."""
    outputs, y = (each[0][:, :2] for each in drawn("values"))
    objective = of_kind("values")
    objective.metrics, objective.scale = ("mae", "rmse", "r2"), (2.0, 10.0)
    found = objective.measure(outputs, {"y": y})
    scaled = (outputs * torch.tensor([2.0, 10.0])).numpy(), (y * torch.tensor([2.0, 10.0])).numpy()
    for name in objective.metrics:
        assert float(found[name]) == pytest.approx(ORACLES["values", name](*scaled), abs=1e-12)


def test_densities_are_in_the_users_unit() -> None:
    objective = open_objective("gaussian")
    assert isinstance(objective, Scored)
    outputs, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    means, variances = objective.distribution(outputs)  # type: ignore[attr-defined]
    expected = -torch.distributions.Normal(3 * means, 3 * variances.sqrt()).log_prob(3 * y).mean()
    objective.scale = (3.0,)
    torch.testing.assert_close(objective.measure(outputs, {"y": y})["nll"], expected)
