"""Metrics of ranking: scores and relevances (N, D). A weight says whether an example counts.

Every dimension is an order of its own; a metric is the mean over those where it is defined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.objectives.scores.places import mean_of_defined, weight_up_to
from distmeta.objectives.scores.values import differ


def spearman(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """Spearman's rank correlation: Pearson's of the ranks, equals sharing the mean of theirs."""
    present = _present(outputs, weight)
    ranks = [_ranks(each.T, present) for each in (outputs, y)]
    middle = (present.sum() + 1) / 2
    a, b = ((each - middle) * present for each in ranks)
    correlation = (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    defined = differ(outputs, weight) & differ(y, weight)
    return mean_of_defined(correlation.where(defined, torch.nan))


def ndcg(outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """Normalised discounted cumulative gain: ``sum_i y_i / log2(1 + rank_i)`` over its largest value.

    Equal scores share the mean of their ranks' discounts. Undefined where no example is relevant.
    """
    present = _present(outputs, weight)
    gains = y.T * present
    return mean_of_defined(_discounted(outputs.T, gains, present) / _discounted(y.T, gains, present))


def _discounted(scores: Tensor, gains: Tensor, present: Tensor) -> Tensor:
    """(D,) discounted gains in the descending order of the scores (D, N)."""
    count = scores.shape[-1]
    places = torch.arange(1, count + 1, device=scores.device, dtype=scores.dtype)
    summed = torch.cat([torch.zeros_like(places[:1]), (1 / (places + 1).log2()).cumsum(0)])
    above, to = weight_up_to(-scores, present.expand_as(scores))
    first, last = above.long(), to.long()
    discount = (summed[last] - summed[first]) / (to - above).clamp(min=1)
    return (gains * discount).sum(-1)


def _ranks(values: Tensor, present: Tensor) -> Tensor:
    """Ranks 1, 2, ... (D, N) among those present."""
    below, to = weight_up_to(values, present.expand_as(values))
    return (below + to + 1) / 2


def _present(outputs: Tensor, weight: Tensor | None) -> Tensor:
    """(N,) 1 where an example counts."""
    return torch.ones_like(outputs[:, 0]) if weight is None else (weight > 0).to(outputs.dtype)
