"""Regression: mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data
from distmeta.objectives.base import Scored
from distmeta.objectives.metrics import Kind
from distmeta.objectives.weights import mean, share, weight_of

if TYPE_CHECKING:
    from torch import Tensor


class SquaredError(Scored):
    """Mean squared error of outputs (N, D) against ``data["y"]`` (N, D), over examples and dimensions.

    >>> import torch
    >>> float(SquaredError().loss(torch.ones(3, 1), {"y": torch.full((3, 1), 3.0)}))
    4.0
    """

    kind: ClassVar[Kind] = "values"
    metrics: tuple[str, ...] = ("mse",)
    higher_is_better: bool = False

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean squared error."""
        # Written out: F.mse_loss has no forward mode under vmap (it raises on zero tangents).
        return mean((outputs - data["y"]).square(), weight_of(data))

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """The second derivative of the loss by the outputs, ``2 / (N D)``, times a tangent."""
        return 2 * spread(tangent, data)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean squared change of the outputs."""
        return mean((after - before).square(), weight_of(data))


def spread(values: Tensor, data: Data) -> Tensor:
    """The derivative of a mean over examples and dimensions: values (N, D) times each one's share in it."""
    weight = weight_of(data)
    if weight is None:
        return values / values.numel()
    return values * share(weight, values).unsqueeze(-1) / values.shape[-1]
