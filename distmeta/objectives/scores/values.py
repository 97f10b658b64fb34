"""Metrics of regression: predictions and targets (N, D)."""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.objectives.scores.places import mean_of_defined
from distmeta.objectives.weights import mean, share


def mse(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The mean squared error over examples and dimensions."""
    return mean((outputs - y).square(), weight)


def rmse(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The root of the mean squared error over examples and dimensions."""
    return mse(outputs, y, weight).sqrt()


def mae(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The mean absolute error over examples and dimensions."""
    return mean((outputs - y).abs(), weight)


def r2(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """``1 - sum (y - prediction)^2 / sum (y - mean of y)^2``, the mean over the dimensions whose targets differ."""
    shares = share(torch.ones_like(y[:, 0]) if weight is None else weight, y).unsqueeze(-1)
    middle = (shares * y).sum(0)
    left, all_ = (shares * (outputs - y).square()).sum(0), (shares * (y - middle).square()).sum(0)
    return mean_of_defined((1 - left / all_).where(differ(y, weight), torch.nan))


def differ(values: Tensor, weight: Tensor | None) -> Tensor:
    """(D,) whether the values (N, D) of the examples that count are not all the same."""
    if weight is None:
        return values.amax(0) > values.amin(0)
    counts = (weight > 0).unsqueeze(-1)
    return values.where(counts, -torch.inf).amax(0) > values.where(counts, torch.inf).amin(0)
