"""Regression: mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data

if TYPE_CHECKING:
    from torch import Tensor


class SquaredError:
    """Mean squared error of outputs (N, D) against ``data["y"]`` (N, D), over examples and dimensions.

    >>> import torch
    >>> float(SquaredError().loss(torch.ones(3, 1), {"y": torch.full((3, 1), 3.0)}))
    4.0
    """

    metrics: ClassVar[tuple[str, ...]] = ("mse",)
    higher_is_better: ClassVar[bool] = False
    classes: ClassVar[bool] = False

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean squared error."""
        # Written out: F.mse_loss has no forward mode under vmap (it raises on zero tangents).
        return (outputs - data["y"]).square().mean()

    def measure(self, outputs: Tensor, data: Data) -> dict[str, Tensor]:
        """``mse``, the same figure as the loss."""
        return {"mse": self.loss(outputs, data)}

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """The second derivative of the loss by the outputs, ``2 / (N D)``, times a tangent."""
        return 2 * tangent / outputs.numel()

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean squared change of the outputs."""
        return (after - before).square().mean()
