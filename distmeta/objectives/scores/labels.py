"""Metrics of multi-label classification: logits (N, L), labels (N, L) of 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.objectives.scores.places import area_under_curve, mean_of_defined
from distmeta.objectives.weights import mean


def accuracy(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The share of all labels that are predicted rightly; a label is predicted where its logit is above 0."""
    return mean(((outputs > 0) == (y > 0.5)).to(outputs.dtype), weight)


def f1(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of ``2 hits / (examples + predictions)`` over the labels that have examples or are predicted."""
    weights = _weights(outputs, weight).unsqueeze(-1)
    actual, predicted = ((each).to(outputs.dtype) * weights for each in (y > 0.5, outputs > 0))
    hits = actual * (outputs > 0).to(outputs.dtype)
    return mean_of_defined(2 * hits.sum(0) / (actual.sum(0) + predicted.sum(0)))


def auroc(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over the labels that some examples have and some have not."""
    positive = (y > 0.5).to(outputs.dtype)
    return mean_of_defined(area_under_curve(outputs.T, positive.T, _weights(outputs, weight)))


def _weights(outputs: Tensor, weight: Tensor | None) -> Tensor:
    return torch.ones_like(outputs[:, 0]) if weight is None else weight.to(outputs)
