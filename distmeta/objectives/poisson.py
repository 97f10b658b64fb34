"""Counts: the Poisson distribution's likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data
from distmeta.objectives.base import Scored
from distmeta.objectives.metrics import Kind
from distmeta.objectives.squared_error import spread
from distmeta.objectives.weights import mean, weight_of

if TYPE_CHECKING:
    from torch import Tensor


class Poisson(Scored):
    r"""Mean negative log-likelihood of counts ``data["y"]`` (N, D), over examples and dimensions.

    The outputs (N, D) are the logarithms o of the rates: :math:`e^o - y\, o + \log y!` (McCullagh and Nelder 1989,
    chapter 6). Metrics that compare predictions compare the rates.

    >>> import torch
    >>> float(Poisson().loss(torch.zeros(1, 1), {"y": torch.ones(1, 1)}))  # rate 1, and 1 comes
    1.0
    """

    kind: ClassVar[Kind] = "values"
    metrics: tuple[str, ...] = ("nll", "mae")
    higher_is_better: bool = False
    bounds: ClassVar[tuple[float | None, float | None]] = (0.0, None)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The rates."""
        return outputs.exp()

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean negative log-likelihood."""
        y = data["y"]
        return mean(outputs.exp() - y * outputs + (y + 1).lgamma(), weight_of(data))

    def nll(self, outputs: Tensor, data: Data) -> Tensor:
        """The loss."""
        return self.loss(outputs, data)

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """Fisher information of the counts by the logarithms of the rates: the rates."""
        return spread(outputs.exp() * tangent, data)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean Kullback-Leibler divergence of the counts predicted after from those before."""
        rates = before.exp()
        return mean(rates * (before - after) - rates + after.exp(), weight_of(data))
