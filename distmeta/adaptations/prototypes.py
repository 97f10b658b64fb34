"""Adaptation in closed form by class means in an embedding space: Prototypical Networks."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distmeta.adaptations.linear_systems import one_hot
from distmeta.adaptations.on_embedding import OnEmbedding
from distmeta.adaptations.options import PrototypesOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import Data
from distmeta.objectives.weights import weight_of

FAR = 1e6
"""Coordinate of the prototype of a class that has no example: its logits are below all others, and finite."""


class Prototypes(OnEmbedding):
    """A class is the mean embedding of its support examples; logits are negative squared Euclidean distances.

    Means are weighted where examples have weights; a class without an example that counts lies far from everything.

    ``c_k = mean of f(x_i) over y_i = k`` and ``logit_k(x) = -||f(x) - c_k||^2`` (Snell, Swersky, Zemel, NeurIPS 2017,
    equations 1 and 2). The network has no head, so training and evaluation may differ in the number of ways.
    """

    Options: ClassVar[type[AdaptationOptions]] = PrototypesOptions

    def solve(self, meta: Meta, embedded: Tensor, data: Data, ways: int | None) -> Tensor:
        """Prototypes (ways, D)."""
        members, weight = one_hot(data["y"], ways, embedded).mT, weight_of(data)  # (ways, S)
        if weight is not None:
            members = members * weight.to(embedded)
        total = members.sum(1, keepdim=True)
        means = members @ embedded / total.where(total > 0, 1.0)
        return means.where(total > 0, FAR)

    def outputs(self, meta: Meta, adapted: Tensor, embedded: Tensor) -> Tensor:
        """Logits (N, ways)."""
        cross = embedded @ adapted.T
        return 2 * cross - embedded.square().sum(1, keepdim=True) - adapted.square().sum(1)
