"""Regression with outliers: Huber's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data
from distmeta.objectives.base import Scored
from distmeta.objectives.metrics import Kind
from distmeta.objectives.options import HuberOptions
from distmeta.objectives.squared_error import spread
from distmeta.objectives.weights import mean, weight_of

if TYPE_CHECKING:
    from torch import Tensor


class Huber(Scored):
    r"""Mean Huber loss of outputs (N, D) against ``data["y"]`` (N, D), over examples and dimensions.

    Of an error e it is :math:`e^2 / 2` up to :math:`\delta`, and :math:`\delta (|e| - \delta / 2)` beyond (Huber 1964,
    Annals of Mathematical Statistics 35). How far outputs may change, a trust region measures by half the mean squared
    change: the loss's own second derivative is 0 at an outlier, where outputs could change without bound.

    >>> import torch
    >>> float(Huber().loss(torch.tensor([[1.0], [3.0]]), {"y": torch.zeros(2, 1)}))  # the mean of 1/2 and 5/2
    1.5
    """

    Options: ClassVar[type[HuberOptions]] = HuberOptions
    kind: ClassVar[Kind] = "values"
    metrics: tuple[str, ...] = ("mae",)
    higher_is_better: bool = False

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean loss."""
        delta, error = self.options.delta, outputs - data["y"]
        size = error.abs()
        losses = (error.square() / 2).where(size <= delta, delta * (size - delta / 2))
        return mean(losses, weight_of(data))

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """The second derivative of the divergence, ``1 / (N D)``, times a tangent."""
        return spread(tangent, data)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Half the mean squared change of the outputs."""
        return mean((after - before).square(), weight_of(data)) / 2
