"""Classification: cross-entropy, reported as accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from distmeta.core.records import Data
from distmeta.errors import ConfigError
from distmeta.objectives.base import Scored
from distmeta.objectives.metrics import Kind
from distmeta.objectives.options import CrossEntropyOptions
from distmeta.objectives.weights import mean, weight_of

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(Scored):
    r"""Mean cross-entropy of logits (N, ways) against ``data["y"]`` (N,) int64 class indices.

    With class weights :math:`c_k` (1 where there are none) and label smoothing :math:`\epsilon` (0) the loss is

    .. math::

        \frac{\sum_i (1 - \epsilon)\, c_{y_i} \ell_{i y_i} + \frac{\epsilon}{C} \sum_k c_k \ell_{ik}}
        {\sum_i c_{y_i}}, \quad \ell_{ik} = -\log \mathrm{softmax}(o_i)_k,

    as in ``torch.nn.functional.cross_entropy``; the weight of an example multiplies both of its terms. Label smoothing
    is Szegedy et al.'s (CVPR 2016, section 7). Metrics know neither class weights nor smoothing.

    >>> import torch
    >>> round(float(CrossEntropy().loss(torch.zeros(2, 4), {"y": torch.tensor([0, 3])})), 4)  # log 4
    1.3863
    """

    Options: ClassVar[type[CrossEntropyOptions]] = CrossEntropyOptions
    kind: ClassVar[Kind] = "classes"
    classes: ClassVar[bool] = True
    metrics: tuple[str, ...] = ("accuracy",)
    higher_is_better: bool = True

    def outputs(self, dimension: int) -> int:
        """A logit a class.

        Raises:
            ConfigError: there are class weights, but not one for each class.
        """
        weights = self.options.class_weights
        if weights is not None and len(weights) != dimension:
            raise ConfigError(
                f"class_weights of the objective {self.options.name} has {len(weights)} weights, and tasks have "
                f"{dimension} ways; give one weight for each class"
            )
        return dimension

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean cross-entropy."""
        import torch.nn.functional as F  # here: a configuration is checked against this class without torch

        weight, weights, smoothing = weight_of(data), self.options.class_weights, self.options.label_smoothing
        if weight is None and weights is None and not smoothing:
            return F.cross_entropy(outputs, data["y"])
        logarithms = -outputs.log_softmax(-1)
        own = self._class_weights(outputs, data)
        losses = own * logarithms.gather(-1, data["y"].unsqueeze(-1)).squeeze(-1)
        if smoothing:
            spread = logarithms if weights is None else logarithms * logarithms.new_tensor(weights)
            losses = (1 - smoothing) * losses + smoothing * spread.mean(-1)
        return mean(losses, weight) / mean(own, weight).clamp(min=1e-30)

    def nll(self, outputs: Tensor, data: Data) -> Tensor:
        """Mean negative log-likelihood of the labels."""
        losses = -outputs.log_softmax(-1).gather(-1, data["y"].unsqueeze(-1)).squeeze(-1)
        return mean(losses, weight_of(data))

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """Fisher information of the predicted classes: ``1/N (diag(p) - p p^T) t``, example by example."""
        p = outputs.softmax(-1)
        product = p * (tangent - (p * tangent).sum(-1, keepdim=True))
        if weight_of(data) is None and self.options.class_weights is None:
            return product / len(outputs)
        return product * self._shares(outputs, data).unsqueeze(-1)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean Kullback-Leibler divergence of the classes predicted after from those before."""
        first, second = before.log_softmax(-1), after.log_softmax(-1)
        each = (first.exp() * (first - second)).sum(-1)
        if weight_of(data) is None and self.options.class_weights is None:
            return each.mean()
        return (each * self._shares(before, data)).sum()

    def _class_weights(self, outputs: Tensor, data: Data) -> Tensor:
        """(N,) the weight of each example's class."""
        weights = self.options.class_weights
        return outputs.new_ones(len(outputs)) if weights is None else outputs.new_tensor(weights)[data["y"]]

    def _shares(self, outputs: Tensor, data: Data) -> Tensor:
        """(N,) of the loss, by the weights of classes and examples."""
        weight, own = weight_of(data), self._class_weights(outputs, data)
        shares = own if weight is None else own * weight.to(own.dtype)
        return shares / shares.sum().clamp(min=1e-30)
