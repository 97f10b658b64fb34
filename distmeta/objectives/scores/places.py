"""Places in an order, with ties and weights."""

from __future__ import annotations

import torch
from torch import Tensor


def weight_up_to(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of every value (..., N), the weight of those below it, and of those up to and including its equals.

    Args:
        values: (..., N).
        weight: (..., N), of the same shape.

    >>> [each.tolist() for each in weight_up_to(torch.tensor([3.0, 1.0, 3.0]), torch.ones(3))]
    [[1.0, 0.0, 1.0], [3.0, 1.0, 3.0]]
    """
    values = values.contiguous()
    order = values.argsort(-1)
    ordered = values.gather(-1, order).contiguous()
    summed = weight.gather(-1, order).cumsum(-1)
    summed = torch.cat([torch.zeros_like(summed[..., :1]), summed], -1)
    below, to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return summed.gather(-1, below), summed.gather(-1, to)


def area_under_curve(scores: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
    """Area under the receiver operating characteristic: the probability that a positive example has the higher score.

    Args:
        scores: (C, N).
        positive: (C, N), 1 or 0.
        weight: (N,).

    Returns:
        (C,); NaN where there is no positive or no negative example.
    """
    positives, negatives = positive * weight, (1 - positive) * weight
    below, to = weight_up_to(scores, negatives)
    return (positives * (below + to) / 2).sum(-1) / (positives.sum(-1) * negatives.sum(-1))


def mean_of_defined(values: Tensor) -> Tensor:
    """The mean of those (C,) that are not NaN; NaN where all are."""
    defined = ~values.isnan()
    return values.where(defined, torch.zeros_like(values)).sum() / defined.sum()
