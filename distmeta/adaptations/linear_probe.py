"""The baseline of few-shot learning: a classifier of all classes, and a new head for each held-out task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from distmeta.adaptations.base import Batch
from distmeta.adaptations.linear_systems import one_hot
from distmeta.adaptations.matching import direction
from distmeta.adaptations.on_embedding import OnEmbedding
from distmeta.adaptations.options import LinearProbeOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import Meta
from distmeta.core.records import CLASS, Data
from distmeta.models.base import Network
from distmeta.objectives import Objective, outputs_of
from distmeta.objectives.weights import share, weight_of

CLASSIFIER = "classifier/"
"""Prefix of the classifier of all training classes, in a Meta."""


class LinearProbe(OnEmbedding):
    r"""Training fits one classifier of all classes; a held-out task fits a head of its own on fixed embeddings.

    Outputs are :math:`f(x)\, W + b`, or with ``cosine`` :math:`s \cos(f(x), w_k)`. A task's head begins at 0, with
    ``cosine`` at the sums of its classes' directions, and takes ``head_steps`` steps of gradient descent on the mean
    cross-entropy with weight decay. There is no meta-learning: it is what tells whether meta-learning pays.

    Source: Chen, Liu, Kira, Wang, Huang, ICLR 2019, arXiv 1904.04232, section 3.2 (Baseline and, with ``cosine``,
    Baseline++); its heads take minibatches.
    """

    Options: ClassVar[type[AdaptationOptions]] = LinearProbeOptions

    def __init__(self, options: Any, network: Network, objective: Objective) -> None:
        super().__init__(options, network, objective)
        outputs_of(objective, options.classes)  # class weights are of all classes here, or refused

    def extras(self, seed: int) -> dict[str, Tensor]:
        """The classifier of all classes: weights (classes, D), drawn, and biases (classes,) of 0 where it has some."""
        like = next(iter(self.network.parameters.values()))
        size, classes = self.network.features, self.options.classes
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, size, generator=generator) / size**0.5
        extras = {f"{CLASSIFIER}weight": weight.to(like)}
        return extras if self.options.cosine else {**extras, f"{CLASSIFIER}bias": torch.zeros(classes).to(like)}

    def joint_loss(self, meta: Meta, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The objective's loss of all training classes, and its metrics of them."""
        bias = None if self.options.cosine else meta[f"{CLASSIFIER}bias"]
        logits = self._logits(self._embed(meta, batch), meta[f"{CLASSIFIER}weight"], bias)
        data = {**batch.data, "y": batch.data[CLASS]}
        return self.objective.loss(logits, data), self.objective.measure(logits, data)

    def solve(self, meta: Meta, embedded: Tensor, data: Data, ways: int | None) -> dict[str, Tensor]:
        """The head: ``weight`` (ways, D) and ``bias`` (ways,)."""
        labels, weight = one_hot(data["y"], ways, embedded), weight_of(data)
        shares = embedded.new_full((len(embedded),), 1 / len(embedded)) if weight is None else share(weight, embedded)
        cosine, rate, decay = self.options.cosine, self.options.head_lr, self.options.head_decay
        inputs = direction(embedded) if cosine else embedded
        head = labels.T @ inputs if cosine else torch.zeros_like(labels.T @ inputs)
        bias = torch.zeros_like(head[:, 0])
        for _ in range(self.options.head_steps):
            apart = shares.unsqueeze(1) * (self._logits(embedded, head, bias).softmax(1) - labels)  # (S, ways)
            slope = apart.T @ inputs
            if cosine:
                length, unit = head.square().sum(1, keepdim=True).sqrt(), direction(head)
                turned = slope - (slope * unit).sum(1, keepdim=True) * unit
                slope = self.options.scale * turned / length.where(length > 0, 1.0)
            else:
                bias = bias - rate * apart.sum(0)
            head = head - rate * (slope + decay * head)
        return {"weight": head, "bias": bias}

    def outputs(self, meta: Meta, adapted: dict[str, Tensor], embedded: Tensor) -> Tensor:
        """Logits (N, ways)."""
        return self._logits(embedded, adapted["weight"], None if self.options.cosine else adapted["bias"])

    def _logits(self, embedded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.options.cosine:
            cosines: Tensor = direction(embedded) @ direction(weight).T
            return cosines * float(self.options.scale)
        return embedded @ weight.T if bias is None else embedded @ weight.T + bias
