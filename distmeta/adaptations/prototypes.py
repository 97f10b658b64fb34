"""Adaptation in closed form by class means in an embedding space: Prototypical Networks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distmeta.adaptations.base import Batch, Support, module_parameters
from distmeta.adaptations.options import PrototypesOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import inputs_of
from distmeta.models.base import Network
from distmeta.objectives import Objective
from distmeta.objectives.weights import weight_of

FAR = 1e6
"""Coordinate of the prototype of a class that has no example: its logits are below all others, and finite."""


class Prototypes:
    """A class is the mean embedding of its support examples; logits are negative squared Euclidean distances.

    Means are weighted where examples have weights; a class without an example that counts lies far from everything.

    ``c_k = mean of f(x_i) over y_i = k`` and ``logit_k(x) = -||f(x) - c_k||^2`` (Snell, Swersky, Zemel, NeurIPS 2017,
    equations 1 and 2). The network has no head, so training and evaluation may differ in the number of ways.
    """

    Options: ClassVar[type[AdaptationOptions]] = PrototypesOptions
    iterative: ClassVar[bool] = Options.iterative
    needs_head: ClassVar[bool] = Options.needs_head
    needs_classes: ClassVar[bool] = Options.needs_classes
    takes_weights: ClassVar[bool] = True

    def __init__(self, options: PrototypesOptions, network: Network, objective: Objective) -> None:
        self.network = network
        self.objective = objective

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Nothing beside the module is meta-learned."""
        return {}

    def adapt(self, meta: Meta, support: Support, steps: int | None) -> Tensor:
        """Prototypes (ways, D)."""
        batch = support.step(0)
        embedded = self.network(module_parameters(meta), inputs_of(batch.data), key=batch.key, draw=batch.draw)
        return _means(embedded, batch.data["y"], support.ways, weight_of(batch.data))

    def predict(self, meta: Meta, adapted: Tensor, batch: Batch) -> Tensor:
        """Logits (N, ways)."""
        embedded = self.network(module_parameters(meta), inputs_of(batch.data), key=batch.key, draw=batch.draw)
        return _logits(embedded, adapted)

    def predict_inductive(self, meta: Meta, adapted: Tensor, support: Support, batch: Batch) -> Tensor:
        """Logits (N, ways) of embeddings normalised with the support set's statistics."""
        parameters = module_parameters(meta)
        return _logits(
            self.network.with_support_statistics(parameters, inputs_of(support.data), inputs_of(batch.data)), adapted
        )


def _means(embedded: Tensor, labels: Tensor, ways: int | None, weight: Tensor | None) -> Tensor:
    assert ways is not None
    members = (labels == torch.arange(ways, device=labels.device).unsqueeze(1)).to(embedded)  # (ways, S)
    if weight is None:
        return members @ embedded / members.sum(1, keepdim=True)
    members = members * weight.to(embedded)
    total = members.sum(1, keepdim=True)
    return (members @ embedded / total.where(total > 0, 1.0)).where(total > 0, FAR)


def _logits(embedded: Tensor, prototypes: Tensor) -> Tensor:
    cross = embedded @ prototypes.T
    return 2 * cross - embedded.square().sum(1, keepdim=True) - prototypes.square().sum(1)
