"""Means over the examples of a task, some of which may be padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distmeta.core.records import WEIGHT, Data

if TYPE_CHECKING:
    from torch import Tensor


def weight_of(data: Data) -> Tensor | None:
    """The examples' weights (N,), 0 for padding; ``None`` where all examples count alike."""
    return data.get(WEIGHT)


def mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted mean of ``values`` (N, ...) over examples and all other dimensions; 0 where no example has weight.

    >>> import torch
    >>> float(mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])))
    1.5
    """
    if weight is None:
        return values.mean()
    shares = share(weight, values)
    return (values.flatten(1).mean(1) * shares).sum() if values.dim() > 1 else (values * shares).sum()


def share(weight: Tensor, like: Tensor) -> Tensor:
    """Each example's share of the weights (N,), of the type of ``like``; zeros where all weights are."""
    weight = weight.to(like.dtype)
    total = weight.sum()
    return weight / total.where(total > 0, total.new_ones(()))
