"""Ranking: the logistic loss of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data
from distmeta.objectives.base import Scored
from distmeta.objectives.metrics import Kind
from distmeta.objectives.weights import weight_of

if TYPE_CHECKING:
    from torch import Tensor


class PairwiseLogistic(Scored):
    r"""Mean over the pairs of a task's examples of which the first is the more relevant, :math:`y_i > y_j`.

    Of scores :math:`s` a pair costs :math:`\log(1 + e^{-(s_i - s_j)})` (RankNet: Burges et al., ICML 2005, equation 3
    with targets of 1). Outputs and ``data["y"]`` are (N, D): an order for each dimension, over all of which the mean
    goes. A pair weighs the product of its examples' weights; without any pair the loss is 0.

    >>> import torch
    >>> y = torch.tensor([[2.0], [1.0], [1.0]])
    >>> round(float(PairwiseLogistic().loss(torch.zeros(3, 1), {"y": y})), 4)  # two pairs of log 2
    0.6931
    """

    kind: ClassVar[Kind] = "ranks"
    metrics: tuple[str, ...] = ("ndcg", "spearman")
    higher_is_better: bool = True
    bounds: ClassVar[tuple[float | None, float | None]] = (0.0, None)

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean over the pairs."""
        y, weight = data["y"], weight_of(data)
        before = outputs.unsqueeze(1) - outputs.unsqueeze(0)  # (N, N, D): how far the first is before the second
        pairs = (y.unsqueeze(1) > y.unsqueeze(0)).to(outputs.dtype)
        if weight is not None:
            each = weight.to(outputs.dtype)
            pairs = pairs * (each.unsqueeze(1) * each.unsqueeze(0)).unsqueeze(-1)
        losses = (-before).logaddexp(before.new_zeros(()))
        count = pairs.sum()
        return (pairs * losses).sum() / count.where(count > 0, count.new_ones(()))
