"""Classification: cross-entropy, reported as accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy:
    """Mean cross-entropy of logits (N, ways) against ``data["y"]`` (N,) int64 class indices.

    The loss is ``-1/N sum_i log softmax(outputs_i)[y_i]``; the metric is the share of examples whose largest logit
    is the right one.

    >>> import torch
    >>> round(float(CrossEntropy().loss(torch.zeros(2, 4), {"y": torch.tensor([0, 3])})), 4)  # log 4
    1.3863
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    higher_is_better: ClassVar[bool] = True
    classes: ClassVar[bool] = True

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean cross-entropy."""
        import torch.nn.functional as F  # here: a configuration is checked against this class without torch

        return F.cross_entropy(outputs, data["y"])

    def measure(self, outputs: Tensor, data: Data) -> dict[str, Tensor]:
        """``accuracy`` in [0, 1]."""
        return {"accuracy": (outputs.argmax(-1) == data["y"]).to(outputs.dtype).mean()}

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """Fisher information of the predicted classes: ``1/N (diag(p) - p p^T) t``, example by example."""
        p = outputs.softmax(-1)
        return p * (tangent - (p * tangent).sum(-1, keepdim=True)) / len(outputs)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean Kullback-Leibler divergence of the classes predicted after from those before."""
        first, second = before.log_softmax(-1), after.log_softmax(-1)
        return (first.exp() * (first - second)).sum(-1).mean()
