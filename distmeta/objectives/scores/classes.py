"""Metrics of classification: logits (N, ways), labels (N,) int64."""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.objectives.scores.places import area_under_curve, mean_of_defined
from distmeta.objectives.weights import mean


def accuracy(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The share of examples whose largest logit is the right one."""
    return mean((outputs.argmax(-1) == y).to(outputs.dtype), weight)


def balanced_accuracy(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of the recalls of the classes that have examples."""
    hits, actual, _ = _counts(outputs, y, weight)
    return mean_of_defined(hits / actual)


def f1(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of ``2 hits / (examples + predictions)`` over the classes that have examples or are predicted."""
    hits, actual, predicted = _counts(outputs, y, weight)
    return mean_of_defined(2 * hits / (actual + predicted))


def auroc(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """Each class's probabilities against those of the other classes' examples, the mean over classes with both."""
    actual = _members(y, outputs)
    weights = torch.ones_like(actual[:, 0]) if weight is None else weight.to(outputs)
    return mean_of_defined(area_under_curve(outputs.softmax(-1).T, actual.T, weights))


def _members(labels: Tensor, outputs: Tensor) -> Tensor:
    """(N, ways): 1 where an example is of a class."""
    classes = torch.arange(outputs.shape[-1], device=outputs.device)
    return (labels.unsqueeze(-1) == classes).to(outputs.dtype)


def _counts(outputs: Tensor, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (ways,) of the examples that are predicted rightly, of all examples, and of all predictions."""
    actual, predicted = _members(y, outputs), _members(outputs.argmax(-1), outputs)
    if weight is not None:
        actual, predicted = (each * weight.to(outputs).unsqueeze(-1) for each in (actual, predicted))
    hits = actual * (predicted > 0).to(outputs.dtype)
    return hits.sum(0), actual.sum(0), predicted.sum(0)
