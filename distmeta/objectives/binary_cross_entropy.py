"""Multi-label classification: binary cross-entropy of every label."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data
from distmeta.objectives.base import Scored
from distmeta.objectives.metrics import Kind
from distmeta.objectives.squared_error import spread
from distmeta.objectives.weights import mean, weight_of

if TYPE_CHECKING:
    from torch import Tensor


class BinaryCrossEntropy(Scored):
    r"""Mean binary cross-entropy of logits (N, L) against labels ``data["y"]`` (N, L), floating-point 0 and 1.

    Of a logit o it is :math:`\log(1 + e^o) - y\, o`, over examples and labels. Labels between 0 and 1 count as
    probabilities in the loss, and above 1/2 as given in metrics.

    >>> import torch
    >>> round(float(BinaryCrossEntropy().loss(torch.zeros(2, 3), {"y": torch.ones(2, 3)})), 4)  # log 2
    0.6931
    """

    kind: ClassVar[Kind] = "labels"
    metrics: tuple[str, ...] = ("accuracy",)
    higher_is_better: bool = True
    bounds: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean loss."""
        losses = outputs.logaddexp(outputs.new_zeros(())) - data["y"] * outputs
        return mean(losses, weight_of(data))

    def nll(self, outputs: Tensor, data: Data) -> Tensor:
        """The loss."""
        return self.loss(outputs, data)

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """Fisher information of the predicted labels, ``p (1 - p)``."""
        p = outputs.sigmoid()
        return spread(p * (1 - p) * tangent, data)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean Kullback-Leibler divergence of the labels predicted after from those before."""
        zero = before.new_zeros(())
        change = after.logaddexp(zero) - before.logaddexp(zero) - before.sigmoid() * (after - before)
        return mean(change, weight_of(data))
