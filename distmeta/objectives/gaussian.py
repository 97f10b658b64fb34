"""Regression with an uncertainty: a normal distribution's likelihood."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data
from distmeta.objectives.base import Scored
from distmeta.objectives.metrics import Kind
from distmeta.objectives.options import GaussianOptions
from distmeta.objectives.squared_error import spread
from distmeta.objectives.weights import mean, weight_of

if TYPE_CHECKING:
    from torch import Tensor


class Gaussian(Scored):
    r"""Mean negative log-likelihood of ``data["y"]`` (N, D) under normal distributions, over examples and dimensions.

    The outputs (N, 2 D) are the means :math:`\mu`, and then as many numbers r that give the variances
    :math:`v = \log(1 + e^r) + v_{min}`:

    .. math:: \tfrac12 \left(\log 2 \pi v + (y - \mu)^2 / v\right)

    (Nix and Weigend 1994; Lakshminarayanan, Pritzel, Blundell, NeurIPS 2017, equation 1, whose variances these are).

    >>> import torch
    >>> one = math.log(math.e - 1)  # r with variance 1
    >>> round(float(Gaussian().loss(torch.tensor([[0.0, one]]), {"y": torch.ones(1, 1)})), 4)  # (log 2 pi + 1) / 2
    1.4189
    """

    Options: ClassVar[type[GaussianOptions]] = GaussianOptions
    kind: ClassVar[Kind] = "values"
    metrics: tuple[str, ...] = ("nll", "rmse")
    higher_is_better: bool = False

    def outputs(self, dimension: int) -> int:
        """A mean and a variance for each dimension."""
        return 2 * dimension

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances, each (..., D), of outputs (..., 2 D)."""
        means, raw = outputs.chunk(2, -1)
        return means, raw.logaddexp(raw.new_zeros(())) + self.options.min_variance

    def predicted(self, outputs: Tensor) -> Tensor:
        """The means."""
        return self.distribution(outputs)[0]

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean negative log-likelihood."""
        means, variances = self.distribution(outputs)
        losses = (2 * math.pi * variances).log() + (data["y"] - means).square() / variances
        return mean(losses, weight_of(data)) / 2

    def nll(self, outputs: Tensor, data: Data) -> Tensor:
        """The loss, of densities in the user's unit."""
        loss = self.loss(outputs, data)
        return loss if self.scale is None else loss + sum(map(math.log, self.scale)) / len(self.scale)

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """Fisher information of the distributions: ``1 / v`` of a mean, and ``(dv/dr)^2 / (2 v^2)`` of r."""
        import torch  # here: a configuration is checked against this class without torch

        (_, variances), raw = self.distribution(outputs), outputs.chunk(2, -1)[1]
        of_means, of_raw = tangent.chunk(2, -1)
        of_raw = of_raw * (raw.sigmoid() / variances).square() / 2
        return torch.cat([spread(of_means / variances, data), spread(of_raw, data)], -1)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean Kullback-Leibler divergence of the distributions predicted after from those before."""
        (first, narrow), (second, wide) = self.distribution(before), self.distribution(after)
        ratio = narrow / wide
        return mean(ratio - 1 - ratio.log() + (first - second).square() / wide, weight_of(data)) / 2
